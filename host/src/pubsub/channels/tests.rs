//! Channels with subscribers that note what they get.

use bytes::Bytes;
use grip::Item;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::*;
use crate::{
    net::frame,
    pubsub::{
        filter::Meta,
        publication::Delivery,
        shard::{QUEUE_BYTES, SHARD_SLOTS},
    },
};

#[derive(Default)]
struct Inbox(Mutex<Vec<u8>>, Notify);

impl Subscriber for Inbox {
    fn deliver(&self, delivery: &Delivery) {
        if let Delivery::Frames { bytes, .. } = delivery {
            self.0.lock().extend_from_slice(bytes);
        }
        self.1.notify_one();
    }
}

impl Inbox {
    /// Waits until exactly these messages are there.
    async fn holds(&self, wanted: &[impl AsRef<str>]) {
        let wanted: Vec<u8> = wanted
            .iter()
            .flat_map(|text| frame::text(Bytes::copy_from_slice(text.as_ref().as_bytes())))
            .collect();
        while *self.0.lock() != wanted {
            self.1.notified().await;
        }
    }
}

fn plain() -> Filters {
    Filters::default()
}

fn text(channel: &str, text: &str) -> Publication {
    Publication::new(Item::ws_text(channel, text)).expect("for WebSockets")
}

#[tokio::test]
async fn everyone_gets_everything_in_order() {
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
    let mut wanted = Vec::new();
    for n in 0..50 {
        let reached = channels.publish(text("orders", &n.to_string())).await;
        assert_eq!(reached, inboxes.len());
        wanted.push(n.to_string());
    }
    for inbox in &inboxes {
        inbox.holds(&wanted).await;
    }
    drop(subscriptions);
    assert_eq!((channels.len(), channels.subscriptions()), (0, 0));
    assert_eq!(channels.publish(text("orders", "nobody")).await, 0);
}

#[tokio::test]
async fn a_seat_is_used_again_and_the_left_hear_nothing() {
    let channels = Channels::default();
    let (left, stays, joins) = <(Arc<Inbox>, Arc<Inbox>, Arc<Inbox>)>::default();
    let leaving = channels.subscribe("c", left.clone(), plain());
    let _stays = channels.subscribe("c", stays.clone(), plain());
    drop(leaving);
    let _joins = channels.subscribe("c", joins.clone(), plain());
    channels.publish(text("c", "x")).await;
    stays.holds(&["x"]).await;
    joins.holds(&["x"]).await;
    left.holds(&[""; 0]).await;
}

#[tokio::test]
async fn who_joins_does_not_get_what_was_published_before() {
    let channels = Channels::default();
    let (before, after) = <(Arc<Inbox>, Arc<Inbox>)>::default();
    let _before = channels.subscribe("c", before.clone(), plain());
    // Nothing is handed out while this test does not wait.
    channels.publish(text("c", "1")).await;
    channels.publish(text("c", "2")).await;
    let _after = channels.subscribe("c", after.clone(), plain());
    channels.publish(text("c", "3")).await;
    before.holds(&["1", "2", "3"]).await;
    after.holds(&["3"]).await;
}

#[tokio::test]
async fn other_filters_lose_repeat_and_reorder_nothing() {
    let channels = Channels::default();
    let (first, inbox) = <(Arc<Inbox>, Arc<Inbox>)>::default();
    let mut meta = Meta::default();
    meta.set("user", Some("ann")).expect("room");
    let mut fills = || Filters::parse(&["var-subst".to_owned()], &mut meta).expect("known");
    // A slot before its own is free.
    let free = channels.subscribe("c", first, plain());
    let subscription = channels.subscribe("c", inbox.clone(), plain());
    drop(free);
    let mut wanted = Vec::new();
    for round in 0..3 {
        for (number, filters) in [(1, fills()), (2, plain()), (3, plain()), (4, fills())] {
            let user = if round == 0 && number == 1 || number > 2 {
                "%(user)s"
            } else {
                "ann"
            };
            wanted.push(format!("{user} {round}.{number},"));
            channels
                .publish(text("c", &format!("%(user)s {round}.{number},")))
                .await;
            subscription.exchange_filters(filters);
        }
        // What one round publishes waits while its filters change, and the first of the next
        // is the only one that waits.
        if round == 1 {
            inbox.holds(&wanted).await;
        }
    }
    inbox.holds(&wanted).await;
    assert_eq!((channels.len(), channels.subscriptions()), (1, 1));
    drop(subscription);
    assert_eq!((channels.len(), channels.subscriptions()), (0, 0));
}

#[tokio::test]
async fn what_is_settled_is_with_the_subscribers() {
    let channels = Channels::default();
    let inbox = Arc::new(Inbox::default());
    let _subscription = channels.subscribe("c", inbox.clone(), plain());
    channels.publish(text("c", "x")).await;
    assert!(inbox.0.lock().is_empty());
    channels.settled("c").await;
    assert!(!inbox.0.lock().is_empty());
    channels.settled("nobody's").await;
}

#[tokio::test]
async fn an_id_is_not_noted_on_a_channel_that_is_forgotten() {
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
async fn a_full_queue_makes_the_publisher_wait_and_loses_nothing() {
    let channels = Channels::default();
    let inbox = Arc::new(Inbox::default());
    let _subscription = channels.subscribe("c", inbox.clone(), plain());
    let large = "x".repeat(QUEUE_BYTES / 2);
    for _ in 0..8 {
        channels.publish(text("c", &large)).await;
    }
    inbox.holds(&vec![large; 8]).await;
}

#[tokio::test]
async fn filters_decide_for_each_subscriber() {
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
        let publication = Publication::new(item).expect("for WebSockets");
        assert_eq!(channels.publish(publication).await, 3);
    }
    all.holds(&["ann to %(user)s", "bob to %(user)s"]).await;
    others.holds(&["bob to %(user)s"]).await;
    filled.holds(&["ann to ann", "bob to ann"]).await;
}

fn numbered(id: u32) -> Publication {
    let prev_id = id.checked_sub(1).map(|id| id.to_string());
    let item = Item::ws_text("c", id.to_string()).with_id(id.to_string(), prev_id);
    Publication::new(item).expect("for WebSockets")
}

#[tokio::test(start_paused = true)]
async fn ids_put_publications_in_order() {
    let channels = Channels::default();
    let inbox = Arc::new(Inbox::default());
    let _subscription = channels.subscribe("c", inbox.clone(), plain());
    for (id, reached) in [(1, 1), (3, 0), (2, 2), (2, 0), (5, 0)] {
        assert_eq!(channels.publish(numbered(id)).await, reached, "{id}");
    }
    inbox.holds(&["1", "2", "3"]).await;
    let began = Instant::now();
    inbox.holds(&["1", "2", "3", "5"]).await;
    assert_eq!(began.elapsed(), crate::pubsub::sequencer::PATIENCE);
    assert_eq!(channels.last_id("c").as_deref(), Some("5"));
}

#[tokio::test(start_paused = true)]
async fn an_id_is_known_for_a_while_after_it_was_published_to_nobody() {
    let channels = Channels::default();
    let known = |channels: &Channels| channels.names().len();
    assert_eq!(channels.publish(text("plain", "x")).await, 0);
    assert_eq!(known(&channels), 0);
    assert_eq!(channels.publish(numbered(7)).await, 0);
    assert_eq!((known(&channels), channels.len()), (1, 0));
    // Used again, and so known for longer.
    tokio::time::advance(LINGER / 2).await;
    assert_eq!(channels.publish(numbered(8)).await, 0);
    tokio::time::advance(LINGER / 2).await;
    channels.tick(Instant::now());
    assert_eq!(channels.last_id("c").as_deref(), Some("8"));
    // Left, and so known for longer.
    let subscription = channels.subscribe("c", Arc::new(Inbox::default()), plain());
    tokio::time::advance(2 * LINGER).await;
    channels.tick(Instant::now());
    assert_eq!(channels.len(), 1);
    drop(subscription);
    assert_eq!((known(&channels), channels.len()), (1, 0));
    tokio::time::advance(LINGER).await;
    channels.tick(Instant::now());
    assert_eq!(
        (known(&channels), channels.0.lingering.lock().len()),
        (0, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn channels_that_nobody_listens_to_are_bounded() {
    let channels = Channels::default();
    for n in 0..MAX_LINGERING + 10 {
        let item = Item::ws_text(n.to_string(), "x").with_id("1", None);
        let publication = Publication::new(item).expect("for WebSockets");
        channels.publish(publication).await;
    }
    assert_eq!(channels.names().len(), MAX_LINGERING);
    assert_eq!(channels.0.lingering.lock().len(), MAX_LINGERING);
    assert_eq!(channels.last_id("0"), None);
}
