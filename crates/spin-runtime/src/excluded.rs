//! What a manifest's `exclude_files` hides from a component.

use std::path::{Component as Part, Path};

use anyhow::{Context as _, bail};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// Patterns of paths relative to the manifest's folder.
pub struct Excluded(GlobSet);

impl Excluded {
    /// What these patterns hide. As in Spin, a wildcard goes across folders, which it does not in
    /// `files`; what is said of a folder is said of all that is in it.
    ///
    /// # Errors
    /// Names the pattern that is none, or that leaves the manifest's folder.
    pub fn new(patterns: &[String]) -> anyhow::Result<Self> {
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            let inner = inside(pattern)?;
            for glob in [format!("{inner}/**"), inner] {
                let glob = GlobBuilder::new(&glob).literal_separator(false).build();
                set.add(glob.with_context(|| format!("{pattern:?}"))?);
            }
        }
        Ok(Self(set.build()?))
    }

    /// Whether there is nothing that could be hidden.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this file, or folder, is hidden.
    pub fn has(&self, path: &Path) -> bool {
        self.0.is_match(path)
    }
}

/// The path or glob without a leading slash, checked to go nowhere but down.
pub(crate) fn inside(path: &str) -> anyhow::Result<String> {
    let parts = Path::new(path.trim_start_matches('/')).components();
    let mut clean = Vec::new();
    for part in parts {
        match part {
            Part::Normal(name) => clean.push(name.to_string_lossy()),
            Part::CurDir => {}
            _ => bail!("{path:?} leaves the application's folder"),
        }
    }
    Ok(clean.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_go_down_only() {
        assert_eq!(inside("/a/./b").unwrap(), "a/b");
        assert_eq!(inside("a/*.txt").unwrap(), "a/*.txt");
        assert!(inside("a/../../b").is_err());
        assert!(inside("..").is_err());
    }

    #[test]
    fn what_is_hidden() {
        let patterns = ["public/*.map", "/drafts", "*.secret", "a/?/b"];
        let excluded = Excluded::new(&patterns.map(str::to_owned)).unwrap();
        for (path, hidden) in [
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
            assert_eq!(excluded.has(Path::new(path)), hidden, "{path}");
        }
        assert!(!excluded.is_empty() && Excluded::new(&[]).unwrap().is_empty());
        let error = format!("{:#}", Excluded::new(&["a/[".to_owned()]).err().unwrap());
        assert!(error.contains("a/["), "{error}");
    }
}
