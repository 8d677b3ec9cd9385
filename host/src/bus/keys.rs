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

    /// The pub/sub channel. It names the database, which Redis does not do.
    pub(super) fn messages(&self, database: i64) -> String {
        self.name(format_args!("messages:{database}"))
    }
}

/// What the names begin with that concern hosts. They are in the first partition, which always has a
/// probe.
const HOSTS: &str = "socket-host:{p00}:hosts";

/// The pub/sub channel of one host, for answers.
pub(super) fn host(host: &str) -> String {
    format!("{HOSTS}:host:{host}")
}

/// The pub/sub channel of all hosts that use a database, for queries.
pub(super) fn all_hosts(database: i64) -> String {
    format!("{HOSTS}:all:{database}")
}

/// Returns whether a pub/sub channel is one of hosts.
pub(super) fn is_of_hosts(channel: &str) -> bool {
    channel.starts_with(HOSTS)
}

/// The hosts, by the time in milliseconds when they count as dead.
pub(super) fn alive() -> String {
    format!("{HOSTS}:alive")
}

/// A hash with the versions of the hosts.
pub(super) fn versions() -> String {
    format!("{HOSTS}:versions")
}

/// The field of [`Keys::members`] for the connections of a member to a host.
pub(super) fn member_field(host: &str, member: &str) -> String {
    format!("{host} {member}")
}

/// Returns the host and the member of a field that [`member_field`] has returned.
pub(super) fn parse_member_field(field: &str) -> Option<(&str, &str)> {
    field.split_once(' ')
}

/// The pub/sub channel on which a host receives its own probes, of one partition or of all.
pub(super) fn probe(host: &str, partition: Option<u64>) -> String {
    match partition {
        Some(partition) => format!("{PREFIX}:{{p{partition:02x}}}:probe:{host}"),
        None => format!("{PREFIX}:probe:{host}"),
    }
}

/// Returns the hash tag of a name, with which a cluster chooses the node.
pub(super) fn hash_tag(name: &str) -> Option<&str> {
    let (_, rest) = name.split_once('{')?;
    let (tag, _) = rest.split_once('}')?;
    Some(tag)
}

/// Returns the partition of a pub/sub channel.
pub(super) fn partition_of(name: &str) -> Option<u64> {
    let partition = hash_tag(name)?.strip_prefix('p')?;
    u64::from_str_radix(partition, 16).ok()
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
    let (_, rest) = rest.split_once(":messages:")?;
    let (_database, channel) = rest.split_once(':')?;
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
        let tags = [
            keys.position(),
            keys.items(),
            keys.id("1"),
            keys.messages(1),
        ]
        .map(tag);
        assert_eq!(tags, ["{p4c}"; 4].map(str::to_owned));
        assert_ne!(Keys::new("a").id("b:c"), Keys::new("a:b").id("c"));
    }

    #[test]
    fn partitions_are_found_by_names() {
        assert_eq!(partition_of(&Keys::new("orders").messages(1)), Some(0x4c));
        assert_eq!(partition_of(&probe("host", Some(5))), Some(5));
        assert_eq!(partition_of(&probe("host", None)), None);
    }

    #[test]
    fn channels_are_found_by_their_names() {
        for channel in ["orders", "a:b", "", ":messages:", "{p00}", "ü"] {
            assert_eq!(channel_of(&Keys::new(channel).messages(1)), Some(channel));
        }
        assert_eq!(channel_of("orders"), None);
        assert_eq!(channel_of(&host("1")), None);
        assert_eq!(channel_of(&all_hosts(1)), None);
        assert_eq!(channel_of(&probe("host", None)), None);
        assert_eq!(channel_of(&probe("host", Some(1))), None);
    }
}
