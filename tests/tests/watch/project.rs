//! Applications in folders of their own, whose components are built by copying.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};
use tempfile::TempDir;
use tests::{Server, workspace};

/// An application in a folder of its own, whose component is built by copying.
pub struct Project(pub TempDir);

/// What makes `app.wasm`: a compiler for tests. It says what it is told to say, waits as long as it
/// is told to wait, fails when the source says so, and keeps a list of its runs.
const COMPILER: &str = r#"
echo run >> runs
while [ -e wait ]; do sleep 0.01; done
if grep -q mistake src/lib.rs; then
    printf '\033[1m\033[31merror\033[0m: <b>mistake</b> in src/lib.rs\n' >&2
    exit 1
fi
cp "$(cat src/lib.rs)" app.new
mv app.new app.wasm
"#;

impl Project {
    /// The probe component, with more in its table.
    pub fn new(more: &str) -> Result<Self> {
        Self::of(
            &wasm("probe"),
            &format!(
                r#"
spin_manifest_version = 2
application.name = "watched"
[[trigger.http]]
route = "/..."
component = "app"
[component.app]
source = "app.wasm"
files = ["globbed/*.txt", {{ source = "static", destination = "/static" }}]
[component.app.build]
command = "sh compiler"
watch = ["src/**/*.rs"]
{more}"#
            ),
        )
    }

    /// An application with this manifest; `first` is what its source names.
    pub fn of(first: &Path, manifest: &str) -> Result<Self> {
        let project = Self(TempDir::new()?);
        for folder in ["src", "static", "globbed"] {
            fs::create_dir(project.path(folder))?;
        }
        project.write("static/page.css", "one")?;
        project.write("static/page.js", "one")?;
        project.write("globbed/a.txt", "one")?;
        project.write("compiler", COMPILER)?;
        project.write("src/lib.rs", &first.display().to_string())?;
        project.write("spin.toml", manifest)?;
        Ok(project)
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    /// Saves a file in the way of most editors: another takes its place.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let new = self.path(&format!("{file}~"));
        fs::write(&new, text)?;
        Ok(fs::rename(new, self.path(file))?)
    }

    /// Saves another manifest, in which `old` is `new`.
    pub fn rewrite(&self, old: &str, new: &str) -> Result<()> {
        let manifest = fs::read_to_string(self.path("spin.toml"))?;
        ensure!(manifest.contains(old), "no {old:?} in {manifest}");
        self.write("spin.toml", &manifest.replace(old, new))
    }

    /// How often the compiler ran.
    pub fn runs(&self) -> usize {
        let runs = fs::read_to_string(self.path("runs")).unwrap_or_default();
        runs.lines().count()
    }

    pub fn start(&self) -> Result<Server> {
        Server::start(self.0.path(), &["--watch"])
    }
}

/// A component that the tests build.
pub fn wasm(name: &str) -> PathBuf {
    workspace().join(format!("target/wasm32-wasip2/component/{name}.wasm"))
}
