//! Log lines of one kind, limited in each second.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{runtime::Handle, time::Instant};

/// The time in which lines are counted.
const WINDOW: Duration = Duration::from_secs(1);

/// Limits how often lines of one kind are logged, so that a flood of failures does not become a
/// flood of log lines.
///
/// The first lines in a second are logged. The others are counted, and one line at the end of the
/// second states their number. Clones share the limit.
///
/// ```
/// use spin_runtime::{Limits, RateLimitedLog};
///
/// let refused = RateLimitedLog::new(Limits::DEFAULT.log_lines_per_second, |suppressed| {
///     tracing::warn!(suppressed, "request refused");
/// });
/// refused.log(|| tracing::warn!(route = "/chat", "request refused"));
/// ```
#[derive(Clone)]
pub struct RateLimitedLog(Arc<Shared>);

struct Shared {
    lines_per_second: usize,
    summarize: Box<dyn Fn(u64) + Send + Sync>,
    /// The runtime that the log was created in. Lines may also come from other threads.
    runtime: Option<Handle>,
    window: Mutex<Window>,
}

struct Window {
    /// `None` before the first line.
    start: Option<Instant>,
    logged: usize,
    suppressed: u64,
}

impl RateLimitedLog {
    /// Creates a limit of at least one line per second. `summarize` logs the number of lines that
    /// were suppressed.
    pub fn new(lines_per_second: usize, summarize: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Shared {
            lines_per_second: lines_per_second.max(1),
            summarize: Box::new(summarize),
            runtime: Handle::try_current().ok(),
            window: Mutex::new(Window {
                start: None,
                logged: 0,
                suppressed: 0,
            }),
        }))
    }

    /// Calls `write`, which logs a line, or counts the line as suppressed.
    ///
    /// If the log was created outside of a Tokio runtime, the number of suppressed lines is only
    /// logged before the next line, and on drop.
    pub fn log(&self, write: impl FnOnce()) {
        let shared = &self.0;
        let now = Instant::now();
        let mut window = shared.window.lock();
        let suppressed_before = if window.has_ended(now) {
            window.start = Some(now);
            window.logged = 0;
            std::mem::take(&mut window.suppressed)
        } else {
            0
        };
        if window.logged < shared.lines_per_second {
            window.logged += 1;
            drop(window);
            shared.summarize(suppressed_before);
            write();
            return;
        }
        window.suppressed += 1;
        let is_first = window.suppressed == 1;
        drop(window);
        if is_first && let Some(runtime) = &shared.runtime {
            let shared = shared.clone();
            runtime.spawn(async move {
                tokio::time::sleep(WINDOW).await;
                shared.end_window();
            });
        }
    }
}

impl Window {
    fn has_ended(&self, now: Instant) -> bool {
        self.start.is_none_or(|start| now - start >= WINDOW)
    }
}

impl Shared {
    fn summarize(&self, suppressed: u64) {
        if suppressed > 0 {
            (self.summarize)(suppressed);
        }
    }

    /// Logs the number of suppressed lines, unless a later line has already done so.
    fn end_window(&self) {
        let mut window = self.window.lock();
        let suppressed = if window.has_ended(Instant::now()) {
            std::mem::take(&mut window.suppressed)
        } else {
            0
        };
        drop(window);
        self.summarize(suppressed);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let suppressed = self.window.get_mut().suppressed;
        self.summarize(suppressed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log with a limit of two lines, and what it has logged.
    fn log() -> (RateLimitedLog, Arc<Mutex<Vec<String>>>) {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let summaries = lines.clone();
        let log = RateLimitedLog::new(2, move |suppressed| {
            summaries.lock().push(format!("suppressed = {suppressed}"));
        });
        (log, lines)
    }

    fn write(log: &RateLimitedLog, lines: &Mutex<Vec<String>>, line: &str) {
        log.log(|| lines.lock().push(line.to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_counted_in_one_line() {
        let (log, lines) = log();
        for _ in 0..10_000 {
            write(&log, &lines, "failed");
        }
        assert_eq!(*lines.lock(), ["failed", "failed"]);
        tokio::time::sleep(WINDOW * 2).await;
        assert_eq!(*lines.lock(), ["failed", "failed", "suppressed = 9998"]);
    }

    #[tokio::test(start_paused = true)]
    async fn each_second_has_its_own_lines() {
        let (log, lines) = log();
        for _ in 0..3 {
            for _ in 0..5 {
                write(&log, &lines, "failed");
            }
            tokio::time::sleep(WINDOW + Duration::from_millis(10)).await;
        }
        let second = ["failed", "failed", "suppressed = 3"];
        assert_eq!(*lines.lock(), [second, second, second].concat());
    }

    #[tokio::test(start_paused = true)]
    async fn rare_lines_are_all_logged() {
        let (log, lines) = log();
        for line in ["one", "two", "three", "four"] {
            write(&log, &lines, line);
            tokio::time::sleep(WINDOW / 2).await;
        }
        assert_eq!(*lines.lock(), ["one", "two", "three", "four"]);
    }

    #[tokio::test]
    async fn lines_of_other_threads_are_counted() {
        let (log, lines) = log();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..5 {
                    write(&log, &lines, "failed");
                }
            });
        });
        tokio::time::pause();
        tokio::time::sleep(WINDOW * 2).await;
        assert_eq!(*lines.lock(), ["failed", "failed", "suppressed = 3"]);
    }

    #[test]
    fn suppressed_lines_are_counted_without_a_runtime() {
        let (log, lines) = log();
        for _ in 0..7 {
            write(&log.clone(), &lines, "failed");
        }
        drop(log);
        assert_eq!(*lines.lock(), ["failed", "failed", "suppressed = 5"]);
    }
}
