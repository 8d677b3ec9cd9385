//! Notices changed files: the system's events say where to look, and a look says what changed.
//!
//! Events come late, twice, or not at all when there are too many; what a file's metadata says is
//! right. So an event is a hint, and a burst of them is one look.

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

use parking_lot::{Mutex, MutexGuard};

use anyhow::{Context as _, Result};
use notify::{
    EventKind,
    event::{AccessKind, AccessMode, ModifyKind},
};
use tokio::sync::Notify;
use tracing::debug;

use crate::dev::{scanner::Scanner, watch_set::WatchSet};

/// A burst of events is over when no file is being written and there is no event for this long,
const QUIET: Duration = Duration::from_millis(5);
/// or when it has gone on for this long.
const BURST: Duration = Duration::from_millis(150);
/// Events that may wait for a look. When there are more, everything is looked at.
const WAITING: usize = 1024;

/// Tells which files of an application change. Dropping it ends the watching.
pub(crate) struct Changes {
    shared: Arc<Shared>,
    hints: SyncSender<Hint>,
}

/// Where something happened.
#[derive(Default)]
struct Hint {
    paths: Vec<PathBuf>,
    /// A file is being written; another hint comes when that is done.
    unfinished: bool,
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
    interests: Option<Arc<WatchSet>>,
    /// Nobody asks any more.
    ended: bool,
}

impl Changes {
    /// Begins to watch for changes.
    ///
    /// # Errors
    /// When the system has no more watches to give, or no thread can be started.
    pub(crate) fn watch(interests: Arc<WatchSet>) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let (hints, heard) = sync_channel(WAITING);
        let watcher = {
            let (shared, hints) = (shared.clone(), hints.clone());
            notify::recommended_watcher(move |event| shared.hint(&hints, event))
        };
        let watcher = watcher.context(
            "cannot watch for changes; on Linux, fs.inotify.max_user_instances may be too low",
        )?;
        let mut eye = Scanner::new(watcher, interests);
        eye.look_at_all();
        let eyed = shared.clone();
        std::thread::Builder::new()
            .name("watch".into())
            .spawn(move || eyed.run(eye, &heard))
            .context("cannot start the thread that watches for changes")?;
        Ok(Self { shared, hints })
    }

    /// Watches for changes to other files from now on.
    pub(crate) fn exchange(&self, interests: Arc<WatchSet>) {
        self.shared.lock().interests = Some(interests);
        // When there is no room, a look is about to come anyway.
        let _ = self.hints.try_send(Hint::default());
    }

    /// Waits until files have changed. What is not taken, because this was dropped, comes with the
    /// next call.
    pub(crate) async fn next(&self) -> BTreeSet<PathBuf> {
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
        let _ = self.hints.try_send(Hint::default());
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Found> {
        self.found.lock()
    }

    /// Hears of an event, on the system's thread.
    fn hint(&self, hints: &SyncSender<Hint>, event: notify::Result<notify::Event>) {
        let hint = match event {
            Ok(event) if event.need_rescan() => {
                self.lost.store(true, SeqCst);
                Hint::default()
            }
            Ok(event) => match Hint::of(event) {
                Some(hint) => hint,
                None => return,
            },
            Err(error) => {
                debug!("watching: {error}");
                self.lost.store(true, SeqCst);
                Hint::default()
            }
        };
        if let Err(TrySendError::Full(_)) = hints.try_send(hint) {
            self.lost.store(true, SeqCst);
        }
    }

    fn run(&self, mut eye: Scanner, heard: &Receiver<Hint>) {
        while let Ok(first) = heard.recv() {
            let Some(mut paths) = burst(first, heard, |path| eye.minds(path), BURST) else {
                return;
            };
            if self.lost.swap(false, SeqCst) {
                paths = vec![PathBuf::from("/")];
            }
            let interests = self.lock().interests.take();
            let mut changed = eye.look(paths);
            if let Some(interests) = interests {
                changed.extend(eye.exchange(interests));
            }
            let mut found = self.lock();
            if found.ended {
                return;
            }
            found.files.extend(changed);
            let any = !found.files.is_empty();
            drop(found);
            if any {
                self.changed.notify_one();
            }
        }
    }
}

impl Hint {
    fn of(event: notify::Event) -> Option<Self> {
        let unfinished = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
            // Reading is no change, or builds would cause themselves.
            EventKind::Access(_) => return None,
            // Elsewhere than on Linux nothing tells when a file is closed.
            EventKind::Modify(ModifyKind::Data(_)) => cfg!(target_os = "linux"),
            _ => false,
        };
        Some(Self {
            paths: event.paths,
            unfinished,
        })
    }
}

/// Waits for the end of a burst, and gives all its paths; `None` when nobody hints any more.
///
/// Editors that save in place empty a file, write it and close it: what is seen in between is half
/// a file. Of those that `matter` the end is awaited, but no longer than `most`.
fn burst(
    first: Hint,
    heard: &Receiver<Hint>,
    matter: impl Fn(&Path) -> bool,
    most: Duration,
) -> Option<Vec<PathBuf>> {
    let end = Instant::now() + most;
    let mut unfinished = BTreeSet::new();
    let mut paths = Vec::new();
    let mut hint = first;
    loop {
        for path in hint.paths {
            match hint.unfinished && matter(&path) {
                true => unfinished.insert(path.clone()),
                false => unfinished.remove(&path),
            };
            paths.push(path);
        }
        let left = end.saturating_duration_since(Instant::now());
        let quiet = match unfinished.is_empty() {
            true => QUIET.min(left),
            false => left,
        };
        hint = match heard.recv_timeout(quiet) {
            Ok(hint) => hint,
            Err(RecvTimeoutError::Timeout) => return Some(paths),
            Err(RecvTimeoutError::Disconnected) => return None,
        };
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use spin_runtime::Manifest;

    use super::*;

    /// An application in `folder`, whose manifest is at `path`.
    fn changes(folder: &Path, path: &str) -> (Changes, Arc<WatchSet>) {
        let text = "spin_manifest_version = 2\napplication.name = \"test\"\n\
            trigger.http = [{ route = \"/\", component = \"a\" }]\n\
            [component.a]\nsource = \"a.wasm\"\n\
            files = [{ source = \"static\", destination = \"/static\" }]\n";
        let manifest = Manifest::parse(text, folder.join(path)).unwrap();
        let interests = Arc::new(WatchSet::of(&manifest).unwrap());
        (Changes::watch(interests.clone()).unwrap(), interests)
    }

    /// Waits until a change of this file is told.
    async fn told(changes: &Changes, file: &Path) {
        let told = async { while !changes.next().await.contains(file) {} };
        let told = tokio::time::timeout(Duration::from_secs(20), told).await;
        assert!(told.is_ok(), "{} is not told of", file.display());
    }

    #[tokio::test]
    async fn a_manifest_that_is_named_by_a_detour_is_watched() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        fs::create_dir_all(folder.join("static/deep")).unwrap();
        fs::create_dir_all(folder.join("elsewhere/inner")).unwrap();
        std::os::unix::fs::symlink("elsewhere/inner", folder.join("link")).unwrap();
        // What is above a link's folder is above where it leads.
        for path in ["static/../spin.toml", "link/../../spin.toml"] {
            let (changes, interests) = changes(&folder, path);
            let file = folder.join("static/deep/a.js");
            fs::write(&file, path).unwrap();
            told(&changes, &file).await;
            let file = folder.join("spin.toml");
            fs::write(&file, path).unwrap();
            told(&changes, &file).await;
            assert!(interests.plan([&file]).settings);
        }
    }

    #[tokio::test]
    async fn what_takes_the_place_of_a_folder_is_watched_with_all_below() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        for name in ["static", "one", "two"] {
            fs::create_dir_all(folder.join(name).join("deep/er")).unwrap();
            fs::write(folder.join(name).join("deep/er/a.js"), name).unwrap();
        }
        let (changes, _) = changes(folder, "spin.toml");
        let file = folder.join("static/deep/er/a.js");
        for next in ["one", "two"] {
            fs::rename(folder.join("static"), folder.join(format!("before-{next}"))).unwrap();
            fs::rename(folder.join(next), folder.join("static")).unwrap();
            told(&changes, &file).await;
            for content in ["a", "b", "c"] {
                fs::write(&file, content).unwrap();
                told(&changes, &file).await;
            }
        }
    }

    #[tokio::test]
    async fn a_folder_that_comes_to_be_is_watched_with_all_below() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let (changes, _) = changes(&folder, "spin.toml");
        let file = folder.join("static/deep/a.js");
        for kind in ["folder", "file", "folder"] {
            let root = folder.join("static");
            if kind == "file" {
                fs::remove_dir_all(&root).unwrap();
                fs::write(&root, kind).unwrap();
                told(&changes, &root).await;
                fs::remove_file(&root).unwrap();
                continue;
            }
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, kind).unwrap();
            told(&changes, &file).await;
            fs::write(&file, "another").unwrap();
            told(&changes, &file).await;
        }
    }

    #[test]
    fn a_file_that_is_being_written_holds_a_burst_until_it_is_whole() {
        let hour = Duration::from_secs(3600);
        let hint = |path: &str, unfinished| Hint {
            paths: vec![path.into()],
            unfinished,
        };
        let (hints, heard) = sync_channel(8);
        let writer = std::thread::spawn(move || {
            for (path, unfinished) in [("b.css", true), ("a.css", false), ("b.css", false)] {
                std::thread::sleep(QUIET * 3);
                hints.send(hint(path, unfinished)).unwrap();
            }
            hints
        });
        let css = |path: &Path| path.extension().is_some_and(|end| end == "css");
        let paths = burst(hint("a.css", true), &heard, css, hour).unwrap();
        let expected = ["a.css", "b.css", "a.css", "b.css"].map(PathBuf::from);
        assert_eq!(paths, expected);
        // One that nobody minds does not, nor one for ever.
        let hints = writer.join().unwrap();
        assert!(burst(hint("log", true), &heard, css, hour).is_some());
        assert!(burst(hint("a.css", true), &heard, css, QUIET).is_some());
        drop(hints);
        assert!(burst(hint("a.css", true), &heard, css, hour).is_none());
    }
}
