//! Looks at files: which of them are others than at the last look.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::Bound,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tracing::warn;

use crate::dev::watch_set::WatchSet;

/// What tells one content of a file from the next without reading it. Permissions and names of the
/// same file are left out: they change no content.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

/// What tells a folder from another that takes its place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Identity {
    device: u64,
    inode: u64,
}

/// See the module's words.
pub(crate) struct Scanner {
    watcher: RecommendedWatcher,
    interests: Arc<WatchSet>,
    /// The folders that are watched.
    folders: BTreeMap<PathBuf, Identity>,
    /// The files of interest, as they were at the last look.
    files: BTreeMap<PathBuf, Stamp>,
    /// A folder could not be watched, and it was said.
    failed: bool,
}

impl Scanner {
    /// Sees nothing before the first look. `watcher` is told which folders to watch.
    pub(crate) fn new(watcher: RecommendedWatcher, interests: Arc<WatchSet>) -> Self {
        Self {
            watcher,
            interests,
            folders: BTreeMap::new(),
            files: BTreeMap::new(),
            failed: false,
        }
    }

    /// Whether it looks at this file.
    pub(crate) fn minds(&self, file: &Path) -> bool {
        self.interests.has(file)
    }

    /// Looks at other files from now on, and gives what has changed of those it looked at before.
    pub(crate) fn exchange(&mut self, interests: Arc<WatchSet>) -> BTreeSet<PathBuf> {
        let before = std::mem::replace(&mut self.interests, interests);
        let mut changed = self.look_at_all();
        changed.retain(|file| before.has(file));
        changed
    }

    /// Looks where something happened, and gives what has changed. `/` stands for everywhere.
    pub(crate) fn look(&mut self, hints: Vec<PathBuf>) -> BTreeSet<PathBuf> {
        let mut changed = BTreeSet::new();
        let mut all = false;
        for path in hints {
            let names = match self.folders.contains_key(&path) || path.is_dir() {
                true => Vec::new(),
                false => self.names(&path),
            };
            if names.is_empty() {
                // A folder, or the system has another name for it.
                all = true;
                // Its watch ended with it, if it was deleted and made again.
                self.forget(&path);
            }
            for file in names {
                if self.interests.has(&file) && self.compare(&file) {
                    changed.insert(file);
                }
            }
        }
        if all {
            changed.extend(self.look_at_all());
        }
        changed
    }

    /// The names of a file in a watched folder: the system tells one of them, and a folder has
    /// several where a link leads to it.
    fn names(&self, file: &Path) -> Vec<PathBuf> {
        let (Some(folder), Some(name)) = (file.parent(), file.file_name()) else {
            return Vec::new();
        };
        let Some(identity) = self.folders.get(folder) else {
            return Vec::new();
        };
        let same = self.folders.iter().filter(|(_, other)| *other == identity);
        same.map(|(folder, _)| folder.join(name)).collect()
    }

    /// Looks at everything there is.
    pub(crate) fn look_at_all(&mut self) -> BTreeSet<PathBuf> {
        // First of all, since a folder that was renamed takes its watch with it.
        let gone: Vec<_> = self
            .folders
            .iter()
            .filter(|(folder, known)| identity(folder) != Some(**known))
            .map(|(folder, _)| folder.clone())
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
        let unwatched = self.folders.keys();
        let unwatched: Vec<_> = unwatched
            .filter(|folder| !look.folders.contains(*folder))
            .cloned()
            .collect();
        for folder in unwatched {
            self.unwatch(&folder);
        }
        // Those of them that have another name.
        for folder in &look.folders {
            self.watch(folder);
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
                Ok(kind) if kind.is_dir() && deep && WatchSet::is_searched(&path) => {
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
        if self.folders.contains_key(folder) {
            return;
        }
        // Asked for first: if another folder takes its place now, the next look sees that it has.
        let Some(identity) = identity(folder) else {
            return;
        };
        match self.watcher.watch(folder, RecursiveMode::NonRecursive) {
            Ok(()) => drop(self.folders.insert(folder.to_owned(), identity)),
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

    /// Ends the watch of a folder and of all below, as the system's library does by itself when one
    /// is renamed or deleted. The next look at everything watches what there is then.
    fn forget(&mut self, folder: &Path) {
        let below = (Bound::Included(folder), Bound::Unbounded);
        let below = self.folders.range::<Path, _>(below);
        let below = below.take_while(|(path, _)| path.starts_with(folder));
        let below: Vec<_> = below.map(|(path, _)| path.clone()).collect();
        for folder in below {
            self.unwatch(&folder);
        }
    }

    /// Ends the watch of a folder, by all its names: it is one watch.
    fn unwatch(&mut self, folder: &Path) {
        let Some(identity) = self.folders.get(folder).copied() else {
            return;
        };
        let watcher = &mut self.watcher;
        self.folders.retain(|name, other| {
            let is_other = *other != identity;
            if !is_other {
                // The system has often forgotten it already.
                let _ = watcher.unwatch(name);
            }
            is_other
        });
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

fn identity(folder: &Path) -> Option<Identity> {
    let metadata = folder
        .metadata()
        .ok()
        .filter(|metadata| metadata.is_dir())?;
    Some(Identity {
        device: metadata.dev(),
        inode: metadata.ino(),
    })
}

#[cfg(test)]
mod tests {
    use spin_runtime::Manifest;

    use super::*;

    fn interests(folder: &Path, files: &str) -> Arc<WatchSet> {
        let text = format!(
            "spin_manifest_version = 2\napplication.name = \"test\"\n\
             trigger.http = [{{ route = \"/\", component = \"a\" }}]\n\
             [component.a]\nsource = \"a.wasm\"\nfiles = [{files}]\n"
        );
        let manifest = Manifest::parse(&text, folder.join("spin.toml")).unwrap();
        Arc::new(WatchSet::of(&manifest).unwrap())
    }

    fn eye(interests: Arc<WatchSet>) -> Scanner {
        let mut eye = Scanner::new(notify::recommended_watcher(|_| {}).unwrap(), interests);
        eye.look_at_all();
        eye
    }

    #[test]
    fn an_edit_beside_a_change_of_interests_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        for file in ["a.js", "b.js", "c.js"] {
            fs::write(folder.join(file), "one").unwrap();
        }
        let mut eye = eye(interests(folder, "\"a.js\", \"b.js\""));
        for file in ["a.js", "b.js", "c.js"] {
            fs::write(folder.join(file), "another").unwrap();
        }
        // What was not looked at before has not changed.
        let changed = eye.exchange(interests(folder, "\"b.js\", \"c.js\""));
        assert_eq!(changed, BTreeSet::from([folder.join("b.js")]));
        assert_eq!(eye.look_at_all(), BTreeSet::new());
    }

    #[test]
    fn a_file_is_seen_by_each_name_of_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        fs::create_dir(folder.join("real")).unwrap();
        std::os::unix::fs::symlink("real", folder.join("link")).unwrap();
        let both = interests(folder, "\"real/*.js\", \"link/*.js\"");
        let mut eye = eye(both.clone());
        let files = BTreeSet::from(["real", "link"].map(|name| folder.join(name).join("a.js")));
        for hint in &files {
            fs::write(hint, hint.to_str().unwrap()).unwrap();
            fs::rename(hint, folder.join("new")).unwrap();
            fs::rename(folder.join("new"), hint).unwrap();
            assert_eq!(eye.look(vec![hint.clone()]), files, "{}", hint.display());
        }
        // Without one name it is watched by the other.
        eye.exchange(interests(folder, "\"link/*.js\""));
        let watched: Vec<_> = eye.folders.keys().collect();
        assert_eq!(watched, [folder, &folder.join("link")]);
    }
}
