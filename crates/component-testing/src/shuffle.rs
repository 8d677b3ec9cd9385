//! Random delays, by which a seed decides what happens first.

use std::sync::Arc;

use parking_lot::Mutex;
use rand::{RngExt as _, rngs::StdRng};
use tokio::task::yield_now;

/// How often other tasks run during a delay, at most.
const MAX_YIELDS: u32 = 6;

/// A source of delays, which take no time of the clock. Clones share it.
#[derive(Clone)]
pub(crate) struct Shuffle(Arc<Mutex<StdRng>>);

impl Shuffle {
    pub(crate) fn new(rng: StdRng) -> Self {
        Self(Arc::new(Mutex::new(rng)))
    }

    /// Lets other tasks run, a random number of times.
    pub(crate) async fn delay(&self) {
        let yields = self.0.lock().random_range(0..=MAX_YIELDS);
        for _ in 0..yields {
            yield_now().await;
        }
    }
}
