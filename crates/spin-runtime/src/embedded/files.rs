//! The files that a component can read: `files` of the manifest, mounted read-only.
//!
//! A whole folder is mounted directly, so that changes are visible at once. Everything else is
//! collected in a temporary folder: single files, matches of globs, and folders that contain
//! excluded files or links to the outside.

#[cfg(test)]
mod tests;
mod walk;

use std::path::{Component as PathComponent, Path, PathBuf};

use anyhow::{Context as _, ensure};
use globset::GlobBuilder;
use tempfile::TempDir;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};

use crate::{
    excluded_files::{ExcludedFiles, relative_path},
    manifest::{Component, Files},
};

/// The folders that are mounted in every instance of a component.
pub(crate) struct Mounts {
    /// Folders on the host, with their paths in the guest.
    folders: Vec<(PathBuf, String)>,
    /// The folder of the collected files. It is deleted when this is dropped.
    _collected: Option<TempDir>,
    unmatched: Vec<String>,
}

impl Mounts {
    /// Finds and collects the files of a component whose manifest is in `root`.
    ///
    /// # Errors
    /// Fails if a source is missing, a glob is invalid, a link leaves the manifest's folder, or a
    /// file cannot be copied.
    pub(crate) fn gather(component: &Component, root: &Path) -> anyhow::Result<Self> {
        let mut builder = MountsBuilder::gather(component, root, true)?;
        if builder.has_overlaps()? {
            builder = MountsBuilder::gather(component, root, false)?;
        }
        Ok(builder.finish())
    }

    /// Returns the entries of `files` that match nothing.
    pub(crate) fn unmatched(&self) -> &[String] {
        &self.unmatched
    }

    /// Mounts the folders in an instance.
    pub(crate) fn open(&self, wasi: &mut WasiCtxBuilder) -> wasmtime::Result<()> {
        for (folder, path) in &self.folders {
            wasi.preopened_dir(folder, path, FsPerms::ReadOnly)?;
        }
        Ok(())
    }
}

/// Builds [`Mounts`].
struct MountsBuilder {
    /// The manifest's folder, with which the manifest's absolute paths start.
    manifest_dir: PathBuf,
    /// The manifest's folder without links.
    root: PathBuf,
    excluded: ExcludedFiles,
    /// Whether whole folders are mounted directly.
    mounts_folders: bool,
    collected: Option<TempDir>,
    folders: Vec<(PathBuf, String)>,
    /// Patterns that match no file.
    unmatched: Vec<String>,
}

impl MountsBuilder {
    fn gather(component: &Component, root: &Path, mounts_folders: bool) -> anyhow::Result<Self> {
        let excluded = ExcludedFiles::new(&component.exclude_files);
        let mut builder = MountsBuilder {
            manifest_dir: root.to_path_buf(),
            root: root
                .canonicalize()
                .with_context(|| format!("cannot read {}", root.display()))?,
            excluded: excluded
                .with_context(|| format!("exclude_files of component {}", component.id))?,
            mounts_folders,
            collected: None,
            folders: Vec::new(),
            unmatched: Vec::new(),
        };
        for files in &component.files {
            match files {
                Files::Glob(pattern) => builder.add_glob(pattern),
                Files::Placed {
                    source,
                    destination,
                } => builder.add_placed(source, destination),
            }
            .with_context(|| format!("files of component {}", component.id))?;
        }
        Ok(builder)
    }

    /// Returns whether a mounted folder would hide other files with a path in it.
    fn has_overlaps(&self) -> anyhow::Result<bool> {
        for (index, (_, path)) in self.folders.iter().enumerate() {
            let others = self.folders[..index]
                .iter()
                .chain(&self.folders[index + 1..]);
            if others
                .into_iter()
                .any(|(_, other)| Path::new(other).starts_with(path))
            {
                return Ok(true);
            }
            if let Some(collected) = &self.collected {
                let inner = collected.path().join(path.trim_start_matches('/'));
                if !walk::files(&inner, usize::MAX, |_| Ok(false))?.is_empty() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn add_glob(&mut self, pattern: &str) -> anyhow::Result<()> {
        let relative = relative_path(pattern)?;
        ensure!(
            !relative.is_empty(),
            "{pattern:?} does not name a file: use \"**/*\" for the application's whole folder"
        );
        // As in Spin, an existing file with this exact name takes precedence over wildcards.
        let exact = self.root.join(&relative);
        if exact.is_file() {
            return self.add_file(&exact, Path::new(&relative), &parent_dir(&exact)?);
        }
        let folder = if exact.is_dir() {
            Some(relative.as_str())
        } else {
            whole_folder(&relative)
        };
        if let Some(folder) = folder {
            let source = self.root.join(folder);
            if source.is_dir() {
                return self.add_folder(&source, Path::new(folder));
            }
        }
        ensure!(is_pattern(&relative), "{} does not exist", exact.display());
        let glob = GlobBuilder::new(&relative).literal_separator(true).build();
        let glob = glob.with_context(|| format!("invalid pattern {pattern:?}"))?;
        let glob = glob.compile_matcher();
        let (folder, depth) = search_scope(&relative);
        let folder = self.root.join(folder);
        if !folder.is_dir() {
            self.unmatched.push(pattern.to_owned());
            return Ok(());
        }
        let base = folder.canonicalize()?;
        let mut is_matched = false;
        for file in walk::files(&folder, depth, |link| self.follows(link, &base))? {
            let path = file
                .strip_prefix(&self.root)
                .context("file outside of the searched folder")?;
            if glob.is_match(path) {
                is_matched = true;
                self.add_file(&file, path, &base)?;
            }
        }
        if !is_matched {
            self.unmatched.push(pattern.to_owned());
        }
        Ok(())
    }

    fn add_placed(&mut self, source: &Path, destination: &str) -> anyhow::Result<()> {
        let context = || format!("cannot read {}", source.display());
        let resolved = self.resolve(source).with_context(context)?;
        let metadata = resolved.metadata().with_context(context)?;
        let destination = PathBuf::from(relative_path(destination)?);
        if metadata.is_file() {
            return self.add_file(&resolved, &destination, &parent_dir(&resolved)?);
        }
        ensure!(
            metadata.is_dir(),
            "{} is neither a file nor a folder",
            source.display()
        );
        self.add_folder(&resolved, &destination)
    }

    /// Resolves a path of the manifest. A path in the manifest's folder stays relative to the root,
    /// because exclusions are.
    fn resolve(&self, path: &Path) -> std::io::Result<PathBuf> {
        let stays_inside = |path: &&Path| {
            let mut components = path.components();
            components.all(|part| matches!(part, PathComponent::Normal(_) | PathComponent::CurDir))
        };
        let relative = path.strip_prefix(&self.manifest_dir).ok();
        match relative.filter(stays_inside) {
            Some(relative) => Ok(self.root.join(relative)),
            None => path.canonicalize(),
        }
    }

    /// Mounts or collects everything in a folder.
    fn add_folder(&mut self, source: &Path, destination: &Path) -> anyhow::Result<()> {
        // Listing the guest's root shows the folder, even if it is mounted directly.
        std::fs::create_dir_all(self.collected_dir()?.join(destination))?;
        // With exclusions, a file that must be hidden may be created later.
        if self.mounts_folders && self.excluded.is_empty() && walk::is_self_contained(source)? {
            self.folders
                .push((source.to_path_buf(), format!("/{}", destination.display())));
            return Ok(());
        }
        let base = source.canonicalize()?;
        for file in walk::files(source, usize::MAX, |link| self.follows(link, &base))? {
            let path = file
                .strip_prefix(source)
                .context("file outside of the searched folder")?;
            self.add_file(&file, &destination.join(path), &base)?;
        }
        Ok(())
    }

    /// Returns the folder of the collected files, which becomes the guest's root.
    fn collected_dir(&mut self) -> anyhow::Result<&Path> {
        let dir = match self.collected.take() {
            Some(dir) => dir,
            None => tempfile::Builder::new()
                .prefix("socket-host-")
                .tempdir()
                .context("cannot create a temporary folder")?,
        };
        Ok(self.collected.insert(dir).path())
    }

    fn is_excluded(&self, file: &Path) -> bool {
        file.strip_prefix(&self.root)
            .is_ok_and(|path| self.excluded.contains(path))
    }

    /// Returns whether to follow a link to a folder: unless the folder is excluded.
    fn follows(&self, link: &Path, base: &Path) -> anyhow::Result<bool> {
        if self.is_excluded(link) {
            return Ok(false);
        }
        self.link_target(link, base)?;
        Ok(true)
    }

    /// Returns the path of a file or folder without links. Links may lead to the manifest's folder,
    /// and to `base`, the folder that the entry of `files` names.
    fn link_target(&self, file: &Path, base: &Path) -> anyhow::Result<PathBuf> {
        let target = file
            .canonicalize()
            .with_context(|| format!("cannot read {}", file.display()))?;
        ensure!(
            target.starts_with(&self.root) || target.starts_with(base),
            "{} is a link to {}, outside the application: replace it with a copy, or add it to exclude_files",
            file.display(),
            target.display()
        );
        Ok(target)
    }

    /// Collects a file, unless it is excluded.
    fn add_file(&mut self, file: &Path, destination: &Path, base: &Path) -> anyhow::Result<()> {
        if self.is_excluded(file) {
            return Ok(());
        }
        let target = self.link_target(file, base)?;
        let copy = self.collected_dir()?.join(destination);
        if let Some(folder) = copy.parent() {
            std::fs::create_dir_all(folder)?;
        }
        // If entries have the same destination, the last one applies.
        match std::fs::remove_file(&copy) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error)?,
            _ => {}
        }
        // A hard link is cheap and shows edits in place. It fails across file systems.
        if std::fs::hard_link(&target, &copy).is_err() {
            std::fs::copy(&target, &copy)
                .with_context(|| format!("cannot copy {}", file.display()))?;
        }
        Ok(())
    }

    fn finish(mut self) -> Mounts {
        if let Some(collected) = &self.collected
            && !self.folders.iter().any(|(_, path)| path == "/")
        {
            self.folders
                .insert(0, (collected.path().to_path_buf(), "/".into()));
        }
        Mounts {
            folders: self.folders,
            _collected: self.collected,
            unmatched: self.unmatched,
        }
    }
}

/// Returns the folder of a file, without links.
fn parent_dir(file: &Path) -> anyhow::Result<PathBuf> {
    let folder = file.parent().unwrap_or(file);
    folder
        .canonicalize()
        .with_context(|| format!("cannot read {}", folder.display()))
}

/// Returns the folder that a glob matches as a whole: `a/b/**`, `a/b/**/*`.
fn whole_folder(glob: &str) -> Option<&str> {
    let folder = glob
        .strip_suffix("/**/*")
        .or_else(|| glob.strip_suffix("/**"))?;
    (!folder.is_empty() && !is_pattern(folder)).then_some(folder)
}

/// Returns the folder to search for matches of a glob, and the depth of the search.
fn search_scope(glob: &str) -> (PathBuf, usize) {
    let names = glob.split('/').collect::<Vec<_>>();
    let fixed = names.iter().take_while(|name| !is_pattern(name)).count();
    // The last name is that of a file.
    let fixed = fixed.min(names.len().saturating_sub(1));
    let depth = if glob.contains("**") {
        usize::MAX
    } else {
        names.len() - fixed
    };
    (names[..fixed].iter().collect(), depth)
}

fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '[', '{'])
}
