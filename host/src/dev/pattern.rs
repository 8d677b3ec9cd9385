//! Files that a manifest names, one by one or many at once, and what has to be watched for them.

use std::path::{Component as Part, Path, PathBuf};

use anyhow::{Context as _, Result};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// A file, a folder with all that is in it, or a glob.
pub(crate) struct Pattern {
    /// Everything that matches is in here.
    folder: PathBuf,
    /// Of paths relative to `folder`.
    glob: GlobSet,
    /// Where to look for it.
    pub(crate) root: PathBuf,
    /// Whether what matches may be further down than in `root` itself.
    pub(crate) deep: bool,
}

impl Pattern {
    /// What `glob` means in `folder`; it may lead out of it with `..`.
    ///
    /// # Errors
    /// When it is no glob; names it.
    pub(crate) fn new(folder: &Path, glob: &str) -> Result<Self> {
        let parts: Vec<_> = glob.split('/').filter(|part| !part.is_empty()).collect();
        let is_fixed = |part: &&str| !part.contains(['*', '?', '[', '{']);
        let fixed = parts.iter().take_while(|part| is_fixed(part)).count();
        // What has this very name comes first, where components' files are gathered too.
        if fixed == parts.len() || folder.join(glob).is_dir() {
            return Self::exactly(&folder.join(glob));
        }
        let folder = clean(&folder.join(parts[..fixed].join("/")));
        let rest = parts[fixed..].join("/");
        let deep = parts.len() - fixed > 1 || rest.contains("**");
        // A file of this name may yet come.
        let globs = [&globset::escape(&rest), &rest];
        Self::build(folder.clone(), &globs, folder, deep).with_context(|| format!("{glob:?}"))
    }

    /// A file, or a folder with all that is in it, or what may become one of the two: which of them
    /// it is may change.
    ///
    /// # Errors
    /// When the name is too long for a glob.
    pub(crate) fn exactly(path: &Path) -> Result<Self> {
        let path = clean(path);
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Self::build(path.clone(), &["**"], path, true);
        };
        let name = globset::escape(&name.to_string_lossy());
        let globs = [&name, &format!("{name}/**")];
        // Where there is no such folder, the one in which it may come to be is looked at.
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

    /// Whether this file is meant.
    pub(crate) fn matches(&self, file: &Path) -> bool {
        file.strip_prefix(&self.folder)
            .is_ok_and(|path| self.glob.is_match(path))
    }
}

/// A path without `.` and `..`; other links than those before a `..` stay in it.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Part::CurDir => {}
            Part::ParentDir => {
                // What is above the folder that a link leads to is not what is above the link.
                if clean.is_symlink()
                    && let Ok(real) = clean.canonicalize()
                {
                    clean = real;
                }
                clean.pop();
            }
            part => clean.push(part),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_pattern_and_any_path_are_read(glob in "[a./*?{}\\[\\]!~-]{0,12}", path in "[a./*~#]{0,12}") {
            if let Ok(pattern) = Pattern::new(Path::new("/root"), &glob) {
                let _ = pattern.matches(&Path::new("/root").join(path));
            }
        }

        #[test]
        fn what_matches_is_where_the_pattern_is_looked_for(glob in "[ab*/.]{1,8}", path in "[ab/]{1,8}") {
            if let Ok(pattern) = Pattern::new(Path::new("/root"), &glob) {
                let path = clean(&Path::new("/root").join(path.trim_start_matches('/')));
                let rest = path.strip_prefix(&pattern.root);
                if pattern.matches(&path) {
                    prop_assert!(pattern.deep || rest.unwrap().components().count() <= 1);
                }
            }
        }
    }

    #[test]
    fn a_path_is_a_file_or_a_folder_whatever_it_is_now() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("a*b");
        let pattern = Pattern::exactly(&root).unwrap();
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
    fn a_name_with_wildcards_in_it_is_a_name_too() {
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
