//! Patterns of file names in a manifest, and the folders to watch for their matches.

use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// A file, a folder with everything below it, or a glob.
pub(crate) struct Pattern {
    /// Contains all matches.
    folder: PathBuf,
    /// Matches paths relative to `folder`.
    glob: GlobSet,
    /// The folder to watch, or a path that may become one.
    pub(crate) root: PathBuf,
    /// Whether folders below `root` may contain matches.
    pub(crate) deep: bool,
}

impl Pattern {
    /// Parses `glob`, relative to `folder`. It may leave the folder with `..`.
    ///
    /// # Errors
    /// Fails if the glob is invalid. The error contains it.
    pub(crate) fn new(folder: &Path, glob: &str) -> Result<Self> {
        let parts: Vec<_> = glob.split('/').filter(|part| !part.is_empty()).collect();
        let is_literal = |part: &&str| !part.contains(['*', '?', '[', '{']);
        let literal = parts.iter().take_while(|part| is_literal(part)).count();
        // A literal match takes precedence over wildcards, as it does for components' files.
        if literal == parts.len() || folder.join(glob).is_dir() {
            return Self::literal(&folder.join(glob));
        }
        let folder = normalize(&folder.join(parts[..literal].join("/")));
        let wildcards = parts[literal..].join("/");
        let deep = parts.len() - literal > 1 || wildcards.contains("**");
        // A file with this literal name may be created later.
        let globs = [&globset::escape(&wildcards), &wildcards];
        Self::build(folder.clone(), &globs, folder, deep).with_context(|| format!("{glob:?}"))
    }

    /// Matches a file, or a folder with everything below it. The path need not exist yet, and may
    /// change from one to the other.
    ///
    /// # Errors
    /// Fails if the name is too long for a glob.
    pub(crate) fn literal(path: &Path) -> Result<Self> {
        let path = normalize(path);
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Self::build(path.clone(), &["**"], path, true);
        };
        let name = globset::escape(&name.to_string_lossy());
        let globs = [&name, &format!("{name}/**")];
        // If the root is not a folder, the scanner watches the nearest existing parent.
        Self::build(folder.to_owned(), &globs, path, true)
    }

    fn build(
        folder: PathBuf,
        globs: &[impl AsRef<str>],
        root: PathBuf,
        deep: bool,
    ) -> Result<Self> {
        let mut set = GlobSetBuilder::new();
        for glob in globs {
            let glob = GlobBuilder::new(glob.as_ref())
                .literal_separator(true)
                .build();
            set.add(glob?);
        }
        Ok(Self {
            folder,
            glob: set.build()?,
            root,
            deep,
        })
    }

    pub(crate) fn matches(&self, file: &Path) -> bool {
        file.strip_prefix(&self.folder)
            .is_ok_and(|path| self.glob.is_match(path))
    }
}

/// Removes `.` and `..` from a path. Resolves symbolic links only before a `..`.
pub(crate) fn normalize(path: &Path) -> PathBuf {
    let mut normalized = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                // The parent of a link's target differs from the parent of the link.
                if normalized.is_symlink()
                    && let Ok(target) = normalized.canonicalize()
                {
                    normalized = target;
                }
                normalized.pop();
            }
            part => normalized.push(part),
        }
    }
    normalized
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn matching_never_panics(glob in "[a./*?{}\\[\\]!~-]{0,12}", path in "[a./*~#]{0,12}") {
            if let Ok(pattern) = Pattern::new(Path::new("/root"), &glob) {
                let _ = pattern.matches(&Path::new("/root").join(path));
            }
        }

        #[test]
        fn matches_are_below_the_root(glob in "[ab*/.]{1,8}", path in "[ab/]{1,8}") {
            if let Ok(pattern) = Pattern::new(Path::new("/root"), &glob) {
                let path = normalize(&Path::new("/root").join(path.trim_start_matches('/')));
                let rest = path.strip_prefix(&pattern.root);
                if pattern.matches(&path) {
                    prop_assert!(pattern.deep || rest.unwrap().components().count() <= 1);
                }
            }
        }
    }

    #[test]
    fn a_literal_pattern_matches_a_file_and_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("a*b");
        let pattern = Pattern::literal(&root).unwrap();
        for is_folder in [false, true] {
            if is_folder {
                std::fs::create_dir(&root).unwrap();
            }
            for path in [root.clone(), root.join("deep/file")] {
                assert!(pattern.matches(&path), "{}", path.display());
            }
            assert!(!pattern.matches(&folder.path().join("axb")));
            assert_eq!((&pattern.root, pattern.deep), (&root, true));
        }
    }

    #[test]
    fn wildcards_also_match_literally() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir_all(root.join("pages/[id]")).unwrap();
        let matches = |glob: &str, path: &str| {
            let pattern = Pattern::new(root, glob).unwrap();
            pattern.matches(&root.join(path))
        };
        assert!(matches("pages/[slug].html", "pages/[slug].html"));
        assert!(matches("pages/[slug].html", "pages/s.html"));
        assert!(!matches("pages/[slug].html", "pages/x.html"));
        assert!(matches("pages/[id]", "pages/[id]/deep/page.html"));
        assert!(!matches("pages/[id]", "pages/i"));
        assert!(matches("pages/[id]/*.html", "pages/i/page.html"));
    }
}
