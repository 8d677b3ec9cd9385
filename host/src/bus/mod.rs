//! The bus: carries publications between hosts that share a Redis server.
//!
//! - `redis` publishes items and reads those of a channel. Each step is one script, so that the
//!   items of a channel have one order.
//! - `feed` receives what is published to the channels of this host, in that order.
//! - `probes` notice connections that forward nothing.
//! - `position` tells whether what was received or read is in sequence.
//! - `servers` are those that the URL names, and `connect` opens connections to them. `connection` is
//!   one for commands, `subscriber` one that receives messages, and `writer` one that publishes and
//!   waits for replicas.
//! - `hosts` knows which hosts are alive, and `members` the members of channels that each of them has.
//! - `query` asks all hosts.
//! - `keys` are the names in Redis.

mod connect;
mod connection;
mod feed;
mod hosts;
mod keys;
mod members;
mod position;
mod probes;
pub(crate) mod query;
mod redis;
mod servers;
mod subscriber;
mod writer;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use ::redis::RedisError;
use anyhow::{Context as _, Result, bail, ensure};
use grip::Item;
use parking_lot::Mutex;
use spin_runtime::{RateLimitedLog, runtime_config::KeyValueStore};
use thiserror::Error;
use tokio::time::interval;
use tracing::{debug, info, warn};

use self::{
    members::Unchecked,
    probes::Probes,
    query::{Requests, host_name},
    redis::Redis,
    servers::Servers,
};
use crate::{
    config::Limits,
    pubsub::channels::Channels,
    state::{members::Members, sessions::Sessions, users::Users},
    ws::tokens::SocketTokens,
};

/// How long a host may be silent. It then counts as dead, and another one calls the timers.
const LEASE: Duration = Limits::DEFAULT.bus_lease;

const FAILURE_LINES_PER_SECOND: usize = spin_runtime::Limits::DEFAULT.log_lines_per_second;

/// The connection of a host to the bus.
pub(crate) struct Bus {
    redis: Redis,
    /// The name of this host.
    host: String,
    channels: Channels,
    users: Users,
    sessions: Arc<Sessions>,
    members: Members,
    /// The WebSockets to which components of other hosts send frames.
    tokens: SocketTokens,
    /// The hosts that were alive at the last heartbeat.
    alive: Mutex<Vec<String>>,
    /// The channels whose members are to be checked.
    unchecked: Unchecked,
    requests: Requests,
    /// Logs failures that publishers and clients of the control port cause as often as they like.
    failures: RateLimitedLog,
    /// The host receives its own probes.
    is_up: AtomicBool,
    /// The lease must not be renewed any more.
    is_released: AtomicBool,
}

/// Why items may not have been published.
#[derive(Debug, Error)]
pub(crate) enum PublishError {
    #[error("the bus is down")]
    Down(#[source] RedisError),
    #[error("the bus has refused the items")]
    Refused(#[source] RedisError),
    #[error("{acknowledged} of {expected} replicas of the bus have acknowledged the items")]
    Unacknowledged { acknowledged: u32, expected: u32 },
}

impl From<RedisError> for PublishError {
    fn from(error: RedisError) -> Self {
        if redis::is_refused(&error) {
            Self::Refused(error)
        } else {
            Self::Down(error)
        }
    }
}

/// Checks that the Redis server at a URL of `--bus` can be used, and returns its address.
///
/// # Errors
/// Fails if the URL is invalid, or the server does not answer or allow what the bus needs.
pub(crate) async fn check(url: &str) -> Result<String> {
    let redis = Redis::new(Servers::parse(url)?, 0);
    let address = redis.address();
    let checked = async {
        redis.renew().await?;
        redis.probe(&keys::host("check")).await
    };
    let checked = checked.await;
    checked.with_context(|| format!("cannot use Redis at {address}"))?;
    Ok(address)
}

impl Bus {
    /// Creates the connection of a host's channels, users, sessions and members to the Redis server at
    /// `url`. With `replicas` above 0, as many must have what is published.
    ///
    /// # Errors
    /// Fails if the URL is invalid.
    pub(crate) fn new(
        url: &str,
        replicas: u32,
        channels: Channels,
        users: Users,
        sessions: Arc<Sessions>,
        members: Members,
        tokens: SocketTokens,
    ) -> Result<Arc<Self>> {
        let servers = Servers::parse(url).context(
            "--bus: expected the URL of a Redis server, such as redis://127.0.0.1:6379/1, of \
             sentinels, such as redis-sentinel://10.0.0.1:26379,10.0.0.2:26379/mymaster/1, or of a \
             cluster, such as redis-cluster://10.0.0.1:7000,10.0.0.2:7000",
        )?;
        ensure!(
            replicas == 0 || !servers.are_cluster(),
            "--bus-wait does not work with a cluster: leave it out, or use redis:// or \
             redis-sentinel://"
        );
        Ok(Arc::new(Self {
            redis: Redis::new(servers, replicas),
            host: host_name(tokens.host()),
            tokens,
            channels,
            users,
            sessions,
            members,
            alive: Mutex::default(),
            unchecked: Unchecked::default(),
            requests: Requests::default(),
            failures: RateLimitedLog::new(FAILURE_LINES_PER_SECOND, |suppressed| {
                warn!(suppressed, "bus: requests failed");
            }),
            is_up: AtomicBool::new(true),
            is_released: AtomicBool::new(false),
        }))
    }

    /// Checks, once connected, that no key-value store is in the database of the bus: a store lists all
    /// keys of its database.
    ///
    /// # Errors
    /// Fails if one is.
    pub(crate) fn check_stores(&self, stores: &BTreeMap<String, KeyValueStore>) -> Result<()> {
        for (label, store) in stores {
            if let KeyValueStore::Redis { url } = store
                && self.redis.is_database(url)
            {
                bail!(
                    "--bus uses the same Redis database as the key-value store {label:?}: choose \
                     another one, such as database 1 in redis://127.0.0.1:6379/1"
                );
            }
        }
        Ok(())
    }

    /// Logs a failure, unless there are too many.
    pub(crate) fn log_failure(&self, write: impl FnOnce()) {
        self.failures.log(write);
    }

    /// Returns whether the bus works.
    pub(crate) fn is_up(&self) -> bool {
        self.is_up.load(Relaxed)
    }

    /// Returns how long a subscription may take to be confirmed. Without the bus, clients are subscribed
    /// later.
    pub(crate) fn confirmation_timeout(&self) -> Duration {
        if self.is_up() {
            Limits::DEFAULT.bus_timeout
        } else {
            Duration::ZERO
        }
    }

    /// Returns the name of this host.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Returns the names of the hosts that were alive at the last heartbeat, sorted.
    pub(crate) fn hosts(&self) -> Vec<String> {
        let mut hosts = self.alive.lock().clone();
        hosts.sort_unstable();
        hosts
    }

    /// Publishes items, in order.
    ///
    /// # Errors
    /// Fails if Redis cannot be reached, or too few replicas acknowledge. Some or all of the items may
    /// then have been published.
    pub(crate) async fn publish(&self, items: &[Item]) -> Result<(), PublishError> {
        let writer = self.redis.writer().await?;
        for item in items {
            let json = serde_json::json!(item).to_string();
            let limits = self.channels.limits(&item.channel);
            self.redis
                .publish(item, &json, limits, writer.as_ref())
                .await?;
        }
        match writer {
            Some(writer) => writer.acknowledged().await,
            None => Ok(()),
        }
    }

    /// Receives what is published to the channels of this host, renews its lease for the timers, and
    /// sends heartbeats. Runs until it is dropped.
    pub(crate) async fn run(self: Arc<Self>) {
        tokio::join!(
            feed::run(&self),
            self.renew_lease(),
            self.send_heartbeats(),
            self.check_all_members()
        );
    }

    /// Begins a run of a timer, which one of the hosts calls. Returns the number of the run, or `None`
    /// if another host calls it or the bus is down.
    pub(crate) async fn begin_run(&self, timer: &str) -> Option<u64> {
        let begun = self.redis.begin_run(&self.host, timer).await;
        begun
            .inspect_err(|error| warn!(timer, %error, "timer not called: no answer from the bus"))
            .ok()
            .flatten()
    }

    /// Lets another host call the timers from now on.
    pub(crate) async fn release_lease(&self) {
        self.is_released.store(true, Relaxed);
        if let Err(error) = self.redis.release_lease(&self.host).await {
            debug!(%error, "bus: lease not released");
        }
    }

    async fn renew_lease(&self) {
        // Another host may try to take the lease right before it ends, and again after a pause.
        let pause = LEASE / 4;
        let mut renewals = interval(pause);
        loop {
            renewals.tick().await;
            if self.is_released.load(Relaxed) {
                return;
            }
            if let Err(error) = self.redis.renew_lease(&self.host, LEASE - pause).await {
                debug!(%error, "bus: lease not renewed");
            }
            if self.is_released.load(Relaxed) {
                // It was released while it was being renewed.
                self.release_lease().await;
            }
        }
    }

    /// Returns the probes of a connection of this host.
    fn probes(&self) -> Probes<'_> {
        Probes::new(&self.host, self.redis.is_cluster())
    }

    fn set_up(&self, is_up: bool) {
        if self.is_up.swap(is_up, Relaxed) != is_up {
            let address = self.redis.address();
            if is_up {
                info!(redis = address, "bus: connected");
            } else {
                warn!(
                    redis = address,
                    "bus: down, publish requests are refused until it is back"
                );
            }
        }
    }
}
