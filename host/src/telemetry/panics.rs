//! Panics: logs and counts them, and confines each to what has caused it.
//!
//! A panic is a bug of the host, so nothing here can be provoked on purpose. The handler of a request,
//! a session and the call of a timer catch their own panics. A task that the host cannot do without
//! ends the process, and a service manager starts it again.

use std::{
    any::Any,
    backtrace::{Backtrace, BacktraceStatus},
    panic::{AssertUnwindSafe, PanicHookInfo},
    sync::{LazyLock, OnceLock},
};

use futures_util::{FutureExt as _, TryFutureExt as _};
use prometheus_client::metrics::counter::Counter;
use spin_runtime::{Limits, RateLimitedLog};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::error;

/// Counts the panics of the process.
static PANICS: LazyLock<Counter> = LazyLock::new(Counter::default);

static LOG: LazyLock<RateLimitedLog> = LazyLock::new(|| {
    RateLimitedLog::new(Limits::DEFAULT.log_lines_per_second, |suppressed| {
        error!(suppressed, "panic");
    })
});

/// The first task that has panicked although the host cannot do without it.
static FATAL: LazyLock<Fatal> = LazyLock::new(Fatal::default);

#[derive(Default)]
struct Fatal {
    task: OnceLock<&'static str>,
    has_panicked: CancellationToken,
}

/// A panic that was caught. It is logged already.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("panicked")]
pub(crate) struct Panicked;

/// Logs and counts the panics of the process from now on.
pub(crate) fn install_hook() {
    std::panic::set_hook(Box::new(handle));
}

/// Returns the counter of panics.
pub(crate) fn counter() -> Counter {
    PANICS.clone()
}

fn handle(info: &PanicHookInfo<'_>) {
    PANICS.inc();
    LOG.log(|| {
        let thread = std::thread::current();
        // Only with RUST_BACKTRACE.
        let backtrace = Backtrace::capture();
        let has_backtrace = backtrace.status() == BacktraceStatus::Captured;
        error!(
            location = info.location().map(tracing::field::display),
            message = message(info.payload()),
            thread = thread.name(),
            backtrace = has_backtrace.then(|| backtrace.to_string()),
            "panic"
        );
    });
}

/// Returns the message of a panic, which almost always has one of these types.
fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    let string = || payload.downcast_ref().map(String::as_str);
    text.or_else(string).unwrap_or("unknown")
}

/// Catches a panic of a future.
///
/// The caller must not use what the future has changed, except to clean it up.
///
/// # Errors
/// Fails if the future panics.
// Not an async function, which would reserve memory for the future twice.
pub(crate) fn catch<F: Future>(future: F) -> impl Future<Output = Result<F::Output, Panicked>> {
    let caught = AssertUnwindSafe(future).catch_unwind();
    caught.map_err(|_| Panicked)
}

/// Runs a task that the host cannot do without. If it panics, [`fatal`] completes.
pub(crate) fn critical(
    task: &'static str,
    future: impl Future<Output = ()>,
) -> impl Future<Output = ()> {
    catch(future).map(move |result| {
        if result.is_err() {
            let _ = FATAL.task.set(task);
            FATAL.has_panicked.cancel();
        }
    })
}

/// Spawns a task that the host cannot do without.
pub(crate) fn spawn_critical(
    task: &'static str,
    future: impl Future<Output = ()> + Send + 'static,
) -> JoinHandle<()> {
    tokio::spawn(critical(task, future))
}

/// Waits until a critical task has panicked, and returns its name.
pub(crate) async fn fatal() -> &'static str {
    FATAL.has_panicked.cancelled().await;
    FATAL.task.get().copied().unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::access_log::tests::Output;

    #[tokio::test]
    async fn a_panic_of_a_critical_task_is_fatal() {
        critical("fine", async {}).await;
        spawn_critical("sweeper", async { panic!("on purpose") })
            .await
            .unwrap();
        assert_eq!(fatal().await, "sweeper");
    }

    #[tokio::test]
    async fn panics_are_caught() {
        assert_eq!(catch(async { 1 }).await.unwrap(), 1);
        let caught = catch(async { panic!("on purpose {}", 1) }).await;
        let caught: Result<(), Panicked> = caught;
        caught.unwrap_err();
    }

    #[test]
    fn panics_are_logged_and_counted() {
        let log = Output::default();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(log.clone())
            .with_ansi(false);
        let before = counter().get();
        // Other tests run at the same time. Those that panic are not logged for a moment.
        let previous = std::panic::take_hook();
        install_hook();
        tracing::subscriber::with_default(subscriber.finish(), || {
            let caught = std::panic::catch_unwind(|| panic!("on purpose {}", 1));
            let caught: Result<(), _> = caught;
            caught.unwrap_err();
        });
        std::panic::set_hook(previous);
        assert!(counter().get() > before);
        let log = log.text();
        for expected in ["ERROR", "panics.rs:", "on purpose 1", "thread="] {
            assert!(log.contains(expected), "{log}");
        }
    }

    #[test]
    fn messages_are_texts() {
        let payloads: [(Box<dyn Any + Send>, &str); 3] = [
            (Box::new("plain"), "plain"),
            (Box::new("formatted".to_owned()), "formatted"),
            (Box::new(1), "unknown"),
        ];
        for (payload, expected) in payloads {
            assert_eq!(message(&*payload), expected);
        }
    }
}
