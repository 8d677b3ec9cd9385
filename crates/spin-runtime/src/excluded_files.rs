//! The files that a component cannot read: `exclude_files`.

use std::path::{Component as Part, Path};

use anyhow::{Context as _, bail};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// A set of excluded files, as patterns of paths relative to the manifest's folder.
pub struct ExcludedFiles(GlobSet);

impl ExcludedFiles {
    /// Creates a set from the patterns of `exclude_files`.
    ///
    /// As in Spin, and unlike in `files`, wildcards match slashes. A pattern that matches a folder
    /// excludes everything in it.
    ///
    /// # Errors
    /// Fails if a pattern is invalid or leaves the manifest's folder.
    pub fn new(patterns: &[String]) -> anyhow::Result<Self> {
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            let relative = relative_path(pattern)?;
            for glob in [format!("{relative}/**"), relative] {
                let glob = GlobBuilder::new(&glob).literal_separator(false).build();
                set.add(glob.with_context(|| format!("invalid pattern {pattern:?}"))?);
            }
        }
        Ok(Self(set.build()?))
    }

    /// Returns whether there are no patterns.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether a file or folder is excluded.
    pub fn contains(&self, path: &Path) -> bool {
        self.0.is_match(path)
    }
}

/// Removes the leading slash of a path or glob, and checks that it stays in the manifest's folder.
pub(crate) fn relative_path(path: &str) -> anyhow::Result<String> {
    let parts = Path::new(path.trim_start_matches('/')).components();
    let mut names = Vec::new();
    for part in parts {
        match part {
            Part::Normal(name) => names.push(name.to_string_lossy()),
            Part::CurDir => {}
            _ => bail!("{path:?} is outside the application's folder"),
        }
    }
    Ok(names.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_outside_the_folder_are_errors() {
        assert_eq!(relative_path("/a/./b").unwrap(), "a/b");
        assert_eq!(relative_path("a/*.txt").unwrap(), "a/*.txt");
        assert!(relative_path("a/../../b").is_err());
        assert!(relative_path("..").is_err());
    }

    #[test]
    fn patterns_match_across_folders() {
        let patterns = ["public/*.map", "/drafts", "*.secret", "a/?/b"];
        let excluded = ExcludedFiles::new(&patterns.map(str::to_owned)).unwrap();
        for (path, is_excluded) in [
            ("public/app.js.map", true),
            ("public/js/deep/app.js.map", true),
            ("public/app.js", false),
            ("other/app.js.map", false),
            ("drafts", true),
            ("drafts/deep/a.txt", true),
            ("drafts.txt", false),
            ("x.secret", true),
            ("deep/x.secret", true),
            ("deep/x.secret/inner", true),
            ("a/x/b", true),
            ("a/xx/b", false),
        ] {
            assert_eq!(excluded.contains(Path::new(path)), is_excluded, "{path}");
        }
        assert!(!excluded.is_empty() && ExcludedFiles::new(&[]).unwrap().is_empty());
        let error = format!(
            "{:#}",
            ExcludedFiles::new(&["a/[".to_owned()]).err().unwrap()
        );
        assert!(error.contains("a/["), "{error}");
    }
}
