//! Reports changed files: file system events say where to scan, and a scan finds the changes.
//!
//! Events may be late, duplicate, or lost when there are too many, but a file's metadata is always
//! right. So an event is only a hint, and a burst of events leads to one scan.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use notify::{
    EventKind,
    event::{AccessKind, AccessMode, ModifyKind},
};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tracing::debug;

use crate::dev::{scanner::Scanner, watch_set::WatchSet};

/// A burst ends after this time without an event, unless a file is still being written.
const QUIET_PERIOD: Duration = Duration::from_millis(5);
/// A burst ends after this time in any case.
const MAX_BURST: Duration = Duration::from_millis(150);
/// Capacity of the queue of hints. If it is full, the next scan covers everything.
const HINT_QUEUE: usize = 1024;

/// Watches the files of an application, until it is dropped.
pub(crate) struct FileWatcher {
    shared: Arc<Shared>,
    hints: SyncSender<Hint>,
}

/// Paths to scan.
#[derive(Default)]
struct Hint {
    paths: Vec<PathBuf>,
    /// The file is still being written. Another hint follows when it is closed.
    is_writing: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Notified when [`State::changed`] is not empty.
    notify: Notify,
    /// Events were lost since the last scan.
    has_lost_events: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Changed, new and deleted files that have not been returned yet.
    changed: BTreeSet<PathBuf>,
    /// Replaces the watch set at the next scan.
    watch_set: Option<Arc<WatchSet>>,
    /// The [`FileWatcher`] has been dropped.
    is_closed: bool,
}

impl FileWatcher {
    /// Starts to watch for changes.
    ///
    /// # Errors
    /// Fails if the system cannot create another watcher or thread.
    pub(crate) fn start(watch_set: Arc<WatchSet>) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let (hints, receiver) = sync_channel(HINT_QUEUE);
        let watcher = {
            let (shared, hints) = (shared.clone(), hints.clone());
            notify::recommended_watcher(move |event| shared.handle_event(&hints, event))
        };
        let watcher = watcher.context(
            "failed to create a file watcher; on Linux, fs.inotify.max_user_instances may be too low",
        )?;
        let mut scanner = Scanner::new(watcher, watch_set);
        scanner.scan_all();
        let watcher = Self { shared, hints };
        let shared = watcher.shared.clone();
        std::thread::Builder::new()
            .name("watch".into())
            .spawn(move || shared.run(scanner, &receiver))
            .context("failed to start the file watcher thread")?;
        Ok(watcher)
    }

    /// Replaces the set of watched files.
    pub(crate) fn replace(&self, watch_set: Arc<WatchSet>) {
        self.shared.lock().watch_set = Some(watch_set);
        // If the queue is full, a scan is due anyway.
        let _ = self.hints.try_send(Hint::default());
    }

    /// Waits until files have changed, and returns them. Cancel safe.
    pub(crate) async fn changed(&self) -> BTreeSet<PathBuf> {
        loop {
            let changed = std::mem::take(&mut self.shared.lock().changed);
            if !changed.is_empty() {
                return changed;
            }
            self.shared.notify.notified().await;
        }
    }
}

impl Drop for FileWatcher {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        let _ = self.hints.try_send(Hint::default());
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Turns an event into a hint. Called on the thread of the event source.
    fn handle_event(&self, hints: &SyncSender<Hint>, event: notify::Result<notify::Event>) {
        let hint = match event {
            Ok(event) if event.need_rescan() => {
                self.has_lost_events.store(true, SeqCst);
                Hint::default()
            }
            Ok(event) => match Hint::from_event(event) {
                Some(hint) => hint,
                None => return,
            },
            Err(error) => {
                debug!(%error, "file watcher failed");
                self.has_lost_events.store(true, SeqCst);
                Hint::default()
            }
        };
        if let Err(TrySendError::Full(_)) = hints.try_send(hint) {
            self.has_lost_events.store(true, SeqCst);
        }
    }

    fn run(&self, mut scanner: Scanner, hints: &Receiver<Hint>) {
        while let Ok(first) = hints.recv() {
            let is_relevant = |path: &Path| scanner.contains(path);
            let Some(mut paths) = debounce(first, hints, is_relevant, MAX_BURST) else {
                return;
            };
            if self.has_lost_events.swap(false, SeqCst) {
                paths = vec![PathBuf::from("/")];
            }
            let watch_set = self.lock().watch_set.take();
            let mut changed = scanner.scan(paths);
            if let Some(watch_set) = watch_set {
                changed.extend(scanner.replace(watch_set));
            }
            let mut state = self.lock();
            if state.is_closed {
                return;
            }
            state.changed.extend(changed);
            if !state.changed.is_empty() {
                self.notify.notify_one();
            }
        }
    }
}

impl Hint {
    fn from_event(event: notify::Event) -> Option<Self> {
        let is_writing = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
            // A build reads its sources, and must not trigger another build.
            EventKind::Access(_) => return None,
            // Only Linux reports when a file is closed.
            EventKind::Modify(ModifyKind::Data(_)) => cfg!(target_os = "linux"),
            _ => false,
        };
        Some(Self {
            paths: event.paths,
            is_writing,
        })
    }
}

/// Waits for the end of a burst, and returns its paths. Returns `None` when the channel is closed.
///
/// Editors that save in place truncate a file, write it, and close it. A scan must not see the file
/// in between, so the burst lasts until relevant files are closed, but no longer than `max`.
fn debounce(
    first: Hint,
    hints: &Receiver<Hint>,
    is_relevant: impl Fn(&Path) -> bool,
    max: Duration,
) -> Option<Vec<PathBuf>> {
    let deadline = Instant::now() + max;
    let mut writing = BTreeSet::new();
    let mut paths = Vec::new();
    let mut hint = first;
    loop {
        for path in hint.paths {
            if hint.is_writing && is_relevant(&path) {
                writing.insert(path.clone());
            } else {
                writing.remove(&path);
            }
            paths.push(path);
        }
        let remaining = deadline.saturating_duration_since(Instant::now());
        let timeout = if writing.is_empty() {
            QUIET_PERIOD.min(remaining)
        } else {
            remaining
        };
        hint = match hints.recv_timeout(timeout) {
            Ok(hint) => hint,
            Err(RecvTimeoutError::Timeout) => return Some(paths),
            Err(RecvTimeoutError::Disconnected) => return None,
        };
    }
}

#[cfg(test)]
mod tests;
