//! The client for requests that leave the application: one pool of connections for all components.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Uri, header};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use tokio::{
    net::TcpStream,
    time::{Sleep, timeout},
};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

/// How long connecting may take unless the guest says.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the head of an answer may take unless the guest says. Its own deadline is mostly sooner.
const FIRST_BYTE: Duration = Duration::from_secs(600);
/// How long the next piece of a body may take unless the guest says.
const BETWEEN_BYTES: Duration = Duration::from_secs(600);
/// How long a connection is kept without a request.
const IDLE: Duration = Duration::from_secs(90);

tokio::task_local! {
    /// The limit for a connection made on behalf of this task: the pool passes none on.
    static CONNECT_LIMIT: Duration;
}

/// Sends requests over HTTP/1.1 and, where TLS agrees on it, HTTP/2. Clones share the connections.
#[derive(Clone)]
pub struct Client(legacy::Client<HttpsConnector<Connector>, WasiBody>);

impl Client {
    /// A client without connections. Servers are trusted by the roots that Mozilla trusts.
    pub fn new() -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new()
            .with_webpki_roots()
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(Connector(tcp));
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        builder
            .pool_idle_timeout(IDLE)
            // Without it, only the next request to the same server finds out.
            .pool_timer(TokioTimer::new());
        Self(builder.build(connector))
    }

    /// Sends `request`, whose URI is absolute.
    ///
    /// # Errors
    /// What went wrong, in the words of WASI.
    pub async fn send(
        &self,
        mut request: Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<Response<WasiBody>, Error> {
        // Made again from the URI, as HTTP/1.1 or HTTP/2 has it.
        request.headers_mut().remove(header::HOST);
        let connect = options.connect_timeout.unwrap_or(CONNECT);
        let first_byte = options.first_byte_timeout.unwrap_or(FIRST_BYTE);
        let between_bytes = options.between_bytes_timeout.unwrap_or(BETWEEN_BYTES);
        let answer = CONNECT_LIMIT.scope(connect, self.0.request(request));
        let response = timeout(first_byte, answer)
            .await
            .map_err(|_| Error::ConnectionReadTimeout)?
            .map_err(|error| explain(&error))?;
        Ok(response.map(|body| {
            let body = body.map_err(Error::from).boxed_unsync();
            Timed {
                body,
                sleep: Box::pin(tokio::time::sleep(between_bytes)),
                limit: between_bytes,
            }
            .boxed_unsync()
        }))
    }
}

/// A TCP connector that keeps to the limit of the task.
#[derive(Clone)]
pub struct Connector(HttpConnector);

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let limit = CONNECT_LIMIT.try_with(|limit| *limit).unwrap_or(CONNECT);
        let connecting = self.0.call(uri);
        Box::pin(async move {
            match timeout(limit, connecting).await {
                Ok(connected) => Ok(connected?),
                Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
            }
        })
    }
}

/// WASI's word for what went wrong, found by what caused it.
fn explain(error: &legacy::Error) -> Error {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |cause| {
        cause.source()
    });
    let text = causes
        .clone()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ");
    tracing::debug!(error = text, "outgoing request");
    if !error.is_connect() {
        return Error::InternalError(Some(text));
    }
    if text.contains("dns error") {
        return Error::DnsError {
            rcode: Some(text),
            info_code: None,
        };
    }
    use std::io::ErrorKind;
    match causes
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .last()
    {
        Some(io) => match io.kind() {
            ErrorKind::TimedOut => Error::ConnectionTimeout,
            ErrorKind::ConnectionRefused => Error::ConnectionRefused,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
                Error::DestinationIpUnroutable
            }
            // What rustls complains about comes as this.
            ErrorKind::InvalidData => Error::TlsProtocolError,
            _ => Error::ConnectionRefused,
        },
        None => Error::InternalError(Some(text)),
    }
}

/// A body whose pieces must not take longer than `limit` each.
struct Timed {
    body: WasiBody,
    sleep: Pin<Box<Sleep>>,
    limit: Duration,
}

impl http_body::Body for Timed {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                let limit = self.limit;
                self.sleep
                    .as_mut()
                    .reset(tokio::time::Instant::now() + limit);
                Poll::Ready(frame)
            }
            Poll::Pending => {
                std::task::ready!(self.sleep.as_mut().poll(cx));
                Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Empty;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        time::Instant,
    };

    use super::*;

    #[tokio::test]
    async fn a_connection_without_requests_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/", listener.local_addr().unwrap());
        let client = Client::new();
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let request = Request::get(uri).body(body).unwrap();
        let ask = async {
            let answer = client.send(request, RequestOptions::default()).await;
            answer.unwrap().collect().await.unwrap();
        };
        let serve = async {
            let (mut server, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                server.read_buf(&mut head).await.unwrap();
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            server.write_all(answer).await.unwrap();
            server
        };
        let ((), mut server) = tokio::join!(ask, serve);
        // From here on, time passes as soon as nobody has anything to do.
        tokio::time::pause();
        let since = Instant::now();
        let end = timeout(IDLE * 10, server.read(&mut [0])).await;
        assert_eq!(end.expect("it is kept").unwrap(), 0);
        assert!(since.elapsed() <= IDLE * 2, "{:?}", since.elapsed());
    }
}
