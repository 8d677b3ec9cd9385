//! A connection for publishing with `--bus-wait`, which waits until replicas have what was published.
//!
//! `WAIT` is about what its own connection has written, and blocks that connection meanwhile. One
//! `WAIT` therefore serves all requests whose items were written before it was sent.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use redis::{ErrorKind, FromRedisValue, RedisResult, ScriptInvocation, aio::MultiplexedConnection};
use tokio::sync::Mutex;

use super::PublishError;
use crate::config::Limits;

/// The time for replicas to acknowledge what was published.
const WAIT_TIMEOUT: Duration = Limits::DEFAULT.bus_wait_timeout;

/// A connection that is not opened again when it breaks, so that all of its commands are executed by
/// one server. Clones share it.
#[derive(Clone)]
pub(super) struct Writer {
    connection: MultiplexedConnection,
    state: Arc<State>,
}

struct State {
    /// The number of replicas that must acknowledge.
    replicas: u32,
    /// The number of requests whose items are written.
    written: AtomicU64,
    acknowledged: Mutex<Acknowledged>,
    is_broken: AtomicBool,
}

/// The result of the last `WAIT`.
#[derive(Default)]
struct Acknowledged {
    /// The number of requests that were written before it.
    written: u64,
    replicas: u32,
}

impl Writer {
    /// Creates a writer that waits for a number of replicas.
    pub(super) fn new(connection: MultiplexedConnection, replicas: u32) -> Self {
        Self {
            connection,
            state: Arc::new(State {
                replicas,
                written: AtomicU64::new(0),
                acknowledged: Mutex::default(),
                is_broken: AtomicBool::new(false),
            }),
        }
    }

    /// Returns whether a command has failed, so that another connection must be opened.
    pub(super) fn is_broken(&self) -> bool {
        self.state.is_broken.load(Relaxed)
    }

    /// Runs a script.
    pub(super) async fn call<T: FromRedisValue>(
        &self,
        call: &ScriptInvocation<'_>,
    ) -> RedisResult<T> {
        let result = call.invoke_async(&mut self.connection.clone()).await;
        result.inspect_err(|_| self.state.is_broken.store(true, Relaxed))
    }

    /// Waits until replicas have everything that [`Self::call`] has written so far.
    ///
    /// # Errors
    /// Fails if too few replicas acknowledge in time, or the connection breaks.
    pub(super) async fn acknowledged(&self) -> Result<(), PublishError> {
        let request = self.state.written.fetch_add(1, Relaxed) + 1;
        let mut last = self.state.acknowledged.lock().await;
        if last.written < request {
            let written = self.state.written.load(Relaxed);
            let replicas = self.wait().await?;
            *last = Acknowledged { written, replicas };
        }
        if last.replicas < self.state.replicas {
            return Err(PublishError::Unacknowledged {
                acknowledged: last.replicas,
                expected: self.state.replicas,
            });
        }
        Ok(())
    }

    async fn wait(&self) -> RedisResult<u32> {
        if self.is_broken() {
            return Err((ErrorKind::Io, "the connection is broken").into());
        }
        let mut command = redis::cmd("WAIT");
        let timeout = u64::try_from(WAIT_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
        command.arg(self.state.replicas).arg(timeout);
        let replicas = command.query_async(&mut self.connection.clone()).await;
        replicas.inspect_err(|_| self.state.is_broken.store(true, Relaxed))
    }
}
