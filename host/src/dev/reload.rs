//! Live reload: makes open pages reload, and shows them what is wrong. Used with `--watch` only.
//!
//! Each page gets a script from the host, which opens a WebSocket to the host. Browsers allow only six
//! other connections to a host. A message carries the whole state. No queue can overflow, and a page
//! that missed messages needs only the latest one.

use std::{sync::Arc, time::Duration};

use anyhow::ensure;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use spin_runtime::backend::{Body, full};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;
use uuid::Uuid;

use crate::{
    config::Limits,
    dev::inject::{ScriptTag, is_page_request},
    http::{error_response::text_response, extended_connect::is_extended_connect},
    net::connection::ConnectionHandle,
    ws::handshake,
};

/// Path of the WebSocket.
const SOCKET_PATH: &str = "/.socket-host/reload";
/// Path of the script.
const SCRIPT_PATH: &str = "/.socket-host/reload.js";
/// Maximum number of pages that listen at the same time.
const MAX_LISTENERS: usize = Limits::DEFAULT.max_watching_pages;
/// Interval of pings, so that each side detects a lost connection.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// How long a page may take to receive a message.
const SEND_TIMEOUT: Duration = Limits::DEFAULT.unread_response_timeout;
/// How long a page may take to receive the close message.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum size of the messages of a page, which sends none.
const MAX_MESSAGE_BYTES: usize = 1024;

/// Publishes the state of the application to open pages.
pub(crate) struct Reload {
    state: watch::Sender<State>,
    permits: Arc<Semaphore>,
    listeners: TaskTracker,
    /// Closes the WebSockets.
    stop: CancellationToken,
}

/// The content of a message.
#[derive(Clone, Debug)]
struct State {
    /// Identifies this run of the host, so that pages from an earlier run reload.
    start: Uuid,
    /// Counts reloads of pages.
    pages: u64,
    /// Counts reloads of style sheets alone.
    styles: u64,
    problems: Vec<Problem>,
}

/// A reason why the served application is older than its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// One line of plain text.
    pub(crate) title: String,
    /// Details, such as a compiler's output with its ANSI colours. May be empty.
    pub(crate) text: String,
}

/// What pages have to reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReloadEvent {
    Nothing,
    /// The style sheets, in place.
    Styles,
    /// The whole page.
    Pages,
}

impl Reload {
    /// Creates a publisher whose WebSockets are closed when `stop` is cancelled.
    pub(crate) fn new(stop: CancellationToken) -> Self {
        let (state, _) = watch::channel(State {
            start: Uuid::new_v4(),
            pages: 0,
            styles: 0,
            problems: Vec::new(),
        });
        Self {
            state,
            permits: Arc::new(Semaphore::new(MAX_LISTENERS)),
            listeners: TaskTracker::new(),
            stop,
        }
    }

    /// Sends an event and the current problems to all pages.
    pub(crate) fn broadcast(&self, event: ReloadEvent, problems: Vec<Problem>) {
        self.state.send_if_modified(|state| {
            let is_modified = event != ReloadEvent::Nothing || state.problems != problems;
            match event {
                ReloadEvent::Nothing => {}
                ReloadEvent::Styles => state.styles += 1,
                ReloadEvent::Pages => state.pages += 1,
            }
            state.problems = problems;
            is_modified
        });
    }

    /// Responds to requests for the WebSocket and the script. Returns `None` for other paths.
    ///
    /// Must be called in a Tokio runtime.
    pub(crate) fn handle<B>(&self, request: &mut Request<B>) -> Option<Response<Body>> {
        let path = request.uri().path();
        if path != SOCKET_PATH && path != SCRIPT_PATH {
            return None;
        }
        let opens_stream = path == SOCKET_PATH && is_extended_connect(request);
        if request.method() != Method::GET && !opens_stream {
            let mut response = text_response(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
            set(response.headers_mut(), header::ALLOW, "GET");
            return Some(response);
        }
        if path == SOCKET_PATH {
            return Some(self.open(request));
        }
        let site = request.headers().get("sec-fetch-site");
        if site.is_some_and(|site| site != "same-origin" && site != "none") {
            return Some(text_response(
                StatusCode::FORBIDDEN,
                "cross-site requests are not allowed",
            ));
        }
        Some(script())
    }

    /// Prepares a request so that a script tag can be appended to the response. Returns the tag if
    /// the request is for a page.
    pub(crate) fn prepare<B>(&self, request: &mut Request<B>) -> Option<ScriptTag> {
        // Nothing can be appended to a compressed page. Other responses are not compressed either:
        // components are compiled without optimization here, and compress slower than loopback sends.
        request.headers_mut().remove(header::ACCEPT_ENCODING);
        if !is_page_request(request) {
            return None;
        }
        // The response must be a complete page.
        for name in [
            header::IF_NONE_MATCH,
            header::IF_MODIFIED_SINCE,
            header::RANGE,
        ] {
            request.headers_mut().remove(name);
        }
        let state = self.state.borrow();
        let State {
            start,
            pages,
            styles,
            ..
        } = &*state;
        // Numbers and a UUID need no escaping.
        Some(ScriptTag::new(format!(
            r#"<script src="{SCRIPT_PATH}" data-state="{start} {pages} {styles}" async></script>"#
        )))
    }

    /// Waits until all WebSockets are closed, after `stop`. No more may be opened.
    pub(crate) async fn closed(&self) {
        self.listeners.close();
        self.listeners.wait().await;
    }

    /// Opens the WebSocket of a page, or refuses it.
    fn open<B>(&self, request: &mut Request<B>) -> Response<Body> {
        if !handshake::is_upgrade(request) {
            let mut response = text_response(StatusCode::UPGRADE_REQUIRED, "expected a WebSocket");
            set(response.headers_mut(), header::UPGRADE, "websocket");
            set(response.headers_mut(), header::CONNECTION, "upgrade");
            return response;
        }
        // Compiler errors quote source code, which pages of other origins must not read.
        let response = match handshake::accept_same_origin(request) {
            Ok(response) => response,
            Err(refusal) => return *refusal,
        };
        let Ok(permit) = self.permits.clone().try_acquire_owned() else {
            return text_response(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many pages are listening",
            );
        };
        let upgraded = hyper::upgrade::on(&mut *request);
        let mut state = self.state.subscribe();
        state.mark_changed();
        let listener = Listener {
            state,
            stop: self.stop.clone(),
            _permit: permit,
        };
        let connection = ConnectionHandle::of(request);
        let listener = listener.serve(upgraded);
        self.listeners
            .spawn(ConnectionHandle::run_upgraded(connection, listener));
        response
    }
}

/// The WebSocket of one page.
struct Listener {
    state: watch::Receiver<State>,
    stop: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Listener {
    /// Sends the state whenever it changes, until the page closes the socket or the host stops.
    async fn serve(mut self, upgraded: OnUpgrade) {
        let Ok(upgraded) = upgraded.await else {
            return;
        };
        let config = WebSocketConfig::default()
            .read_buffer_size(MAX_MESSAGE_BYTES)
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        let stream = TokioIo::new(upgraded);
        let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
        let stop = self.stop.clone();
        match stop
            .run_until_cancelled(self.send_states(&mut socket))
            .await
        {
            Some(Err(error)) => debug!(%error, "reload socket failed"),
            Some(Ok(())) => {}
            None => {
                let frame = CloseFrame {
                    code: CloseCode::Away,
                    reason: "the server is shutting down".into(),
                };
                // Closing is best effort: the connection is dropped next.
                let _ = timeout(CLOSE_TIMEOUT, socket.close(Some(frame))).await;
            }
        }
    }

    /// Sends states and pings until the page closes the socket or does not answer.
    async fn send_states<S>(&mut self, socket: &mut WebSocketStream<S>) -> anyhow::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut pings = interval(PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut has_answered = true;
        loop {
            let message = tokio::select! {
                changed = self.state.changed() => {
                    changed?;
                    Message::text(self.state.borrow_and_update().json().to_string())
                }
                received = socket.next() => match received {
                    Some(Ok(Message::Close(_))) | None => return Ok(()),
                    Some(Ok(_)) => {
                        has_answered = true;
                        continue;
                    }
                    Some(Err(error)) => return Err(error.into()),
                },
                _ = pings.tick() => {
                    ensure!(std::mem::take(&mut has_answered), "the page does not answer pings");
                    Message::Ping(Default::default())
                }
            };
            timeout(SEND_TIMEOUT, socket.send(message)).await??;
        }
    }
}

impl State {
    fn json(&self) -> Value {
        let problems = self.problems.iter();
        let problems =
            problems.map(|Problem { title, text }| json!({"title": title, "text": text}));
        json!({
            "start": self.start.to_string(),
            "pages": self.pages,
            "styles": self.styles,
            "problems": problems.collect::<Vec<_>>(),
        })
    }
}

fn script() -> Response<Body> {
    let mut response = Response::new(full(include_str!("reload.js")));
    let headers = response.headers_mut();
    set(
        headers,
        header::CONTENT_TYPE,
        "text/javascript; charset=utf-8",
    );
    set(headers, header::CACHE_CONTROL, "no-cache");
    set(headers, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    response
}

fn set(headers: &mut HeaderMap, name: header::HeaderName, value: &'static str) {
    headers.insert(name, HeaderValue::from_static(value));
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{DuplexStream, duplex},
        time::Instant,
    };

    use super::*;

    /// Connects a page. Returns its end of the connection, and the result of its listener.
    async fn connect(
        reload: &Reload,
        buffer: usize,
    ) -> (DuplexStream, tokio::task::JoinHandle<anyhow::Result<()>>) {
        let (client, server) = duplex(buffer);
        let mut state = reload.state.subscribe();
        state.mark_changed();
        let mut listener = Listener {
            state,
            stop: reload.stop.clone(),
            _permit: reload.permits.clone().try_acquire_owned().unwrap(),
        };
        let task = tokio::spawn(async move {
            let mut socket = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
            listener.send_states(&mut socket).await
        });
        (client, task)
    }

    #[tokio::test(start_paused = true)]
    async fn pages_that_do_not_answer_are_dropped() {
        let reload = Reload::new(CancellationToken::new());
        // One page receives nothing, and the other one does not answer pings.
        for (buffer, timeout) in [(16, SEND_TIMEOUT), (10_000, PING_INTERVAL)] {
            let start = Instant::now();
            let (_client, task) = connect(&reload, buffer).await;
            assert!(task.await.unwrap().is_err());
            assert!(start.elapsed() <= 2 * timeout, "{:?}", start.elapsed());
        }
        assert_eq!(reload.permits.available_permits(), MAX_LISTENERS);
    }

    #[tokio::test(start_paused = true)]
    async fn pages_get_the_latest_state_for_as_long_as_they_answer() {
        let reload = Reload::new(CancellationToken::new());
        let (client, task) = connect(&reload, 10_000).await;
        let mut page = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let start = Instant::now();
        for pages in 1..30 {
            reload.broadcast(ReloadEvent::Pages, Vec::new());
            reload.broadcast(ReloadEvent::Styles, Vec::new());
            let expected = reload.state.borrow().json().to_string();
            assert!(
                expected.contains(&format!("\"pages\":{pages},")),
                "{expected}"
            );
            // Reading also answers pings.
            loop {
                match page.next().await.unwrap().unwrap() {
                    Message::Text(text) if *text == *expected => break,
                    Message::Text(_) | Message::Ping(_) => {}
                    other => panic!("unexpected {other:?}"),
                }
            }
            let idle = timeout(PING_INTERVAL, page.next()).await;
            assert!(
                matches!(idle, Err(_) | Ok(Some(Ok(Message::Ping(_))))),
                "{idle:?}"
            );
        }
        assert!(
            start.elapsed() >= 5 * PING_INTERVAL,
            "{:?}",
            start.elapsed()
        );
        page.close(None).await.unwrap();
        assert!(task.await.unwrap().is_ok());
    }
}
