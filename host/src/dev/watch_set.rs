//! The files that an application depends on, and the actions that a change to one requires.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use spin_runtime::{
    ExcludedFiles, Manifest,
    manifest::{Component, Files, Source},
};

use crate::dev::pattern::{Pattern, normalize};

/// Names of folders with generated files. They are scanned only if a pattern names them literally.
const SKIPPED_FOLDERS: [&str; 4] = ["target", "node_modules", ".git", ".spin"];

/// The files that an application depends on.
pub(crate) struct WatchSet {
    /// The manifest, and the `.env` file next to it.
    settings: [PathBuf; 2],
    components: Vec<ComponentFiles>,
    /// The folders to scan, and whether to scan their subfolders.
    roots: BTreeMap<PathBuf, bool>,
}

/// The files of one component.
struct ComponentFiles {
    id: String,
    /// Inputs of its build: `build.watch`.
    build_inputs: Vec<Pattern>,
    /// Its code: `source`, which is the output of its build, and its dependencies.
    wasm: Vec<PathBuf>,
    /// Files that it can read: `files`.
    files: Vec<Pattern>,
    /// `exclude_files`, relative to `root`.
    excluded: ExcludedFiles,
    /// The folder of the manifest.
    root: PathBuf,
}

/// The actions that a set of changes requires.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Read the manifest again.
    pub(crate) settings: bool,
    /// Build these components.
    pub(crate) build: BTreeSet<String>,
    /// Load the wasm of these components.
    pub(crate) wasm: BTreeSet<String>,
    /// Reload pages, because files of components changed that are not style sheets.
    pub(crate) files: bool,
    /// Reload style sheets.
    pub(crate) styles: bool,
}

impl WatchSet {
    /// Collects the files of an application.
    ///
    /// # Errors
    /// Fails if a pattern is invalid. The error contains its key.
    pub(crate) fn new(manifest: &Manifest) -> Result<Self> {
        let components = manifest.components.values();
        let components = components
            .map(|component| {
                ComponentFiles::new(component, &manifest.root)
                    .with_context(|| format!("component.{}", component.id))
            })
            .collect::<Result<Vec<_>>>()?;
        let root = normalize(&manifest.root);
        let settings = [normalize(&manifest.path), root.join(".env")];
        let mut roots = BTreeMap::new();
        let mut add_root =
            |folder: &Path, deep| *roots.entry(folder.to_owned()).or_default() |= deep;
        add_root(&root, false);
        for component in &components {
            for folder in component.wasm.iter().filter_map(|wasm| wasm.parent()) {
                add_root(folder, false);
            }
            for pattern in component.build_inputs.iter().chain(&component.files) {
                add_root(&pattern.root, pattern.deep);
            }
        }
        Ok(Self {
            settings,
            components,
            roots,
        })
    }

    /// Returns the folders to scan, each with whether to scan its subfolders. They need not exist.
    pub(crate) fn roots(&self) -> impl Iterator<Item = (&Path, bool)> {
        self.roots
            .iter()
            .map(|(folder, deep)| (folder.as_path(), *deep))
    }

    /// Returns the folders with the build inputs of a component, each with whether they are in its
    /// subfolders.
    pub(crate) fn build_roots(&self, component: &str) -> impl Iterator<Item = (&Path, bool)> {
        let inputs = self.component(component).map(|it| &*it.build_inputs);
        let inputs = inputs.unwrap_or_default().iter();
        inputs.map(|pattern| (&*pattern.root, pattern.deep))
    }

    /// Returns whether the build of a component depends on a file.
    pub(crate) fn is_build_input(&self, component: &str, file: &Path) -> bool {
        let component = self.component(component);
        !self.is_wasm(file) && component.is_some_and(|it| it.is_build_input(file))
    }

    fn component(&self, id: &str) -> Option<&ComponentFiles> {
        self.components.iter().find(|component| component.id == id)
    }

    /// Returns whether a subfolder of a root is not scanned.
    pub(crate) fn is_skipped(folder: &Path) -> bool {
        folder
            .file_name()
            .is_some_and(|name| SKIPPED_FOLDERS.iter().any(|other| name == *other))
    }

    /// Returns whether a change to this file requires any action.
    pub(crate) fn contains(&self, file: &Path) -> bool {
        !is_scratch(file)
            && (self.settings.iter().any(|path| path == file)
                || self.components.iter().any(|component| {
                    component.is_wasm(file)
                        || component.is_build_input(file)
                        || component.is_file(file)
                }))
    }

    /// Returns whether files of a component may be behind a link to a folder.
    pub(crate) fn may_follow(&self, link: &Path) -> bool {
        let mut components = self.components.iter();
        !is_scratch(link)
            && !Self::is_skipped(link)
            && components.any(|component| component.may_have_files_in(link))
    }

    fn is_wasm(&self, file: &Path) -> bool {
        self.components
            .iter()
            .any(|component| component.is_wasm(file))
    }

    /// Returns the actions for changed, new and deleted files.
    pub(crate) fn plan<'a>(&self, changed: impl IntoIterator<Item = &'a PathBuf>) -> Plan {
        let mut plan = Plan::default();
        for file in changed {
            plan.settings |= self.settings.contains(file);
            // The output of a build must not trigger another build.
            let is_wasm = self.is_wasm(file);
            for component in &self.components {
                if component.is_build_input(file) && !is_wasm {
                    plan.build.insert(component.id.clone());
                }
                if component.is_wasm(file) {
                    plan.wasm.insert(component.id.clone());
                }
                if component.is_file(file) {
                    if file.extension() == Some(OsStr::new("css")) {
                        plan.styles = true;
                    } else {
                        plan.files = true;
                    }
                }
            }
        }
        plan
    }
}

impl ComponentFiles {
    fn new(component: &Component, root: &Path) -> Result<Self> {
        let build_inputs = component.build.iter().flat_map(|build| {
            let globs = build.watch.iter();
            globs.map(|glob| Pattern::new(&build.workdir, glob))
        });
        // A leading slash refers to the manifest's folder, as it does when the files are loaded.
        let files = component.files.iter().map(|files| match files {
            Files::Glob(glob) => Pattern::new(root, glob.trim_start_matches('/')),
            Files::Placed { source, .. } => Pattern::literal(source),
        });
        Ok(Self {
            id: component.id.clone(),
            build_inputs: build_inputs.collect::<Result<_>>().context("build.watch")?,
            wasm: component
                .sources()
                .filter_map(Source::file)
                .map(normalize)
                .collect(),
            files: files.collect::<Result<_>>().context("files")?,
            excluded: ExcludedFiles::new(&component.exclude_files).context("exclude_files")?,
            root: normalize(root),
        })
    }

    fn is_build_input(&self, file: &Path) -> bool {
        self.build_inputs
            .iter()
            .any(|pattern| pattern.matches(file))
    }

    fn is_wasm(&self, file: &Path) -> bool {
        self.wasm.iter().any(|wasm| wasm == file)
    }

    fn is_file(&self, file: &Path) -> bool {
        self.files.iter().any(|pattern| pattern.matches(file)) && !self.is_excluded(file)
    }

    fn may_have_files_in(&self, folder: &Path) -> bool {
        let mut patterns = self.files.iter().filter(|pattern| pattern.deep);
        patterns.any(|pattern| folder.starts_with(&pattern.root)) && !self.is_excluded(folder)
    }

    fn is_excluded(&self, file: &Path) -> bool {
        file.strip_prefix(&self.root)
            .is_ok_and(|path| self.excluded.contains(path))
    }
}

/// Returns whether a file is a temporary or backup file of an editor or the system.
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
        .any(|suffix| name.ends_with(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use spin_runtime::ManifestUse;

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
dependencies = { "me:tools" = { component = "tools" }, "me:other" = { path = "other/lib.wasm" } }
[component.orders.build]
command = "make"
watch = ["orders/**/*.rs", "shared/a.rs", "Makefile", "target/*.wasm"]

[component.tools]
source = "target/tools.wasm"
"#;

    fn watch_set() -> (tempfile::TempDir, WatchSet) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("static")).unwrap();
        let manifest = Manifest::parse(
            MANIFEST,
            folder.path().join("spin.toml"),
            ManifestUse::Embedded,
        )
        .unwrap();
        let watch_set = WatchSet::new(&manifest).unwrap();
        (folder, watch_set)
    }

    /// Returns the actions for these files as text.
    fn plan(changed: &[&str]) -> String {
        let (folder, watch_set) = watch_set();
        let files: Vec<_> = changed
            .iter()
            .map(|file| folder.path().join(file))
            .collect();
        let watched: Vec<_> = files
            .iter()
            .filter(|file| watch_set.contains(file))
            .cloned()
            .collect();
        let plan = watch_set.plan(&watched);
        assert_eq!(
            watched.is_empty(),
            plan == Plan::default(),
            "{changed:?}: {plan:?}"
        );
        let mut actions: Vec<String> = Vec::new();
        actions.extend(plan.settings.then(|| "settings".to_owned()));
        actions.extend(plan.build.iter().map(|id| format!("build {id}")));
        actions.extend(plan.wasm.iter().map(|id| format!("load {id}")));
        actions.extend(plan.files.then(|| "files".to_owned()));
        actions.extend(plan.styles.then(|| "styles".to_owned()));
        actions.join(", ")
    }

    #[test]
    fn changes_lead_to_actions() {
        for (changed, actions) in [
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
            ("target/tools.wasm", "load orders, load tools"),
            ("other/lib.wasm", "load orders"),
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
            assert_eq!(plan(&[changed]), actions, "{changed}");
        }
        assert_eq!(
            plan(&["static/a.css", "static/a.js", "orders/x.rs", "spin.toml"]),
            "settings, build orders, build page, files, styles"
        );
    }

    #[test]
    fn scratch_files_are_ignored() {
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
    fn roots_come_from_patterns_and_generated_folders_are_skipped() {
        let (folder, watch_set) = watch_set();
        let roots: Vec<_> = watch_set
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
            ("other", false),
            ("page/Cargo.toml", true),
            ("page/src", true),
            ("shared", false),
            ("shared/a.rs", true),
            ("single.html", true),
            ("static", true),
            ("target", false),
        ];
        assert_eq!(roots, expected.map(|(root, deep)| (root.to_owned(), deep)));
        assert!(WatchSet::is_skipped(Path::new("/a/target")));
        assert!(!WatchSet::is_skipped(Path::new("/target/src")));
    }

    #[test]
    fn an_invalid_pattern_is_named() {
        let text = MANIFEST.replace("orders/**/*.rs", "orders/[");
        let manifest = Manifest::parse(&text, "/nowhere/spin.toml", ManifestUse::Embedded).unwrap();
        let error = format!("{:#}", WatchSet::new(&manifest).err().unwrap());
        assert!(
            error.contains("component.orders")
                && error.contains("build.watch")
                && error.contains("orders/["),
            "{error}"
        );
    }
}
