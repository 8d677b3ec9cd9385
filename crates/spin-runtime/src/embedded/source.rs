//! Loads the code of a component: reads or downloads its parts, and composes them.

mod cache;
#[cfg(feature = "compose")]
mod compose;
mod download;
#[cfg(feature = "compose")]
mod isolate;

use std::{collections::BTreeMap, fmt, fs, io, path::PathBuf, sync::Arc};

use anyhow::{Context as _, bail};

use self::cache::Cache;
#[cfg(feature = "compose")]
use super::wasm_format::to_component;
use crate::{
    limits::Limits,
    manifest::{Component, Dependency, DependencyName, Source, USE_SPIN},
};

/// Loads the code of components.
#[derive(Clone)]
pub(crate) struct SourceLoader {
    cache: Cache,
}

impl SourceLoader {
    /// Creates a loader that keeps downloads in `cache_dir`, or in the user's cache folder.
    pub(crate) fn new(cache_dir: Option<PathBuf>, limits: &Limits) -> Self {
        Self {
            cache: Cache::new(cache_dir, limits),
        }
    }

    /// Returns the code of a component, composed with its dependencies and its middleware.
    ///
    /// This blocks on files and on the network.
    ///
    /// # Errors
    /// Fails if a part cannot be loaded, or does not fit the component.
    pub(crate) fn load(&self, component: &Component) -> anyhow::Result<Arc<[u8]>> {
        let wasm = self.load_own(component)?;
        if component.dependencies.is_empty() && component.middleware.is_empty() {
            return Ok(wasm.into());
        }
        self.compose(component, wasm).map(Arc::from)
    }

    #[cfg(not(feature = "compose"))]
    fn compose(&self, _: &Component, _: Vec<u8>) -> anyhow::Result<Vec<u8>> {
        bail!(
            "dependencies and middleware need the cargo feature `compose`, which this host was \
             built without; {USE_SPIN}"
        )
    }

    #[cfg(feature = "compose")]
    fn compose(&self, component: &Component, wasm: Vec<u8>) -> anyhow::Result<Vec<u8>> {
        let mut wasm = to_component(&wasm, &component.source)?.into_owned();
        if !component.dependencies.is_empty() {
            let mut loaded = Vec::new();
            for (name, dependency) in &component.dependencies {
                let wasm = self
                    .load_dependency(dependency)
                    .with_context(|| format!("dependency \"{name}\""))?;
                loaded.push(compose::LoadedDependency {
                    name,
                    export: dependency.export.as_deref(),
                    wasm,
                });
            }
            wasm = compose::dependencies(component.source.display(), wasm, loaded)?;
        }
        if !component.middleware.is_empty() {
            let mut layers = Vec::new();
            for middleware in &component.middleware {
                let display = middleware.source.display();
                let wasm = self
                    .load_dependency(middleware)
                    .with_context(|| format!("middleware {display}"))?;
                layers.push((display.to_string(), wasm));
            }
            wasm = compose::middleware(component.source.display(), wasm, layers)?;
        }
        Ok(wasm)
    }

    /// Returns the code of a dependency, without the permissions that it does not inherit.
    #[cfg(feature = "compose")]
    fn load_dependency(&self, dependency: &Dependency) -> anyhow::Result<Vec<u8>> {
        let source = &dependency.source;
        let wasm = self.load_source(source, || {
            "build it or correct its path in the manifest".to_owned()
        })?;
        let wasm = to_component(&wasm, source)?;
        isolate::isolate(&wasm, &dependency.inherit)
            .with_context(|| format!("cannot use {} as a dependency", source.display()))
    }

    fn load_own(&self, component: &Component) -> anyhow::Result<Vec<u8>> {
        self.load_source(&component.source, || build_hint(component))
    }

    /// Reads or downloads a source. `hint` is what to do about a missing file.
    fn load_source(
        &self,
        source: &Source,
        hint: impl FnOnce() -> String,
    ) -> anyhow::Result<Vec<u8>> {
        let path = match source {
            Source::File(path) => path,
            Source::Download { url, digest } => return self.cache.load(url, digest),
            Source::Package(name) => {
                bail!("{name}: packages of registries are not supported; {USE_SPIN}")
            }
        };
        match fs::read(path) {
            Ok(wasm) => Ok(wasm),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                bail!("{} does not exist; {}", path.display(), hint())
            }
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }
}

/// What the code of a component is made of, and how.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Recipe {
    source: Source,
    dependencies: BTreeMap<DependencyName, Dependency>,
    middleware: Vec<Dependency>,
}

impl Recipe {
    /// Returns the path or URL of the component itself, for messages.
    pub(crate) fn source(&self) -> impl fmt::Display {
        self.source.display()
    }

    pub(crate) fn of(component: &Component) -> Self {
        Self {
            source: component.source.clone(),
            dependencies: component.dependencies.clone(),
            middleware: component.middleware.clone(),
        }
    }
}

/// Returns how to build a missing file.
fn build_hint(component: &Component) -> String {
    match &component.build {
        Some(build) => format!(
            "run `socket-host build` or start with --build, which runs `{}` in {}",
            build.commands.join(" && "),
            build.workdir.display()
        ),
        None => format!(
            "build it or correct `source` of [component.{}], which has no build command",
            component.id
        ),
    }
}
