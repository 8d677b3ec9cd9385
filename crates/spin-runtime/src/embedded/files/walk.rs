//! Walks folders and checks the targets of links.

use std::{
    collections::BTreeSet,
    path::{Component as PathComponent, Path, PathBuf},
};

use anyhow::Context as _;
use walkdir::WalkDir;

/// Returns the files in a folder, up to a depth.
///
/// Links to folders are followed if `follows` returns true. Broken links and loops are skipped.
///
/// # Errors
/// Fails if a folder cannot be read, or if `follows` fails.
pub(crate) fn files(
    folder: &Path,
    depth: usize,
    follows: impl Fn(&Path) -> anyhow::Result<bool>,
) -> anyhow::Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    let walk = WalkDir::new(folder).follow_links(true).max_depth(depth);
    let mut walk = walk.into_iter();
    while let Some(entry) = walk.next() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) if error.loop_ancestor().is_some() => continue,
            Err(error) if error.path().is_some_and(is_broken_link) => continue,
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", folder.display()));
            }
        };
        if entry.file_type().is_file() {
            files.insert(entry.into_path());
        } else if entry.path_is_symlink()
            && entry.file_type().is_dir()
            && (1..depth).contains(&entry.depth())
            && !follows(entry.path())?
        {
            walk.skip_current_dir();
        }
    }
    Ok(files)
}

/// Returns whether a guest can follow every link in a folder without access to other folders.
///
/// # Errors
/// Fails if a folder cannot be read.
pub(crate) fn is_self_contained(folder: &Path) -> anyhow::Result<bool> {
    let real = folder.canonicalize()?;
    for entry in WalkDir::new(&real) {
        let entry = entry.with_context(|| format!("cannot read {}", folder.display()))?;
        if entry.depth() > 0 && entry.path_is_symlink() && leaves(&real, entry.path()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns whether a link leaves the folder, even if it leads back. A guest can follow neither
/// absolute links nor links through the parent of the folder.
fn leaves(folder: &Path, link: &Path) -> bool {
    // A broken link is broken for the guest too.
    let (Ok(target), Ok(path)) = (link.canonicalize(), link.read_link()) else {
        return false;
    };
    let relative = link.strip_prefix(folder).unwrap_or(link);
    let mut depth = relative.components().count().saturating_sub(1);
    for component in path.components() {
        depth = match component {
            PathComponent::Normal(_) => depth + 1,
            PathComponent::CurDir => depth,
            PathComponent::ParentDir if depth > 0 => depth - 1,
            _ => return true,
        };
    }
    !target.starts_with(folder)
}

fn is_broken_link(path: &Path) -> bool {
    path.is_symlink() && !path.exists()
}
