//! The hosts on the bus: which of them are alive, and the members that each has.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, bail};
use grip::Presence;
use redis::RedisResult;
use serde_json::{Map, Value};
use tokio::time::{Instant, interval};
use tracing::{debug, error, info};

use super::{
    Bus, LEASE,
    keys::parse_member_field,
    redis::{Heartbeat, MemberAt},
};
use crate::state::members::{Change, Member};

/// The version of what hosts store in Redis and send to each other. Hosts whose versions differ by more
/// than one cannot share a bus.
const VERSION: u32 = 1;

/// How often all members are announced again, so that Redis does not forget them.
const REFRESH_INTERVAL: Duration = Duration::from_secs(6 * 60 * 60);

impl Bus {
    /// Connects to Redis and joins the other hosts.
    ///
    /// # Errors
    /// Fails if Redis does not answer, or if another host has a version too far from this one's.
    pub(crate) async fn join(&self) -> Result<()> {
        let address = self.redis.address();
        let joined = async {
            self.redis.renew().await?;
            self.redis.heartbeat(&self.host, VERSION, LEASE).await
        };
        let joined = joined.await;
        match joined.with_context(|| format!("--bus: cannot use Redis at {address}"))? {
            Heartbeat::Alive { hosts, .. } => {
                *self.alive.lock() = hosts;
                Ok(())
            }
            Heartbeat::Incompatible(version) => bail!(
                "--bus: a host with version {version} of the bus uses Redis at {address}, and this one \
                 has version {VERSION}: stop it, or update hosts through the versions in between"
            ),
        }
    }

    /// Sends heartbeats. Runs until it is dropped.
    pub(super) async fn send_heartbeats(&self) {
        let mut ticks = interval(LEASE / 3);
        let mut refreshed = Instant::now();
        // Those whose members are not removed yet.
        let mut known = Vec::new();
        loop {
            ticks.tick().await;
            match self.tick(&known).await {
                Ok(alive) => known = alive,
                Err(error) => debug!(%error, "bus: no heartbeat"),
            }
            if refreshed.elapsed() >= REFRESH_INTERVAL {
                refreshed = Instant::now();
                self.members.announce_all();
            }
        }
    }

    /// Sends a heartbeat, removes the members of `known` hosts that have died, and returns the hosts that
    /// are alive.
    async fn tick(&self, known: &[String]) -> RedisResult<Vec<String>> {
        let alive = self.heartbeat().await?;
        if known.iter().any(|host| !alive.contains(host)) {
            info!(hosts = alive.len(), "bus: a host has gone");
            self.remove_dead().await?;
        }
        Ok(alive)
    }

    /// Sends a heartbeat, and returns the hosts that are alive.
    async fn heartbeat(&self) -> RedisResult<Vec<String>> {
        match self.redis.heartbeat(&self.host, VERSION, LEASE).await? {
            Heartbeat::Alive { is_new, hosts } => {
                if is_new {
                    // Redis has lost its data, or other hosts have removed the members of this one.
                    self.members.announce_all();
                }
                self.alive.lock().clone_from(&hosts);
                Ok(hosts)
            }
            Heartbeat::Incompatible(version) => {
                error!(
                    version,
                    "bus: a host with an incompatible version has joined"
                );
                Ok(self.alive.lock().clone())
            }
        }
    }

    /// Announces a change to the members of a channel.
    ///
    /// # Errors
    /// Fails if Redis cannot be reached.
    pub(crate) async fn announce(&self, change: &Change) -> RedisResult<()> {
        let hosts = self.heartbeat().await?;
        match change {
            Change::Joined { member, .. } => {
                let value = serde_json::json!(member.presence).to_string();
                self.announce_at(&self.host, member, Some(&value), "join", &hosts)
                    .await
            }
            Change::Left(member) => {
                self.announce_at(&self.host, member, None, "leave", &hosts)
                    .await
            }
        }
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
        let at = MemberAt {
            host,
            channel: &member.channel,
            id: &member.id,
        };
        let limits = self.channels.limits(&member.channel);
        self.redis
            .announce(
                at,
                value,
                others.filter(|other| *other != host),
                member.item(event).as_ref(),
                limits,
            )
            .await
    }

    /// Returns the members of a channel on all hosts, with what is known of them.
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

    /// Removes the members of dead hosts from the channels of this host.
    async fn remove_dead(&self) -> RedisResult<()> {
        for channel in self.channels.names() {
            let fields = self.redis.members(&channel).await?;
            if fields.is_empty() {
                continue;
            }
            let hosts = self.heartbeat().await?;
            for (host, member) in parse_members(&channel, &fields) {
                if !hosts.contains(&host) {
                    // Of several hosts that do this, one publishes the item.
                    self.announce_at(&host, &member, None, "leave", &hosts)
                        .await?;
                }
            }
        }
        Ok(())
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
