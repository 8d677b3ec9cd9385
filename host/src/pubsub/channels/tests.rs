//! Tests of channels with subscribers that record what they receive.

use bytes::Bytes;
use grip::Item;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::*;
use crate::{
    config::HistoryLimits,
    net::frame,
    pubsub::{
        channel::IDLE_CHANNEL_LIFETIME,
        filter::Meta,
        publication::Delivery,
        shard::{MAX_SHARD_QUEUE_BYTES, SHARD_SLOTS},
    },
};

#[derive(Default)]
struct Inbox(Mutex<Vec<u8>>, Notify);

impl SocketSubscriber for Inbox {
    fn deliver(&self, delivery: &Delivery) {
        let bytes = match delivery {
            Delivery::Frames(frames) => frames.plain(),
            Delivery::Close(frame) => frame,
            Delivery::Refresh => return,
            Delivery::Missed(grip_last) => grip_last.as_ref().unwrap().as_bytes(),
        };
        self.0.lock().extend_from_slice(bytes);
        self.1.notify_one();
    }

    fn offer(&self, delivery: &Delivery) -> bool {
        self.deliver(delivery);
        true
    }

    fn overtaken(&self) {
        unreachable!("there is always room");
    }
}

impl Inbox {
    /// Waits until exactly these messages have been received.
    async fn receives(&self, messages: &[impl AsRef<str>]) {
        let expected: Vec<u8> = messages
            .iter()
            .flat_map(|text| frame::text(Bytes::copy_from_slice(text.as_ref().as_bytes())))
            .collect();
        while *self.0.lock() != expected {
            self.1.notified().await;
        }
    }
}

fn plain() -> Filters {
    Filters::default()
}

fn text(channel: &str, text: &str) -> Publication {
    Publication::new(Item::ws_text(channel, text)).expect("a valid item")
}

#[tokio::test]
async fn all_subscribers_receive_everything_in_order() {
    let channels = Channels::default();
    let inboxes: Vec<_> = (0..3 * SHARD_SLOTS + 1)
        .map(|_| Arc::new(Inbox::default()))
        .collect();
    let subscriptions: Vec<_> = inboxes
        .iter()
        .map(|inbox| channels.subscribe("orders", inbox.clone(), plain()))
        .collect();
    assert_eq!(
        (channels.len(), channels.subscriptions()),
        (1, 3 * SHARD_SLOTS + 1)
    );
    let mut expected = Vec::new();
    for n in 0..50 {
        let reached = channels.publish(text("orders", &n.to_string())).await;
        assert_eq!(reached, inboxes.len());
        expected.push(n.to_string());
    }
    for inbox in &inboxes {
        inbox.receives(&expected).await;
    }
    drop(subscriptions);
    assert_eq!((channels.len(), channels.subscriptions()), (0, 0));
    assert_eq!(channels.publish(text("orders", "late")).await, 0);
}

#[tokio::test]
async fn a_freed_slot_is_reused_and_receives_only_for_its_new_subscriber() {
    let channels = Channels::default();
    let (left, stays, joins) = <(Arc<Inbox>, Arc<Inbox>, Arc<Inbox>)>::default();
    let leaving = channels.subscribe("c", left.clone(), plain());
    let _stays = channels.subscribe("c", stays.clone(), plain());
    drop(leaving);
    let _joins = channels.subscribe("c", joins.clone(), plain());
    channels.publish(text("c", "x")).await;
    stays.receives(&["x"]).await;
    joins.receives(&["x"]).await;
    left.receives(&[""; 0]).await;
}

#[tokio::test]
async fn a_new_subscriber_does_not_receive_earlier_publications() {
    let channels = Channels::default();
    let (before, after) = <(Arc<Inbox>, Arc<Inbox>)>::default();
    let _before = channels.subscribe("c", before.clone(), plain());
    // Nothing is delivered until this test awaits.
    channels.publish(text("c", "1")).await;
    channels.publish(text("c", "2")).await;
    let _after = channels.subscribe("c", after.clone(), plain());
    channels.publish(text("c", "3")).await;
    before.receives(&["1", "2", "3"]).await;
    after.receives(&["3"]).await;
}

#[tokio::test]
async fn replacing_filters_neither_loses_nor_repeats_nor_reorders() {
    let channels = Channels::default();
    let (first, inbox) = <(Arc<Inbox>, Arc<Inbox>)>::default();
    let mut meta = Meta::default();
    meta.set("user", Some("ann")).expect("room");
    let mut fills = || Filters::parse(&["var-subst".to_owned()], &mut meta).expect("known");
    // Leaves a free slot before that of the subscription.
    let free = channels.subscribe("c", first, plain());
    let subscription = channels.subscribe("c", inbox.clone(), plain());
    drop(free);
    let mut expected = Vec::new();
    for round in 0..3 {
        for (number, filters) in [(1, fills()), (2, plain()), (3, plain()), (4, fills())] {
            let user = if round == 0 && number == 1 || number > 2 {
                "%(user)s"
            } else {
                "ann"
            };
            expected.push(format!("{user} {round}.{number},"));
            channels
                .publish(text("c", &format!("%(user)s {round}.{number},")))
                .await;
            subscription.replace_filters(filters);
        }
        // A round is queued while the filters change, except that the first publication of the
        // last round is queued alone.
        if round == 1 {
            inbox.receives(&expected).await;
        }
    }
    inbox.receives(&expected).await;
    assert_eq!((channels.len(), channels.subscriptions()), (1, 1));
    drop(subscription);
    assert_eq!((channels.len(), channels.subscriptions()), (0, 0));
}

#[tokio::test]
async fn settled_channels_have_delivered_everything() {
    let channels = Channels::default();
    let inbox = Arc::new(Inbox::default());
    let _subscription = channels.subscribe("c", inbox.clone(), plain());
    channels.publish(text("c", "x")).await;
    assert!(inbox.0.lock().is_empty());
    channels.wait_delivered("c").await;
    assert!(!inbox.0.lock().is_empty());
    channels.wait_delivered("unknown").await;
}

#[tokio::test]
async fn a_publication_on_a_removed_channel_is_repeated_on_the_new_one() {
    let channels = Channels::default();
    let subscription = channels.subscribe("c", Arc::new(Inbox::default()), plain());
    let found = channels.find("c").expect("a channel");
    drop(subscription);
    let publication = Arc::new(numbered(1));
    assert!(found.publish(&publication).is_none());
    channels.publish(numbered(1)).await;
    assert_eq!(channels.last_id("c").as_deref(), Some("1"));
}

#[tokio::test]
async fn a_full_queue_delays_the_publisher_and_loses_nothing() {
    let channels = Channels::default();
    let inbox = Arc::new(Inbox::default());
    let _subscription = channels.subscribe("c", inbox.clone(), plain());
    let large = "x".repeat(MAX_SHARD_QUEUE_BYTES / 2);
    for _ in 0..8 {
        channels.publish(text("c", &large)).await;
    }
    inbox.receives(&vec![large; 8]).await;
}

#[tokio::test]
async fn filters_apply_to_each_subscriber() {
    let channels = Channels::default();
    let mut meta = Meta::default();
    meta.set("user", Some("ann")).expect("room");
    let mut filters = |names: &[&str]| {
        let names: Vec<_> = names.iter().map(|name| name.to_string()).collect();
        Filters::parse(&names, &mut meta).expect("known")
    };
    let [skips, fills] = [&["skip-self"], &["var-subst"]].map(|names| filters(names));
    let (all, others, filled) = <(Arc<Inbox>, Arc<Inbox>, Arc<Inbox>)>::default();
    let _subscriptions = [
        channels.subscribe("c", all.clone(), plain()),
        channels.subscribe("c", others.clone(), skips),
        channels.subscribe("c", filled.clone(), fills),
    ];
    for sender in ["ann", "bob"] {
        let mut item = Item::ws_text("c", format!("{sender} to %(user)s"));
        item.meta.insert("sender".into(), sender.into());
        let publication = Publication::new(item).expect("a valid item");
        assert_eq!(channels.publish(publication).await, 3);
    }
    all.receives(&["ann to %(user)s", "bob to %(user)s"]).await;
    others.receives(&["bob to %(user)s"]).await;
    filled.receives(&["ann to ann", "bob to ann"]).await;
}

fn numbered(id: u32) -> Publication {
    let prev_id = id.checked_sub(1).map(|id| id.to_string());
    let item = Item::ws_text("c", id.to_string()).with_id(id.to_string(), prev_id);
    Publication::new(item).expect("a valid item")
}

#[tokio::test(start_paused = true)]
async fn ids_put_publications_in_order() {
    let channels = Channels::default();
    let inbox = Arc::new(Inbox::default());
    let _subscription = channels.subscribe("c", inbox.clone(), plain());
    for (id, reached) in [(1, 1), (3, 0), (2, 2), (2, 0), (5, 0)] {
        assert_eq!(channels.publish(numbered(id)).await, reached, "{id}");
    }
    inbox.receives(&["1", "2", "3"]).await;
    let start = Instant::now();
    inbox.receives(&["1", "2", "3", "5"]).await;
    assert_eq!(start.elapsed(), crate::pubsub::sequencer::REORDER_TIMEOUT);
    assert_eq!(channels.last_id("c").as_deref(), Some("5"));
}

#[tokio::test(start_paused = true)]
async fn an_id_without_subscribers_is_kept_for_a_while() {
    let channels = Channels::default();
    let count = |channels: &Channels| channels.lock().len();
    assert_eq!(channels.publish(text("plain", "x")).await, 0);
    assert_eq!(count(&channels), 0);
    assert_eq!(channels.publish(numbered(7)).await, 0);
    assert_eq!((count(&channels), channels.len()), (1, 0));
    // Published to again, and so kept for longer.
    tokio::time::advance(IDLE_CHANNEL_LIFETIME / 2).await;
    assert_eq!(channels.publish(numbered(8)).await, 0);
    tokio::time::advance(IDLE_CHANNEL_LIFETIME / 2).await;
    channels.tick(Instant::now());
    assert_eq!(channels.last_id("c").as_deref(), Some("8"));
    // Subscribed to and left, and so kept for longer.
    let subscription = channels.subscribe("c", Arc::new(Inbox::default()), plain());
    tokio::time::advance(2 * IDLE_CHANNEL_LIFETIME).await;
    channels.tick(Instant::now());
    assert_eq!(channels.len(), 1);
    drop(subscription);
    assert_eq!((count(&channels), channels.len()), (1, 0));
    tokio::time::advance(IDLE_CHANNEL_LIFETIME).await;
    channels.tick(Instant::now());
    assert_eq!(
        (count(&channels), channels.0.lingering.lock().len()),
        (0, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn the_number_of_channels_without_subscribers_is_limited() {
    let channels = Channels::default();
    for n in 0..MAX_IDLE_CHANNELS + 10 {
        let item = Item::ws_text(n.to_string(), "x").with_id("1", None);
        let publication = Publication::new(item).expect("a valid item");
        channels.publish(publication).await;
    }
    assert_eq!(channels.lock().len(), MAX_IDLE_CHANNELS);
    assert_eq!(channels.0.lingering.lock().len(), MAX_IDLE_CHANNELS);
    assert_eq!(channels.last_id("0"), None);
}

const HISTORY: HistoryLimits = HistoryLimits {
    items: 10,
    bytes: 1 << 20,
    age: Duration::from_secs(100),
};

fn with_history() -> Channels {
    Channels::new(
        ChannelRules::all(HISTORY),
        ChannelCounters::default(),
        false,
    )
}

/// Publishes items whose ids and contents are numbers.
async fn publish(channels: &Channels, numbers: impl IntoIterator<Item = u32>) {
    for number in numbers {
        let mut item = Item::ws_text("c", number.to_string());
        item.id = Some(number.to_string());
        channels
            .publish(Publication::new(item).expect("a valid item"))
            .await;
    }
}

fn numbers(numbers: impl IntoIterator<Item = u32>) -> Vec<String> {
    numbers.into_iter().map(|it| it.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn subscribers_receive_what_they_have_missed() {
    let channels = with_history();
    publish(&channels, 0..20).await;
    for (start, expected) in [
        (Start::Live, 20..20),
        (Start::After("17".into()), 18..20),
        (Start::After("19".into()), 20..20),
        (Start::After("9".into()), 10..20),
        (Start::Newest(0), 20..20),
        (Start::Newest(3), 17..20),
        (Start::Newest(100), 10..20),
    ] {
        let inbox = Arc::new(Inbox::default());
        let _subscription = channels.subscribe_from("c", inbox.clone(), plain(), start);
        inbox.receives(&numbers(expected)).await;
    }
    // Some of what followed is forgotten, so nothing is delivered.
    for start in [Start::After("8".into()), Start::After("later".into())] {
        let inbox = Arc::new(Inbox::default());
        let _subscription = channels.subscribe_from("c", inbox.clone(), plain(), start);
        assert_eq!(*inbox.0.lock(), b"c; last-id=19");
    }
    let counters = &channels.0.counters;
    assert_eq!(
        (counters.recovered.get(), counters.unrecovered.get()),
        (6, 2)
    );
}

#[tokio::test(start_paused = true)]
async fn without_a_history_only_the_last_id_is_known() {
    let channels = Channels::default();
    let subscribe = |start| {
        let inbox = Arc::new(Inbox::default());
        let _subscription = channels.subscribe_from("c", inbox.clone(), plain(), start);
        let received = String::from_utf8(inbox.0.lock().clone());
        received.expect("text")
    };
    assert_eq!(subscribe(Start::After("1".into())), "c");
    publish(&channels, [1, 2]).await;
    assert_eq!(subscribe(Start::After("2".into())), "");
    assert_eq!(subscribe(Start::After("1".into())), "c; last-id=2");
    assert_eq!(subscribe(Start::Newest(2)), "");
}

#[tokio::test(start_paused = true)]
async fn old_items_are_forgotten() {
    let channels = with_history();
    publish(&channels, [1]).await;
    tokio::time::advance(HISTORY.age / 2).await;
    publish(&channels, [2]).await;
    tokio::time::advance(HISTORY.age / 2).await;
    channels.tick(Instant::now());
    let inbox = Arc::new(Inbox::default());
    let start = Start::Newest(10);
    let _subscription = channels.subscribe_from("c", inbox.clone(), plain(), start);
    inbox.receives(&["2"]).await;
    assert_eq!(channels.0.expiring.lock().len(), 1);
    tokio::time::advance(HISTORY.age).await;
    channels.tick(Instant::now());
    assert!(channels.0.expiring.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn closes_are_not_replayed() {
    let channels = with_history();
    publish(&channels, [1]).await;
    let close = grip::publish::WsAction::Close {
        code: None,
        reason: None,
    };
    let item = Item {
        ws_message: Some(close.into()),
        ..Item::new("c")
    };
    channels
        .publish(Publication::new(item).expect("a valid item"))
        .await;
    publish(&channels, [2]).await;
    let inbox = Arc::new(Inbox::default());
    let start = Start::After("1".into());
    let _subscription = channels.subscribe_from("c", inbox.clone(), plain(), start);
    inbox.receives(&["2"]).await;
}
