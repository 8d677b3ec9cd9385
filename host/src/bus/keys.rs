//! The names of keys and pub/sub channels in Redis.
//!
//! All keys of a channel have the same hash tag, `{pNN}`, so that a script can use them in a cluster.

/// The number of hash tags.
const PARTITIONS: u64 = 128;

/// What all names begin with.
const PREFIX: &str = "socket-host";

/// The names for one channel.
pub(super) struct Keys<'a> {
    channel: &'a str,
    partition: u64,
}

impl<'a> Keys<'a> {
    pub(super) fn new(channel: &'a str) -> Self {
        Self {
            channel,
            partition: fnv1a(channel.as_bytes()) % PARTITIONS,
        }
    }

    fn name(&self, kind: impl std::fmt::Display) -> String {
        let Self { channel, partition } = self;
        format!("{PREFIX}:{{p{partition:02x}}}:{kind}:{channel}")
    }

    /// A hash with the epoch and the last offset.
    pub(super) fn position(&self) -> String {
        self.name("position")
    }

    /// A stream of the last items. The ids of its entries are the offsets.
    pub(super) fn items(&self) -> String {
        self.name("items")
    }

    /// The offset of the item with an id.
    pub(super) fn id(&self, id: &str) -> String {
        // The length keeps `a` with the id `b:c` apart from `a:b` with the id `c`.
        let name = self.name(format_args!("id:{}", self.channel.len()));
        format!("{name}:{id}")
    }

    /// A hash of the channel's members, see [`member_field`].
    pub(super) fn members(&self) -> String {
        self.name("members")
    }

    /// The pub/sub channel.
    pub(super) fn messages(&self) -> String {
        self.name("messages")
    }
}

/// The pub/sub channel of one host, for its own probes and for answers.
pub(super) fn host(host: &str) -> String {
    format!("{PREFIX}:host:{host}")
}

/// The pub/sub channel of all hosts, for questions.
pub(super) fn all_hosts() -> String {
    format!("{PREFIX}:hosts")
}

/// The hosts, by the time in milliseconds when they count as dead.
pub(super) fn alive() -> String {
    format!("{PREFIX}:{{hosts}}:alive")
}

/// A hash with the versions of the hosts.
pub(super) fn versions() -> String {
    format!("{PREFIX}:{{hosts}}:versions")
}

/// The field of [`Keys::members`] for the connections of a member to a host.
pub(super) fn member_field(host: &str, member: &str) -> String {
    format!("{host} {member}")
}

/// Returns the host and the member of a field that [`member_field`] has returned.
pub(super) fn parse_member_field(field: &str) -> Option<(&str, &str)> {
    field.split_once(' ')
}

/// Which host calls the timers.
pub(super) fn lease() -> String {
    format!("{PREFIX}:{{timers}}:lease")
}

/// The number of runs of a timer.
pub(super) fn runs(timer: &str) -> String {
    format!("{PREFIX}:{{timers}}:runs:{timer}")
}

/// Returns the channel of a name that [`Keys::messages`] has returned.
pub(super) fn channel_of(messages: &str) -> Option<&str> {
    let rest = messages.strip_prefix(PREFIX)?;
    let (_, channel) = rest.split_once(":messages:")?;
    Some(channel)
}

/// Returns the hash FNV-1a with 64 bits. All hosts must agree on it.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_channel_share_a_hash_tag() {
        let keys = Keys::new("orders");
        let tag = |name: String| name[name.find('{').unwrap()..=name.find('}').unwrap()].to_owned();
        let tags = [keys.position(), keys.items(), keys.id("1"), keys.messages()].map(tag);
        assert_eq!(tags, ["{p4c}"; 4].map(str::to_owned));
        assert_ne!(Keys::new("a").id("b:c"), Keys::new("a:b").id("c"));
    }

    #[test]
    fn channels_are_found_by_their_names() {
        for channel in ["orders", "a:b", "", ":messages:", "{p00}", "ü"] {
            assert_eq!(channel_of(&Keys::new(channel).messages()), Some(channel));
        }
        assert_eq!(channel_of("orders"), None);
        assert_eq!(channel_of(&host("1")), None);
        assert_eq!(channel_of(&all_hosts()), None);
    }
}
