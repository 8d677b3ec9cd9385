//! Receives what is published to the channels of this host.
//!
//! Redis delivers messages at most once, and a connection may stop working without being closed. Each
//! item therefore has a position, and missing items are read from the channel's stream. If the stream
//! no longer contains them, or Redis has lost items that were received, the subscribers are notified
//! that they have missed items. The host also publishes probes to itself, and reconnects if none
//! arrives.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use redis::RedisResult;
use tokio::time::{Instant, interval_at, sleep};
use tracing::{debug, warn};

use super::{
    Bus,
    keys::{Keys, all_hosts, channel_of, host, is_of_hosts},
    position::{ChannelItems, Continuity, Message, Order, Position},
    probes::Probes,
    redis::{Range, TIMEOUT, is_refused},
    subscriber::{Event, Request, Subscriber},
};
use crate::{config::Limits, pubsub::publication::Publication};

/// The interval between probes.
const PROBE_INTERVAL: Duration = Limits::DEFAULT.bus_probe_interval;

/// The pause before connecting again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);

/// The messages of a channel that wait while it is being read. Further ones are read later.
const MAX_BUFFERED: usize = 1000;

/// The channels that are read at the same time. Others wait.
const CONCURRENT_READS: usize = 64;

/// The pause before a read is tried again that Redis has refused.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// How far this host has received a channel.
#[derive(Default)]
struct Feed {
    /// Where it continues; `None` if the newest items are to be read.
    position: Option<Position>,
    /// The epoch in which Redis has lost items, until a new one has begun.
    lost_epoch: Option<String>,
    /// Messages that arrived while the channel was being read; `None` if it is not.
    buffered: Option<Vec<Message>>,
    /// The number of the last read. Those before it are outdated.
    reading: u64,
}

/// Reads a channel, and returns its name and the number of the read.
type Read = BoxFuture<'static, (Arc<str>, u64, RedisResult<ChannelItems>)>;

/// The state of the task.
struct Receiver<'a> {
    bus: &'a Bus,
    feeds: HashMap<Arc<str>, Feed>,
    /// The probes of the current connection.
    probes: Probes<'a>,
    requests: FuturesUnordered<Request>,
    /// The pub/sub channels that this host is leaving, and how often.
    leaving: HashMap<String, usize>,
    reads: FuturesUnordered<Read>,
    /// Those that wait for others.
    waiting_reads: VecDeque<Read>,
    /// The number of the last read.
    last_read: u64,
}

/// Receives until it is dropped.
pub(super) async fn run(bus: &Bus) {
    let mut receiver = Receiver {
        bus,
        feeds: HashMap::new(),
        probes: bus.probes(),
        requests: FuturesUnordered::new(),
        leaving: HashMap::new(),
        reads: FuturesUnordered::new(),
        waiting_reads: VecDeque::new(),
        last_read: 0,
    };
    loop {
        match receiver.connect().await {
            Err(error) if bus.is_up() => warn!(%error, "bus: connection lost"),
            Err(error) => debug!(%error, "bus: not connected"),
            Ok(()) => {}
        }
        bus.set_up(false);
        sleep(RECONNECT_PAUSE).await;
    }
}

impl Receiver<'_> {
    /// Subscribes to all channels and receives until a connection is lost.
    async fn connect(&mut self) -> RedisResult<()> {
        // The former connections must not be kept open.
        self.requests.clear();
        self.leaving.clear();
        self.reads.clear();
        self.waiting_reads.clear();
        self.bus.redis.renew().await?;
        let mut subscriber = self.bus.redis.subscriber().await?;
        self.probes = self.bus.probes();
        let probes = self.probes.channels();
        let database = self.bus.redis.database();
        let names = probes.chain([host(&self.bus.host), all_hosts(database)]);
        self.requests.extend(subscriber.subscribe(names.collect()));
        let names: Vec<_> = self.feeds.keys().cloned().collect();
        self.join(&subscriber, &names);
        // Redis may be another server now, which lacks some of them.
        self.bus.members.announce_all();
        self.receive(&mut subscriber).await
    }

    async fn receive(&mut self, subscriber: &mut Subscriber) -> RedisResult<()> {
        let mut probe_ticks = interval_at(Instant::now() + PROBE_INTERVAL, PROBE_INTERVAL);
        loop {
            while self.reads.len() < CONCURRENT_READS
                && let Some(read) = self.waiting_reads.pop_front()
            {
                self.reads.push(read);
            }
            tokio::select! {
                event = subscriber.next() => match event {
                    Event::Message { channel, payload } => {
                        self.handle_payload(&channel, &payload).await;
                    }
                    Event::Subscribed { channel } => {
                        self.probes.received(&channel, false);
                        match channel_of(&channel) {
                            Some(channel) => self.read(channel),
                            None if is_of_hosts(&channel) => {}
                            None => self.send_probe(channel),
                        }
                    }
                    Event::Unsubscribed { channel } => {
                        if !self.has_left(&channel) {
                            // The channel has moved to another node.
                            return Ok(());
                        }
                    }
                    Event::Lost => return Ok(()),
                },
                Some(result) = self.requests.next() => result?,
                Some((channel, number, items)) = self.reads.next() => match items {
                    Ok(items) => self.handle_items(&channel, number, items).await,
                    Err(error) if is_refused(&error) => {
                        warn!(channel = &*channel, %error, "bus: channel cannot be read");
                        self.read_after(&channel, RETRY_PAUSE);
                    }
                    Err(error) => return Err(error),
                },
                changed = self.bus.channels.changed() => self.update(subscriber, changed),
                () = self.bus.redis.demoted() => {
                    warn!("bus: Redis is no longer the master, connecting again");
                    return Ok(());
                }
                _ = probe_ticks.tick() => {
                    if self.probes.is_overdue(TIMEOUT) {
                        warn!("bus: no message from Redis, connecting again");
                        return Ok(());
                    }
                    for channel in self.probes.channels() {
                        self.send_probe(channel);
                    }
                }
            }
        }
    }

    /// Publishes a probe. This is not awaited, since its message is.
    fn send_probe(&self, channel: String) {
        let redis = self.bus.redis.clone();
        tokio::spawn(async move { redis.probe(&channel).await });
    }

    /// Subscribes to channels that this host has, and unsubscribes from those that it has no longer.
    fn update(&mut self, subscriber: &Subscriber, changed: Vec<Arc<str>>) {
        let (mut joined, mut left) = (Vec::new(), Vec::new());
        for name in changed {
            let is_wanted = self.bus.channels.contains(&name);
            if is_wanted && self.feeds.contains_key(&name) {
                // Removed and created again.
                self.restart(&name);
            } else if is_wanted {
                self.feeds.insert(name.clone(), Feed::default());
                joined.push(name);
            } else if self.feeds.remove(&name).is_some() {
                left.push(self.messages(&name));
            }
        }
        for channel in &left {
            *self.leaving.entry(channel.clone()).or_default() += 1;
        }
        self.requests.extend(subscriber.unsubscribe(left));
        self.join(subscriber, &joined);
    }

    /// Returns whether the end of a subscription was requested by this host.
    fn has_left(&mut self, channel: &str) -> bool {
        let Some(times) = self.leaving.get_mut(channel) else {
            return false;
        };
        *times -= 1;
        if *times == 0 {
            self.leaving.remove(channel);
        }
        true
    }

    /// Subscribes to channels, and to the probes for them. Each channel is read when its subscription is
    /// confirmed.
    fn join(&mut self, subscriber: &Subscriber, names: &[Arc<str>]) {
        let mut channels: Vec<_> = names.iter().map(|it| self.messages(it)).collect();
        let probes = channels.iter().filter_map(|it| self.probes.add(it));
        let probes: Vec<_> = probes.collect();
        channels.extend(probes);
        self.requests.extend(subscriber.subscribe(channels));
    }

    /// Returns the pub/sub channel of a channel.
    fn messages(&self, name: &str) -> String {
        Keys::new(name).messages(self.bus.redis.database())
    }

    /// Forgets the position in a channel, and reads its newest items.
    fn restart(&mut self, name: &str) {
        if let Some(feed) = self.feeds.get_mut(name) {
            feed.position = None;
            self.read(name);
        }
    }

    /// Reads the items of a channel from its position on, or the newest. Messages wait meanwhile; what
    /// those before were about is part of what is read.
    fn read(&mut self, name: &str) {
        self.read_after(name, Duration::ZERO);
    }

    fn read_after(&mut self, name: &str, pause: Duration) {
        let Some((name, _)) = self.feeds.get_key_value(name) else {
            return;
        };
        let name = name.clone();
        let Some(feed) = self.feeds.get_mut(&name) else {
            return;
        };
        feed.buffered = Some(Vec::new());
        self.last_read += 1;
        let number = self.last_read;
        feed.reading = number;
        let limits = self.bus.channels.limits(&name);
        let range = match &feed.position {
            Some(position) => Range::From(position.next()),
            None => Range::Newest {
                count: limits.items,
                lost_epoch: feed.lost_epoch.clone(),
            },
        };
        let redis = self.bus.redis.clone();
        self.waiting_reads.push_back(Box::pin(async move {
            if !pause.is_zero() {
                sleep(pause).await;
            }
            let items = redis.read(&name, limits, range).await;
            (name, number, items)
        }));
    }

    async fn handle_payload(&mut self, channel: &str, payload: &str) {
        if is_of_hosts(channel) {
            return self.bus.handle_host_message(payload);
        }
        let name = channel_of(channel);
        self.probes.received(channel, name.is_none());
        match name {
            Some(name) => {
                if let Some(message) = Message::parse(payload) {
                    self.handle_message(name, message).await;
                }
            }
            None if self.probes.are_confirmed() => self.bus.set_up(true),
            None => {}
        }
    }

    async fn handle_message(&mut self, name: &str, message: Message) {
        let Some(feed) = self.feeds.get_mut(name) else {
            return;
        };
        if let Some(buffered) = &mut feed.buffered {
            if buffered.len() < MAX_BUFFERED {
                buffered.push(message);
            }
            return;
        }
        let Some(position) = &mut feed.position else {
            return;
        };
        match position.order(&message) {
            Order::Next => {
                position.advance(&message.entry);
                let publication = parse(name, &message.entry.item);
                self.bus.channels.append(name, publication).await;
            }
            Order::Last => {}
            Order::Broken => self.read(name),
        }
    }

    async fn handle_items(&mut self, name: &str, number: u64, read: ChannelItems) {
        let feed = self.feeds.get_mut(name);
        let Some(feed) = feed.filter(|feed| feed.reading == number) else {
            return;
        };
        let channels = &self.bus.channels;
        match &mut feed.position {
            Some(position) => match position.continuity(&read) {
                Continuity::Complete => {
                    let next = position.next();
                    for entry in read.items.iter().filter(|entry| entry.offset >= next) {
                        position.advance(entry);
                        channels.append(name, parse(name, &entry.item)).await;
                    }
                }
                Continuity::Gap => {
                    warn!(channel = name, "bus: items of a channel are lost");
                    return self.restart(name);
                }
                Continuity::Lost => {
                    warn!(channel = name, "bus: Redis has lost items of a channel");
                    // Hosts that have not received them must not continue either.
                    feed.lost_epoch = Some(position.epoch().to_owned());
                    return self.restart(name);
                }
            },
            None => {
                feed.position = Some(Position::after(&read));
                feed.lost_epoch = None;
                let items = read.items.iter();
                let items = items.map(|entry| parse(name, &entry.item)).collect();
                channels.restart(name, items);
                self.bus.check_members([name.into()]);
            }
        }
        let mut buffered = feed.buffered.take().unwrap_or_default();
        let is_full = buffered.len() == MAX_BUFFERED;
        buffered.retain(|message| !read.contains(message));
        for message in buffered {
            self.handle_message(name, message).await;
            let feed = self.feeds.get(name);
            if feed.is_none_or(|feed| feed.buffered.is_some()) {
                // What is being read includes the rest.
                return;
            }
        }
        if is_full {
            self.read(name);
        }
    }
}

/// Parses an item that a host has published. One of an unknown version has no content.
fn parse(channel: &str, item: &str) -> Publication {
    let parsed = serde_json::from_str(item).map_err(anyhow::Error::from);
    let publication = parsed.and_then(|item| Ok(Publication::new(item)?));
    publication.unwrap_or_else(|error| {
        warn!(channel, %error, "bus: item of another version dropped");
        Publication::empty(channel)
    })
}
