//! How far a host has received a channel.
//!
//! An offset alone does not identify an item: if Redis loses the last items of a channel, as when a
//! replica is promoted that did not have them yet, it gives their offsets to other items. Each item
//! therefore has a random tag, and contains the tag of the item before it.

/// The place of a host in a channel.
#[derive(Debug)]
pub(super) struct Position {
    /// The epoch of the offsets.
    epoch: String,
    /// The offset of the next item.
    next: u64,
    /// The tag of the last item, or empty if there was none.
    tag: String,
}

/// An item of a channel.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) offset: u64,
    pub(super) tag: String,
    /// The tag of the item before, or empty if there was none.
    pub(super) previous: String,
    pub(super) item: String,
}

/// What a channel had when it was read.
#[derive(Debug)]
pub(super) struct ChannelItems {
    /// The epoch of the offsets.
    pub(super) epoch: String,
    /// The offset of the last item, or 0 if there was none.
    pub(super) last: u64,
    /// The tag of the last item, or empty if there was none.
    pub(super) tag: String,
    /// Items in a row, oldest first.
    pub(super) items: Vec<Entry>,
}

/// An item received on the pub/sub channel.
#[derive(Debug)]
pub(super) struct Message {
    epoch: String,
    pub(super) entry: Entry,
}

/// How a message relates to a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// The next item.
    Next,
    /// The last item that the host has received.
    Last,
    /// An item that is not in sequence: others are missing, or Redis has lost items.
    Broken,
}

/// How what was read relates to a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Continuity {
    /// It contains everything from the position on.
    Complete,
    /// Redis does not keep everything from the position on, or a new epoch has begun.
    Gap,
    /// Redis has lost items that the host has received.
    Lost,
}

impl Position {
    /// Returns the position after everything that was read.
    pub(super) fn after(read: &ChannelItems) -> Self {
        Self {
            epoch: read.epoch.clone(),
            next: read.last + 1,
            tag: read.tag.clone(),
        }
    }

    /// Returns the epoch of the offsets.
    pub(super) fn epoch(&self) -> &str {
        &self.epoch
    }

    /// Returns the offset of the next item.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Moves past an item.
    pub(super) fn advance(&mut self, entry: &Entry) {
        self.next = entry.offset + 1;
        self.tag.clone_from(&entry.tag);
    }

    /// Returns what a message is at this position.
    pub(super) fn order(&self, message: &Message) -> Order {
        let entry = &message.entry;
        if message.epoch != self.epoch {
            Order::Broken
        } else if entry.offset == self.next && entry.previous == self.tag {
            Order::Next
        } else if entry.offset + 1 == self.next && entry.tag == self.tag {
            Order::Last
        } else {
            Order::Broken
        }
    }

    /// Returns whether what was read continues at this position.
    pub(super) fn continuity(&self, read: &ChannelItems) -> Continuity {
        if read.epoch != self.epoch {
            return Continuity::Gap;
        }
        let first = read.items.iter().find(|entry| entry.offset >= self.next);
        match first {
            Some(first) if first.offset > self.next => Continuity::Gap,
            Some(first) if first.previous == self.tag => Continuity::Complete,
            Some(_) => Continuity::Lost,
            None if read.last >= self.next => Continuity::Gap,
            None if read.last + 1 == self.next && read.tag == self.tag => Continuity::Complete,
            None => Continuity::Lost,
        }
    }
}

impl ChannelItems {
    /// Returns whether the item of a message was read.
    pub(super) fn contains(&self, message: &Message) -> bool {
        let Message { epoch, entry } = message;
        let index = self
            .items
            .binary_search_by_key(&entry.offset, |it| it.offset);
        let read = index.ok().and_then(|index| self.items.get(index));
        *epoch == self.epoch && read.is_some_and(|read| read.tag == entry.tag)
    }
}

impl Message {
    /// Parses what `publish.lua` and `read.lua` publish: the epoch, the offset, the tag, the tag of the
    /// item before, and the item.
    pub(super) fn parse(payload: &str) -> Option<Self> {
        let mut fields = payload.splitn(5, ' ');
        let mut field = || fields.next();
        Some(Self {
            epoch: field()?.to_owned(),
            entry: Entry {
                offset: parse_offset(field()?)?,
                tag: field()?.to_owned(),
                previous: field()?.to_owned(),
                item: field()?.to_owned(),
            },
        })
    }
}

/// Parses an offset, which is a signed integer in Redis.
pub(super) fn parse_offset(text: &str) -> Option<u64> {
    let offset: i64 = text.parse().ok()?;
    offset.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The position after the item `t4` with the offset 4.
    fn position() -> Position {
        Position {
            epoch: "e".to_owned(),
            next: 5,
            tag: "t4".to_owned(),
        }
    }

    /// Items of an epoch with their offsets and tags, and the tags of the items before them.
    fn read(epoch: &str, last: (u64, &str), items: &[(u64, &str, &str)]) -> ChannelItems {
        let items = items.iter().map(|(offset, tag, previous)| Entry {
            offset: *offset,
            tag: (*tag).to_owned(),
            previous: (*previous).to_owned(),
            item: String::new(),
        });
        ChannelItems {
            epoch: epoch.to_owned(),
            last: last.0,
            tag: last.1.to_owned(),
            items: items.collect(),
        }
    }

    fn message(payload: &str) -> Message {
        Message::parse(payload).unwrap()
    }

    #[test]
    fn what_was_read_continues_gaps_or_contradicts() {
        use Continuity::{Complete, Gap, Lost};
        let position = position();
        let (t5, t6) = ((5, "t5", "t4"), (6, "t6", "t5"));
        for (read, expected) in [
            (read("e", (4, "t4"), &[]), Complete),
            (read("e", (6, "t6"), &[t5, t6]), Complete),
            // Redis does not keep all items that this host needs.
            (read("e", (6, "t6"), &[t6]), Gap),
            (read("e", (6, "t6"), &[]), Gap),
            (read("f", (4, "t4"), &[]), Gap),
            // Redis has lost the last item, or given its offset to another one.
            (read("e", (3, "t3"), &[]), Lost),
            (read("e", (4, "u4"), &[]), Lost),
            (read("e", (5, "u5"), &[(5, "u5", "u4")]), Lost),
        ] {
            assert_eq!(position.continuity(&read), expected, "{read:?}");
        }
    }

    #[test]
    fn messages_are_in_order_or_not() {
        let position = position();
        for (payload, expected) in [
            ("e 5 t5 t4 {}", Order::Next),
            ("e 4 t4 t3 {}", Order::Last),
            ("e 6 t6 t5 {}", Order::Broken),
            ("e 5 u5 u4 {}", Order::Broken),
            ("e 4 u4 t3 {}", Order::Broken),
            ("e 3 t3 t2 {}", Order::Broken),
            ("f 5 t5 t4 {}", Order::Broken),
            // The beginning of an epoch.
            ("f 0   ", Order::Broken),
        ] {
            assert_eq!(position.order(&message(payload)), expected, "{payload}");
        }
    }

    #[test]
    fn the_first_item_has_no_predecessor() {
        let mut position = Position::after(&read("e", (0, ""), &[]));
        let first = message("e 1 t1  {\"a\": 1}");
        assert_eq!(position.order(&first), Order::Next);
        assert_eq!(first.entry.item, "{\"a\": 1}");
        position.advance(&first.entry);
        assert_eq!(position.order(&first), Order::Last);
        assert_eq!(position.order(&message("e 2 t2 t1 {}")), Order::Next);
    }

    #[test]
    fn items_are_recognized_by_offset_and_tag() {
        let read = read("e", (6, "t6"), &[(5, "t5", "t4"), (6, "t6", "t5")]);
        assert!(read.contains(&message("e 5 t5 t4 {}")));
        assert!(read.contains(&message("e 6 t6 t5 {}")));
        for payload in ["e 5 u5 t4 {}", "e 7 t6 t5 {}", "f 5 t5 t4 {}"] {
            assert!(!read.contains(&message(payload)), "{payload}");
        }
    }

    #[test]
    fn invalid_messages_are_rejected() {
        for payload in [
            "",
            "e",
            "e 1 t",
            "e x t u {}",
            "e -1 t u {}",
            "e 9223372036854775808 t u {}",
        ] {
            assert!(Message::parse(payload).is_none(), "{payload}");
        }
    }
}
