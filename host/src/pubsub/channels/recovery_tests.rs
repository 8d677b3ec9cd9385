//! A model of recovery: in any interleaving, a subscriber receives a contiguous run of items, or learns
//! that it cannot.

use std::{sync::Arc, time::Duration};

use grip::Item;
use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::time::Instant;

use super::{Channels, Start, Subscription};
use crate::{
    config::{ChannelRules, HistoryLimits},
    pubsub::{
        channel::ChannelCounters,
        filter::Filters,
        publication::{Delivery, Publication},
        shard::SocketSubscriber,
    },
};

const HISTORY: HistoryLimits = HistoryLimits {
    items: 8,
    bytes: 1 << 20,
    age: Duration::from_secs(10),
};

/// A client with room for a number of bytes.
#[derive(Default)]
struct Client(Mutex<ClientState>);

#[derive(Default)]
struct ClientState {
    room: usize,
    received: Vec<u8>,
    is_behind: bool,
    has_missed: bool,
    is_overtaken: bool,
}

impl SocketSubscriber for Client {
    fn deliver(&self, delivery: &Delivery) {
        assert!(matches!(delivery, Delivery::Missed(_)), "{delivery:?}");
        self.0.lock().has_missed = true;
    }

    fn offer(&self, delivery: &Delivery) -> bool {
        let Delivery::Frames(frames) = delivery else {
            unreachable!("only messages are published");
        };
        let mut state = self.0.lock();
        let has_room = frames.plain().len() <= state.room;
        if has_room {
            state.room -= frames.plain().len();
            state.received.extend_from_slice(frames.plain());
        } else {
            state.is_behind = true;
        }
        has_room
    }

    fn overtaken(&self) {
        self.0.lock().is_overtaken = true;
    }
}

impl Client {
    /// Returns the numbers of the received items, each of which is a frame of a text of four digits.
    fn received(&self) -> Vec<u32> {
        let state = self.0.lock();
        let numbers = state.received.chunks(6).map(|frame| {
            assert_eq!(frame[..2], [0x81, 4]);
            std::str::from_utf8(&frame[2..]).unwrap().parse().unwrap()
        });
        numbers.collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Publish,
    /// Subscribes after the item that is so many before the last one.
    After(u32),
    Newest(u32),
    Live,
    /// Reads so many bytes of one of the clients.
    Read(prop::sample::Index, usize),
    Unsubscribe(prop::sample::Index),
    /// Lets the shards deliver.
    Deliver,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Publish),
        1 => (0u32..12).prop_map(Step::After),
        1 => (0u32..12).prop_map(Step::Newest),
        1 => Just(Step::Live),
        3 => (any::<prop::sample::Index>(), 0usize..100).prop_map(|(client, bytes)| Step::Read(client, bytes)),
        1 => any::<prop::sample::Index>().prop_map(Step::Unsubscribe),
        3 => Just(Step::Deliver),
        1 => (0u64..8).prop_map(Step::Wait),
    ]
}

struct Subscriber {
    client: Arc<Client>,
    subscription: Subscription,
    /// The number of the first item that it must receive.
    first: u32,
}

impl Subscriber {
    /// Makes room and catches up. Returns whether the history still reaches.
    fn read(&self, bytes: usize) -> bool {
        let is_behind = {
            let mut state = self.client.0.lock();
            state.room += bytes;
            std::mem::take(&mut state.is_behind) && !state.is_overtaken
        };
        if is_behind {
            self.subscription.catch_up();
        }
        !self.client.0.lock().is_overtaken
    }

    /// Checks that the client has received a contiguous run, and returns the number that follows.
    fn check(&self) -> u32 {
        let received = self.client.received();
        let end = self.first + u32::try_from(received.len()).unwrap();
        assert_eq!(received, (self.first..end).collect::<Vec<_>>());
        end
    }
}

async fn run(steps: Vec<Step>) {
    let channels = Channels::new(
        ChannelRules::all(HISTORY),
        ChannelCounters::default(),
        false,
    );
    // Keeps the channel.
    let anchor = Arc::new(Client::default());
    anchor.0.lock().room = usize::MAX;
    let _anchor = channels.subscribe("c", anchor, Filters::default());
    let (mut next, mut subscribers) = (1u32, Vec::<Subscriber>::new());
    // When each item was published, to know what the history must have.
    let mut published = vec![Instant::now()];
    for step in steps {
        let oldest = (1..next)
            .rev()
            .take(HISTORY.items)
            .take_while(|number| published[*number as usize].elapsed() < HISTORY.age)
            .last()
            .unwrap_or(next);
        let mut subscribe = |start: Start, first: u32, is_known: bool| {
            let client = Arc::new(Client::default());
            let subscription =
                channels.subscribe_from("c", client.clone(), Filters::default(), start.clone());
            let has_missed = client.0.lock().has_missed;
            assert_eq!(
                has_missed, !is_known,
                "{start:?}, oldest {oldest}, next {next}"
            );
            subscribers.push(Subscriber {
                client,
                subscription,
                first,
            });
        };
        match step {
            Step::Publish => {
                let mut item = Item::ws_text("c", format!("{next:04}"));
                item.id = Some(next.to_string());
                channels.publish(Publication::new(item).unwrap()).await;
                published.push(Instant::now());
                next += 1;
            }
            Step::After(ago) => {
                let id = (next - 1).saturating_sub(ago);
                // The one before the oldest is known as well, if there was one.
                let is_known = id > 0 && id + 1 >= oldest;
                let first = if is_known { id + 1 } else { next };
                subscribe(Start::After(id.to_string().into()), first, is_known);
            }
            Step::Newest(count) => {
                subscribe(
                    Start::Newest(count),
                    (next - count.min(next)).max(oldest),
                    true,
                );
            }
            Step::Live => subscribe(Start::Live, next, true),
            Step::Read(index, bytes) if !subscribers.is_empty() => {
                let index = index.index(subscribers.len());
                if !subscribers[index].read(bytes) {
                    // It needs an item that is forgotten, and is closed.
                    let missing = subscribers.swap_remove(index).check();
                    assert!(missing < oldest, "{missing} is known, from {oldest}");
                }
            }
            Step::Unsubscribe(index) if !subscribers.is_empty() => {
                subscribers
                    .swap_remove(index.index(subscribers.len()))
                    .check();
            }
            Step::Read(..) | Step::Unsubscribe(_) => {}
            Step::Deliver => channels.wait_delivered("c").await,
            Step::Wait(seconds) => {
                tokio::time::advance(Duration::from_secs(seconds)).await;
                channels.tick(Instant::now());
            }
        }
    }
    channels.wait_delivered("c").await;
    for subscriber in subscribers {
        if subscriber.read(usize::MAX / 2) {
            assert_eq!(subscriber.check(), next);
        } else {
            subscriber.check();
        }
    }
}

proptest! {
    #[test]
    fn subscribers_receive_a_contiguous_run(steps in prop::collection::vec(step(), 0..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(run(steps));
    }
}
