//! The bus: carries publications between hosts that share a Redis server.
//!
//! - `redis` publishes items and reads those of a channel. Each step is one script, so that the
//!   items of a channel have one order.
//! - `feed` receives what is published to the channels of this host, in that order.
//! - `keys` are the names in Redis.

mod feed;
mod keys;
mod redis;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use ::redis::{Client, RedisError};
use anyhow::{Context as _, Result, bail};
use grip::Item;
use spin_runtime::runtime_config::KeyValueStore;
use tokio::time::interval;
use tracing::{debug, info, warn};
use uuid::Uuid;

use self::redis::Redis;
use crate::{config::Limits, pubsub::channels::Channels};

/// How long the timers pause at most when the host that calls them dies.
const LEASE: Duration = Limits::DEFAULT.timer_lease;

/// The connection of a host to the bus.
pub(crate) struct Bus {
    redis: Redis,
    /// The name of this host.
    host: String,
    channels: Channels,
    /// The host receives its own probes.
    is_up: AtomicBool,
    /// The lease must not be renewed any more.
    is_released: AtomicBool,
}

impl Bus {
    /// Creates the connection of `channels` to the Redis server at `url`.
    ///
    /// # Errors
    /// Fails if the URL is invalid.
    pub(crate) fn new(url: &str, channels: Channels) -> Result<Arc<Self>> {
        let redis = Client::open(url).and_then(Redis::new).context(
            "--bus: expected the URL of a Redis server, such as redis://127.0.0.1:6379/1",
        )?;
        Ok(Arc::new(Self {
            redis,
            host: Uuid::new_v4().simple().to_string(),
            channels,
            is_up: AtomicBool::new(true),
            is_released: AtomicBool::new(false),
        }))
    }

    /// Checks that Redis answers.
    ///
    /// # Errors
    /// Fails if it does not.
    pub(crate) async fn check(&self) -> Result<()> {
        let address = self.redis.address();
        let answered = self.redis.ping().await;
        answered.with_context(|| format!("--bus: no answer from Redis at {address}"))
    }

    /// Checks that no key-value store is in the database of the bus: a store lists all keys of its
    /// database.
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

    /// Returns whether the bus works.
    pub(crate) fn is_up(&self) -> bool {
        self.is_up.load(Relaxed)
    }

    /// Publishes items, in order.
    ///
    /// # Errors
    /// Fails if Redis cannot be reached. Some of the items may then have been published.
    pub(crate) async fn publish(&self, items: &[Item]) -> Result<(), RedisError> {
        for item in items {
            let json = serde_json::json!(item).to_string();
            let limits = self.channels.limits(&item.channel);
            self.redis.publish(item, &json, limits).await?;
        }
        Ok(())
    }

    /// Receives what is published to the channels of this host, and renews its lease for the timers.
    /// Runs until it is dropped.
    pub(crate) async fn run(self: Arc<Self>) {
        tokio::join!(feed::run(&self), self.renew_lease());
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
