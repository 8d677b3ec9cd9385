//! The hosts on the bus: which of them are alive.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use redis::RedisResult;
use tokio::time::{Instant, interval};
use tracing::{debug, error, info};

use super::{Bus, LEASE, keys::host, redis::Heartbeat};

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
            // Fails if Redis is too old for the scripts, or does not allow them.
            self.redis.probe(&host(&self.host)).await?;
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

    /// Sends heartbeats, and has members checked when a host has died. Runs until it is dropped.
    pub(super) async fn send_heartbeats(&self) {
        let mut ticks = interval(LEASE / 3);
        let mut refreshed = Instant::now();
        // Includes dead hosts whose members are not being removed yet.
        let mut known = self.alive.lock().clone();
        let mut was_settled = true;
        loop {
            ticks.tick().await;
            let heartbeat = self.heartbeat().await;
            let is_settled = self.unchecked.is_settled();
            if is_settled && !was_settled {
                // Others may have removed them while this host was coming back.
                self.members.announce_all();
            }
            was_settled = is_settled;
            match heartbeat {
                Ok(alive) if is_settled => {
                    known.retain(|host| !alive.contains(host));
                    for host in &known {
                        info!(host, "bus: a host has gone");
                    }
                    if !known.is_empty() {
                        self.check_members(self.channels.names());
                    }
                    known = alive;
                }
                Ok(alive) => known.extend(alive),
                Err(error) => debug!(%error, "bus: no heartbeat"),
            }
            if refreshed.elapsed() >= REFRESH_INTERVAL {
                refreshed = Instant::now();
                self.members.announce_all();
            }
        }
    }

    /// Sends a heartbeat, and returns the hosts that are alive.
    pub(super) async fn heartbeat(&self) -> RedisResult<Vec<String>> {
        match self.redis.heartbeat(&self.host, VERSION, LEASE).await? {
            Heartbeat::Alive { is_new, hosts } => {
                if self.unchecked.record_heartbeat() || is_new {
                    // Redis has lost its data, or other hosts have removed the members of this one.
                    self.unchecked.settle();
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
}
