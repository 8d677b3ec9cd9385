//! Receives what is published to the channels of this host.
//!
//! Redis delivers messages at most once, and a connection may stop working without being closed. Each
//! item therefore has an offset, and missing items are read from the channel's stream. If the stream
//! no longer contains them, or the offsets belong to another epoch, the subscribers are notified that
//! they have missed items. The host also publishes probes to itself, and reconnects if none arrives.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use redis::{
    RedisResult,
    aio::{PubSubSink, PubSubStream},
};
use tokio::time::{Instant, interval, sleep};
use tracing::{debug, warn};

use super::{
    Bus,
    keys::{Keys, all_hosts, channel_of, host},
    redis::{ChannelItems, Range, TIMEOUT, in_time},
};
use crate::{config::Limits, pubsub::publication::Publication};

/// The interval between probes.
const PROBE_INTERVAL: Duration = Limits::DEFAULT.bus_probe_interval;

/// The pause before connecting again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);

/// The channels that are subscribed to by one command.
const SUBSCRIBED_AT_ONCE: usize = 500;

/// How far this host has received a channel.
#[derive(Default)]
struct Feed {
    /// Where it continues; `None` if it has received nothing yet.
    position: Option<Position>,
    /// Messages that arrived while the channel was being read; `None` if it is not.
    buffered: Option<Vec<Message>>,
    /// The number of the last read. Those before it are outdated.
    reading: u64,
}

struct Position {
    epoch: String,
    /// The offset of the next item.
    next: u64,
    /// The hash of the last item, to detect that Redis has lost it and reused its offset.
    last_hash: Option<u64>,
}

/// An item received on the pub/sub channel.
struct Message {
    epoch: String,
    offset: u64,
    item: String,
}

/// Reads a channel, and returns its name and the number of the read.
type Read = BoxFuture<'static, (Arc<str>, u64, RedisResult<ChannelItems>)>;

/// The state of the task.
struct Receiver<'a> {
    bus: &'a Bus,
    feeds: HashMap<Arc<str>, Feed>,
    reads: FuturesUnordered<Read>,
}

/// Receives until it is dropped.
pub(super) async fn run(bus: &Bus) {
    let mut receiver = Receiver {
        bus,
        feeds: HashMap::new(),
        reads: FuturesUnordered::new(),
    };
    loop {
        if let Err(error) = receiver.connect().await {
            debug!(%error, "bus: connection lost");
        }
        bus.set_up(false);
        sleep(RECONNECT_PAUSE).await;
    }
}

impl Receiver<'_> {
    /// Subscribes to all channels and receives until the connection is lost.
    async fn connect(&mut self) -> RedisResult<()> {
        self.bus.redis.renew()?;
        let (mut sink, mut stream) = self.bus.redis.subscriber().await?.split();
        let names = [host(&self.bus.host), all_hosts()];
        in_time(sink.subscribe(&names)).await?;
        self.reads.clear();
        let names: Vec<_> = self.feeds.keys().cloned().collect();
        self.join(&mut sink, &names).await?;
        self.receive(&mut sink, &mut stream).await
    }

    async fn receive(
        &mut self,
        sink: &mut PubSubSink,
        stream: &mut PubSubStream,
    ) -> RedisResult<()> {
        let mut probes = interval(PROBE_INTERVAL);
        let mut last_received = Instant::now();
        loop {
            tokio::select! {
                message = stream.next() => {
                    let Some(message) = message else {
                        return Ok(());
                    };
                    last_received = Instant::now();
                    match channel_of(message.get_channel_name()) {
                        Some(channel) => {
                            let channel = channel.to_owned();
                            let payload = message.get_payload().ok();
                            if let Some(message) = payload.and_then(Message::parse) {
                                self.handle_message(&channel, message).await;
                            }
                        }
                        None => match message.get_payload::<String>() {
                            Ok(payload) if !payload.is_empty() => {
                                self.bus.handle_host_message(&payload);
                            }
                            _ => self.bus.set_up(true),
                        },
                    }
                }
                Some((channel, number, items)) = self.reads.next() => {
                    self.handle_items(&channel, number, items?).await;
                }
                changed = self.bus.channels.changed() => {
                    self.update(sink, changed).await?;
                }
                _ = probes.tick() => {
                    if last_received.elapsed() > TIMEOUT {
                        warn!("bus: no message from Redis, connecting again");
                        return Ok(());
                    }
                    let (redis, channel) = (self.bus.redis.clone(), host(&self.bus.host));
                    // Not awaited, since its message is.
                    tokio::spawn(async move { redis.send(&channel, "").await });
                }
            }
        }
    }

    /// Subscribes to channels that this host has, and unsubscribes from those that it has no longer.
    async fn update(&mut self, sink: &mut PubSubSink, changed: Vec<Arc<str>>) -> RedisResult<()> {
        let (mut joined, mut left) = (Vec::new(), Vec::new());
        // Recorded for all first: if the connection breaks, the next one subscribes to them.
        for name in changed {
            let is_wanted = self.bus.channels.contains(&name);
            if is_wanted && self.feeds.contains_key(&name) {
                // Removed and created again.
                self.read(&name, true);
            } else if is_wanted {
                self.feeds.insert(name.clone(), Feed::default());
                joined.push(name);
            } else if self.feeds.remove(&name).is_some() {
                left.push(Keys::new(&name).messages());
            }
        }
        for names in left.chunks(SUBSCRIBED_AT_ONCE) {
            in_time(sink.unsubscribe(names)).await?;
        }
        self.join(sink, &joined).await
    }

    /// Subscribes to channels, and then reads what was published before.
    async fn join(&mut self, sink: &mut PubSubSink, names: &[Arc<str>]) -> RedisResult<()> {
        for names in names.chunks(SUBSCRIBED_AT_ONCE) {
            let channels: Vec<_> = names.iter().map(|it| Keys::new(it).messages()).collect();
            in_time(sink.subscribe(channels)).await?;
            for name in names {
                self.read(name, false);
            }
        }
        Ok(())
    }

    /// Reads the items of a channel from its position on, or the newest. Messages wait meanwhile.
    fn read(&mut self, name: &Arc<str>, forget: bool) {
        let Some(feed) = self.feeds.get_mut(name) else {
            return;
        };
        if forget {
            feed.position = None;
        }
        feed.buffered.get_or_insert_default();
        feed.reading += 1;
        let number = feed.reading;
        let limits = self.bus.channels.limits(name);
        let range = match &feed.position {
            // With the last item, to see whether it is still the same.
            Some(position) => Range::From((position.next - 1).max(1)),
            None => Range::Newest(limits.items),
        };
        let (redis, name) = (self.bus.redis.clone(), name.clone());
        self.reads.push(Box::pin(async move {
            let items = redis.read(&name, limits, range).await;
            (name, number, items)
        }));
    }

    async fn handle_message(&mut self, channel: &str, message: Message) {
        let Some((name, _)) = self.feeds.get_key_value(channel) else {
            return;
        };
        let name = name.clone();
        let Some(feed) = self.feeds.get_mut(&name) else {
            return;
        };
        if let Some(buffered) = &mut feed.buffered {
            buffered.push(message);
            return;
        }
        let Some(position) = &mut feed.position else {
            return;
        };
        if message.epoch != position.epoch || message.offset > position.next {
            self.read(&name, false);
            return;
        }
        if message.offset == position.next {
            position.advance(&message.item);
            let publication = parse(&name, &message.item);
            self.bus.channels.append(&name, publication).await;
        }
    }

    async fn handle_items(&mut self, name: &Arc<str>, number: u64, read: ChannelItems) {
        let feed = self.feeds.get_mut(name);
        let Some(feed) = feed.filter(|feed| feed.reading == number) else {
            return;
        };
        let channels = &self.bus.channels;
        match &mut feed.position {
            Some(position) if position.continues(&read) => {
                let next = position.next;
                for (offset, item) in read.items {
                    if offset >= next {
                        position.advance(&item);
                        channels.append(name, parse(name, &item)).await;
                    }
                }
            }
            Some(_) => {
                warn!(channel = &**name, "bus: items of a channel are lost");
                return self.read(name, true);
            }
            None => {
                feed.position = Some(Position {
                    epoch: read.epoch,
                    next: read.last + 1,
                    last_hash: read.items.last().map(|(_, item)| hash(item)),
                });
                let items = read.items.iter();
                let items = items.map(|(_, item)| parse(name, item)).collect();
                channels.restart(name, items);
            }
        }
        let buffered = feed.buffered.take().unwrap_or_default();
        for message in buffered {
            self.handle_message(name, message).await;
        }
    }
}

impl Position {
    /// Returns whether this position and what was read are of the same sequence, without a gap.
    fn continues(&self, read: &ChannelItems) -> bool {
        let is_complete = match read.items.iter().find(|(offset, _)| *offset >= self.next) {
            Some((offset, _)) => *offset == self.next,
            None => read.last + 1 == self.next,
        };
        let last = read
            .items
            .iter()
            .find(|(offset, _)| offset + 1 == self.next);
        let is_same = match (last, self.last_hash) {
            (Some((_, item)), Some(last_hash)) => hash(item) == last_hash,
            // It is not kept any longer.
            _ => true,
        };
        read.epoch == self.epoch && is_complete && is_same
    }

    /// Moves past an item.
    fn advance(&mut self, item: &str) {
        self.next += 1;
        self.last_hash = Some(hash(item));
    }
}

impl Message {
    /// Parses what `publish.lua` publishes: the epoch, the offset, and the item.
    fn parse(payload: String) -> Option<Self> {
        let (epoch, rest) = payload.split_once(' ')?;
        let (offset, item) = rest.split_once(' ')?;
        Some(Self {
            epoch: epoch.to_owned(),
            offset: offset.parse().ok()?,
            item: item.to_owned(),
        })
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

fn hash(item: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    item.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(next: u64, last: &str) -> Position {
        Position {
            epoch: "e".to_owned(),
            next,
            last_hash: Some(hash(last)),
        }
    }

    fn read(epoch: &str, last: u64, items: &[(u64, &str)]) -> ChannelItems {
        ChannelItems {
            epoch: epoch.to_owned(),
            last,
            items: items
                .iter()
                .map(|(offset, item)| (*offset, (*item).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn a_sequence_continues_without_gaps() {
        let position = position(5, "four");
        for (read, expected) in [
            (read("e", 4, &[(4, "four")]), true),
            (read("e", 4, &[]), true),
            (read("e", 6, &[(4, "four"), (5, "five"), (6, "six")]), true),
            (read("e", 6, &[(5, "five"), (6, "six")]), true),
            // Redis has forgotten some of what this host needs.
            (read("e", 6, &[(6, "six")]), false),
            (read("e", 6, &[]), false),
            // Redis has lost the last item, or given its offset to another one.
            (read("e", 3, &[]), false),
            (read("e", 4, &[(4, "other")]), false),
            (read("f", 4, &[(4, "four")]), false),
        ] {
            assert_eq!(position.continues(&read), expected, "{read:?}");
        }
    }

    #[test]
    fn messages_contain_epoch_offset_and_item() {
        let message = Message::parse("e 12 {\"a\": 1}".to_owned()).unwrap();
        assert_eq!((&*message.epoch, message.offset), ("e", 12));
        assert_eq!(message.item, "{\"a\": 1}");
        for invalid in ["", "e", "e 1", "e x y"] {
            assert!(Message::parse(invalid.to_owned()).is_none(), "{invalid}");
        }
    }
}
