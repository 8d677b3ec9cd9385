//! Probes, which this host publishes to itself, to notice connections that forward nothing.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::keys::{partition_of, probe};

/// The probes of a connection. In a cluster, there is one for each partition that is in use, since
/// each may be on another node.
pub(super) struct Probes<'a> {
    host: &'a str,
    has_partitions: bool,
    /// By partition. `None` stands for all of them, if there is no cluster.
    sent: HashMap<Option<u64>, Probe>,
}

struct Probe {
    /// When something was received last.
    last_received: Instant,
    /// The probe was received.
    is_confirmed: bool,
}

impl<'a> Probes<'a> {
    /// Creates the probes of a host. There is one even if the host has no channels.
    pub(super) fn new(host: &'a str, has_partitions: bool) -> Self {
        let first = has_partitions.then_some(0);
        Self {
            host,
            has_partitions,
            sent: HashMap::from([(first, Probe::new())]),
        }
    }

    /// Adds the probe for a pub/sub channel, and returns the channel of the probe if it is new.
    pub(super) fn add(&mut self, channel: &str) -> Option<String> {
        let partition = self.partition(channel);
        if self.sent.contains_key(&partition) {
            return None;
        }
        self.sent.insert(partition, Probe::new());
        Some(probe(self.host, partition))
    }

    /// Returns the channels of all probes.
    pub(super) fn channels(&self) -> impl Iterator<Item = String> {
        self.sent
            .keys()
            .map(|partition| probe(self.host, *partition))
    }

    /// Records that something was received on a pub/sub channel.
    pub(super) fn received(&mut self, channel: &str, is_probe: bool) {
        let partition = self.partition(channel);
        if let Some(probe) = self.sent.get_mut(&partition) {
            probe.last_received = Instant::now();
            probe.is_confirmed |= is_probe;
        }
    }

    /// Returns whether all probes were received.
    pub(super) fn are_confirmed(&self) -> bool {
        self.sent.values().all(|probe| probe.is_confirmed)
    }

    /// Returns whether nothing was received for longer than `time`, although a probe was sent.
    pub(super) fn is_overdue(&self, time: Duration) -> bool {
        let mut probes = self.sent.values();
        probes.any(|probe| probe.last_received.elapsed() > time)
    }

    fn partition(&self, channel: &str) -> Option<u64> {
        self.has_partitions.then(|| partition_of(channel)).flatten()
    }
}

impl Probe {
    fn new() -> Self {
        Self {
            last_received: Instant::now(),
            is_confirmed: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::keys::Keys, *};

    const TIME: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn one_server_has_one_probe() {
        let mut probes = Probes::new("host", false);
        let (a, b) = (Keys::new("a").messages(0), Keys::new("b").messages(0));
        assert!(probes.channels().eq(["socket-host:probe:host".to_owned()]));
        assert_eq!(probes.add(&a), None);
        tokio::time::advance(TIME * 2).await;
        assert!(probes.is_overdue(TIME) && !probes.are_confirmed());
        // Any message shows that the connection works.
        probes.received(&b, false);
        assert!(!probes.is_overdue(TIME) && !probes.are_confirmed());
        probes.received("socket-host:probe:host", true);
        assert!(probes.are_confirmed());
    }

    #[tokio::test(start_paused = true)]
    async fn each_partition_of_a_cluster_has_a_probe() {
        let mut probes = Probes::new("host", true);
        let channels = [Keys::new("a").messages(0), Keys::new("b").messages(0)];
        let names = channels.each_ref().map(|channel| probes.add(channel));
        let names = names.map(|name| name.unwrap());
        assert_ne!(names[0], names[1]);
        let mut listed: Vec<_> = probes.channels().collect();
        listed.sort();
        let first = "socket-host:{p00}:probe:host".to_owned();
        let mut expected = vec![first.clone(), names[0].clone(), names[1].clone()];
        expected.sort();
        assert_eq!(listed, expected);
        tokio::time::advance(TIME * 2).await;
        probes.received(&first, true);
        probes.received(&names[0], true);
        assert!(probes.is_overdue(TIME) && !probes.are_confirmed());
        probes.received(&names[1], true);
        assert!(!probes.is_overdue(TIME) && probes.are_confirmed());
    }
}
