//! The members of channels on all hosts, as Redis has them: by host, so that those of a dead one can be
//! removed.

use std::{
    collections::{BTreeMap, HashSet},
    mem,
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use grip::Presence;
use parking_lot::Mutex;
use redis::RedisResult;
use serde_json::{Map, Value};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};
use tracing::debug;

use super::{Bus, LEASE, keys::parse_member_field};
use crate::state::members::{Change, Member};

/// The channels whose members are checked at the same time.
const CONCURRENT_CHECKS: usize = 32;

/// The pause before a failed check is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

impl Bus {
    /// Has the members of channels checked: those of dead hosts are removed, and those that this host
    /// does not have any more.
    pub(super) fn check_members(&self, channels: impl IntoIterator<Item = Arc<str>>) {
        self.unchecked.add(channels);
    }

    /// Checks members. Runs until it is dropped.
    pub(super) async fn check_all_members(&self) {
        loop {
            let channels = self.unchecked.next().await;
            let checks = channels.into_iter().map(|channel| async move {
                let checked = self.check_channel(&channel).await;
                (channel, checked)
            });
            let mut checks = stream::iter(checks).buffer_unordered(CONCURRENT_CHECKS);
            let mut failed = Vec::new();
            while let Some((channel, checked)) = checks.next().await {
                if let Err(error) = checked {
                    debug!(channel = &*channel, %error, "bus: members not checked");
                    failed.push(channel);
                }
            }
            if !failed.is_empty() {
                sleep(RETRY_PAUSE).await;
                self.check_members(failed);
            }
        }
    }

    async fn check_channel(&self, channel: &Arc<str>) -> RedisResult<()> {
        let fields = self.redis.members(channel).await?;
        if fields.is_empty() {
            return Ok(());
        }
        // Afterwards: a host joins before it has members.
        let hosts = self.heartbeat().await?;
        for (host, member) in parse_members(channel, &fields) {
            let is_gone = if host == self.host {
                !self.members.contains(channel, &member.id)
            } else {
                !hosts.contains(&host)
            };
            if is_gone {
                // Of several hosts that do this, one publishes the item.
                self.announce_at(&host, &member, None, "leave", &hosts)
                    .await?;
                // It may have joined meanwhile.
                self.members.announce(channel, &member.id);
            }
        }
        Ok(())
    }

    /// Announces a change to the members of a channel.
    ///
    /// # Errors
    /// Fails if Redis cannot be reached.
    pub(crate) async fn announce(&self, change: &Change) -> RedisResult<()> {
        let hosts = self.heartbeat().await?;
        let (member, value, event) = match change {
            Change::Joined { member, .. } => {
                let value = serde_json::json!(member.presence).to_string();
                (member, Some(value), "join")
            }
            Change::Left(member) => (member, None, "leave"),
        };
        self.announce_at(&self.host, member, value.as_deref(), event, &hosts)
            .await
    }

    async fn announce_at(
        &self,
        host: &str,
        member: &Member,
        value: Option<&str>,
        event: &str,
        hosts: &[String],
    ) -> RedisResult<()> {
        let others = hosts.iter().map(String::as_str);
        let others = others.filter(|other| *other != host);
        let limits = self.channels.limits(&member.channel);
        let item = member.item(event);
        self.redis
            .announce(host, member, value, others, item.as_ref(), limits)
            .await
    }

    /// Returns the members of a channel on all hosts, each with its `info`.
    ///
    /// # Errors
    /// Fails if Redis cannot be reached.
    pub(crate) async fn members(
        &self,
        channel: &str,
    ) -> RedisResult<BTreeMap<String, Map<String, Value>>> {
        let fields = self.redis.members(channel).await?;
        // Afterwards: a host joins before it has members.
        let hosts = self.heartbeat().await?;
        let members = parse_members(channel, &fields).filter(|(host, _)| hosts.contains(host));
        Ok(members
            .map(|(_, member)| (member.id.to_string(), member.presence.info))
            .collect())
    }
}

/// The channels whose members are to be checked, and when this is possible.
#[derive(Default)]
pub(super) struct Unchecked {
    channels: Mutex<HashSet<Arc<str>>>,
    added: Notify,
    last_heartbeat: Mutex<Option<Instant>>,
    settled: Mutex<Option<Instant>>,
}

impl Unchecked {
    fn add(&self, channels: impl IntoIterator<Item = Arc<str>>) {
        self.channels.lock().extend(channels);
        self.added.notify_one();
    }

    /// Waits for channels, and until they can be checked.
    async fn next(&self) -> HashSet<Arc<str>> {
        loop {
            let settled = *self.settled.lock();
            if let Some(settled) = settled {
                sleep_until(settled).await;
            }
            let channels = mem::take(&mut *self.channels.lock());
            if !channels.is_empty() {
                return channels;
            }
            self.added.notified().await;
        }
    }

    /// Records a heartbeat, and returns whether it was late.
    pub(super) fn record_heartbeat(&self) -> bool {
        let last = self.last_heartbeat.lock().replace(Instant::now());
        last.is_some_and(|last| last.elapsed() > LEASE / 2)
    }

    /// Suspends checks until other hosts have had the time for a heartbeat. After an outage, all of them
    /// have been silent for longer than the lease.
    pub(super) fn settle(&self) {
        *self.settled.lock() = Some(Instant::now() + LEASE);
    }

    pub(super) fn is_settled(&self) -> bool {
        let settled = *self.settled.lock();
        settled.is_none_or(|settled| settled <= Instant::now())
    }
}

/// Parses the fields and values of [`Keys::members`](super::keys::Keys::members). Ignores what another
/// version has written.
fn parse_members<'a>(
    channel: &'a str,
    fields: &'a [(String, String)],
) -> impl Iterator<Item = (String, Member)> + 'a {
    fields.iter().filter_map(move |(field, value)| {
        let (host, id) = parse_member_field(field)?;
        let presence: Presence = serde_json::from_str(value).ok()?;
        let member = Member {
            channel: channel.into(),
            id: id.into(),
            presence,
        };
        Some((host.to_owned(), member))
    })
}
