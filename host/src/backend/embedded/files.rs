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
