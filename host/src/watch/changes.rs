//! Notices changed files: the system's events say where to look, and a look says what changed.
//!
//! Events come late, twice, or not at all when there are too many; what a file's metadata says is
//! right. So an event is a hint, and a burst of them is one look.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _, event::AccessKind};
use tokio::sync::Notify;
use tracing::{debug, warn};

use super::interests::Interests;

/// A burst of events is over when there is none for this long,
const QUIET: Duration = Duration::from_millis(15);
/// or has gone on for this long.
const BURST: Duration = Duration::from_millis(150);
/// Events that may wait for a look. When there are more, everything is looked at.
const WAITING: usize = 1024;

/// Tells which files of an application change. Dropping it ends the watching.
pub struct Changes {
    shared: Arc<Shared>,
    hints: SyncSender<Vec<PathBuf>>,
}

#[derive(Default)]
struct Shared {
    found: Mutex<Found>,
    /// Told when something was found.
    changed: Notify,
    /// Events were lost.
    lost: AtomicBool,
}

#[derive(Default)]
struct Found {
    /// Files that changed, came or went since they were last asked for.
    files: BTreeSet<PathBuf>,
    /// What to watch for from the next look on.
    interests: Option<Arc<Interests>>,
    /// Nobody asks any more.
    ended: bool,
}

impl Changes {
    /// Begins to watch for changes.
    ///
    /// # Errors
    /// When the system has no more watches to give, or no thread can be started.
    pub fn watch(interests: Arc<Interests>) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let (hints, heard) = sync_channel(WAITING);
        let watcher = {
            let (shared, hints) = (shared.clone(), hints.clone());
            notify::recommended_watcher(move |event| shared.hint(&hints, event))
        };
        let watcher = watcher.context(
            "cannot watch for changes; on Linux, fs.inotify.max_user_instances may be too low",
        )?;
        let mut eye = Eye {
            watcher,
            interests,
            folders: BTreeSet::new(),
            files: BTreeMap::new(),
            failed: false,
        };
        eye.look_at_all();
        let eyed = shared.clone();
        std::thread::Builder::new()
            .name("watch".into())
            .spawn(move || eyed.run(eye, &heard))
            .context("cannot start the thread that watches for changes")?;
        Ok(Self { shared, hints })
    }

    /// Watches for changes to other files from now on.
    pub fn exchange(&self, interests: Arc<Interests>) {
        self.shared.lock().interests = Some(interests);
        // When there is no room, a look is about to come anyway.
        let _ = self.hints.try_send(Vec::new());
    }

    /// Waits until files have changed. What is not taken, because this was dropped, comes with the
    /// next call.
    pub async fn next(&self) -> BTreeSet<PathBuf> {
        loop {
            let files = std::mem::take(&mut self.shared.lock().files);
            if !files.is_empty() {
                return files;
            }
            self.shared.changed.notified().await;
        }
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        let _ = self.hints.try_send(Vec::new());
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears of an event, on the system's thread.
    fn hint(&self, hints: &SyncSender<Vec<PathBuf>>, event: notify::Result<notify::Event>) {
        let paths = match event {
            Ok(event) if event.need_rescan() => {
                self.lost.store(true, SeqCst);
                Vec::new()
            }
            // Reading is no change, or builds would cause themselves.
            Ok(event) => match event.kind {
                EventKind::Access(AccessKind::Close(notify::event::AccessMode::Write)) => {
                    event.paths
                }
                EventKind::Access(_) => return,
                _ => event.paths,
            },
            Err(error) => {
                debug!("watching: {error}");
                self.lost.store(true, SeqCst);
                Vec::new()
            }
        };
        if let Err(TrySendError::Full(_)) = hints.try_send(paths) {
            self.lost.store(true, SeqCst);
        }
    }

    fn run(&self, mut eye: Eye, heard: &Receiver<Vec<PathBuf>>) {
        while let Ok(mut hints) = heard.recv() {
            let end = Instant::now() + BURST;
            loop {
                let left = end.saturating_duration_since(Instant::now());
                match heard.recv_timeout(QUIET.min(left)) {
                    Ok(more) => hints.extend(more),
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
            let changed = match self.lost.swap(false, SeqCst) {
                true => eye.look_at_all(),
                false => eye.look(hints),
            };
            let mut found = self.lock();
            if found.ended {
                return;
            }
            found.files.extend(changed);
            let interests = found.interests.take();
            let any = !found.files.is_empty();
            drop(found);
            if let Some(interests) = interests {
                eye.interests = interests;
                // What was not watched before has not changed.
                eye.look_at_all();
            }
            if any {
                self.changed.notify_one();
            }
        }
    }
}

/// What tells one content of a file from the next without reading it. Permissions and names of the
/// same file are left out: they change no content.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

/// Looks at files.
struct Eye {
    watcher: RecommendedWatcher,
    interests: Arc<Interests>,
    /// The folders that are watched.
    folders: BTreeSet<PathBuf>,
    /// The files of interest, as they were at the last look.
    files: BTreeMap<PathBuf, Stamp>,
    /// A folder could not be watched, and it was said.
    failed: bool,
}

impl Eye {
    /// Looks where something happened, and gives what has changed.
    fn look(&mut self, hints: Vec<PathBuf>) -> BTreeSet<PathBuf> {
        let mut changed = BTreeSet::new();
        let mut all = false;
        for path in hints {
            let is_file_here = path
                .parent()
                .is_some_and(|folder| self.folders.contains(folder))
                && !self.folders.contains(&path)
                && !path.is_dir();
            if is_file_here {
                if self.interests.has(&path) && self.compare(&path) {
                    changed.insert(path);
                }
            } else {
                // A folder, or the system has another name for it.
                all = true;
                // Its watch ended with it, if it was deleted and made again.
                self.forget(&path);
            }
        }
        if all {
            changed.extend(self.look_at_all());
        }
        changed
    }

    /// Looks at everything there is.
    fn look_at_all(&mut self) -> BTreeSet<PathBuf> {
        // First of all, since a folder that was renamed takes its watch with it.
        let gone: Vec<_> = self
            .folders
            .iter()
            .filter(|folder| !folder.is_dir())
            .cloned()
            .collect();
        for folder in gone {
            self.forget(&folder);
        }
        let interests = self.interests.clone();
        let mut look = Look::default();
        for (root, deep) in interests.roots() {
            match root.is_dir() {
                true => self.search(root, deep, &mut look),
                // Wherever it may come to be.
                false => {
                    let above = root.ancestors().find(|folder| folder.is_dir());
                    self.search(above.unwrap_or(Path::new("/")), false, &mut look);
                }
            }
        }
        let unwatched: Vec<_> = self.folders.difference(&look.folders).cloned().collect();
        for folder in unwatched {
            self.forget(&folder);
        }
        let before = std::mem::replace(&mut self.files, look.files);
        let now = &self.files;
        let changed = now
            .iter()
            .filter(|(file, stamp)| before.get(*file) != Some(stamp));
        let gone = before.keys().filter(|file| !now.contains_key(*file));
        let gone = gone.filter(|file| interests.has(file));
        changed.map(|(file, _)| file).chain(gone).cloned().collect()
    }

    /// Watches a folder, and then reads it: what comes in between is seen by one of the two.
    fn search(&mut self, folder: &Path, deep: bool, look: &mut Look) {
        let is_new = look.folders.insert(folder.to_owned());
        let is_deeper = deep && look.deep.insert(folder.to_owned());
        if !is_new && !is_deeper {
            return;
        }
        self.watch(folder);
        let Ok(entries) = fs::read_dir(folder) else {
            return;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && deep && Interests::is_searched(&path) => {
                    self.search(&path, true, look);
                }
                Ok(kind) if kind.is_dir() => {}
                Ok(_) if self.interests.has(&path) => {
                    if let Some(stamp) = stamp(&path) {
                        look.files.insert(path, stamp);
                    }
                }
                _ => {}
            }
        }
    }

    /// Whether a file is another than at the last look, which this is now.
    fn compare(&mut self, file: &Path) -> bool {
        let before = match stamp(file) {
            Some(now) => {
                let before = self.files.insert(file.to_owned(), now);
                return before != Some(now);
            }
            None => self.files.remove(file),
        };
        before.is_some()
    }

    fn watch(&mut self, folder: &Path) {
        if self.folders.contains(folder) {
            return;
        }
        match self.watcher.watch(folder, RecursiveMode::NonRecursive) {
            Ok(()) => drop(self.folders.insert(folder.to_owned())),
            // It was deleted meanwhile, which is an event of its own.
            Err(_) if !folder.is_dir() => {}
            Err(error) => {
                if !std::mem::replace(&mut self.failed, true) {
                    warn!(
                        folder = %folder.display(),
                        "cannot be watched: {error}; on Linux, fs.inotify.max_user_watches may be too low"
                    );
                }
            }
        }
    }

    fn forget(&mut self, folder: &Path) {
        if self.folders.remove(folder) {
            // The system has often forgotten it already.
            let _ = self.watcher.unwatch(folder);
        }
    }
}

/// What a look at everything finds.
#[derive(Default)]
struct Look {
    folders: BTreeSet<PathBuf>,
    /// Of the folders, those searched further down.
    deep: BTreeSet<PathBuf>,
    files: BTreeMap<PathBuf, Stamp>,
}

fn stamp(file: &Path) -> Option<Stamp> {
    let metadata = file.metadata().ok().filter(|metadata| metadata.is_file())?;
    Some(Stamp {
        modified: metadata.modified().ok(),
        length: metadata.len(),
        inode: metadata.ino(),
    })
}
