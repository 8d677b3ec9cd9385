//! Scripted backend: an HTTP server whose requests a case receives, checks and replies to one by
//! one.
//!
//! All cases share the server. A request belongs to the case whose name is the first segment of its
//! path.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use crate::case::{TIMEOUT, subscribe};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use grip::{
    Event, Limits,
    event::{decode_all, encode_all},
};
use http::{HeaderMap, Method, Response, StatusCode, request::Parts};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    net::TcpListener,
    sync::{Mutex as AsyncMutex, mpsc, oneshot},
    task::{JoinHandle, JoinSet},
};

/// The path and the channel of readiness checks, which pass through all parts of a proxy. They
/// belong to no case.
pub const READINESS: &str = "/ready";

type Scripts = Arc<Mutex<HashMap<String, mpsc::UnboundedSender<Request>>>>;

/// The server. It runs until it is stopped or its runtime ends.
pub struct Backend {
    address: SocketAddr,
    scripts: Scripts,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Backend {
    /// Listens on a free port of the loopback address.
    pub async fn start() -> Result<Self> {
        Self::start_at("127.0.0.1:0".parse()?).await
    }

    /// Listens at an address.
    pub async fn start_at(address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let scripts = Scripts::default();
        let served = scripts.clone();
        let (stop, mut stopped) = oneshot::channel();
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => match accepted {
                        Ok((stream, _)) => stream,
                        Err(_) => break,
                    },
                    Ok(()) = &mut stopped => break,
                };
                let scripts = served.clone();
                let service = service_fn(move |request| serve(scripts.clone(), request));
                connections.spawn(async move {
                    let builder = auto::Builder::new(TokioExecutor::new());
                    // The proxy handles connection errors.
                    let _ = builder
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
            drop(listener);
            connections.shutdown().await;
        });
        Ok(Self {
            address,
            scripts,
            stop,
            serving,
        })
    }

    /// Stops listening and closes all connections.
    pub async fn stop(self) -> Result<()> {
        let _ = self.stop.send(());
        Ok(self.serving.await?)
    }

    /// Returns the address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the requests below `/NAME/`. They are received until the script is dropped.
    pub fn script(&self, name: &str) -> Script {
        let (sender, requests) = mpsc::unbounded_channel();
        if let Ok(mut scripts) = self.scripts.lock() {
            scripts.insert(name.to_owned(), sender);
        }
        Script {
            requests: AsyncMutex::new(requests),
        }
    }
}

async fn serve(
    scripts: Scripts,
    request: hyper::Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let not_found = |reason: &str| Reply::new(404).body(reason.to_owned()).response;
    let (head, body) = request.into_parts();
    if let Some(part) = head.uri.path().strip_prefix(READINESS) {
        return Ok(readiness(&head.method, part).response);
    }
    let name = head.uri.path().split('/').nth(1).unwrap_or_default();
    let sender = scripts
        .lock()
        .ok()
        .and_then(|scripts| scripts.get(name).cloned());
    let Some(sender) = sender else {
        return Ok(not_found("no case has this name"));
    };
    let Ok(body) = body.collect().await else {
        return Ok(not_found("the request is incomplete"));
    };
    let (reply, replied) = oneshot::channel();
    let request = Request {
        head,
        body: body.to_bytes(),
        reply,
    };
    if sender.send(request).is_err() {
        return Ok(not_found("the case has ended"));
    }
    Ok(replied
        .await
        .unwrap_or_else(|_| not_found("the case did not reply")))
}

/// Replies to a readiness check with a subscribed WebSocket, or with a stream in two parts, the
/// second of which is held.
pub fn readiness(method: &Method, part: &str) -> Reply {
    if method == Method::POST {
        return Reply::open_grip(&[&subscribe(READINESS)]);
    }
    let reply = Reply::new(200);
    match part {
        "" => reply
            .header("grip-link", &format!("<{READINESS}/held>; rel=next"))
            .body("linked,"),
        _ => reply
            .header("grip-hold", "stream")
            .header("grip-channel", READINESS)
            .body("held,"),
    }
}

/// The requests of one case, in order of arrival.
pub struct Script {
    requests: AsyncMutex<mpsc::UnboundedReceiver<Request>>,
}

impl Script {
    /// Waits for the next request.
    pub async fn next(&self) -> Result<Request> {
        tokio::time::timeout(TIMEOUT, async { self.requests.lock().await.recv().await })
            .await
            .context("the backend received no request")?
            .context("the backend was stopped")
    }

    /// Returns the next request if it has arrived.
    pub async fn try_next(&self) -> Option<Request> {
        self.requests.lock().await.try_recv().ok()
    }
}

/// A complete request. If it is dropped, the response is a 404.
pub struct Request {
    /// The method, path and headers.
    pub head: Parts,
    /// The body.
    pub body: Bytes,
    reply: oneshot::Sender<Response<Full<Bytes>>>,
}

impl Request {
    /// Returns the value of a header that occurs exactly once.
    pub fn header(&self, name: &str) -> Option<&str> {
        single_header(&self.head.headers, name)
    }

    /// Decodes the events in the body.
    pub fn events(&self) -> Result<Vec<Event>> {
        Ok(decode_all(self.body.clone(), Limits::default())?)
    }

    /// Fails unless the body is exactly these events, in canonical form.
    pub fn expect(&self, events: &[Event]) -> Result<()> {
        let expected = encode_all(events);
        // The case of hexadecimal digits may differ.
        ensure!(
            self.events()? == events && self.body.len() == expected.len(),
            "the body is {:?}, expected {expected:?}",
            self.body
        );
        Ok(())
    }

    /// Sends the response.
    pub fn reply(self, reply: Reply) -> Result<()> {
        self.reply
            .send(reply.response)
            .ok()
            .context("the proxy has cancelled the request")
    }
}

/// Returns the value of a header that occurs exactly once.
pub fn single_header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// A response of the backend.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The response.
    pub response: Response<Full<Bytes>>,
}

impl Reply {
    /// Creates an empty response with this status.
    pub fn new(status: u16) -> Self {
        let mut response = Response::default();
        *response.status_mut() = StatusCode::from_u16(status).expect("a valid status");
        Self { response }
    }

    /// Creates a 200 with these events.
    pub fn events(events: &[Event]) -> Self {
        Self::new(200)
            .header("content-type", "application/websocket-events")
            .body(encode_all(events))
    }

    /// Creates a 200 without events.
    pub fn nothing() -> Self {
        Self::events(&[])
    }

    /// Accepts a WebSocket, without GRIP.
    pub fn open() -> Self {
        Self::events(&[Event::Open])
    }

    /// Accepts a WebSocket with GRIP and sends these messages, prefixes included.
    pub fn open_grip(messages: &[&str]) -> Self {
        let messages = messages.iter().map(|message| Event::text(*message));
        let events: Vec<Event> = [Event::Open].into_iter().chain(messages).collect();
        Self::events(&events).header("sec-websocket-extensions", "grip")
    }

    /// Adds a header.
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        let value = value.parse().expect("a valid header");
        self.response.headers_mut().append(name, value);
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        *self.response.body_mut() = Full::new(body.into());
        self
    }
}
