//! The single-threaded runtime in which everything runs, with a clock that is moved by hand.

use std::{
    future::{Future, pending, poll_fn},
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use futures_util::task::AtomicWaker;
use tokio::{
    runtime::{Builder, EnterGuard},
    time::{Instant, sleep_until},
};
use tracing::Dispatch;

/// A Tokio runtime with a paused clock.
///
/// Time passes only while it runs a future, and only if everything waits for a time: the clock then
/// moves to the first of these times.
pub(crate) struct Runtime {
    tokio: tokio::runtime::Runtime,
    idle: Arc<Idle>,
    /// Receives the log of the host.
    log: Dispatch,
}

impl Runtime {
    /// # Errors
    /// Fails if the system provides no resources for it.
    pub(crate) fn start(log: Dispatch) -> io::Result<Self> {
        let idle = Arc::<Idle>::default();
        let tokio = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .on_thread_park({
                let idle = idle.clone();
                move || idle.notify()
            })
            .build()?;
        Ok(Self { tokio, idle, log })
    }

    /// Enters the context in which Tokio's clock is that of the runtime.
    pub(crate) fn enter(&self) -> EnterGuard<'_> {
        self.tokio.enter()
    }

    /// Calls a function whose log is recorded.
    pub(crate) fn with_log<T>(&self, call: impl FnOnce() -> T) -> T {
        tracing::dispatcher::with_default(&self.log, call)
    }

    /// Runs a future, and then everything else until it waits for a time.
    pub(crate) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.with_log(|| {
            self.tokio.block_on(async {
                let output = future.await;
                self.idle.wait().await;
                output
            })
        })
    }

    /// Runs everything until it waits for a time.
    pub(crate) fn settle(&self) {
        self.run(async {});
    }

    /// Moves the clock, and runs what is due in the meantime.
    pub(crate) fn advance(&self, duration: Duration) {
        self.run(async { sleep_until(Instant::now() + duration).await });
    }
}

/// Waits until a time, or forever.
pub(crate) async fn sleep_until_some(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

/// Detects when all tasks of the runtime wait.
#[derive(Default)]
struct Idle {
    /// The number of times that this was the case.
    count: AtomicU64,
    waker: AtomicWaker,
}

impl Idle {
    fn notify(&self) {
        self.count.fetch_add(1, Relaxed);
        // This keeps the runtime from moving the clock.
        self.waker.wake();
    }

    async fn wait(&self) {
        let count = self.count.load(Relaxed);
        poll_fn(|cx| {
            self.waker.register(cx.waker());
            if self.count.load(Relaxed) == count {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    fn runtime() -> Runtime {
        Runtime::start(Dispatch::none()).expect("a runtime")
    }

    #[test]
    fn settling_runs_everything_and_moves_no_clock() {
        let runtime = runtime();
        let steps = Arc::new(Mutex::new(Vec::new()));
        let start = runtime.run({
            let steps = steps.clone();
            async move {
                tokio::spawn(async move {
                    for step in 0..500 {
                        steps.lock().push(step);
                        tokio::task::yield_now().await;
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    steps.lock().push(500);
                });
                Instant::now()
            }
        });
        assert_eq!(steps.lock().len(), 500);
        runtime.settle();
        assert_eq!(runtime.run(async { Instant::now() }), start);
        runtime.advance(Duration::from_millis(999));
        assert_eq!(steps.lock().len(), 500);
        runtime.advance(Duration::from_millis(1));
        assert_eq!(steps.lock().len(), 501);
    }

    #[test]
    fn advancing_stops_at_each_time() {
        let runtime = runtime();
        let times = Arc::new(Mutex::new(Vec::new()));
        runtime.run({
            let times = times.clone();
            async move {
                let start = Instant::now();
                tokio::spawn(async move {
                    loop {
                        tokio::time::sleep(Duration::from_secs(2)).await;
                        times.lock().push(start.elapsed().as_secs());
                    }
                });
            }
        });
        runtime.advance(Duration::from_secs(7));
        assert_eq!(*times.lock(), [2, 4, 6]);
    }
}
