//! What a component sees of the file system: the manifest's `files`, read-only.
//!
//! Folders that a guest may see whole are opened as they are, so that an edit is seen at once.
//! Single files, what globs pick out, and folders of which something is hidden, or from which a
//! link leads elsewhere, are gathered in a folder of our own.

#[cfg(test)]
mod tests;
mod walk;

use std::path::{Component as Part, Path, PathBuf};

use anyhow::{Context as _, ensure};
use globset::GlobBuilder;
use tempfile::TempDir;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};

use crate::{
    excluded::{Excluded, inside},
    manifest::{Component, Files},
};

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
    /// When a source is missing, a glob is none, a link leads out of the manifest's folder, or a
    /// copy fails.
    pub fn gather(component: &Component, root: &Path) -> anyhow::Result<Self> {
        let gathering = Gathering::all(component, root, true)?;
        let gathering = match gathering.overlaps()? {
            true => Gathering::all(component, root, false)?,
            false => gathering,
        };
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
    /// The manifest's folder, as the manifest's paths begin,
    named: PathBuf,
    /// and as it is without links.
    root: PathBuf,
    excluded: Excluded,
    /// Folders may be opened as they are.
    opens: bool,
    gathered: Option<TempDir>,
    folders: Vec<(PathBuf, String)>,
}

impl Gathering {
    fn all(component: &Component, root: &Path, opens: bool) -> anyhow::Result<Self> {
        let excluded = Excluded::new(&component.exclude_files);
        let mut gathering = Gathering {
            named: root.to_path_buf(),
            root: root
                .canonicalize()
                .with_context(|| format!("cannot read {}", root.display()))?,
            excluded: excluded.with_context(|| format!("exclude_files of {}", component.id))?,
            opens,
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
        Ok(gathering)
    }

    /// Whether a folder that is opened hides other files, which have a place in it too.
    fn overlaps(&self) -> anyhow::Result<bool> {
        for (at, (_, path)) in self.folders.iter().enumerate() {
            let others = self.folders[..at].iter().chain(&self.folders[at + 1..]);
            if others
                .into_iter()
                .any(|(_, other)| Path::new(other).starts_with(path))
            {
                return Ok(true);
            }
            if let Some(gathered) = &self.gathered {
                let inner = gathered.path().join(path.trim_start_matches('/'));
                if !walk::files(&inner, usize::MAX, |_| Ok(false))?.is_empty() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn glob(&mut self, pattern: &str) -> anyhow::Result<()> {
        let relative = inside(pattern)?;
        ensure!(
            !relative.is_empty(),
            "{pattern:?} names no file: write \"**/*\" if the application's whole folder is meant"
        );
        // As in Spin, what has this very name comes first: names may have wildcards in them.
        let named = self.root.join(&relative);
        if named.is_file() {
            return self.take(&named, Path::new(&relative), &folder_of(&named)?);
        }
        let folder = match named.is_dir() {
            true => Some(relative.as_str()),
            false => whole_folder(&relative),
        };
        if let Some(folder) = folder {
            let source = self.root.join(folder);
            if source.is_dir() {
                return self.folder(&source, Path::new(folder));
            }
        }
        ensure!(is_pattern(&relative), "there is no {}", named.display());
        let wanted = GlobBuilder::new(&relative).literal_separator(true).build();
        let wanted = wanted.with_context(|| format!("{pattern:?}"))?;
        let wanted = wanted.compile_matcher();
        let (folder, depth) = searched(&relative);
        let folder = self.root.join(folder);
        if !folder.is_dir() {
            return Ok(());
        }
        let home = folder.canonicalize()?;
        for file in walk::files(&folder, depth, |link| self.follows(link, &home))? {
            let path = file
                .strip_prefix(&self.root)
                .context("a file outside of its folder")?;
            if wanted.is_match(path) {
                self.take(&file, path, &home)?;
            }
        }
        Ok(())
    }

    fn placed(&mut self, source: &Path, destination: &str) -> anyhow::Result<()> {
        let shown = source.display();
        let source = self.located(source);
        let source = source.with_context(|| format!("cannot read {shown}"))?;
        let found = source.metadata();
        let found = found.with_context(|| format!("cannot read {shown}"))?;
        let inner = PathBuf::from(inside(destination)?);
        if found.is_file() {
            return self.take(&source, &inner, &folder_of(&source)?);
        }
        ensure!(found.is_dir(), "{shown} is neither a file nor a folder");
        self.folder(&source, &inner)
    }

    /// A path of the manifest, told from the folder that exclusions are told from, if it is below.
    fn located(&self, path: &Path) -> std::io::Result<PathBuf> {
        let goes_down = |path: &&Path| {
            let mut parts = path.components();
            parts.all(|part| matches!(part, Part::Normal(_) | Part::CurDir))
        };
        match path.strip_prefix(&self.named).ok().filter(goes_down) {
            Some(path) => Ok(self.root.join(path)),
            None => path.canonicalize(),
        }
    }

    /// All that is in a folder.
    fn folder(&mut self, source: &Path, inner: &Path) -> anyhow::Result<()> {
        // The guest's root shows where it is, also to a guest that lists it.
        std::fs::create_dir_all(self.place()?.join(inner))?;
        // What will be hidden may not be there yet.
        if self.opens && self.excluded.is_empty() && walk::is_closed(source)? {
            self.folders
                .push((source.to_path_buf(), format!("/{}", inner.display())));
            return Ok(());
        }
        let home = source.canonicalize()?;
        for file in walk::files(source, usize::MAX, |link| self.follows(link, &home))? {
            let path = file
                .strip_prefix(source)
                .context("a file outside of its folder")?;
            self.take(&file, &inner.join(path), &home)?;
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

    fn hides(&self, file: &Path) -> bool {
        file.strip_prefix(&self.root)
            .is_ok_and(|path| self.excluded.has(path))
    }

    /// Whether a link to a folder is followed: not where all of it is hidden.
    fn follows(&self, link: &Path, home: &Path) -> anyhow::Result<bool> {
        if self.hides(link) {
            return Ok(false);
        }
        self.target(link, home)?;
        Ok(true)
    }

    /// Where a file, or folder, is without links. They may lead about in the manifest's folder, and in
    /// `home`, the folder that the manifest names, when that lies elsewhere.
    fn target(&self, file: &Path, home: &Path) -> anyhow::Result<PathBuf> {
        let shown = file.display();
        let target = file.canonicalize();
        let target = target.with_context(|| format!("cannot read {shown}"))?;
        ensure!(
            target.starts_with(&self.root) || target.starts_with(home),
            "{shown} is a link to {}, outside the application: put there what it leads to, or name it in exclude_files",
            target.display()
        );
        Ok(target)
    }

    /// Gathers one file, unless it is excluded.
    fn take(&mut self, file: &Path, path: &Path, home: &Path) -> anyhow::Result<()> {
        if self.hides(file) {
            return Ok(());
        }
        let target = self.target(file, home)?;
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
            std::fs::copy(&target, &place)
                .with_context(|| format!("cannot copy {}", file.display()))?;
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

/// The folder in which a file is, without links.
fn folder_of(file: &Path) -> anyhow::Result<PathBuf> {
    let folder = file.parent().unwrap_or(file);
    folder
        .canonicalize()
        .with_context(|| format!("cannot read {}", folder.display()))
}

/// The folder that a glob stands for as a whole: `a/b/**`, `a/b/**/*`.
fn whole_folder(glob: &str) -> Option<&str> {
    let folder = glob
        .strip_suffix("/**/*")
        .or_else(|| glob.strip_suffix("/**"))?;
    (!folder.is_empty() && !is_pattern(folder)).then_some(folder)
}

/// What has to be searched for a glob: the folders before the first wildcard, and so far down.
fn searched(glob: &str) -> (PathBuf, usize) {
    let parts = glob.split('/').collect::<Vec<_>>();
    let fixed = parts.iter().take_while(|part| !is_pattern(part)).count();
    // The last part is a file's name.
    let fixed = fixed.min(parts.len().saturating_sub(1));
    let depth = match glob.contains("**") {
        true => usize::MAX,
        false => parts.len() - fixed,
    };
    (parts[..fixed].iter().collect(), depth)
}

fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '[', '{'])
}
