//! The scripted backend: an HTTP server whose requests a case takes one by one, looks at,
//! and answers when it wants to.
//!
//! All cases share the server. A request belongs to the case whose name is the first
//! segment of its path.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use crate::case::{PATIENCE, subscribe};
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

/// The path, and the channel, of requests that ask whether a proxy is ready. They go through
/// all its parts, and belong to no case.
pub const READINESS: &str = "/ready";

type Scripts = Arc<Mutex<HashMap<String, mpsc::UnboundedSender<Request>>>>;

/// The server. It runs until it is stopped, or with the runtime that it was started on.
pub struct Backend {
    address: SocketAddr,
    scripts: Scripts,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Backend {
    /// Listens on a free port of the loopback.
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
                    // Its end is the proxy's business.
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

    /// Listens no more and cuts all connections.
    pub async fn stop(self) -> Result<()> {
        let _ = self.stop.send(());
        Ok(self.serving.await?)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The requests below `/NAME/`, until the script is dropped.
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
    let nobody = |why: &str| Reply::new(404).body(why.to_owned()).response;
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
        return Ok(nobody("no case has this name"));
    };
    let Ok(body) = body.collect().await else {
        return Ok(nobody("the request has no end"));
    };
    let (reply, replied) = oneshot::channel();
    let request = Request {
        head,
        body: body.to_bytes(),
        reply,
    };
    if sender.send(request).is_err() {
        return Ok(nobody("the case is over"));
    }
    Ok(replied
        .await
        .unwrap_or_else(|_| nobody("the case did not answer this")))
}

/// A WebSocket that listens to the channel, or a stream in two parts, the second of which does.
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

/// The requests of one case, in the order in which they came.
pub struct Script {
    requests: AsyncMutex<mpsc::UnboundedReceiver<Request>>,
}

impl Script {
    /// The next request.
    pub async fn next(&self) -> Result<Request> {
        tokio::time::timeout(PATIENCE, async { self.requests.lock().await.recv().await })
            .await
            .context("no request comes to the backend")?
            .context("the backend is gone")
    }

    /// A request that has come and was not taken.
    pub async fn waiting(&self) -> Option<Request> {
        self.requests.lock().await.try_recv().ok()
    }
}

/// A request, whole. The answer to one that is dropped is a 404.
pub struct Request {
    /// Method, path, headers.
    pub head: Parts,
    /// The body.
    pub body: Bytes,
    reply: oneshot::Sender<Response<Full<Bytes>>>,
}

impl Request {
    /// A header's text, if there is exactly one.
    pub fn header(&self, name: &str) -> Option<&str> {
        one(&self.head.headers, name)
    }

    /// The events in the body.
    pub fn events(&self) -> Result<Vec<Event>> {
        Ok(decode_all(self.body.clone(), Limits::default())?)
    }

    /// Fails unless the body is exactly these events, in the canonical form.
    pub fn expect(&self, events: &[Event]) -> Result<()> {
        let expected = encode_all(events);
        // The case of the hexadecimal digits is left to the proxy.
        ensure!(
            self.events()? == events && self.body.len() == expected.len(),
            "the body is {:?}, not {expected:?}",
            self.body
        );
        Ok(())
    }

    /// Answers.
    pub fn reply(self, reply: Reply) -> Result<()> {
        self.reply
            .send(reply.response)
            .ok()
            .context("the proxy has given up the request")
    }
}

/// A header's text, if there is exactly one.
pub fn one<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// What is sent.
    pub response: Response<Full<Bytes>>,
}

impl Reply {
    /// An answer with this status, and nothing else.
    pub fn new(status: u16) -> Self {
        let mut response = Response::default();
        *response.status_mut() = StatusCode::from_u16(status).expect("a status of a case");
        Self { response }
    }

    /// 200 and events.
    pub fn events(events: &[Event]) -> Self {
        Self::new(200)
            .header("content-type", "application/websocket-events")
            .body(encode_all(events))
    }

    /// 200 and no events.
    pub fn nothing() -> Self {
        Self::events(&[])
    }

    /// What accepts a WebSocket, without GRIP.
    pub fn open() -> Self {
        Self::events(&[Event::Open])
    }

    /// What accepts a WebSocket with GRIP on, and more messages as they are.
    pub fn open_grip(messages: &[&str]) -> Self {
        let messages = messages.iter().map(|message| Event::text(*message));
        let events: Vec<Event> = [Event::Open].into_iter().chain(messages).collect();
        Self::events(&events).header("sec-websocket-extensions", "grip")
    }

    /// One more header.
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        let value = value.parse().expect("a header of a case");
        self.response.headers_mut().append(name, value);
        self
    }

    /// This body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        *self.response.body_mut() = Full::new(body.into());
        self
    }
}
