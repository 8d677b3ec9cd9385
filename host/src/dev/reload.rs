//! Live reload: makes open pages reload, and shows them what is wrong. Used with `--watch` only.
//!
//! Each page gets a script from the host, which listens to server-sent events from the host. An
//! event carries the whole state. No queue can overflow, and a page that missed events needs only
//! the latest one.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use spin_runtime::backend::{Body, full};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    config::Limits,
    dev::inject::{ScriptTag, is_page_request},
    http::error_response::text_response,
};

/// Path of the event stream.
const EVENTS_PATH: &str = "/.socket-host/reload";
/// Path of the script.
const SCRIPT_PATH: &str = "/.socket-host/reload.js";
/// Maximum number of pages that listen at the same time.
const MAX_LISTENERS: usize = Limits::DEFAULT.max_watching_pages;
/// Makes browsers reconnect 250 ms after the stream ends.
const RETRY_FIELD: &str = "retry: 250\n\n";
/// Interval of comments on an idle stream, so that each side detects a lost connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Publishes the state of the application to open pages.
pub(crate) struct Reload {
    state: watch::Sender<State>,
    permits: Arc<Semaphore>,
    /// Ends the event streams.
    stop: CancellationToken,
}

/// The content of an event.
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
    /// Creates a publisher whose event streams end when `stop` is cancelled.
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

    /// Responds to requests for the event stream and the script. Returns `None` for other paths.
    pub(crate) fn handle<B>(&self, request: &Request<B>) -> Option<Response<Body>> {
        let path = request.uri().path();
        if path != EVENTS_PATH && path != SCRIPT_PATH {
            return None;
        }
        if request.method() != Method::GET {
            let mut response = text_response(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
            set(response.headers_mut(), header::ALLOW, "GET");
            return Some(response);
        }
        // Compiler errors quote source code, which other sites must not read.
        let site = request.headers().get("sec-fetch-site");
        if site.is_some_and(|site| site != "same-origin" && site != "none") {
            return Some(text_response(
                StatusCode::FORBIDDEN,
                "cross-site requests are not allowed",
            ));
        }
        Some(if path == EVENTS_PATH {
            self.events()
        } else {
            script()
        })
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

    fn events(&self) -> Response<Body> {
        let Ok(permit) = self.permits.clone().try_acquire_owned() else {
            return text_response(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many pages are listening",
            );
        };
        let mut state = self.state.subscribe();
        state.mark_changed();
        let listener = Listener {
            is_new: true,
            state,
            stop: self.stop.clone(),
            _permit: permit,
        };
        let events = stream::unfold(listener, |mut listener| async {
            let event = listener.next().await?;
            Some((Ok::<_, Infallible>(Frame::data(event)), listener))
        });
        let events = StreamBody::new(events).map_err(|never| match never {});
        let mut response = Response::new(events.boxed_unsync());
        let headers = response.headers_mut();
        set(headers, header::CONTENT_TYPE, "text/event-stream");
        set(headers, header::CACHE_CONTROL, "no-store");
        set(headers, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
        response
    }
}

/// The event stream of one page.
struct Listener {
    is_new: bool,
    state: watch::Receiver<State>,
    stop: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Listener {
    /// Waits for the next chunk of the stream. Returns `None` when the host stops.
    async fn next(&mut self) -> Option<Bytes> {
        if std::mem::take(&mut self.is_new) {
            return Some(Bytes::from_static(RETRY_FIELD.as_bytes()));
        }
        tokio::select! {
            changed = self.state.changed() => {
                changed.ok()?;
                let state = self.state.borrow_and_update();
                // Compact JSON contains no line breaks, which would end the field.
                Some(format!("data: {}\n\n", state.json()).into())
            }
            () = tokio::time::sleep(KEEP_ALIVE) => Some(Bytes::from_static(b":\n\n")),
            () = self.stop.cancelled() => None,
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
