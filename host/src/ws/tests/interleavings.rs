//! A session under whatever may happen to it, in whatever order, on a paused clock.
//!
//! A case is what the client does and others do to the session, one step after the other,
//! and what the backend makes of each request. The backend keeps the model_backend while it
//! answers, and looks at each request; what must hold in the end is in [`Case::check`].

use crate::metrics::close_reason::CloseReason;
use crate::net::frame;
use crate::state::Services;
use crate::ws::driver;
use crate::ws::outbox::Outbox;
use crate::ws::ws_over_http::Identity;
use crate::ws::ws_over_http::Reply;
use bytes::Bytes;
use grip::ControlMessage;
use grip::Event;
use grip::Message;
use grip::header::SEC_WEBSOCKET_EXTENSIONS;
use grip::{Item, Key, publish::WsAction};
use http::{HeaderMap, HeaderValue, Uri};
use parking_lot::Mutex;
use proptest::{collection::vec, option, prelude::*};
use spin_runtime::backend::Caller;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use crate::config::Limits;
use crate::ws::session::*;
use crate::ws::tests::{
    model_backend::{Kind, Ledger, ModelBackend, Outcome, Plan, Said},
    wire::{CLOSE, Wire, masked, received},
};
use crate::{
    http::signer::Signer,
    pubsub::{channels::Channels, publication::Publication},
    state::sessions::Stage,
    ws::request_head::RequestHead,
};

/// The largest message of a client here, and how much may wait for the backend.
pub(crate) const MAX_MESSAGE: usize = 400;
pub(crate) const BOUND: usize = 1500;

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

#[derive(Clone, Debug)]
struct Case {
    steps: Vec<Step>,
    plans: Vec<Plan>,
    /// The client answers a close frame.
    polite: bool,
}

/// What the case has come to.
struct Outcomes {
    ending: CloseReason,
    sent: Vec<(Kind, Vec<u8>)>,
    /// What was published while the client was subscribed and nothing closed it.
    published: Vec<String>,
    received: Vec<(u8, Vec<u8>)>,
    always_read: bool,
}

impl Case {
    async fn run(self) {
        let model_backend = Arc::new(ModelBackend {
            start: Instant::now(),
            plans: Mutex::new(self.plans.clone().into()),
            page: Mutex::default(),
        });
        let key = Key::parse("a key of some length, as it must be").expect("a key");
        let services = Arc::new(Services::new(
            model_backend.clone(),
            "model_backend",
            Signer::new(key),
            Limits {
                max_message_bytes: MAX_MESSAGE,
                max_incoming_buffer_bytes: BOUND,
                max_outgoing_buffer_bytes: MAX_UNREAD,
                ..Limits::default()
            },
            CancellationToken::new(),
        ));
        let outbox = Outbox::new(services.limits.max_outgoing_buffer_bytes);
        let registration = services.sessions.register(outbox.clone()).expect("room");
        let identity = Identity {
            head: RequestHead::new(&Uri::from_static("/ws"), &HeaderMap::new()),
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
        let mut session = tokio::spawn(driver::serve(session, wire.clone(), Bytes::new()));

        let (mut sent, mut published) = (Vec::new(), Vec::new());
        let (mut closed, mut always_read) = (false, true);
        let last = [Step::Close(Some(4000)), Step::WaitMs(200_000)];
        for step in self.steps.iter().chain(&last) {
            match step {
                Step::Read(room) => always_read &= room.is_none(),
                Step::Close(_) if std::mem::replace(&mut closed, true) => continue,
                Step::Malformed(_) | Step::Vanish(_) => closed = true,
                Step::Say(..) if closed => continue,
                _ => {}
            }
            let channels = &services.channels;
            step.take(
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
            published,
            received: received(&wire.lock().to_client),
            always_read,
        };
        assert!(services.sessions.is_empty(), "still counted");
        assert_eq!(services.channels.subscriptions(), 0);
        assert!(services.channels.is_empty());
        self.check(&model_backend.page(), &outcomes);
    }

    fn check(&self, page: &Ledger, outcomes: &Outcomes) {
        let Outcomes {
            ending,
            sent,
            published,
            received,
            always_read,
        } = outcomes;
        // Command kept, nothing twice, nothing made up.
        assert!(
            sent.starts_with(&page.taken),
            "{:?} of {sent:?}",
            page.taken
        );
        assert!(!page.under_way, "a request was given up");
        let untroubled = !page.failed && !page.dropped && !page.stubborn;
        if untroubled {
            assert_eq!(page.endings.len(), 1, "{ending:?}");
            assert_ne!(*ending, CloseReason::Failed);
        }
        if untroubled && !page.detached && *ending == CloseReason::Client {
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
        if *always_read {
            for text in published {
                assert!(texts.contains(text), "{text:?} is lost");
            }
        }
        // Nobody else closed it at the same moment, and the answer could be written.
        let alone = !self.steps.iter().any(|step| {
            matches!(
                step,
                Step::PublishClose | Step::Shutdown | Step::Vanish(true)
            )
        });
        if alone && *always_read && *ending == CloseReason::Client && !page.dropped {
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
        model_backend: &ModelBackend,
        sent: &mut Vec<(Kind, Vec<u8>)>,
        published: &mut Vec<String>,
    ) {
        let write = |bytes: Vec<u8>| wire.change(|wire| wire.to_host.extend(bytes));
        let publish = async |action: WsAction| {
            let mut item = Item::ws_text("c", "");
            item.ws_message = Some(action.into());
            let item = Publication::new(item).expect("for WebSockets");
            channels.publish(item).await
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
            Self::Vanish(true) => wire.change(|wire| wire.broken = true),
            Self::Vanish(false) => wire.change(|wire| wire.ended = true),
            Self::Read(room) => wire.change(|wire| wire.room = *room),
            Self::Publish => {
                let number = sent.len() + model_backend.start.elapsed().as_millis() as usize;
                let text = model_backend.tag("publish", number);
                let action = WsAction::Send(Message::Text(text.clone().into()));
                let answers = model_backend.page().answers;
                let reached = publish(action).await;
                // So that no two have the same number, and it is handed out.
                sleep(Duration::from_millis(1)).await;
                // An answer may have unsubscribed or dropped the client before that.
                let as_before = answers == model_backend.page().answers;
                if reached == 1 && as_before && outbox.stage() == Stage::Open {
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
            Self::Silent => outbox.disconnect(CloseReason::Silent),
            Self::Shutdown => {
                outbox.close(frame::close(frame::GOING_AWAY, ""), CloseReason::Shutdown)
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
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]
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
