//! Files that a manifest names, one by one or many at once, and what has to be watched for them.

use std::path::{Component as Part, Path, PathBuf};

use anyhow::{Context as _, Result};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// A file, a folder with all that is in it, or a glob.
pub struct Pattern {
    /// Everything that matches is in here.
    pub folder: PathBuf,
    /// Of paths relative to `folder`.
    glob: GlobSet,
    /// Whether what matches may be further down.
    pub deep: bool,
}

impl Pattern {
    /// What `glob` means in `folder`; it may lead out of it with `..`.
    ///
    /// # Errors
    /// When it is no glob; names it.
    pub fn new(folder: &Path, glob: &str) -> Result<Self> {
        let parts: Vec<_> = glob.split('/').filter(|part| !part.is_empty()).collect();
        let is_fixed = |part: &&str| !part.contains(['*', '?', '[', '{']);
        let fixed = parts.iter().take_while(|part| is_fixed(part)).count();
        if fixed == parts.len() {
            return Self::exactly(&folder.join(glob));
        }
        let folder = clean(&folder.join(parts[..fixed].join("/")));
        let rest = parts[fixed..].join("/");
        Self::build(
            folder,
            &rest,
            parts.len() - fixed > 1 || rest.contains("**"),
        )
        .with_context(|| format!("{glob:?}"))
    }

    /// A file, or a folder for all that is in it: which of the two may change.
    ///
    /// # Errors
    /// When the name is too long for a glob.
    pub fn exactly(path: &Path) -> Result<Self> {
        let path = clean(path);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let folder = path.parent().unwrap_or(&path).to_owned();
        if path.is_dir() {
            return Self::build(path, "**", true);
        }
        Self::build(folder, &globset::escape(&name), false)
    }

    fn build(folder: PathBuf, glob: &str, deep: bool) -> Result<Self> {
        let mut set = GlobSetBuilder::new();
        set.add(GlobBuilder::new(glob).literal_separator(true).build()?);
        Ok(Self {
            folder,
            glob: set.build()?,
            deep,
        })
    }

    /// Whether this file is meant.
    pub fn matches(&self, file: &Path) -> bool {
        file.strip_prefix(&self.folder)
            .is_ok_and(|path| self.glob.is_match(path))
    }
}

/// A path without `.` and `..`; other links than those before a `..` stay in it.
pub fn clean(path: &Path) -> PathBuf {
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
        fn what_matches_is_in_the_pattern_s_folder(glob in "[ab*/.]{1,8}", path in "[ab/]{1,8}") {
            if let Ok(pattern) = Pattern::new(Path::new("/root"), &glob) {
                let path = clean(&Path::new("/root").join(path.trim_start_matches('/')));
                let rest = path.strip_prefix(&pattern.folder);
                if pattern.matches(&path) {
                    prop_assert!(pattern.deep || rest.unwrap().components().count() <= 1);
                }
            }
        }
    }
}
