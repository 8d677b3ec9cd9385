//! Applications in temporary folders, with a fake compiler.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};
use tempfile::TempDir;
use tests::{Server, wasm};

/// An application in a temporary folder. Building its component copies a wasm file.
pub struct Project(pub TempDir);

/// A fake compiler that makes `app.wasm`. It appends to the file `runs`, waits while the file `wait`
/// exists, and fails if the source contains "mistake". Otherwise it copies the file that the source
/// names.
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
    /// Creates an application with the probe component. `more` is added to the component's table.
    pub fn new(more: &str) -> Result<Self> {
        Self::with_manifest(
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

    /// Creates an application with this manifest. The source names `first`.
    pub fn with_manifest(first: &Path, manifest: &str) -> Result<Self> {
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

    /// Saves a file as most editors do: by replacing it.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let new = self.path(&format!("{file}~"));
        fs::write(&new, text)?;
        Ok(fs::rename(new, self.path(file))?)
    }

    /// Saves the manifest with `old` replaced by `new`.
    pub fn rewrite(&self, old: &str, new: &str) -> Result<()> {
        let manifest = fs::read_to_string(self.path("spin.toml"))?;
        ensure!(manifest.contains(old), "no {old:?} in {manifest}");
        self.write("spin.toml", &manifest.replace(old, new))
    }

    /// Returns how often the compiler ran.
    pub fn runs(&self) -> usize {
        let runs = fs::read_to_string(self.path("runs")).unwrap_or_default();
        runs.lines().count()
    }

    pub fn start(&self) -> Result<Server> {
        Server::start(self.0.path(), &["--watch"])
    }
}
