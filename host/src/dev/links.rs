//! Resolves symbolic links, and returns what the result depends on.

use std::{
    ffi::OsString,
    path::{Component, Path, PathBuf},
};

/// The number of links that are followed in one path, as on Linux. More of them are a loop.
const MAX_LINKS: usize = 40;

/// Returns the links on the way to the file or folder at `path`, and the path without links that
/// they lead to. Returns nothing if there is no link.
///
/// Replacing one of these changes what is at `path`. The folder of each exists and is no link, so it
/// can be watched. If a target does not exist, the last path is the first part that is missing.
pub(crate) fn hops(path: &Path) -> Vec<PathBuf> {
    let mut hops = Vec::new();
    let mut resolved = PathBuf::new();
    // The parts that follow, in reverse order.
    let mut rest = Vec::new();
    push_parts(&mut rest, path);
    while let Some(part) = rest.pop() {
        if part == ".." {
            resolved.pop();
            continue;
        }
        // The root replaces the path.
        resolved.push(part);
        if let Ok(target) = resolved.read_link() {
            hops.push(resolved.clone());
            if hops.len() == MAX_LINKS {
                return hops;
            }
            resolved.pop();
            push_parts(&mut rest, &target);
        } else if !resolved.exists() {
            break;
        }
    }
    if !hops.is_empty() {
        hops.push(resolved);
    }
    hops
}

fn push_parts(rest: &mut Vec<OsString>, path: &Path) {
    let parts = path.components().filter(|part| *part != Component::CurDir);
    let parts: Vec<_> = parts.map(|part| part.as_os_str().to_owned()).collect();
    rest.extend(parts.into_iter().rev());
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn every_link_and_the_target_are_returned() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        fs::create_dir_all(folder.join("real/deep")).unwrap();
        fs::write(folder.join("real/deep/file"), "").unwrap();
        for (target, link) in [
            ("real", "relative"),
            (folder.join("relative/deep").to_str().unwrap(), "absolute"),
            ("../../absolute/./file", "real/deep/file-link"),
            ("../none/later", "real/dangling"),
            ("loop", "loop"),
        ] {
            symlink(target, folder.join(link)).unwrap();
        }
        let hops = |path: &str| -> Vec<_> {
            let hops = hops(&folder.join(path)).into_iter();
            hops.map(|hop| hop.strip_prefix(&folder).unwrap().display().to_string())
                .collect()
        };
        let none: [&str; 0] = [];
        assert_eq!(hops("real/deep/file"), none);
        assert_eq!(hops("real/none/file"), none);
        assert_eq!(hops("relative"), ["relative", "real"]);
        assert_eq!(hops("relative/../real/deep"), ["relative", "real/deep"]);
        assert_eq!(
            hops("absolute/file"),
            ["absolute", "relative", "real/deep/file"]
        );
        assert_eq!(
            hops("relative/deep/file-link"),
            [
                "relative",
                "real/deep/file-link",
                "absolute",
                "relative",
                "real/deep/file"
            ]
        );
        assert_eq!(hops("real/dangling"), ["real/dangling", "none"]);
        assert_eq!(hops("relative/nothing"), ["relative", "real/nothing"]);
        assert_eq!(hops("loop").len(), MAX_LINKS);
    }
}
