//! What a component sees of the file system: the manifest's `files`, read-only.
//!
//! Folders that a guest may see whole are opened as they are, so that an edit is seen at once.
//! Single files and what globs pick out are gathered in a folder of our own.

use std::{
    collections::BTreeSet,
    path::{Component as Part, Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use tempfile::TempDir;
use walkdir::WalkDir;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};

use crate::manifest::{Component, Files};

/// The folders that every instance of a component gets.
pub struct Mounts {
    /// Folder on the host, and its path in the guest.
    folders: Vec<(PathBuf, String)>,
    /// The gathered files; removed with this.
    _gathered: Option<TempDir>,
}

impl Mounts {
    /// Finds and gathers the files of `component`, whose manifest stands in `root`.
    ///
    /// # Errors
    /// When a source is missing, a glob is none, a file lies outside the manifest's folder (also by
    /// a symbolic link), or a copy fails.
    pub fn gather(component: &Component, root: &Path) -> anyhow::Result<Self> {
        let mut gathering = Gathering {
            root: root
                .canonicalize()
                .with_context(|| format!("cannot read {}", root.display()))?,
            excluded: globs(&component.exclude_files).context("exclude_files")?,
            excludes: !component.exclude_files.is_empty(),
            gathered: None,
            folders: Vec::new(),
        };
        for files in &component.files {
            match files {
                Files::Glob(pattern) => gathering.glob(pattern),
                Files::Placed {
                    source,
                    destination,
                } => gathering.placed(source, destination),
            }
            .with_context(|| format!("files of component {}", component.id))?;
        }
        Ok(gathering.mounts())
    }

    /// Opens the folders for an instance.
    ///
    /// # Errors
    /// When one of them is gone.
    pub fn open(&self, wasi: &mut WasiCtxBuilder) -> wasmtime::Result<()> {
        for (folder, path) in &self.folders {
            wasi.preopened_dir(folder, path, FsPerms::ReadOnly)?;
        }
        Ok(())
    }
}

/// Mounts in the making.
struct Gathering {
    root: PathBuf,
    excluded: GlobSet,
    excludes: bool,
    gathered: Option<TempDir>,
    folders: Vec<(PathBuf, String)>,
}

impl Gathering {
    fn glob(&mut self, pattern: &str) -> anyhow::Result<()> {
        let relative = inside(pattern)?;
        // A path without wildcards may name a folder, which stands for all that is in it.
        if let Some(folder) = whole_folder(&relative)
            && self.root.join(folder).is_dir()
        {
            let destination = format!("/{}", folder.trim_matches('/'));
            return self.placed(&self.root.join(folder), &destination);
        }
        if !is_pattern(&relative) {
            let file = self.root.join(&relative);
            ensure!(file.is_file(), "there is no {}", file.display());
        }
        let wanted = globs([&relative]).with_context(|| format!("{pattern:?}"))?;
        for file in files_in(&self.root.join(fixed_part(&relative)))? {
            let path = file
                .strip_prefix(&self.root)
                .context("a file outside of its folder")?;
            if wanted.is_match(path) {
                let path = path.to_path_buf();
                self.take(&file, &path)?;
            }
        }
        Ok(())
    }

    fn placed(&mut self, source: &Path, destination: &str) -> anyhow::Result<()> {
        let shown = source.display();
        let found = source
            .metadata()
            .with_context(|| format!("cannot read {shown}"))?;
        let inner = PathBuf::from(inside(destination)?);
        if found.is_file() {
            return self.take(source, &inner);
        }
        ensure!(found.is_dir(), "{shown} is neither a file nor a folder");
        let files = files_in(source)?;
        let excluded = |file: &PathBuf| {
            self.excludes
                && file
                    .strip_prefix(&self.root)
                    .is_ok_and(|path| self.excluded.is_match(path))
        };
        if !files.iter().any(excluded) {
            // The guest's root shows where it is, also to a guest that lists it.
            std::fs::create_dir_all(self.place()?.join(&inner))?;
            self.folders
                .push((source.to_path_buf(), format!("/{}", inner.display())));
            return Ok(());
        }
        for file in files {
            let path = inner.join(
                file.strip_prefix(source)
                    .context("a file outside its folder")?,
            );
            self.take(&file, &path)?;
        }
        Ok(())
    }

    /// The folder of the gathered files, which the guest sees as its root.
    fn place(&mut self) -> anyhow::Result<&Path> {
        if self.gathered.is_none() {
            let folder = tempfile::Builder::new().prefix("socket-host-").tempdir();
            self.gathered = Some(folder.context("cannot create a folder for the files")?);
        }
        self.gathered
            .as_ref()
            .map(TempDir::path)
            .context("no folder for the files")
    }

    /// Gathers one file, unless it is excluded. A link is followed if it stays in the manifest's
    /// folder, or in that of the file itself when that lies elsewhere.
    fn take(&mut self, file: &Path, path: &Path) -> anyhow::Result<()> {
        if file
            .strip_prefix(&self.root)
            .is_ok_and(|path| self.excluded.is_match(path))
        {
            return Ok(());
        }
        let shown = file.display();
        let target = file
            .canonicalize()
            .with_context(|| format!("cannot read {shown}"))?;
        if file.is_symlink() {
            let inside = target.starts_with(&self.root)
                || file
                    .parent()
                    .is_some_and(|folder| target.starts_with(folder));
            ensure!(
                inside,
                "{shown} is a link to {}, outside the application",
                target.display()
            );
        }
        let place = self.place()?.join(path);
        if let Some(folder) = place.parent() {
            std::fs::create_dir_all(folder)?;
        }
        // Two entries may pick the same file; the later one wins.
        match std::fs::remove_file(&place) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error)?,
            _ => {}
        }
        // A hard link costs nothing, and an edit in place shows; across file systems it is a copy.
        if std::fs::hard_link(&target, &place).is_err() {
            std::fs::copy(&target, &place).with_context(|| format!("cannot copy {shown}"))?;
        }
        Ok(())
    }

    fn mounts(mut self) -> Mounts {
        if let Some(gathered) = &self.gathered
            && !self.folders.iter().any(|(_, path)| path == "/")
        {
            self.folders
                .insert(0, (gathered.path().to_path_buf(), "/".into()));
        }
        Mounts {
            folders: self.folders,
            _gathered: self.gathered,
        }
    }
}

/// The path or glob without a leading slash, checked to go nowhere but down.
fn inside(path: &str) -> anyhow::Result<String> {
    let parts = Path::new(path.trim_start_matches('/')).components();
    let mut clean = Vec::new();
    for part in parts {
        match part {
            Part::Normal(name) => clean.push(name.to_string_lossy()),
            Part::CurDir => {}
            _ => bail!("{path:?} leaves the application's folder"),
        }
    }
    Ok(clean.join("/"))
}

/// The folder that a glob stands for as a whole: `a/b`, `a/b/**`, `a/b/**/*`.
fn whole_folder(glob: &str) -> Option<&str> {
    let folder = glob
        .strip_suffix("/**/*")
        .or_else(|| glob.strip_suffix("/**"))
        .unwrap_or(glob);
    (!folder.is_empty() && !is_pattern(folder)).then_some(folder)
}

/// The folders before the first wildcard: what has to be searched.
fn fixed_part(glob: &str) -> PathBuf {
    let parts = glob.split('/').collect::<Vec<_>>();
    let fixed = parts.iter().take_while(|part| !is_pattern(part)).count();
    // The last part is a file's name.
    parts[..fixed.min(parts.len().saturating_sub(1))]
        .iter()
        .collect()
}

fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '[', '{'])
}

fn globs<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>) -> anyhow::Result<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let pattern = inside(pattern.as_ref())?;
        set.add(GlobBuilder::new(&pattern).literal_separator(true).build()?);
        // A folder's name stands for what is in it.
        set.add(
            GlobBuilder::new(&format!("{pattern}/**"))
                .literal_separator(true)
                .build()?,
        );
    }
    Ok(set.build()?)
}

/// Every file below `folder`, links to files included and links to folders not followed.
fn files_in(folder: &Path) -> anyhow::Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    if !folder.is_dir() {
        return Ok(files);
    }
    for entry in WalkDir::new(folder) {
        let entry = entry.with_context(|| format!("cannot read {}", folder.display()))?;
        let kind = entry.file_type();
        if kind.is_file() || kind.is_symlink() && entry.path().is_file() {
            files.insert(entry.into_path());
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_go_down_only() {
        assert_eq!(inside("/a/./b").unwrap(), "a/b");
        assert_eq!(inside("a/*.txt").unwrap(), "a/*.txt");
        assert!(inside("a/../../b").is_err());
        assert!(inside("..").is_err());
    }

    #[test]
    fn globs_for_whole_folders_are_known() {
        for glob in ["a/b", "a/b/**", "a/b/**/*"] {
            assert_eq!(whole_folder(glob), Some("a/b"), "{glob}");
        }
        for glob in ["a/*", "*", "a/*/b", "a/*/**", "a/**/*.txt", ""] {
            assert_eq!(whole_folder(glob), None, "{glob}");
        }
    }

    #[test]
    fn only_the_folders_before_a_wildcard_are_searched() {
        for (glob, folder) in [
            ("a/b/*.txt", "a/b"),
            ("a/b.txt", "a"),
            ("*.txt", ""),
            ("a/**/b/c", "a"),
        ] {
            assert_eq!(fixed_part(glob), Path::new(folder), "{glob}");
        }
    }

    /// A component with these files, in a folder with a few.
    fn gathered(files: &[&str], exclude: &[&str]) -> (TempDir, anyhow::Result<Mounts>) {
        let root = tempfile::tempdir().unwrap();
        for file in ["a/1.txt", "a/deep/2.txt", "b/3.html"] {
            let file = root.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "text").unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", root.path().join("b/out")).unwrap();
        std::os::unix::fs::symlink("3.html", root.path().join("b/in")).unwrap();
        let component = Component {
            id: "c".into(),
            source: PathBuf::new(),
            files: files
                .iter()
                .map(|glob| Files::Glob((*glob).to_owned()))
                .collect(),
            exclude_files: exclude.iter().map(|glob| (*glob).to_owned()).collect(),
            allowed_outbound_hosts: Vec::new(),
            key_value_stores: Vec::new(),
            sqlite_databases: Vec::new(),
            environment: Default::default(),
            variables: Default::default(),
            build: None,
        };
        let mounts = Mounts::gather(&component, root.path());
        (root, mounts)
    }

    fn guest_paths(mounts: &Mounts) -> Vec<&str> {
        mounts
            .folders
            .iter()
            .map(|(_, path)| path.as_str())
            .collect()
    }

    #[test]
    fn a_whole_folder_is_opened_as_it_is_unless_a_file_of_it_is_excluded() {
        let (root, mounts) = gathered(&["a/**/*"], &[]);
        let mounts = mounts.unwrap();
        assert_eq!(guest_paths(&mounts), ["/", "/a"]);
        assert_eq!(
            mounts.folders[1].0,
            root.path().canonicalize().unwrap().join("a")
        );

        let (_root, mounts) = gathered(&["a/**/*"], &["a/deep"]);
        let mounts = mounts.unwrap();
        assert_eq!(guest_paths(&mounts), ["/"]);
        let place = &mounts.folders[0].0;
        assert!(place.join("a/1.txt").is_file() && !place.join("a/deep/2.txt").exists());
    }

    #[test]
    fn links_are_followed_within_the_application_only() {
        let (_root, mounts) = gathered(&["b/i*"], &[]);
        assert!(mounts.unwrap().folders[0].0.join("b/in").is_file());
        let (_root, mounts) = gathered(&["b/*"], &[]);
        let error = format!("{:#}", mounts.err().unwrap());
        assert!(
            error.contains("b/out") && error.contains("outside the application"),
            "{error}"
        );
    }

    #[test]
    fn nothing_is_mounted_for_a_component_without_files() {
        let (_root, mounts) = gathered(&[], &[]);
        assert!(mounts.unwrap().folders.is_empty());
    }
}
