//! Detects files that changed since the last scan.

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

use crate::dev::{links::hops, watch_set::WatchSet};

/// Metadata that changes with the content of a file, unlike permissions and link counts.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

/// Distinguishes a folder from another one at the same path.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Identity {
    device: u64,
    inode: u64,
}

/// Compares the files of a [`WatchSet`] with their state at the last scan.
pub(crate) struct Scanner {
    watcher: RecommendedWatcher,
    watch_set: Arc<WatchSet>,
    /// The watched folders.
    folders: BTreeMap<PathBuf, Identity>,
    /// The watched folders in which only `links` matter.
    link_folders: BTreeSet<PathBuf>,
    /// Symbolic links on the way to watched files, and where they lead.
    links: BTreeSet<PathBuf>,
    /// The files of the watch set, as of the last scan.
    files: BTreeMap<PathBuf, Stamp>,
    /// A folder that cannot be watched has been logged.
    has_warned: bool,
}

impl Scanner {
    /// Creates a scanner that knows no files yet. It adds the folders to watch to `watcher`.
    pub(crate) fn new(watcher: RecommendedWatcher, watch_set: Arc<WatchSet>) -> Self {
        Self {
            watcher,
            watch_set,
            folders: BTreeMap::new(),
            link_folders: BTreeSet::new(),
            links: BTreeSet::new(),
            files: BTreeMap::new(),
            has_warned: false,
        }
    }

    /// Returns whether this file is in the watch set, or a link in it leads to the file.
    pub(crate) fn contains(&self, file: &Path) -> bool {
        self.watch_set.contains(file) || self.links.contains(file)
    }

    /// Replaces the watch set. Returns the changed files that were in the old one.
    pub(crate) fn replace(&mut self, watch_set: Arc<WatchSet>) -> BTreeSet<PathBuf> {
        let old = std::mem::replace(&mut self.watch_set, watch_set);
        let mut changed = self.scan_all();
        changed.retain(|file| old.contains(file));
        changed
    }

    /// Scans the given paths, and returns the changed files. A folder, such as `/`, causes a scan of
    /// everything, and so does a link.
    pub(crate) fn scan(&mut self, paths: Vec<PathBuf>) -> BTreeSet<PathBuf> {
        let mut changed = BTreeSet::new();
        let mut needs_full_scan = false;
        for path in paths {
            let aliases = self.aliases(&path);
            if !self.folders.contains_key(&path) && !self.is_relevant(&aliases) {
                continue;
            }
            // A file whose folder is not known by this path may be anywhere.
            if aliases.is_empty()
                || self.folders.contains_key(&path)
                || path.is_dir()
                || self.is_link(&path, &aliases)
            {
                needs_full_scan = true;
                // A folder that was deleted and created again has lost its watch.
                self.unwatch_tree(&path);
                continue;
            }
            for file in aliases {
                if self.watch_set.contains(&file) && self.update(&file) {
                    changed.insert(file);
                }
            }
        }
        if needs_full_scan {
            changed.extend(self.scan_all());
        }
        changed
    }

    /// Returns whether a change of these paths of a file may matter.
    fn is_relevant(&self, aliases: &[PathBuf]) -> bool {
        let only_links = |file: &PathBuf| {
            let mut folder = file.parent().into_iter();
            folder.any(|folder| self.link_folders.contains(folder))
        };
        !aliases.iter().all(only_links)
            || aliases.is_empty()
            || aliases.iter().any(|file| self.links.contains(file))
    }

    /// Returns whether a path with these aliases leads to watched files, or did so at the last scan.
    fn is_link(&self, path: &Path, aliases: &[PathBuf]) -> bool {
        let follows =
            |file: &PathBuf| self.watch_set.contains(file) || self.watch_set.may_follow(file);
        aliases.iter().any(|file| self.links.contains(file))
            || path.is_symlink() && aliases.iter().any(follows)
    }

    /// Returns all paths of a file in a watched folder. An event has one of them, and there are
    /// several if symbolic links lead to the folder.
    fn aliases(&self, file: &Path) -> Vec<PathBuf> {
        let (Some(folder), Some(name)) = (file.parent(), file.file_name()) else {
            return Vec::new();
        };
        let Some(identity) = self.folders.get(folder) else {
            return Vec::new();
        };
        let same = self.folders.iter().filter(|(_, other)| *other == identity);
        same.map(|(folder, _)| folder.join(name)).collect()
    }

    /// Scans all files, and returns those that changed.
    pub(crate) fn scan_all(&mut self) -> BTreeSet<PathBuf> {
        // The watch of a renamed folder follows it, so it has to be removed first.
        let replaced: Vec<_> = self
            .folders
            .iter()
            .filter(|(folder, old)| identity(folder) != Some(**old))
            .map(|(folder, _)| folder.clone())
            .collect();
        for folder in replaced {
            self.unwatch_tree(&folder);
        }
        let watch_set = self.watch_set.clone();
        let mut snapshot = Snapshot::default();
        for (root, deep) in watch_set.roots() {
            self.follow(root, &mut snapshot);
            if root.is_dir() {
                self.visit(root, deep, &mut snapshot);
            } else {
                // The nearest existing parent reports when the root is created.
                let parent = root.ancestors().find(|folder| folder.is_dir());
                self.visit(parent.unwrap_or(Path::new("/")), false, &mut snapshot);
            }
        }
        let unused: Vec<_> = self
            .folders
            .keys()
            .filter(|folder| {
                !snapshot.folders.contains(*folder) && !snapshot.link_folders.contains(*folder)
            })
            .cloned()
            .collect();
        for folder in unused {
            self.unwatch(&folder);
        }
        // Removing a watch also removes it from other paths of the same folder.
        for folder in snapshot.folders.iter().chain(&snapshot.link_folders) {
            self.watch(folder);
        }
        self.links = snapshot.links;
        self.link_folders = &snapshot.link_folders - &snapshot.folders;
        let old = std::mem::replace(&mut self.files, snapshot.files);
        let new = &self.files;
        let changed = new
            .iter()
            .filter(|(file, stamp)| old.get(*file) != Some(stamp))
            .map(|(file, _)| file);
        let deleted = old
            .keys()
            .filter(|file| !new.contains_key(*file) && watch_set.contains(file));
        changed.chain(deleted).cloned().collect()
    }

    /// Watches a folder, then reads it. In this order, no change between the two is missed.
    fn visit(&mut self, folder: &Path, deep: bool, snapshot: &mut Snapshot) {
        let is_new = snapshot.folders.insert(folder.to_owned());
        let is_deeper = deep && snapshot.deep.insert(folder.to_owned());
        if !is_new && !is_deeper {
            return;
        }
        self.watch(folder);
        let Ok(entries) = fs::read_dir(folder) else {
            return;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            let is_file = self.watch_set.contains(&path);
            let is_followed = kind.is_symlink() && deep && self.watch_set.may_follow(&path);
            if kind.is_symlink() && (is_file || is_followed) {
                self.follow(&path, snapshot);
            }
            if kind.is_dir() && deep && !WatchSet::is_skipped(&path)
                || is_followed && path.is_dir() && !is_loop(&path)
            {
                self.visit(&path, true, snapshot);
            } else if is_file
                && !kind.is_dir()
                && let Some(stamp) = stamp(&path)
            {
                snapshot.files.insert(path, stamp);
            }
        }
    }

    /// Watches the links on the way to a path. Must precede reading it, so that no change between the
    /// two is missed.
    fn follow(&mut self, path: &Path, snapshot: &mut Snapshot) {
        let hops = loop {
            let hops = hops(path);
            let folders = hops.iter().filter_map(|hop| hop.parent());
            let watched = self.folders.len();
            for folder in folders {
                self.watch(folder);
                snapshot.link_folders.insert(folder.to_owned());
            }
            // A link may have changed before its folder was watched.
            if self.folders.len() == watched {
                break hops;
            }
        };
        snapshot.links.extend(hops);
    }

    /// Records the current state of a file, and returns whether it changed.
    fn update(&mut self, file: &Path) -> bool {
        let new = stamp(file);
        let old = match new {
            Some(stamp) => self.files.insert(file.to_owned(), stamp),
            None => self.files.remove(file),
        };
        old != new
    }

    fn watch(&mut self, folder: &Path) {
        if self.folders.contains_key(folder) {
            return;
        }
        // Read before watching: if the folder is replaced in between, the next scan detects it.
        let Some(identity) = identity(folder) else {
            return;
        };
        match self.watcher.watch(folder, RecursiveMode::NonRecursive) {
            Ok(()) => drop(self.folders.insert(folder.to_owned(), identity)),
            // Deleted in the meantime, which its parent reports.
            Err(_) if !folder.is_dir() => {}
            Err(error) => {
                if !std::mem::replace(&mut self.has_warned, true) {
                    warn!(
                        folder = %folder.display(),
                        %error,
                        "failed to watch folder; on Linux, fs.inotify.max_user_watches may be too low"
                    );
                }
            }
        }
    }

    /// Removes the watches of a folder and everything below it. The next full scan restores those
    /// that are needed.
    fn unwatch_tree(&mut self, folder: &Path) {
        let range = (Bound::Included(folder), Bound::Unbounded);
        let tree: Vec<_> = self
            .folders
            .range::<Path, _>(range)
            .take_while(|(path, _)| path.starts_with(folder))
            .map(|(path, _)| path.clone())
            .collect();
        for folder in tree {
            self.unwatch(&folder);
        }
    }

    /// Removes the watch of a folder, which all its paths share.
    fn unwatch(&mut self, folder: &Path) {
        let Some(identity) = self.folders.get(folder).copied() else {
            return;
        };
        let watcher = &mut self.watcher;
        self.folders.retain(|path, other| {
            let is_retained = *other != identity;
            if !is_retained {
                // Fails if the system has removed the watch already.
                let _ = watcher.unwatch(path);
            }
            is_retained
        });
    }
}

/// The result of a full scan.
#[derive(Default)]
struct Snapshot {
    folders: BTreeSet<PathBuf>,
    /// The folders whose subfolders are visited too.
    deep: BTreeSet<PathBuf>,
    files: BTreeMap<PathBuf, Stamp>,
    /// Symbolic links on the way to the files, and where they lead.
    links: BTreeSet<PathBuf>,
    /// The folders of `links`.
    link_folders: BTreeSet<PathBuf>,
}

/// Returns whether a link leads to one of the folders that it is in.
fn is_loop(link: &Path) -> bool {
    let target = identity(link);
    let mut folders = link.ancestors().skip(1);
    folders.any(|folder| identity(folder) == target)
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
    use spin_runtime::{Manifest, ManifestUse};

    use super::*;

    fn watch_set(folder: &Path, files: &str) -> Arc<WatchSet> {
        let text = format!(
            "spin_manifest_version = 2\napplication.name = \"test\"\n\
             trigger.http = [{{ route = \"/\", component = \"a\" }}]\n\
             [component.a]\nsource = \"a.wasm\"\nfiles = [{files}]\n"
        );
        let manifest =
            Manifest::parse(&text, folder.join("spin.toml"), ManifestUse::Embedded).unwrap();
        Arc::new(WatchSet::new(&manifest).unwrap())
    }

    fn scanner(watch_set: Arc<WatchSet>) -> Scanner {
        let mut scanner = Scanner::new(notify::recommended_watcher(|_| {}).unwrap(), watch_set);
        scanner.scan_all();
        scanner
    }

    #[test]
    fn a_change_is_found_while_the_watch_set_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        for file in ["a.js", "b.js", "c.js"] {
            fs::write(folder.join(file), "one").unwrap();
        }
        let mut scanner = scanner(watch_set(folder, "\"a.js\", \"b.js\""));
        for file in ["a.js", "b.js", "c.js"] {
            fs::write(folder.join(file), "another").unwrap();
        }
        // Files that were not in the old watch set do not count as changed.
        let changed = scanner.replace(watch_set(folder, "\"b.js\", \"c.js\""));
        assert_eq!(changed, BTreeSet::from([folder.join("b.js")]));
        assert_eq!(scanner.scan_all(), BTreeSet::new());
    }

    #[test]
    fn a_change_is_reported_for_each_path_of_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let folder = &folder.path().canonicalize().unwrap();
        fs::create_dir(folder.join("real")).unwrap();
        std::os::unix::fs::symlink("real", folder.join("link")).unwrap();
        let both = watch_set(folder, "\"real/*.js\", \"link/*.js\"");
        let mut scanner = scanner(both.clone());
        let files = BTreeSet::from(["real", "link"].map(|name| folder.join(name).join("a.js")));
        for hint in &files {
            fs::write(hint, hint.to_str().unwrap()).unwrap();
            fs::rename(hint, folder.join("new")).unwrap();
            fs::rename(folder.join("new"), hint).unwrap();
            assert_eq!(
                scanner.scan(vec![hint.clone()]),
                files,
                "{}",
                hint.display()
            );
        }
        // Removing one path keeps the watch of the other.
        scanner.replace(watch_set(folder, "\"link/*.js\""));
        let watched: Vec<_> = scanner.folders.keys().collect();
        assert_eq!(watched, [folder, &folder.join("link")]);
    }

    #[test]
    fn other_files_next_to_the_target_of_a_link_cause_no_scan() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let (app, busy) = (folder.join("app"), folder.join("busy"));
        for folder in [&app, &busy] {
            fs::create_dir(folder).unwrap();
        }
        fs::write(busy.join("target.js"), "one").unwrap();
        std::os::unix::fs::symlink(busy.join("target.js"), app.join("a.js")).unwrap();
        let mut scanner = scanner(watch_set(&app, "\"a.js\", \"b.js\""));
        // Only a full scan would find this file by the hints that follow.
        fs::write(app.join("b.js"), "new").unwrap();
        for name in ["folder", "file", "none"] {
            let path = busy.join(name);
            match name {
                "folder" => fs::create_dir(&path).unwrap(),
                "file" => fs::write(&path, "").unwrap(),
                _ => {}
            }
            assert_eq!(scanner.scan(vec![path]), BTreeSet::new(), "{name}");
        }
        fs::write(busy.join("target.js"), "another").unwrap();
        let changed = scanner.scan(vec![busy.join("target.js")]);
        assert_eq!(
            changed,
            BTreeSet::from(["a.js", "b.js"].map(|name| app.join(name)))
        );
        // Without the link, its folder is not watched any more.
        fs::remove_file(app.join("a.js")).unwrap();
        assert_eq!(
            scanner.scan(vec![app.join("a.js")]),
            BTreeSet::from([app.join("a.js")])
        );
        assert!(!scanner.folders.contains_key(&busy));
    }
}
