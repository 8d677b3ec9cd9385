//! Rooms: channels that keep their last items.

use grip::Item;
use serde::{Deserialize, Serialize};

use crate::{
    Error, Result,
    channel::publish,
    frame::{self, ServerFrame},
    membership::Membership,
    platform, query,
    server_sent_event::{data_event, event_with_id},
    store::{Entry, Ring, Value},
};

/// The number of items that a room keeps by default.
const KEEP: u64 = 100;

/// What the names of channels of rooms start with.
const CHANNEL_PREFIX: &str = "room:";

/// What the names of channels for the counts of rooms start with.
///
/// Counts have a channel of their own, because the ids of its items are versions. So the host can
/// deliver a count that was published while a client joined.
const COUNT_PREFIX: &str = "count:";

/// The longest name of a channel of a room, in bytes.
const MAX_CHANNEL_BYTES: usize = 512;

/// A channel that keeps its last items, for connections that [join](crate::Connection::join) it later
/// or come back.
///
/// An item is any serializable value. It has an id, which rises by 1 from item to item. Items are
/// stored before they are published, in a [`Ring`] with the name `rooms/NAME`.
///
/// ```
/// use sockets::Room;
///
/// # async fn send() -> sockets::Result {
/// let room = Room::new("lobby").keep(20);
/// room.send("hello").await
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    channel: String,
    keep: u64,
    is_counted: bool,
}

/// What a client gets that joins a room or comes back to it.
#[derive(Debug)]
pub(crate) struct Replay {
    /// The client has missed items that are no longer kept.
    pub(crate) is_reset: bool,
    pub(crate) entries: Vec<Entry>,
    /// The id of the newest item.
    pub(crate) last: u64,
}

/// The connections in a room, as they are stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Count {
    pub(crate) count: u32,
    /// Rises with each change.
    pub(crate) version: u64,
    /// The run of the host that the connections belong to. They have ended with it.
    #[serde(default)]
    run: String,
}

impl Room {
    /// Returns the room with this name, which may be any text. It keeps 100 items, and does not count.
    pub fn new(name: impl AsRef<str>) -> Room {
        Room {
            channel: format!("{CHANNEL_PREFIX}{}", query::encode(name.as_ref())),
            keep: KEEP,
            is_counted: false,
        }
    }

    /// Keeps this number of items, at least 1.
    pub fn keep(self, items: u64) -> Room {
        Room {
            keep: items.max(1),
            ..self
        }
    }

    /// Counts the WebSockets in the room. Clients get the count whenever it changes.
    ///
    /// A host that is killed does not report the end of its connections. They are no longer counted
    /// when it starts again with another key, which socket-host does unless `--grip-key` sets one.
    pub fn counted(self) -> Room {
        Room {
            is_counted: true,
            ..self
        }
    }

    /// Returns the name of the room's channel, on which its items are published as frames.
    pub fn channel(&self) -> &str {
        &self.channel
    }

    /// Sends an item to all connections in the room. It is stored when this returns.
    pub async fn send(&self, data: impl Serialize) -> Result {
        self.check()?;
        let json = serde_json::to_vec(&data)?;
        let ring = self.ring();
        let entry = ring.append(|_| json.clone()).await?;
        publish(vec![self.item(&entry)]).await?;
        // Sending the next item prunes again.
        if let Err(error) = ring.prune(entry.id).await {
            let channel = &self.channel;
            eprintln!("failed to remove old items: channel={channel} error={error}");
        }
        Ok(())
    }

    /// Returns the items that are kept, oldest first.
    pub async fn items(&self) -> Result<Vec<Entry>> {
        self.check()?;
        Ok(self.ring().latest(self.keep).await?)
    }

    /// Returns the number of WebSockets in the room, if the room is [counted](Self::counted).
    pub async fn count(&self) -> Result<u32> {
        self.check()?;
        Ok(self.current_count().await?.count)
    }

    /// Returns the room of a membership.
    pub(crate) fn of(membership: &Membership) -> Room {
        Room {
            channel: membership.channel.clone(),
            keep: membership.keep,
            is_counted: membership.is_counted,
        }
    }

    /// Returns the membership of a connection that has the items up to `last`.
    pub(crate) fn membership(&self, last: u64) -> Membership {
        Membership {
            channel: self.channel.clone(),
            last,
            keep: self.keep,
            is_counted: self.is_counted,
        }
    }

    pub(crate) fn is_counted(&self) -> bool {
        self.is_counted
    }

    /// Reads what a client gets that has the items up to `position`, or none of them.
    pub(crate) async fn replay(&self, position: Option<u64>) -> Result<Replay> {
        self.check()?;
        let ring = self.ring();
        let (oldest, last) = ring.ids().await?.into_inner();
        let is_known = |id: u64| id <= last && id + 1 >= oldest;
        let entries = match position {
            Some(id) if id == last => Vec::new(),
            Some(id) if is_known(id) => ring.after(id, self.keep).await?,
            _ => ring.latest(self.keep).await?,
        };
        Ok(Replay {
            is_reset: position.is_some_and(|id| !is_known(id)),
            // There may be newer ones since `last` was read.
            last: entries.last().map_or(last, |entry| entry.id),
            entries,
        })
    }

    /// Adds a connection to the count of a counted room.
    pub(crate) async fn enter(&self) -> Result<Count> {
        self.publish_count(1).await
    }

    /// Reverses [`enter`](Self::enter).
    pub(crate) async fn leave(&self) -> Result<Count> {
        self.publish_count(-1).await
    }

    /// Returns the count of a counted room.
    pub(crate) async fn current_count(&self) -> Result<Count> {
        let count = self.stored_count().get().await?;
        Ok(count.in_run(&platform::run().await))
    }

    /// Returns the channel of the counts.
    pub(crate) fn count_channel(&self) -> String {
        format!("{COUNT_PREFIX}{}", self.encoded_name())
    }

    /// Returns the frame with a count.
    pub(crate) fn count_frame(&self, count: &Count) -> String {
        let &Count { count, version, .. } = count;
        let frame = ServerFrame::Count {
            channel: &self.channel,
            count,
            version,
        };
        frame.to_json()
    }

    /// Returns the frame with an item.
    pub(crate) fn item_frame(&self, entry: &Entry) -> String {
        frame::item(&self.channel, entry)
    }

    async fn publish_count(&self, delta: i32) -> Result<Count> {
        let count = self.change_count(delta).await?;
        let frame = self.count_frame(&count);
        let previous = count.version.saturating_sub(1).to_string();
        let item = Item::ws_text(self.count_channel(), frame.clone())
            .and_stream(data_event(&frame))
            .with_id(count.version.to_string(), Some(previous));
        publish(vec![item]).await?;
        Ok(count)
    }

    async fn change_count(&self, delta: i32) -> Result<Count> {
        let run = platform::run().await;
        let change = |stored: &mut Count| {
            let Count { count, version, .. } = std::mem::take(stored).in_run(&run);
            *stored = Count {
                count: count.saturating_add_signed(delta),
                version: version + 1,
                run: run.clone(),
            };
            stored.clone()
        };
        Ok(self.stored_count().update(change).await?)
    }

    fn stored_count(&self) -> Value<Count> {
        Value::new(format!("{}/present", self.key()))
    }

    /// Returns the publication of an item.
    fn item(&self, entry: &Entry) -> Item {
        let frame = self.item_frame(entry);
        let event = event_with_id(&frame::event_id(&self.channel, entry.id), &frame);
        // The host delivers items in the order of their ids, even if they arrive in another one.
        let previous = (entry.id - 1).to_string();
        Item::ws_text(&self.channel, frame)
            .and_stream(event)
            .with_id(entry.id.to_string(), Some(previous))
    }

    fn ring(&self) -> Ring {
        Ring::new(self.key()).keep(self.keep)
    }

    /// Returns what the keys of the room start with.
    fn key(&self) -> String {
        format!("rooms/{}", self.encoded_name())
    }

    fn encoded_name(&self) -> &str {
        let name = self.channel.strip_prefix(CHANNEL_PREFIX);
        name.unwrap_or_default()
    }

    fn check(&self) -> Result {
        let channel = &self.channel;
        if channel.len() == CHANNEL_PREFIX.len() || channel.len() > MAX_CHANNEL_BYTES {
            let max = MAX_CHANNEL_BYTES - CHANNEL_PREFIX.len();
            return Err(Error::msg(format!(
                "invalid name of a room: expected 1 to {max} bytes when percent-encoded"
            )));
        }
        Ok(())
    }
}

/// What a channel of a room is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChannelKind {
    Items,
    Counts,
}

/// Returns the channel of the items of a room, and what the channel with this name is for. Returns
/// `None` if the channel is not that of a room.
pub(crate) fn parse_channel(name: &str) -> Option<(String, ChannelKind)> {
    if name.starts_with(CHANNEL_PREFIX) {
        return Some((name.to_owned(), ChannelKind::Items));
    }
    let room = name.strip_prefix(COUNT_PREFIX)?;
    Some((format!("{CHANNEL_PREFIX}{room}"), ChannelKind::Counts))
}

impl Count {
    /// Forgets connections of another run.
    fn in_run(self, run: &str) -> Count {
        if self.run == run {
            return self;
        }
        Count { count: 0, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::block_on;

    #[test]
    fn counts_have_a_version() {
        let room = Room::new("tea").counted();
        let change = |delta| {
            let Count { count, version, .. } = block_on(room.change_count(delta)).unwrap();
            (count, version)
        };
        assert_eq!(block_on(room.count()).unwrap(), 0);
        assert_eq!(change(1), (1, 1));
        assert_eq!(change(1), (2, 2));
        assert_eq!(change(-1), (1, 3));
        assert_eq!(block_on(room.count()).unwrap(), 1);
        assert_eq!(change(-1), (0, 4));
        // The store was emptied while connections were open.
        assert_eq!(change(-1), (0, 5));
        assert_eq!(change(1), (1, 6));
    }

    #[test]
    fn connections_end_with_the_run_of_the_host() {
        let room = Room::new("tea").counted();
        let other = Count {
            count: 3,
            version: 7,
            run: "other".into(),
        };
        block_on(room.stored_count().set(&other)).unwrap();
        assert_eq!(block_on(room.count()).unwrap(), 0);
        let count = block_on(room.change_count(1)).unwrap();
        assert_eq!((count.count, count.version), (1, 8));
    }

    #[test]
    fn replays_start_after_the_position() {
        let room = Room::new("tea").keep(3);
        let replay = |position| {
            let replay = block_on(room.replay(position)).unwrap();
            let ids: Vec<u64> = replay.entries.iter().map(|entry| entry.id).collect();
            (replay.is_reset, ids, replay.last)
        };
        assert_eq!(replay(None), (false, vec![], 0));
        assert_eq!(replay(Some(0)), (false, vec![], 0));
        assert_eq!(replay(Some(4)), (true, vec![], 0));
        for number in 1..=5 {
            block_on(room.send(number)).unwrap();
        }
        assert_eq!(replay(None), (false, vec![3, 4, 5], 5));
        assert_eq!(replay(Some(5)), (false, vec![], 5));
        assert_eq!(replay(Some(4)), (false, vec![5], 5));
        assert_eq!(replay(Some(2)), (false, vec![3, 4, 5], 5));
        assert_eq!(replay(Some(1)), (true, vec![3, 4, 5], 5));
        assert_eq!(replay(Some(6)), (true, vec![3, 4, 5], 5));
    }

    #[test]
    fn names_may_be_any_text() {
        let room = Room::new("a/b, c;\u{e9}");
        assert_eq!(room.channel(), "room:a%2Fb%2C%20c%3B%C3%A9");
        block_on(room.send("x")).unwrap();
        assert_eq!(block_on(room.items()).unwrap().len(), 1);
        for invalid in [String::new(), "x".repeat(508)] {
            let error = block_on(Room::new(invalid).send("x")).unwrap_err();
            assert!(error.to_string().contains("1 to 507 bytes"), "{error}");
        }
        block_on(Room::new("x".repeat(507)).send("x")).unwrap();
    }
}
