//! Tokens that stop tasks one by one, or all at once.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::state::gradual::end_gradually;

/// The tokens of running tasks. Clones share them.
#[derive(Clone)]
pub(crate) struct StopTokens(Arc<Tokens>);

struct Tokens {
    /// Stops all tasks.
    all: CancellationToken,
    running: Mutex<HashMap<u64, CancellationToken>>,
    next_id: AtomicU64,
}

/// Keeps the token of a task registered until it is dropped.
pub(crate) struct StopGuard {
    tokens: StopTokens,
    id: u64,
    token: CancellationToken,
}

impl StopTokens {
    /// Creates a registry of tasks that `all` stops.
    pub(crate) fn new(all: CancellationToken) -> Self {
        Self(Arc::new(Tokens {
            all,
            running: Mutex::default(),
            next_id: AtomicU64::new(0),
        }))
    }

    /// Registers a task.
    pub(crate) fn register(&self) -> StopGuard {
        // A child token, so that waiting for it does not contend for a shared lock.
        let token = self.0.all.child_token();
        let id = self.0.next_id.fetch_add(1, Relaxed);
        self.0.running.lock().insert(id, token.clone());
        StopGuard {
            tokens: self.clone(),
            id,
            token,
        }
    }

    /// Stops all tasks within `time`, including those that are registered meanwhile.
    pub(crate) async fn stop_gradually(&self, time: Duration) {
        end_gradually(time, || self.running(), CancellationToken::cancel).await;
    }

    fn running(&self) -> Vec<CancellationToken> {
        let running = self.0.running.lock();
        let running = running.values().filter(|token| !token.is_cancelled());
        running.cloned().collect()
    }
}

impl StopGuard {
    /// Returns the token, which is cancelled when the task should stop.
    pub(crate) fn token(&self) -> CancellationToken {
        self.token.clone()
    }
}

impl Drop for StopGuard {
    fn drop(&mut self) {
        self.tokens.0.running.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn tasks_are_stopped_one_by_one_or_all_at_once() {
        let all = CancellationToken::new();
        let tokens = StopTokens::new(all.clone());
        let guards: Vec<_> = (0..100).map(|_| tokens.register()).collect();
        let stopping = tokens.stop_gradually(Duration::from_secs(10));
        tokio::pin!(stopping);
        let half = tokio::time::sleep(Duration::from_secs(5));
        tokio::select! {
            () = &mut stopping => panic!("too early"),
            () = half => {}
        }
        let running = tokens.running().len();
        assert!((40..60).contains(&running), "{running}");
        // Is stopped as well.
        let late = tokens.register();
        stopping.await;
        assert!(late.token().is_cancelled() && tokens.running().is_empty());

        let other = tokens.register();
        assert!(!other.token().is_cancelled());
        all.cancel();
        assert!(other.token().is_cancelled());
        drop((guards, late, other));
        assert!(tokens.0.running.lock().is_empty());
    }
}
