//! What is below a folder, and where its links lead.

use std::{
    collections::BTreeSet,
    path::{Component as Part, Path, PathBuf},
};

use anyhow::Context as _;
use walkdir::WalkDir;

/// Every file below `folder`, so far down. Links to folders are gone through when `follows` says so;
/// what leads nowhere, or back to where it is, is left out.
///
/// # Errors
/// Those of `follows`, and when a folder cannot be read.
pub fn files(
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
            Err(error) if error.path().is_some_and(leads_nowhere) => continue,
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

/// Whether every link below `folder` can be followed by a guest that sees nothing else.
///
/// # Errors
/// When a folder cannot be read.
pub fn is_closed(folder: &Path) -> anyhow::Result<bool> {
    let real = folder.canonicalize()?;
    for entry in WalkDir::new(&real) {
        let entry = entry.with_context(|| format!("cannot read {}", folder.display()))?;
        if entry.depth() > 0 && entry.path_is_symlink() && leads_out(&real, entry.path()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a link in `folder` goes out of it, on the way too: where the folder is all there is,
/// no path is absolute, and nothing is above.
fn leads_out(folder: &Path, link: &Path) -> bool {
    // There is nothing that could be seen of one that leads nowhere.
    let (Ok(target), Ok(path)) = (link.canonicalize(), link.read_link()) else {
        return false;
    };
    let inner = link.strip_prefix(folder).unwrap_or(link);
    let mut above = inner.components().count().saturating_sub(1);
    for part in path.components() {
        above = match part {
            Part::Normal(_) => above + 1,
            Part::CurDir => above,
            Part::ParentDir if above > 0 => above - 1,
            _ => return true,
        };
    }
    !target.starts_with(folder)
}

fn leads_nowhere(path: &Path) -> bool {
    path.is_symlink() && !path.exists()
}
