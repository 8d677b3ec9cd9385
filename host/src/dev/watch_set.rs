//! What an application is made of on disk, and what a change to a part of it asks for.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use spin_runtime::{
    ExcludedFiles, Manifest,
    manifest::{Component, Files},
};

use crate::dev::pattern::{Pattern, clean};

/// Folders that are not searched: what is in them is made, not written. A pattern that names one
/// of them still finds its way in.
const NOT_SEARCHED: [&str; 4] = ["target", "node_modules", ".git", ".spin"];

/// The files that an application depends on.
pub(crate) struct WatchSet {
    /// The manifest, and `.env` beside it.
    settings: [PathBuf; 2],
    components: Vec<Parts>,
    /// The folders to look at, and whether also at what is below them.
    roots: BTreeMap<PathBuf, bool>,
}

/// The files of one component.
struct Parts {
    id: String,
    /// What its build depends on: `build.watch`.
    sources: Vec<Pattern>,
    /// What its build makes: `source`.
    code: PathBuf,
    /// What it sees of the file system: `files`, without `exclude_files`.
    files: Vec<Pattern>,
    /// Of paths in `root`.
    excluded: ExcludedFiles,
    /// The manifest's folder.
    root: PathBuf,
}

/// What a set of changes asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The manifest has to be read again.
    pub(crate) settings: bool,
    /// Components to build.
    pub(crate) build: BTreeSet<String>,
    /// Components whose wasm is another.
    pub(crate) code: BTreeSet<String>,
    /// Files that components see have changed, not only style sheets.
    pub(crate) files: bool,
    /// Style sheets that components see have changed.
    pub(crate) styles: bool,
}

impl WatchSet {
    /// The files of an application.
    ///
    /// # Errors
    /// Names the key of a pattern that is none.
    pub(crate) fn of(manifest: &Manifest) -> Result<Self> {
        let components = manifest.components.values();
        let components = components
            .map(|component| {
                Parts::of(component, &manifest.root)
                    .with_context(|| format!("component.{}", component.id))
            })
            .collect::<Result<Vec<_>>>()?;
        let root = clean(&manifest.root);
        let settings = [clean(&manifest.path), root.join(".env")];
        let mut roots = BTreeMap::new();
        let mut look = |folder: &Path, deep| *roots.entry(folder.to_owned()).or_default() |= deep;
        look(&root, false);
        for parts in &components {
            if let Some(folder) = parts.code.parent() {
                look(folder, false);
            }
            for pattern in parts.sources.iter().chain(&parts.files) {
                look(&pattern.root, pattern.deep);
            }
        }
        Ok(Self {
            settings,
            components,
            roots,
        })
    }

    /// The folders to look at, each with whether what is below it counts too. One that does not
    /// exist may come to be.
    pub(crate) fn roots(&self) -> impl Iterator<Item = (&Path, bool)> {
        self.roots
            .iter()
            .map(|(folder, deep)| (folder.as_path(), *deep))
    }

    /// Whether a folder below a root is looked at.
    pub(crate) fn is_searched(folder: &Path) -> bool {
        folder
            .file_name()
            .is_none_or(|name| !NOT_SEARCHED.iter().any(|other| name == *other))
    }

    /// Whether a change of this file asks for anything.
    pub(crate) fn has(&self, file: &Path) -> bool {
        !is_scratch(file)
            && (self.settings.iter().any(|own| own == file)
                || self.components.iter().any(|parts| {
                    parts.code == file || parts.is_source(file) || parts.is_file(file)
                }))
    }

    /// Whether a build makes this file: one that depended on it would not come to an end.
    fn is_code(&self, file: &Path) -> bool {
        self.components.iter().any(|parts| parts.code == file)
    }

    /// What changes of these files, new and deleted ones included, ask for.
    pub(crate) fn plan<'a>(&self, changed: impl IntoIterator<Item = &'a PathBuf>) -> Plan {
        let mut plan = Plan::default();
        for file in changed {
            plan.settings |= self.settings.contains(file);
            let is_code = self.is_code(file);
            for parts in &self.components {
                if parts.is_source(file) && !is_code {
                    plan.build.insert(parts.id.clone());
                }
                if parts.code == *file {
                    plan.code.insert(parts.id.clone());
                }
                if parts.is_file(file) {
                    match file.extension() == Some(OsStr::new("css")) {
                        true => plan.styles = true,
                        false => plan.files = true,
                    }
                }
            }
        }
        plan
    }
}

impl Parts {
    fn of(component: &Component, root: &Path) -> Result<Self> {
        let sources = component.build.iter().flat_map(|build| {
            let globs = build.watch.iter();
            globs.map(|glob| Pattern::new(&build.workdir, glob))
        });
        // A leading slash means the manifest's folder, as it does where files are gathered.
        let files = component.files.iter().map(|files| match files {
            Files::Glob(glob) => Pattern::new(root, glob.trim_start_matches('/')),
            Files::Placed { source, .. } => Pattern::exactly(source),
        });
        Ok(Self {
            id: component.id.clone(),
            sources: sources.collect::<Result<_>>().context("build.watch")?,
            code: clean(&component.source),
            files: files.collect::<Result<_>>().context("files")?,
            excluded: ExcludedFiles::new(&component.exclude_files).context("exclude_files")?,
            root: clean(root),
        })
    }

    fn is_source(&self, file: &Path) -> bool {
        self.sources.iter().any(|pattern| pattern.matches(file))
    }

    fn is_file(&self, file: &Path) -> bool {
        self.files.iter().any(|pattern| pattern.matches(file))
            && !file
                .strip_prefix(&self.root)
                .is_ok_and(|path| self.excluded.contains(path))
    }
}

/// What editors and systems leave beside the files that are meant.
fn is_scratch(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(".#")
        || name.starts_with('#') && name.ends_with('#')
        || [".DS_Store", "4913"].contains(&&*name)
        || [
            "~",
            ".swp",
            ".swo",
            ".swx",
            ".tmp",
            "___jb_tmp___",
            "___jb_old___",
        ]
        .iter()
        .any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = r#"
spin_manifest_version = 2
application.name = "test"
trigger.http = [{ route = "/", component = "page" }, { route = "/api", component = "orders" }]

[component.page]
source = "target/page.wasm"
files = ["assets/*.txt", "single.html", { source = "static", destination = "/static" }]
exclude_files = ["assets/b.txt", "/assets/c.txt", "static/draft*", "static/*.map"]
[component.page.build]
command = "make"
workdir = "page"
watch = ["src/**/*.rs", "Cargo.toml", "../shared/*.rs", "../static/**/*"]

[component.orders]
source = "target/orders.wasm"
[component.orders.build]
command = "make"
watch = ["orders/**/*.rs", "shared/a.rs", "Makefile", "target/*.wasm"]
"#;

    fn interests() -> (tempfile::TempDir, WatchSet) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("static")).unwrap();
        let manifest = Manifest::parse(MANIFEST, folder.path().join("spin.toml")).unwrap();
        let interests = WatchSet::of(&manifest).unwrap();
        (folder, interests)
    }

    /// What a change of these files leads to, in a word for each thing.
    fn plan(changed: &[&str]) -> String {
        let (folder, interests) = interests();
        let files: Vec<_> = changed
            .iter()
            .map(|file| folder.path().join(file))
            .collect();
        let kept: Vec<_> = files
            .iter()
            .filter(|file| interests.has(file))
            .cloned()
            .collect();
        let plan = interests.plan(&kept);
        assert_eq!(
            kept.is_empty(),
            plan == Plan::default(),
            "{changed:?}: {plan:?}"
        );
        let mut words: Vec<String> = Vec::new();
        words.extend(plan.settings.then(|| "settings".to_owned()));
        words.extend(plan.build.iter().map(|id| format!("build {id}")));
        words.extend(plan.code.iter().map(|id| format!("load {id}")));
        words.extend(plan.files.then(|| "files".to_owned()));
        words.extend(plan.styles.then(|| "styles".to_owned()));
        words.join(", ")
    }

    #[test]
    fn what_a_change_leads_to() {
        for (changed, leads_to) in [
            ("spin.toml", "settings"),
            (".env", "settings"),
            ("page/src/lib.rs", "build page"),
            ("page/src/deep/er/mod.rs", "build page"),
            ("page/Cargo.toml", "build page"),
            ("page/src/lib.txt", ""),
            ("page/other/lib.rs", ""),
            ("shared/a.rs", "build orders, build page"),
            ("shared/b.rs", "build page"),
            ("shared/deep/a.rs", ""),
            ("orders/x.rs", "build orders"),
            ("Makefile", "build orders"),
            ("target/page.wasm", "load page"),
            ("target/orders.wasm", "load orders"),
            ("target/other.wasm", "build orders"),
            ("assets/a.txt", "files"),
            ("assets/b.txt", ""),
            ("assets/c.txt", ""),
            ("static/draft.js", "build page"),
            ("static/drafts/deep/a.js", "build page"),
            ("static/deep/main.js.map", "build page"),
            ("assets/deep/a.txt", ""),
            ("single.html", "files"),
            ("static/main.js", "build page, files"),
            ("static/icons/deep/bell.svg", "build page, files"),
            ("static/page.css", "build page, styles"),
            ("README.md", ""),
        ] {
            assert_eq!(plan(&[changed]), leads_to, "{changed}");
        }
        assert_eq!(
            plan(&["static/a.css", "static/a.js", "orders/x.rs", "spin.toml"]),
            "settings, build orders, build page, files, styles"
        );
    }

    #[test]
    fn what_editors_leave_behind_is_no_change() {
        for file in [
            "page/src/.#lib.rs",
            "static/page.css~",
            "static/.page.css.swp",
            "static/4913",
            "static/#page.css#",
            "static/.DS_Store",
            "static/page.css___jb_tmp___",
        ] {
            assert_eq!(plan(&[file]), "", "{file}");
        }
    }

    #[test]
    fn only_the_folders_of_patterns_are_looked_at_and_what_is_made_is_not_searched() {
        let (folder, interests) = interests();
        let roots: Vec<_> = interests
            .roots()
            .map(|(root, deep)| {
                let root = root.strip_prefix(folder.path()).unwrap();
                (root.to_str().unwrap().to_owned(), deep)
            })
            .collect();
        let expected = [
            ("", false),
            ("Makefile", true),
            ("assets", false),
            ("orders", true),
            ("page/Cargo.toml", true),
            ("page/src", true),
            ("shared", false),
            ("shared/a.rs", true),
            ("single.html", true),
            ("static", true),
            ("target", false),
        ];
        assert_eq!(roots, expected.map(|(root, deep)| (root.to_owned(), deep)));
        assert!(!WatchSet::is_searched(Path::new("/a/target")));
        assert!(WatchSet::is_searched(Path::new("/target/src")));
    }

    #[test]
    fn a_pattern_that_is_none_is_named() {
        let text = MANIFEST.replace("orders/**/*.rs", "orders/[");
        let manifest = Manifest::parse(&text, "/nowhere/spin.toml").unwrap();
        let error = format!("{:#}", WatchSet::of(&manifest).err().unwrap());
        assert!(
            error.contains("component.orders")
                && error.contains("build.watch")
                && error.contains("orders/["),
            "{error}"
        );
    }
}
