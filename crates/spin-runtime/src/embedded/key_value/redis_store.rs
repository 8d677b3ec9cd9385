//! Key-value stores in a Redis server, as Spin keeps them: each key and value is a Redis string of
//! the same name, and numbers are decimal.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use redis::{
    Client, Cmd, FromRedisValue, RedisError,
    aio::{ConnectionManager, ConnectionManagerConfig},
    cmd,
};
use tokio::sync::Semaphore;

use super::store::{Cursor, KeyPage, Pending, Store, StoreError, Swap, pair_size};
use crate::{embedded::result_size::ResultSize, limits::Limits, rate_limited_log::RateLimitedLog};

/// The number of keys that the server looks at for a page.
const SCAN_COUNT: usize = 512;
/// The cursor of the first page, and that of the server after the last one.
const SCAN_START: &str = "0";
/// Replaces the value of a key if it is the expected one. The last argument is whether a value is
/// expected. A script is atomic.
const SWAP: &str = "local value = redis.call('GET', KEYS[1])
if ARGV[3] == '1' then
  if value ~= ARGV[1] then return 0 end
elseif value then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2])
return 1";

/// A key-value store in a Redis server.
pub(in crate::embedded) struct RedisStore(Arc<Shared>);

struct Shared {
    client: Client,
    config: ConnectionManagerConfig,
    /// Connects for the first operation, and again after an error.
    connection: OnceLock<ConnectionManager>,
    /// One permit for each operation in progress.
    permits: Semaphore,
    max_result_bytes: usize,
    label: String,
    failed: RateLimitedLog,
}

impl RedisStore {
    /// Describes a store. The server need not be reachable yet.
    ///
    /// # Errors
    /// Fails if the URL is invalid.
    pub(in crate::embedded) fn new(
        label: &str,
        url: &str,
        limits: &Limits,
    ) -> anyhow::Result<Self> {
        // The error of the crate may contain the URL, which may contain a password.
        let client = Client::open(url).map_err(|_| {
            anyhow::anyhow!(
                "invalid url: expected an address such as redis://localhost:6379 or rediss://host"
            )
        })?;
        let timeout = Some(limits.redis_timeout);
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(timeout)
            .set_response_timeout(timeout)
            // The next operation connects again.
            .set_number_of_retries(1);
        let log_label = label.to_owned();
        Ok(Self(Arc::new(Shared {
            client,
            config,
            connection: OnceLock::new(),
            permits: Semaphore::new(limits.pending_store_operations),
            max_result_bytes: limits.query_result_bytes,
            label: label.to_owned(),
            failed: RateLimitedLog::new(limits.log_lines_per_second, move |suppressed| {
                tracing::error!(store = log_label, suppressed, "Redis operation failed");
            }),
        })))
    }

    fn run<T, F>(&self, operation: impl FnOnce(Arc<Shared>) -> F + Send + 'static) -> Pending<T>
    where
        F: Future<Output = Result<T, StoreError>> + Send,
    {
        let shared = self.0.clone();
        Box::pin(async move {
            let limited = shared.clone();
            let _permit = limited
                .permits
                .acquire()
                .await
                .map_err(|_| StoreError("the key-value store has stopped".into()))?;
            operation(shared).await
        })
    }
}

impl Shared {
    fn connection(&self) -> Result<ConnectionManager, RedisError> {
        if let Some(connection) = self.connection.get() {
            return Ok(connection.clone());
        }
        let connection =
            ConnectionManager::new_lazy_with_config(self.client.clone(), self.config.clone())?;
        Ok(self.connection.get_or_init(|| connection).clone())
    }

    async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        let result = self.try_query(command).await;
        result.map_err(|error| self.failed(&error))
    }

    /// Runs a command that has the same effect when it runs twice. It is sent again if its
    /// connection turns out to be closed, as after a restart of the server.
    async fn query_idempotent<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        match self.try_query(command).await {
            Err(error) if error.is_connection_dropped() => self.query(command).await,
            result => result.map_err(|error| self.failed(&error)),
        }
    }

    async fn try_query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        command.query_async(&mut self.connection()?).await
    }

    fn failed(&self, error: &RedisError) -> StoreError {
        self.failed
            .log(|| tracing::error!(store = self.label, %error, "Redis operation failed"));
        StoreError(format!("Redis: {error}"))
    }

    fn result_size(&self) -> ResultSize {
        ResultSize::new(self.max_result_bytes)
    }

    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let value: Option<Vec<u8>> = self.query_idempotent(cmd("GET").arg(key)).await?;
        self.result_size().add(pair_size("", value.as_ref()))?;
        Ok(value)
    }

    async fn get_many(
        &self,
        keys: Vec<String>,
    ) -> Result<Vec<(String, Option<Vec<u8>>)>, StoreError> {
        let mut unique: Vec<&String> = keys.iter().collect();
        unique.sort_unstable();
        unique.dedup();
        if unique.is_empty() {
            return Ok(Vec::new());
        }
        let values: Vec<Option<Vec<u8>>> = self.query_idempotent(cmd("MGET").arg(&unique)).await?;
        let values: HashMap<_, _> = unique.into_iter().zip(values).collect();
        let mut size = self.result_size();
        let pairs = keys.iter().map(|key| {
            let value = values.get(key).and_then(Option::as_ref);
            size.add(pair_size(key, value))?;
            Ok((key.clone(), value.cloned()))
        });
        pairs.collect()
    }

    async fn keys(&self, cursor: Option<Cursor>) -> Result<KeyPage, StoreError> {
        let mut cursor = cursor.map_or_else(|| SCAN_START.to_owned(), |cursor| cursor.0);
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(&cursor).arg("COUNT").arg(SCAN_COUNT);
            let (next, keys): (String, Vec<String>) = self.query_idempotent(&scan).await?;
            let next = (next != SCAN_START).then_some(next);
            match next {
                // The server may find nothing in a part of its keys.
                Some(next) if keys.is_empty() => cursor = next,
                next => {
                    return Ok(KeyPage {
                        keys,
                        next: next.map(Cursor),
                    });
                }
            }
        }
    }
}

impl Store for RedisStore {
    fn get(&self, key: String) -> Pending<Option<Vec<u8>>> {
        self.run(async move |shared| shared.get(&key).await)
    }

    fn exists(&self, key: String) -> Pending<bool> {
        self.run(async move |shared| shared.query_idempotent(cmd("EXISTS").arg(&key)).await)
    }

    fn set(&self, pairs: Vec<(String, Vec<u8>)>) -> Pending<()> {
        self.run(async move |shared| {
            if pairs.is_empty() {
                return Ok(());
            }
            let mut set = cmd("MSET");
            for (key, value) in &pairs {
                set.arg(key).arg(value);
            }
            shared.query_idempotent(&set).await
        })
    }

    fn delete(&self, keys: Vec<String>) -> Pending<()> {
        self.run(async move |shared| {
            if keys.is_empty() {
                return Ok(());
            }
            shared.query_idempotent(cmd("DEL").arg(&keys)).await
        })
    }

    fn get_many(&self, keys: Vec<String>) -> Pending<Vec<(String, Option<Vec<u8>>)>> {
        self.run(async move |shared| shared.get_many(keys).await)
    }

    fn keys(&self, cursor: Option<Cursor>) -> Pending<KeyPage> {
        self.run(async move |shared| shared.keys(cursor).await)
    }

    fn increment(&self, key: String, delta: i64) -> Pending<i64> {
        self.run(async move |shared| shared.query(cmd("INCRBY").arg(&key).arg(delta)).await)
    }

    fn swap(&self, key: String, expected: Option<Vec<u8>>, value: Vec<u8>) -> Pending<Swap> {
        self.run(async move |shared| {
            let mut swap = cmd("EVAL");
            swap.arg(SWAP)
                .arg(1)
                .arg(&key)
                .arg(expected.as_deref().unwrap_or_default())
                .arg(&value)
                .arg(u8::from(expected.is_some()));
            Ok(if shared.query(&swap).await? {
                Swap::Done
            } else {
                Swap::Changed
            })
        })
    }
}
