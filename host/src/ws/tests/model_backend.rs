//! A backend that responds as planned, and keeps a ledger to check the session's requests.

use std::{collections::VecDeque, time::Duration};

use grip::{ControlMessage, Event, event};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use parking_lot::{Mutex, MutexGuard};
use spin_runtime::backend::{Backend, BackendError, Body, ResponseFuture, full};
use tokio::time::{Instant, sleep};

use crate::backoff;

/// The maximum size of a client's message.
pub(crate) const MAX_MESSAGE: usize = 400;

/// The size of pending events above which the client is not read.
pub(crate) const MAX_INCOMING: usize = 1500;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Binary,
    Ping,
    Pong,
}

/// The planned response to one request.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) delay_ms: u64,
    pub(crate) outcome: Outcome,
}

#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Events {
        events: Vec<ScriptedEvent>,
        /// The percentage of content to accept. More than 100 accepts more than was sent.
        accept: Option<usize>,
        keep_alive: Option<u64>,
    },
    Status,
    NotEvents,
    Malformed,
    Oversized,
    /// The body ends early.
    Broken,
    /// The body does not end.
    Stalled,
    Unreachable,
    Failed,
}

#[derive(Clone, Debug)]
pub(crate) enum ScriptedEvent {
    Content,
    Control(ControlMessage),
    NoPrefix,
    InvalidControl,
    Close,
    Disconnect,
    Open,
}

pub(crate) struct ModelBackend {
    pub(crate) start: Instant,
    pub(crate) plans: Mutex<VecDeque<Plan>>,
    pub(crate) ledger: Mutex<Ledger>,
}

/// What the backend has received and sent so far.
#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) in_flight: bool,
    /// Events that were not accepted, with which the next request must begin.
    remaining: Vec<Event>,
    /// How often in a row the backend was unreachable, so that the next request must be the same.
    unreachable: u32,
    /// Messages accepted as a whole.
    pub(crate) accepted: Vec<(Kind, Vec<u8>)>,
    /// The accepted part of the next message.
    partial: Vec<u8>,
    /// CLOSE and DISCONNECT events.
    pub(crate) final_events: Vec<Event>,
    /// A response was invalid or missing.
    pub(crate) failed: bool,
    /// A response accepted nothing, which may be an error.
    pub(crate) stuck: bool,
    pub(crate) detached: bool,
    pub(crate) dropped: bool,
    closed: bool,
    /// The number of valid responses.
    pub(crate) responses: usize,
    /// The number of content messages sent.
    contents: usize,
    /// Content that must reach a client that reads everything and closes.
    pub(crate) sent: Vec<String>,
}

impl ModelBackend {
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock()
    }

    /// Returns a unique text with its sender and the time.
    pub(crate) fn tag(&self, sender: &str, number: usize) -> String {
        format!("{sender} {number} at {}", self.start.elapsed().as_millis())
    }

    fn fail(&self) {
        self.ledger().failed = true;
    }
}

impl Backend for ModelBackend {
    fn call(&self, request: Request<Body>) -> ResponseFuture<'_> {
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.expect("a body").to_bytes();
            let events = event::decode_all(body, grip::Limits::default()).expect("events");
            self.ledger().check_request(&parts.headers, &events);
            let plan = self.plans.lock().pop_front();
            let plan = plan.unwrap_or(Plan {
                delay_ms: 1,
                outcome: Outcome::Events {
                    events: Vec::new(),
                    accept: None,
                    keep_alive: Some(0),
                },
            });
            sleep(Duration::from_millis(plan.delay_ms)).await;
            self.ledger().in_flight = false;
            let unreachable = std::mem::take(&mut self.ledger().unreachable);
            match plan.outcome {
                Outcome::Unreachable => {
                    let mut ledger = self.ledger();
                    ledger.unreachable = unreachable + 1;
                    ledger.failed |= unreachable == backoff::RETRIES;
                    ledger.remaining = events;
                    return Err(BackendError::Unreachable {
                        upstream: "test".into(),
                        source: anyhow::anyhow!("refused"),
                    });
                }
                Outcome::Failed => {
                    self.fail();
                    return Err(BackendError::Deadline {
                        component: "test".into(),
                        limit: Duration::ZERO,
                    });
                }
                _ => {}
            }
            let mut response = Response::new(full("OPEN"));
            let content_type = HeaderValue::from_static("application/websocket-events");
            response.headers_mut().insert("content-type", content_type);
            match plan.outcome {
                Outcome::Events {
                    events: scripted,
                    accept,
                    keep_alive,
                } => {
                    let mut ledger = self.ledger();
                    let accepted = ledger.accept(events, accept);
                    for (name, value) in [
                        ("content-bytes-accepted", accepted.map(|bytes| bytes as u64)),
                        ("keep-alive-interval", keep_alive),
                    ] {
                        if let Some(value) = value {
                            response.headers_mut().insert(name, value.into());
                        }
                    }
                    let events = ledger.respond(&scripted, |number| self.tag("backend", number));
                    *response.body_mut() = full(event::encode_all(&events));
                    return Ok(response);
                }
                Outcome::Status => *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR,
                Outcome::NotEvents => {
                    response.headers_mut().clear();
                }
                Outcome::Oversized => *response.body_mut() = full(vec![b'x'; 1_000_001]),
                Outcome::Broken => {
                    let broken = futures_util::stream::iter([Err("broken".into())]);
                    *response.body_mut() = StreamBody::new(broken).boxed_unsync();
                }
                Outcome::Stalled => {
                    let stalled = futures_util::stream::pending();
                    *response.body_mut() = StreamBody::new(stalled).boxed_unsync();
                }
                Outcome::Malformed | Outcome::Unreachable | Outcome::Failed => {}
            }
            self.fail();
            Ok(response)
        })
    }
}

impl Ledger {
    /// Checks a request against everything before it.
    fn check_request(&mut self, headers: &HeaderMap, events: &[Event]) {
        assert!(!self.in_flight, "two requests at once");
        assert!(!self.failed, "{events:?} for a backend that has failed");
        assert!(!self.dropped, "a request after the client was dropped");
        self.in_flight = true;
        let remaining: usize = match self.unreachable {
            0 => self.remaining.iter().map(Event::content_len).sum(),
            // A retry, which also has the same header.
            _ => {
                assert_eq!(events, self.remaining, "a different retry");
                return;
            }
        };
        let replayed = headers.get("content-bytes-replayed");
        let replayed = replayed.map_or(0, |bytes| bytes.to_str().unwrap().parse().unwrap());
        assert_eq!(remaining, replayed);
        assert!(
            events.starts_with(&self.remaining),
            "events that were not accepted are lost"
        );
        let size: usize = events.iter().map(Event::content_len).sum();
        assert!(
            size < MAX_INCOMING + MAX_MESSAGE + 200,
            "{size} bytes at once"
        );
        let is_final = |event: &Event| matches!(event, Event::Close(_) | Event::Disconnect);
        if let Some(last) = events.iter().position(is_final) {
            assert_eq!(last + 1, events.len(), "events after the final one");
        }
        assert!(
            self.final_events.is_empty(),
            "{events:?} after {:?}",
            self.final_events
        );
    }

    /// Accepts a percentage of the content, and returns the value of `Content-Bytes-Accepted`.
    fn accept(&mut self, events: Vec<Event>, percent: Option<usize>) -> Option<usize> {
        let sent: usize = events.iter().map(Event::content_len).sum();
        let accepted = percent.map(|percent| sent * percent / 100 + percent / 101);
        let mut left = accepted.unwrap_or(sent);
        if left > sent {
            self.failed = true;
            return accepted;
        }
        let disconnects = matches!(events.last(), Some(Event::Disconnect));
        let count = events.len();
        let mut events = VecDeque::from(events);
        while let Some(event) = events.pop_front() {
            let (kind, content) = match &event {
                Event::Text(text) => (Kind::Text, text.as_bytes().clone()),
                Event::Binary(data) => (Kind::Binary, data.clone()),
                Event::Ping(data) => (Kind::Ping, data.clone()),
                Event::Pong(data) => (Kind::Pong, data.clone()),
                Event::Close(_) if event.content_len() > left => {
                    self.failed = true;
                    events.push_front(event);
                    break;
                }
                _ => {
                    left -= event.content_len();
                    self.final_events.push(event);
                    continue;
                }
            };
            let part = left.min(content.len());
            left -= part;
            self.partial.extend(&content[..part]);
            if part < content.len() {
                let rest = content.slice(part..);
                events.push_front(match kind {
                    Kind::Text => Event::Text(rest.try_into().expect("ASCII")),
                    Kind::Binary => Event::Binary(rest),
                    Kind::Ping => Event::Ping(rest),
                    Kind::Pong => Event::Pong(rest),
                });
                break;
            }
            self.accepted
                .push((kind, std::mem::take(&mut self.partial)));
        }
        if disconnects && self.final_events.is_empty() {
            self.final_events.push(Event::Disconnect);
            events.clear();
        }
        self.stuck |= events.len() == count && left == accepted.unwrap_or(sent) && count > 0;
        self.remaining = events.into();
        accepted
    }

    /// Returns the events of a response.
    fn respond(&mut self, scripted: &[ScriptedEvent], tag: impl Fn(usize) -> String) -> Vec<Event> {
        self.responses += 1;
        let mut events = Vec::new();
        // The response to a detached connection's CLOSE is ignored.
        let is_attached = !self.detached && !self.failed;
        let mut has_effect = is_attached && !self.stuck;
        let is_last = |event: &&ScriptedEvent| {
            matches!(
                event,
                ScriptedEvent::Close | ScriptedEvent::Disconnect | ScriptedEvent::Open
            )
        };
        // Applies even if the response accepts nothing, since that may not be an error.
        let last = scripted.iter().find(is_last);
        self.dropped |= is_attached && matches!(last, Some(ScriptedEvent::Disconnect));
        for event in scripted {
            events.push(match event {
                ScriptedEvent::Content => {
                    let tag = tag(self.contents);
                    self.contents += 1;
                    let event = Event::text(format!("m:{tag}"));
                    if has_effect && !self.closed {
                        self.sent.push(tag);
                    }
                    event
                }
                ScriptedEvent::Control(control) => {
                    self.detached |= has_effect && *control == ControlMessage::Detach;
                    control.clone().into_event()
                }
                ScriptedEvent::NoPrefix => Event::text("neither"),
                ScriptedEvent::InvalidControl => Event::text("c:{\"type\":7}"),
                ScriptedEvent::Close => Event::close(4001, "enough"),
                ScriptedEvent::Disconnect => Event::Disconnect,
                ScriptedEvent::Open => Event::Open,
            });
            if has_effect {
                self.failed |= matches!(event, ScriptedEvent::Open);
                self.closed |= matches!(event, ScriptedEvent::Close);
            }
            has_effect &= !is_last(&event);
        }
        events
    }
}
