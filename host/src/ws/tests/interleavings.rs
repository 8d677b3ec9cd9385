//! Model tests: random sequences of everything that can happen to a session, on a paused clock.
//!
//! A case consists of the steps of the client and others, and of the backend's planned responses.
//! The [`ModelBackend`] checks each request that it receives; [`Case::check`] checks the results.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use grip::{
    ControlMessage, Event, Item, Key, Message, header::SEC_WEBSOCKET_EXTENSIONS, publish::WsAction,
};
use http::{HeaderMap, HeaderValue, Uri};
use parking_lot::Mutex;
use proptest::{collection::vec, option, prelude::*};
use spin_runtime::backend::Caller;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use crate::{
    config::{HostConfig, Limits},
    http::signer::Signer,
    metrics::close_reason::CloseReason,
    net::frame,
    pubsub::{channels::Channels, publication::Publication},
    state::{
        Services,
        sessions::{SessionInfo, Stage},
    },
    ws::{
        driver,
        outbox::Outbox,
        request_head::RequestHead,
        session::Session,
        tests::{
            model_backend::{
                Kind, Ledger, MAX_INCOMING, MAX_MESSAGE, ModelBackend, Outcome, Plan, ScriptedEvent,
            },
            wire::{CLOSE, Wire, masked, received},
        },
        ws_over_http::{ConnectionInfo, EventsResponse},
    },
};

/// How many bytes may be queued for a client.
const MAX_OUTGOING: usize = 4000;

/// Something that happens to a session, apart from the backend's responses.
#[derive(Clone, Debug)]
enum Step {
    /// The client sends a message of this length, in one frame or in several.
    Send {
        kind: Kind,
        length: usize,
        fragmented: bool,
    },
    /// The client sends one of several invalid frames.
    Malformed(u8),
    /// The client sends a close frame.
    Close(Option<u16>),
    /// The connection ends with EOF.
    Eof,
    /// The connection ends with an error.
    Reset,
    /// The client reads only this many more bytes, or reads everything again.
    Read(Option<usize>),
    Publish,
    Refresh,
    PublishClose,
    /// The host drops a silent client.
    Silent,
    /// The host shuts down.
    Shutdown,
    WaitMs(u64),
}

#[derive(Clone, Debug)]
struct Case {
    steps: Vec<Step>,
    plans: Vec<Plan>,
    /// Whether the client answers a close frame.
    answers_close: bool,
}

/// What can be observed after a case.
struct Results {
    reason: CloseReason,
    sent: Vec<(Kind, Vec<u8>)>,
    /// Texts published while the client was open and subscribed.
    published: Vec<String>,
    received: Vec<(u8, Vec<u8>)>,
    always_read: bool,
}

impl Case {
    async fn run(self) {
        let model_backend = Arc::new(ModelBackend {
            start: Instant::now(),
            plans: Mutex::new(self.plans.clone().into()),
            ledger: Mutex::default(),
        });
        let key = Key::parse("a key that is long enough for tokens").expect("a key");
        let services = Arc::new(Services::new(
            model_backend.clone(),
            "model",
            Signer::new(key),
            &HostConfig {
                limits: Limits {
                    max_message_bytes: MAX_MESSAGE,
                    max_incoming_buffer_bytes: MAX_INCOMING,
                    max_outgoing_buffer_bytes: MAX_OUTGOING,
                    ..Limits::DEFAULT
                },
                ..HostConfig::default()
            },
            CancellationToken::new(),
        ));
        let outbox = Outbox::new(
            services.limits.max_outgoing_buffer_bytes,
            services.limits.max_response_events_bytes,
            None,
        );
        let guard = services
            .sessions
            .register(outbox.clone(), SessionInfo::test())
            .expect("room");
        let info = ConnectionInfo {
            head: RequestHead::new(&Uri::from_static("/ws"), &HeaderMap::new()),
            id: HeaderValue::from_static("id"),
            caller: Caller::Host,
            grip_last: Vec::new(),
            echoed_headers: Vec::new(),
            handshake: None,
        };
        let mut response = EventsResponse {
            headers: HeaderMap::new(),
            events: vec![ControlMessage::subscribe("c").into_event()],
        };
        let grip = HeaderValue::from_static("grip");
        response.headers.insert(SEC_WEBSOCKET_EXTENSIONS, grip);
        let wire = Arc::new(Wire::default());
        let session = Session::new(services.clone(), info, outbox.clone(), guard, response);
        let mut session = tokio::spawn(driver::serve(session, wire.clone(), Bytes::new()));

        let (mut sent, mut published) = (Vec::new(), Vec::new());
        let (mut closed, mut always_read) = (false, true);
        let last = [Step::Close(Some(4000)), Step::WaitMs(200_000)];
        for step in self.steps.iter().chain(&last) {
            match step {
                Step::Read(capacity) => always_read &= capacity.is_none(),
                Step::Close(_) if std::mem::replace(&mut closed, true) => continue,
                Step::Malformed(_) | Step::Eof | Step::Reset => closed = true,
                Step::Send { .. } if closed => continue,
                _ => {}
            }
            let channels = &services.channels;
            step.run(
                &wire,
                &outbox,
                channels,
                &model_backend,
                &mut sent,
                &mut published,
            )
            .await;
            let is_closed = received(&wire.lock().to_client)
                .last()
                .is_some_and(|(opcode, _)| *opcode == CLOSE);
            if self.answers_close && is_closed && !std::mem::replace(&mut closed, true) {
                let frame = masked(OpCode::Control(Control::Close), &[], true);
                wire.update(|wire| wire.to_host.extend(frame));
            }
        }
        wire.update(|wire| wire.eof = true);
        let reason = timeout(Duration::from_secs(600), &mut session).await;
        let results = Results {
            reason: reason.expect("no timeout").expect("no panic"),
            sent,
            published,
            received: received(&wire.lock().to_client),
            always_read,
        };
        assert!(services.sessions.is_empty(), "still counted");
        assert_eq!(services.channels.subscriptions(), 0);
        assert!(services.channels.is_empty());
        self.check(&model_backend.ledger(), &results);
    }

    fn check(&self, ledger: &Ledger, results: &Results) {
        let Results {
            reason,
            sent,
            published,
            received,
            always_read,
        } = results;
        // Messages are in order, none are repeated or invented.
        assert!(
            sent.starts_with(&ledger.accepted),
            "{:?} of {sent:?}",
            ledger.accepted
        );
        assert!(!ledger.in_flight, "a request was cancelled");
        let backend_ok = !ledger.failed && !ledger.dropped && !ledger.stuck;
        if backend_ok {
            assert_eq!(ledger.final_events.len(), 1, "{reason:?}");
            assert_ne!(*reason, CloseReason::Failed);
        }
        if backend_ok && !ledger.detached && *reason == CloseReason::Client {
            assert_eq!(ledger.accepted, *sent, "a message is lost");
            assert!(matches!(ledger.final_events[..], [Event::Close(_)]));
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
        // Texts are received in the order in which they were sent.
        let times: Vec<u64> = texts
            .iter()
            .filter_map(|text| text.rsplit_once(" at ")?.1.parse().ok())
            .collect();
        assert!(times.is_sorted(), "{texts:?}");
        for sender in ["backend", "publish"] {
            let numbers: Vec<u64> = texts
                .iter()
                .filter_map(|text| text.strip_prefix(sender)?.split(' ').nth(1)?.parse().ok())
                .collect();
            assert!(
                numbers.windows(2).all(|pair| pair[0] < pair[1]),
                "{texts:?}"
            );
        }
        if *always_read {
            for text in published {
                assert!(texts.contains(text), "{text:?} is lost");
            }
        }
        // No other close was concurrent, and the answer could be written.
        let only_client_closes = !self
            .steps
            .iter()
            .any(|step| matches!(step, Step::PublishClose | Step::Shutdown | Step::Reset));
        if only_client_closes && *always_read && *reason == CloseReason::Client && !ledger.dropped {
            assert_eq!(closes, 1, "the client's close is not answered");
            for text in &ledger.sent {
                assert!(texts.contains(text), "{text:?} is lost");
            }
        }
    }
}

impl Step {
    async fn run(
        &self,
        wire: &Wire,
        outbox: &Outbox,
        channels: &Channels,
        model_backend: &ModelBackend,
        sent: &mut Vec<(Kind, Vec<u8>)>,
        published: &mut Vec<String>,
    ) {
        let write = |bytes: Vec<u8>| wire.update(|wire| wire.to_host.extend(bytes));
        let publish = async |action: WsAction| {
            let mut item = Item::ws_text("c", "");
            item.ws_message = Some(action.into());
            let item = Publication::new(item).expect("a valid item");
            channels.publish(item).await
        };
        match self {
            Self::Send {
                kind,
                length,
                fragmented,
            } => {
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
                    // Control frames are allowed between fragments; this one is ignored.
                    let pong = OpCode::Control(Control::Pong);
                    write(masked(pong, crate::state::sessions::PING, true));
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
            Self::Reset => wire.update(|wire| wire.broken = true),
            Self::Eof => wire.update(|wire| wire.eof = true),
            Self::Read(capacity) => wire.update(|wire| wire.capacity = *capacity),
            Self::Publish => {
                let number = sent.len() + model_backend.start.elapsed().as_millis() as usize;
                let text = model_backend.tag("publish", number);
                let action = WsAction::Send(Message::Text(text.clone().into()));
                let responses = model_backend.ledger().responses;
                let reached = publish(action).await;
                // Makes numbers unique, and lets the publication be delivered.
                sleep(Duration::from_millis(1)).await;
                // A response may have unsubscribed or dropped the client meanwhile.
                let is_unchanged = responses == model_backend.ledger().responses;
                if reached == 1 && is_unchanged && outbox.stage() == Stage::Open {
                    published.push(text);
                }
            }
            Self::Refresh => drop(publish(WsAction::Refresh).await),
            Self::PublishClose => {
                publish(WsAction::Close {
                    code: Some(4002),
                    reason: None,
                })
                .await;
            }
            Self::Silent => {
                outbox.disconnect(CloseReason::Silent);
            }
            Self::Shutdown => {
                outbox.close(frame::close(frame::GOING_AWAY, ""), CloseReason::Shutdown);
            }
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
            Step::Send { kind, length, fragmented }
        }),
        20 => prop_oneof![0..10_u64, 0..3000_u64, 0..100_000_u64].prop_map(Step::WaitMs),
        6 => Just(Step::Publish),
        3 => Just(Step::Refresh),
        2 => option::of(0..3000_usize).prop_map(Step::Read),
        1 => any::<u8>().prop_map(Step::Malformed),
        1 => option::of(Just(4005)).prop_map(Step::Close),
        1 => prop_oneof![Just(Step::Eof), Just(Step::Reset)],
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
    let event = prop_oneof![
        20 => Just(ScriptedEvent::Content),
        2 => Just(ScriptedEvent::Control(keep_alive)),
        2 => Just(ScriptedEvent::Control(delayed)),
        1 => Just(ScriptedEvent::Control(ControlMessage::FlushDelayed)),
        1 => Just(ScriptedEvent::Control(ControlMessage::subscribe("d"))),
        1 => Just(ScriptedEvent::Control(ControlMessage::unsubscribe("c"))),
        1 => Just(ScriptedEvent::Control(ControlMessage::Detach)),
        1 => Just(ScriptedEvent::NoPrefix),
        1 => Just(ScriptedEvent::InvalidControl),
        1 => Just(ScriptedEvent::Close),
        1 => Just(ScriptedEvent::Disconnect),
        1 => Just(ScriptedEvent::Open),
    ];
    let accept = prop_oneof![
        6 => Just(None),
        4 => (0..=100_usize).prop_map(Some),
        1 => Just(Some(101)),
    ];
    let keep_alive = option::of(prop_oneof![Just(0), 1..60_u64]);
    let events = (vec(event, 0..3), accept, keep_alive);
    let outcome = prop_oneof![
        30 => events.prop_map(|(events, accept, keep_alive)| Outcome::Events {
            events, accept, keep_alive,
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
        .prop_map(|(delay_ms, outcome)| Plan { delay_ms, outcome })
}

fn case() -> impl Strategy<Value = Case> {
    (vec(step(), 0..40), vec(plan(), 0..12), any::<bool>()).prop_map(
        |(steps, plans, answers_close)| Case {
            steps,
            plans,
            answers_close,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_interleaving_keeps_order_and_loses_nothing(case in case()) {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime")
            .block_on(case.run());
    }
}
