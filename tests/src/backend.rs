//! Upstream servers, including misbehaving ones, and a client that reads single frames.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use serde_json::{Value, json};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};

use crate::TIMEOUT;

/// The body of a response.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// An error that ends a body early.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Returns a body with this content.
pub fn full(content: impl Into<Bytes>) -> Body {
    Full::new(content.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A server on a free port. Stopped on drop.
pub struct Backend {
    /// Its address.
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Backend {
    /// Serves HTTP/1.1, and HTTP/2 with prior knowledge.
    pub async fn serve<H, F>(handler: H) -> Result<Self>
    where
        H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::script(move |_, stream| {
            let handler = handler.clone();
            async move {
                let service = service_fn(move |request| {
                    let response = handler(request);
                    async move { Ok::<_, Infallible>(response.await) }
                });
                let _ = auto::Builder::new(TokioExecutor::new())
                    .serve_connection_with_upgrades(TokioIo::new(stream), service)
                    .await;
            }
        })
        .await
    }

    /// Runs a script for each connection, with the connection's number, starting at 1.
    pub async fn script<S, F>(script: S) -> Result<Self>
    where
        S: Fn(usize, TcpStream) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst) + 1;
                tokio::spawn(script(number, stream));
            }
        });
        Ok(Self {
            address,
            connections,
            task,
        })
    }

    /// Returns the server's URL.
    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address)
    }

    /// Returns the number of connections accepted so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Responds with the request as JSON.
pub async fn mirror(request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = match body.collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        Err(error) => format!("the body ended early: {error}"),
    };
    let headers: Vec<_> = parts
        .headers
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    let seen = json!({
        "method": parts.method.as_str(),
        "uri": parts.uri.to_string(),
        "version": format!("{:?}", parts.version),
        "headers": headers,
        "body": body,
    });
    Response::new(full(seen.to_string()))
}

/// Returns the values of a header in a response of [`mirror`].
pub fn header<'v>(seen: &'v Value, name: &str) -> Vec<&'v str> {
    let headers = seen["headers"].as_array().map(Vec::as_slice);
    headers
        .unwrap_or_default()
        .iter()
        .filter(|header| header[0] == name)
        .filter_map(|header| header[1].as_str())
        .collect()
}

/// Reads until the head of a request is complete.
pub async fn read_head(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !bytes.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read_buf(&mut bytes).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    bytes
}

/// Returns a body and the sender of its frames.
pub fn pieces() -> (mpsc::Sender<Result<Frame<Bytes>, BodyError>>, Body) {
    let (sender, mut receiver) = mpsc::channel(1);
    let stream = futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx));
    (sender, StreamBody::new(stream).boxed_unsync())
}

/// Sends a request over HTTP/1.1, on a new connection.
pub async fn send(address: SocketAddr, request: Request<Body>) -> Result<Response<Incoming>> {
    let stream = TokioIo::new(TcpStream::connect(address).await?);
    let (mut sender, connection) = http1::handshake(stream).await?;
    tokio::spawn(connection);
    let response = tokio::time::timeout(TIMEOUT, sender.send_request(request));
    Ok(response.await.context("no response")??)
}

/// Sends a request over HTTP/2, on a new connection.
pub async fn send_h2(address: SocketAddr, request: Request<Body>) -> Result<Response<Incoming>> {
    let stream = TokioIo::new(TcpStream::connect(address).await?);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
    tokio::spawn(connection);
    let response = tokio::time::timeout(TIMEOUT, sender.send_request(request));
    Ok(response.await.context("no response")??)
}

/// Returns the next frame of a body, or `None` at its end.
pub async fn frame(body: &mut Incoming) -> Result<Option<Frame<Bytes>>> {
    let frame = tokio::time::timeout(TIMEOUT, body.frame());
    Ok(frame.await.context("no frame received")?.transpose()?)
}

/// Returns the next data frame of a body as text.
pub async fn data(body: &mut Incoming) -> Result<String> {
    let frame = frame(body).await?.context("the body has ended")?;
    let data = frame.into_data().ok().context("data")?;
    Ok(String::from_utf8_lossy(&data).into_owned())
}

/// Returns the complete body as text.
pub async fn text(body: Incoming) -> Result<String> {
    let all = tokio::time::timeout(TIMEOUT, body.collect());
    let all = all.await.context("the body does not end")??;
    Ok(String::from_utf8_lossy(&all.to_bytes()).into_owned())
}
