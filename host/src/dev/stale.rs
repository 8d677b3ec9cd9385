//! Finds components that are older than what they are built from.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::Result;
use spin_runtime::Manifest;

use super::watch_set::WatchSet;

/// Returns the file that was changed last of those that the build of a component depends on
/// (`build.watch`), and when. Returns `None` if there are no such files.
///
/// # Errors
/// Fails if a pattern is invalid.
pub(crate) fn newest_input(
    manifest: &Manifest,
    component: &str,
) -> Result<Option<(PathBuf, SystemTime)>> {
    let watch_set = WatchSet::new(manifest)?;
    let mut newest = None;
    for (root, is_deep) in watch_set.build_roots(component) {
        visit(root, is_deep, &mut |file, changed| {
            let is_newest = newest.as_ref().is_none_or(|(_, time)| changed > *time);
            if is_newest && watch_set.is_build_input(component, file) {
                newest = Some((file.to_owned(), changed));
            }
        });
    }
    Ok(newest)
}

/// Visits the files of a folder, or a file. What cannot be read is left out.
fn visit(path: &Path, is_deep: bool, visitor: &mut impl FnMut(&Path, SystemTime)) {
    let Ok(entries) = fs::read_dir(path) else {
        if let Ok(changed) = fs::metadata(path).and_then(|it| it.modified()) {
            visitor(path, changed);
        }
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        // Links to folders are not followed, which may lead in circles.
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() {
            if is_deep && !WatchSet::is_skipped(&path) {
                visit(&path, is_deep, visitor);
            }
        } else if let Ok(changed) = fs::metadata(&path).and_then(|it| it.modified()) {
            visitor(&path, changed);
        }
    }
}
