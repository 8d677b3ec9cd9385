//! A session under whatever may happen to it, in whatever order, on a paused clock.
//!
//! A case is what the client does and others do to the session, one step after the other,
//! and what the backend makes of each request. The backend keeps the books while it
//! answers; what must hold in the end is in [`Case::check`].

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    sync::{Mutex, MutexGuard},
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;
use grip::{Item, Key, event, publish::WsAction};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, StreamBody};
use proptest::{collection::vec, option, prelude::*};
use runtime::backend::{Answer, BackendError, Body, Caller, full};
use tokio::time::{Instant, sleep, timeout};
use tungstenite::protocol::frame::{
    Frame,
    coding::{Control, Data, OpCode},
};

use super::*;
use crate::{channels::Publication, head::Head};

/// The largest message of a client here, and how much may wait for the backend.
const MAX_MESSAGE: usize = 400;
const BOUND: usize = 1500;

/// How much a client may leave unread here.
const MAX_UNREAD: usize = 4000;

/// What happens, but for what the backend does.
#[derive(Clone, Debug)]
enum Step {
    /// A message, in one frame or in several.
    Say(Kind, usize, bool),
    /// A frame that no client may send, by number.
    Malformed(u8),
    /// A close frame, with a code or without.
    Close(Option<u16>),
    /// The end of the stream, or an error of it.
    Vanish(bool),
    /// The client reads so many more bytes, and then no more; or all again.
    Read(Option<usize>),
    Publish,
    Refresh,
    PublishClose,
    /// What the sweeper does.
    Silent,
    /// What the host does when it stops.
    Shutdown,
    WaitMs(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Binary,
    Ping,
    Pong,
}

/// What the backend makes of one request.
#[derive(Clone, Debug)]
struct Plan {
    after_ms: u64,
    outcome: Outcome,
}

#[derive(Clone, Debug)]
enum Outcome {
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
enum Said {
    Content,
    Control(ControlMessage),
    Neither,
    Nonsense,
    Close,
    Disconnect,
    Open,
}

#[derive(Clone, Debug)]
struct Case {
    steps: Vec<Step>,
    plans: Vec<Plan>,
    /// The client answers a close frame.
    polite: bool,
}

/// A connection in memory.
#[derive(Default)]
struct Wire {
    state: Mutex<WireState>,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

#[derive(Default)]
struct WireState {
    to_host: VecDeque<u8>,
    to_client: Vec<u8>,
    /// How much more the client takes; `None`: everything.
    room: Option<usize>,
    ended: bool,
    broken: bool,
}

impl Wire {
    fn lock(&self) -> MutexGuard<'_, WireState> {
        self.state.lock().expect("no test panics under it")
    }

    fn change(&self, change: impl FnOnce(&mut WireState)) {
        change(&mut self.lock());
        self.reader.wake();
        self.writer.wake();
    }
}

impl Connection for Wire {
    fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut state = self.lock();
        if state.broken {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if state.to_host.is_empty() && !state.ended {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        io::Read::read(&mut state.to_host, into)
    }
    fn try_write(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.lock();
        if state.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let from = from.iter().flat_map(|slice| slice.iter().copied());
        let before = state.to_client.len();
        match state.room {
            Some(0) => return Err(io::ErrorKind::WouldBlock.into()),
            Some(room) => state.to_client.extend(from.take(room)),
            None => state.to_client.extend(from),
        }
        let written = state.to_client.len() - before;
        state.room = state.room.map(|room| room - written);
        Ok(written)
    }
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.reader.register(cx.waker());
        let state = self.lock();
        match state.to_host.is_empty() && !state.ended && !state.broken {
            true => Poll::Pending,
            false => Poll::Ready(Ok(())),
        }
    }
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.register(cx.waker());
        match self.lock().room == Some(0) && !self.lock().broken {
            true => Poll::Pending,
            false => Poll::Ready(Ok(())),
        }
    }
}

/// The backend, with its books.
struct Books {
    start: Instant,
    plans: Mutex<VecDeque<Plan>>,
    page: Mutex<Page>,
}

#[derive(Default)]
struct Page {
    under_way: bool,
    /// What was offered last and not taken: the next request begins with it.
    again: Vec<Event>,
    /// It was not even reached, so that the next request is the same.
    unreached: u32,
    /// Messages taken whole, and the part of the next that was taken.
    taken: Vec<(Kind, Vec<u8>)>,
    part: Vec<u8>,
    /// CLOSE and DISCONNECT.
    endings: Vec<Event>,
    /// It answered what cannot be acted on, or did not answer.
    failed: bool,
    /// It took nothing of what it was offered, which may be an error.
    stubborn: bool,
    detached: bool,
    dropped: bool,
    closed: bool,
    /// How often it said content.
    contents: usize,
    /// The content that must reach a client who reads and closes.
    said: Vec<String>,
}

impl Books {
    fn page(&self) -> MutexGuard<'_, Page> {
        self.page.lock().expect("no test panics under it")
    }

    /// A text that nobody else says, and when it was said.
    fn tag(&self, who: &str, number: usize) -> String {
        format!("{who} {number} at {}", self.start.elapsed().as_millis())
    }

    fn fail(&self) {
        self.page().failed = true;
    }
}

impl Backend for Books {
    fn call(&self, request: Request<Body>) -> Answer<'_> {
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.expect("the host's own").to_bytes();
            let events = event::decode_all(body, grip::Limits::default()).expect("events");
            self.page().begin(&parts.headers, &events);
            let plan = self.plans.lock().expect("no panic").pop_front();
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
                    page.failed |= unreached == live::RETRIES;
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

impl Page {
    /// Looks at a request as it comes.
    fn begin(&mut self, headers: &HeaderMap, events: &[Event]) {
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
    fn take(&mut self, events: Vec<Event>, percent: Option<usize>) -> Option<usize> {
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
    fn say(&mut self, said: &[Said], tag: impl Fn(usize) -> String) -> Vec<Event> {
        let mut events = Vec::new();
        // What is told a detached connection's CLOSE goes nowhere.
        let mut counts = !self.detached && !self.failed && !self.stubborn;
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
                self.dropped |= matches!(said, Said::Disconnect);
                self.failed |= matches!(said, Said::Open);
                self.closed |= matches!(said, Said::Close);
            }
            counts &= !matches!(said, Said::Close | Said::Disconnect | Said::Open);
        }
        events
    }
}

/// The frame of a client, masked.
fn masked(opcode: OpCode, content: &[u8], last: bool) -> Vec<u8> {
    let mut frame = Frame::message(content.to_vec(), opcode, last);
    frame.header_mut().mask = Some([1, 2, 3, 4]);
    let mut bytes = Vec::new();
    frame.format(&mut bytes).expect("memory");
    bytes
}

/// What a client got, as far as it is whole: opcode and content of each frame.
fn received(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while let [first, length, rest @ ..] = bytes {
        let (length, rest) = match (*length, rest) {
            (126, [high, low, rest @ ..]) => (usize::from(u16::from_be_bytes([*high, *low])), rest),
            (length @ ..126, rest) => (usize::from(length), rest),
            _ => break,
        };
        if rest.len() < length {
            break;
        }
        assert_eq!(first & 0xf0, 0x80, "no whole frame");
        frames.push((first & 0xf, rest[..length].to_vec()));
        bytes = &rest[length..];
    }
    frames
}

const CLOSE: u8 = 8;

/// What the case has come to.
struct Outcomes {
    ending: Ending,
    sent: Vec<(Kind, Vec<u8>)>,
    received: Vec<(u8, Vec<u8>)>,
    always_read: bool,
}

impl Case {
    async fn run(self) {
        let books = Arc::new(Books {
            start: Instant::now(),
            plans: Mutex::new(self.plans.clone().into()),
            page: Mutex::default(),
        });
        let services = Arc::new(Services {
            backend: books.clone(),
            channels: Channels::default(),
            sessions: Sessions::new(1),
            signer: Signer::new(Key::parse("a key of some length, as it must be").expect("a key")),
            limits: WebSocketLimits {
                max_message_size: MAX_MESSAGE,
                max_incoming_buffer: BOUND,
                max_outgoing_buffer: MAX_UNREAD,
                ..WebSocketLimits::default()
            },
        });
        let outbox = Outbox::new(services.limits.max_outgoing_buffer, 0);
        let registration = services.sessions.register(&outbox).expect("room");
        let identity = Identity {
            head: Head::new(&Uri::from_static("/ws"), &HeaderMap::new()),
            id: HeaderValue::from_static("id"),
            caller: Caller::Host,
            meta: Vec::new(),
        };
        let mut reply = Reply {
            headers: HeaderMap::new(),
            events: vec![ControlMessage::subscribe("c").into_event()],
        };
        let grip = HeaderValue::from_static("grip");
        reply.headers.insert(SEC_WEBSOCKET_EXTENSIONS, grip);
        let wire = Arc::new(Wire::default());
        let session = Session::new(
            services.clone(),
            identity,
            outbox.clone(),
            registration,
            reply,
        );
        let mut session = tokio::spawn(session.run(wire.clone(), Bytes::new()));

        let (mut sent, mut closed, mut always_read) = (Vec::new(), false, true);
        let last = [Step::Close(Some(4000)), Step::WaitMs(200_000)];
        for step in self.steps.iter().chain(&last) {
            match step {
                Step::Read(room) => always_read &= room.is_none(),
                Step::Close(_) => {
                    if std::mem::replace(&mut closed, true) {
                        continue;
                    }
                }
                Step::Malformed(_) | Step::Vanish(_) => closed = true,
                Step::Say(..) if closed => continue,
                _ => {}
            }
            step.take(&wire, &outbox, &services.channels, &books, &mut sent)
                .await;
            let is_closed = received(&wire.lock().to_client)
                .last()
                .is_some_and(|(opcode, _)| *opcode == CLOSE);
            if self.polite && is_closed && !std::mem::replace(&mut closed, true) {
                let frame = masked(OpCode::Control(Control::Close), &[], true);
                wire.change(|wire| wire.to_host.extend(frame));
            }
        }
        wire.change(|wire| wire.ended = true);
        let ending = timeout(Duration::from_secs(600), &mut session).await;
        let outcomes = Outcomes {
            ending: ending.expect("the session ends").expect("no panic"),
            sent,
            received: received(&wire.lock().to_client),
            always_read,
        };
        assert!(services.sessions.is_empty(), "still counted");
        assert_eq!(services.channels.subscriptions(), 0);
        assert!(services.channels.is_empty());
        self.check(&books.page(), &outcomes);
    }

    fn check(&self, page: &Page, outcomes: &Outcomes) {
        let Outcomes {
            ending,
            sent,
            received,
            always_read,
        } = outcomes;
        // Order kept, nothing twice, nothing made up.
        assert!(
            sent.starts_with(&page.taken),
            "{:?} of {sent:?}",
            page.taken
        );
        assert!(!page.under_way, "a request was given up");
        let untroubled = !page.failed && !page.dropped && !page.stubborn;
        if untroubled {
            assert_eq!(page.endings.len(), 1, "{ending:?}");
            assert_ne!(*ending, Ending::Failed);
        }
        if untroubled && !page.detached && *ending == Ending::Client {
            assert_eq!(page.taken, *sent, "a message is lost");
            assert!(matches!(page.endings[..], [Event::Close(_)]));
        }
        let closes = received.iter().filter(|(opcode, _)| *opcode == CLOSE);
        let closes = closes.count();
        assert!(closes <= 1);
        if closes == 1 {
            assert_eq!(received.last().map(|(opcode, _)| *opcode), Some(CLOSE));
        }
        let texts: Vec<_> = received
            .iter()
            .filter(|(opcode, _)| *opcode == 1)
            .map(|(_, content)| String::from_utf8(content.clone()).expect("UTF-8"))
            .collect();
        // What was said later comes later.
        let times: Vec<u64> = texts
            .iter()
            .filter_map(|text| text.rsplit_once(" at ")?.1.parse().ok())
            .collect();
        assert!(times.is_sorted(), "{texts:?}");
        for who in ["backend", "publish"] {
            let numbers: Vec<u64> = texts
                .iter()
                .filter_map(|text| text.strip_prefix(who)?.split(' ').nth(1)?.parse().ok())
                .collect();
            assert!(
                numbers.windows(2).all(|pair| pair[0] < pair[1]),
                "{texts:?}"
            );
        }
        // Nobody else closed it at the same moment, and the answer could be written.
        let alone = !self.steps.iter().any(|step| {
            matches!(
                step,
                Step::PublishClose | Step::Shutdown | Step::Vanish(true)
            )
        });
        if alone && *always_read && *ending == Ending::Client && !page.dropped {
            assert_eq!(closes, 1, "the client's close is not answered");
            for said in &page.said {
                assert!(texts.contains(said), "{said:?} is lost");
            }
        }
    }
}

impl Step {
    async fn take(
        &self,
        wire: &Wire,
        outbox: &Outbox,
        channels: &Channels,
        books: &Books,
        sent: &mut Vec<(Kind, Vec<u8>)>,
    ) {
        let write = |bytes: Vec<u8>| wire.change(|wire| wire.to_host.extend(bytes));
        let publish = async |action: WsAction| {
            let mut item = Item::ws_text("c", "");
            item.ws_message = Some(action.into());
            let item = Publication::new(item).expect("for WebSockets");
            channels.publish(item).await;
        };
        match self {
            Self::Say(kind, length, fragmented) => {
                let mut content = format!("{} ", sent.len()).into_bytes();
                content.resize(content.len().max(*length), b'x');
                let opcode = match kind {
                    Kind::Text => OpCode::Data(Data::Text),
                    Kind::Binary => OpCode::Data(Data::Binary),
                    Kind::Ping => OpCode::Control(Control::Ping),
                    Kind::Pong => OpCode::Control(Control::Pong),
                };
                if matches!(kind, Kind::Ping | Kind::Pong) {
                    content.truncate(125);
                    write(masked(opcode, &content, true));
                } else if *fragmented {
                    let (first, rest) = content.split_at(content.len() / 2);
                    write(masked(opcode, first, false));
                    // A control frame may stand between, and is nobody's business.
                    let pong = OpCode::Control(Control::Pong);
                    write(masked(pong, crate::sessions::PING, true));
                    write(masked(OpCode::Data(Data::Continue), rest, true));
                } else {
                    write(masked(opcode, &content, true));
                }
                sent.push((*kind, content));
            }
            Self::Malformed(number) => write(match number % 5 {
                0 => vec![0x81, 0x01, b'x'],
                1 => masked(OpCode::Data(Data::Text), b"\xff", true),
                2 => masked(OpCode::Data(Data::Continue), b"x", true),
                3 => masked(OpCode::Data(Data::Binary), &[0; MAX_MESSAGE + 1], true),
                _ => vec![0xf1, 0x80, 0, 0, 0, 0],
            }),
            Self::Close(code) => {
                let content = code.map(|code| code.to_be_bytes().to_vec());
                let close = OpCode::Control(Control::Close);
                write(masked(close, &content.unwrap_or_default(), true));
            }
            Self::Vanish(true) => wire.change(|wire| wire.broken = true),
            Self::Vanish(false) => wire.change(|wire| wire.ended = true),
            Self::Read(room) => wire.change(|wire| wire.room = *room),
            Self::Publish => {
                let number = sent.len() + books.start.elapsed().as_millis() as usize;
                let text = books.tag("publish", number);
                publish(WsAction::Send(Message::Text(text.into()))).await;
                // So that no two have the same number.
                sleep(Duration::from_millis(1)).await;
            }
            Self::Refresh => publish(WsAction::Refresh).await,
            Self::PublishClose => {
                publish(WsAction::Close {
                    code: Some(4002),
                    reason: None,
                })
                .await;
            }
            Self::Silent => outbox.drop_client(Ending::Silent),
            Self::Shutdown => outbox.close(frame::close(frame::AWAY, ""), Ending::Shutdown),
            Self::WaitMs(time) => sleep(Duration::from_millis(*time)).await,
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![
        4 => Just(Kind::Text),
        2 => Just(Kind::Binary),
        1 => Just(Kind::Ping),
        1 => Just(Kind::Pong),
    ];
    prop_oneof![
        30 => (kind, 0..MAX_MESSAGE, any::<bool>()).prop_map(|(kind, length, fragmented)| {
            Step::Say(kind, length, fragmented)
        }),
        20 => prop_oneof![0..10_u64, 0..3000_u64, 0..100_000_u64].prop_map(Step::WaitMs),
        6 => Just(Step::Publish),
        3 => Just(Step::Refresh),
        2 => option::of(0..3000_usize).prop_map(Step::Read),
        1 => any::<u8>().prop_map(Step::Malformed),
        1 => option::of(Just(4005)).prop_map(Step::Close),
        1 => any::<bool>().prop_map(Step::Vanish),
        1 => Just(Step::PublishClose),
        1 => Just(Step::Silent),
        1 => Just(Step::Shutdown),
    ]
}

fn plan() -> impl Strategy<Value = Plan> {
    let message = Message::Text("later".into());
    let keep_alive = ControlMessage::keep_alive(message.clone(), 1);
    let delayed = ControlMessage::SendDelayed {
        message,
        timeout: None,
    };
    let said = prop_oneof![
        20 => Just(Said::Content),
        2 => Just(Said::Control(keep_alive)),
        2 => Just(Said::Control(delayed)),
        1 => Just(Said::Control(ControlMessage::FlushDelayed)),
        1 => Just(Said::Control(ControlMessage::subscribe("d"))),
        1 => Just(Said::Control(ControlMessage::unsubscribe("c"))),
        1 => Just(Said::Control(ControlMessage::Detach)),
        1 => Just(Said::Neither),
        1 => Just(Said::Nonsense),
        1 => Just(Said::Close),
        1 => Just(Said::Disconnect),
        1 => Just(Said::Open),
    ];
    let accept = prop_oneof![
        6 => Just(None),
        4 => (0..=100_usize).prop_map(Some),
        1 => Just(Some(101)),
    ];
    let keep_alive = option::of(prop_oneof![Just(0), 1..60_u64]);
    let events = (vec(said, 0..3), accept, keep_alive);
    let outcome = prop_oneof![
        30 => events.prop_map(|(said, accept, keep_alive)| Outcome::Events {
            said, accept, keep_alive,
        }),
        8 => Just(Outcome::Unreachable),
        1 => Just(Outcome::Status),
        1 => Just(Outcome::NotEvents),
        1 => Just(Outcome::Malformed),
        1 => Just(Outcome::Oversized),
        1 => Just(Outcome::Broken),
        1 => Just(Outcome::Stalled),
        1 => Just(Outcome::Failed),
    ];
    (prop_oneof![0..10_u64, 0..5000_u64], outcome)
        .prop_map(|(after_ms, outcome)| Plan { after_ms, outcome })
}

fn case() -> impl Strategy<Value = Case> {
    (vec(step(), 0..40), vec(plan(), 0..12), any::<bool>()).prop_map(|(steps, plans, polite)| {
        Case {
            steps,
            plans,
            polite,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_session_keeps_its_word_whatever_happens(case in case()) {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime")
            .block_on(case.run());
    }
}
