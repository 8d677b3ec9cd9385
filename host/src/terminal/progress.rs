//! A line on the terminal that shows what the host waits for.

use std::{
    io::{Write as _, stderr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::is_capable;

/// How often the line is drawn.
const INTERVAL: Duration = Duration::from_millis(100);

/// The time after which something is worth a line.
const SILENT_TIME: Duration = Duration::from_millis(300);

const FRAMES: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];

/// Whether this process shows progress.
static IS_ENABLED: AtomicBool = AtomicBool::new(false);

/// Whether the line is on the terminal. Locked while something is written.
static IS_SHOWN: Mutex<bool> = Mutex::new(false);

/// Shows an activity until it is dropped, if [`enable_progress`] was called.
pub(crate) struct Progress(Option<Arc<Ended>>);

#[derive(Default)]
struct Ended {
    has_ended: Mutex<bool>,
    changed: Condvar,
}

/// Shows progress from now on if stderr is a terminal.
pub(crate) fn enable_progress() {
    IS_ENABLED.store(is_capable(&stderr()), Relaxed);
}

/// Returns whether progress is shown.
pub(crate) fn is_progress_enabled() -> bool {
    IS_ENABLED.load(Relaxed)
}

/// Removes the line before something else is written. The line is not drawn again while the result is
/// kept.
pub(crate) fn clear_progress() -> MutexGuard<'static, bool> {
    let mut is_shown = IS_SHOWN.lock();
    if *is_shown {
        let _ = write!(stderr(), "\r\x1b[K");
        *is_shown = false;
    }
    is_shown
}

impl Progress {
    /// Starts to show an activity, such as `compiling components`.
    pub(crate) fn start(activity: &'static str) -> Self {
        if !is_progress_enabled() {
            return Self(None);
        }
        let ended = Arc::new(Ended::default());
        let for_thread = ended.clone();
        // Without a thread, nothing is shown.
        let thread = std::thread::Builder::new().name("progress".to_owned());
        let started = thread.spawn(move || for_thread.show(activity));
        Self(started.is_ok().then_some(ended))
    }
}

impl Ended {
    fn show(&self, activity: &str) {
        let start = Instant::now();
        let mut has_ended = self.has_ended.lock();
        self.changed.wait_for(&mut has_ended, SILENT_TIME);
        for frame in FRAMES.iter().cycle() {
            if *has_ended {
                return;
            }
            let seconds = start.elapsed().as_secs();
            let mut is_shown = IS_SHOWN.lock();
            let _ = write!(stderr(), "\r\x1b[K{frame} {activity} ({seconds} s)");
            *is_shown = true;
            drop(is_shown);
            self.changed.wait_for(&mut has_ended, INTERVAL);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(ended) = &self.0 {
            *ended.has_ended.lock() = true;
            ended.changed.notify_one();
            drop(clear_progress());
        }
    }
}
