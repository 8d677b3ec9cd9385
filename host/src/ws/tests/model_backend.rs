//! A backend that answers as it is planned, and keeps the model_backend while it does.

use crate::backoff;
use std::{collections::VecDeque, time::Duration};

use parking_lot::{Mutex, MutexGuard};

use grip::{ControlMessage, Event, event};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use spin_runtime::backend::{Backend, BackendError, Body, ResponseFuture, full};
use tokio::time::{Instant, sleep};

use crate::ws::tests::interleavings::{BOUND, MAX_MESSAGE};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Binary,
    Ping,
    Pong,
}

/// What the backend makes of one request.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) after_ms: u64,
    pub(crate) outcome: Outcome,
}

#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Events {
        said: Vec<Said>,
        /// So much of what was offered is taken, in percent; over 100 is more than that.
        accept: Option<usize>,
        keep_alive: Option<u64>,
    },
    Status,
    NotEvents,
    Malformed,
    Oversized,
    /// The body ends early, or never.
    Broken,
    Stalled,
    Unreachable,
    Failed,
}

#[derive(Clone, Debug)]
pub(crate) enum Said {
    Content,
    Control(ControlMessage),
    Neither,
    Nonsense,
    Close,
    Disconnect,
    Open,
}

/// The backend, with its model_backend.
pub(crate) struct ModelBackend {
    pub(crate) start: Instant,
    pub(crate) plans: Mutex<VecDeque<Plan>>,
    pub(crate) page: Mutex<Ledger>,
}

#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) under_way: bool,
    /// What was offered last and not taken: the next request begins with it.
    pub(crate) again: Vec<Event>,
    /// It was not even reached, so that the next request is the same.
    pub(crate) unreached: u32,
    /// Messages taken whole, and the part of the next that was taken.
    pub(crate) taken: Vec<(Kind, Vec<u8>)>,
    pub(crate) part: Vec<u8>,
    /// CLOSE and DISCONNECT.
    pub(crate) endings: Vec<Event>,
    /// It answered what cannot be acted on, or did not answer.
    pub(crate) failed: bool,
    /// It took nothing of what it was offered, which may be an error.
    pub(crate) stubborn: bool,
    pub(crate) detached: bool,
    pub(crate) dropped: bool,
    pub(crate) closed: bool,
    /// How many answers it gave that can be acted on.
    pub(crate) answers: usize,
    /// How often it said content.
    pub(crate) contents: usize,
    /// The content that must reach a client who reads and closes.
    pub(crate) said: Vec<String>,
}

impl ModelBackend {
    pub(crate) fn page(&self) -> MutexGuard<'_, Ledger> {
        self.page.lock()
    }

    /// A text that nobody else says, and when it was said.
    pub(crate) fn tag(&self, who: &str, number: usize) -> String {
        format!("{who} {number} at {}", self.start.elapsed().as_millis())
    }

    fn fail(&self) {
        self.page().failed = true;
    }
}

impl Backend for ModelBackend {
    fn call(&self, request: Request<Body>) -> ResponseFuture<'_> {
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.expect("the host's own").to_bytes();
            let events = event::decode_all(body, grip::Limits::default()).expect("events");
            self.page().begin(&parts.headers, &events);
            let plan = self.plans.lock().pop_front();
            let plan = plan.unwrap_or(Plan {
                after_ms: 1,
                outcome: Outcome::Events {
                    said: Vec::new(),
                    accept: None,
                    keep_alive: Some(0),
                },
            });
            sleep(Duration::from_millis(plan.after_ms)).await;
            self.page().under_way = false;
            let unreached = std::mem::take(&mut self.page().unreached);
            match plan.outcome {
                Outcome::Unreachable => {
                    let mut page = self.page();
                    page.unreached = unreached + 1;
                    page.failed |= unreached == backoff::RETRIES;
                    page.again = events;
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
                    said,
                    accept,
                    keep_alive,
                } => {
                    let mut page = self.page();
                    let accepted = page.take(events, accept);
                    for (name, value) in [
                        ("content-bytes-accepted", accepted.map(|bytes| bytes as u64)),
                        ("keep-alive-interval", keep_alive),
                    ] {
                        if let Some(value) = value {
                            response.headers_mut().insert(name, value.into());
                        }
                    }
                    let said = page.say(&said, |number| self.tag("backend", number));
                    *response.body_mut() = full(event::encode_all(&said));
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
    /// Looks at a request as it comes.
    pub(crate) fn begin(&mut self, headers: &HeaderMap, events: &[Event]) {
        assert!(!self.under_way, "two requests at once");
        assert!(!self.failed, "a backend that failed is told {events:?}");
        assert!(!self.dropped, "a backend that dropped the client is asked");
        self.under_way = true;
        let old: usize = match self.unreached {
            0 => self.again.iter().map(Event::content_len).sum(),
            // The same as the last time, and so with the same header.
            _ => {
                assert_eq!(events, self.again, "not the same again");
                return;
            }
        };
        let replayed = headers.get("content-bytes-replayed");
        let replayed = replayed.map_or(0, |bytes| bytes.to_str().unwrap().parse().unwrap());
        assert_eq!(old, replayed);
        assert!(
            events.starts_with(&self.again),
            "what was not taken is lost"
        );
        let size: usize = events.iter().map(Event::content_len).sum();
        assert!(size < BOUND + MAX_MESSAGE + 200, "{size} bytes at once");
        let ended = |event: &Event| matches!(event, Event::Close(_) | Event::Disconnect);
        if let Some(end) = events.iter().position(ended) {
            assert_eq!(end + 1, events.len(), "told after the end");
        }
        assert!(
            self.endings.is_empty(),
            "{events:?} after {:?}",
            self.endings
        );
    }

    /// Takes so many percent of the content, and gives the header that says so.
    pub(crate) fn take(&mut self, events: Vec<Event>, percent: Option<usize>) -> Option<usize> {
        let offered: usize = events.iter().map(Event::content_len).sum();
        let accepted = percent.map(|percent| offered * percent / 100 + percent / 101);
        let mut left = accepted.unwrap_or(offered);
        if left > offered {
            self.failed = true;
            return accepted;
        }
        let last = matches!(events.last(), Some(Event::Disconnect));
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
                    self.endings.push(event);
                    continue;
                }
            };
            let part = left.min(content.len());
            left -= part;
            self.part.extend(&content[..part]);
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
            self.taken.push((kind, std::mem::take(&mut self.part)));
        }
        if last && self.endings.is_empty() {
            self.endings.push(Event::Disconnect);
            events.clear();
        }
        self.stubborn |= events.len() == count && left == accepted.unwrap_or(offered) && count > 0;
        self.again = events.into();
        accepted
    }

    /// The events of an answer.
    pub(crate) fn say(&mut self, said: &[Said], tag: impl Fn(usize) -> String) -> Vec<Event> {
        self.answers += 1;
        let mut events = Vec::new();
        // What is told a detached connection's CLOSE goes nowhere.
        let is_heard = !self.detached && !self.failed;
        let mut counts = is_heard && !self.stubborn;
        let is_last = |said: &&Said| matches!(said, Said::Close | Said::Disconnect | Said::Open);
        // A client may be dropped for it also where taking nothing was no error.
        let last = said.iter().find(is_last);
        self.dropped |= is_heard && matches!(last, Some(Said::Disconnect));
        for said in said {
            events.push(match said {
                Said::Content => {
                    let tag = tag(self.contents);
                    self.contents += 1;
                    let event = Event::text(format!("m:{tag}"));
                    if counts && !self.closed {
                        self.said.push(tag);
                    }
                    event
                }
                Said::Control(control) => {
                    self.detached |= counts && *control == ControlMessage::Detach;
                    control.clone().into_event()
                }
                Said::Neither => Event::text("neither"),
                Said::Nonsense => Event::text("c:{\"type\":7}"),
                Said::Close => Event::close(4001, "enough"),
                Said::Disconnect => Event::Disconnect,
                Said::Open => Event::Open,
            });
            if counts {
                self.failed |= matches!(said, Said::Open);
                self.closed |= matches!(said, Said::Close);
            }
            counts &= !is_last(&said);
        }
        events
    }
}
