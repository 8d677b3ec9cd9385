//! Compiles and links components, so that an instance starts in microseconds.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, bail};
use wasmtime::{
    Engine,
    component::{Component as WasmComponent, InstancePre, Linker},
};
use wasmtime_wasi_http::{
    handler::{Proxy, ProxyPre},
    p2, p3,
};

use super::{cron_call::CronPre, guest::Guest, linker};
use crate::{limits::Limits, manifest::Component};

/// A linked component. Clones share its code.
#[derive(Clone)]
pub(crate) struct Pre(Arc<ProxyPre<Guest>>);

impl Pre {
    /// Returns the engine that the component is compiled for.
    pub(crate) fn engine(&self) -> &Engine {
        match &*self.0 {
            ProxyPre::P2(pre) => pre.engine(),
            ProxyPre::P3(pre) => pre.engine(),
        }
    }

    /// Returns whether an instance serves more than one request, as WASI 0.3 allows.
    pub(crate) fn reuses_instances(&self) -> bool {
        matches!(*self.0, ProxyPre::P3(_))
    }

    /// Returns how many requests all instances of the component serve at the same time.
    pub(crate) fn max_requests(&self, limits: &Limits) -> usize {
        let per_instance = if self.reuses_instances() {
            limits.concurrent_requests_per_instance
        } else {
            1
        };
        limits.instances_per_component.saturating_mul(per_instance)
    }

    /// Creates an instance.
    pub(crate) async fn instantiate_async(
        &self,
        store: &mut wasmtime::Store<Guest>,
    ) -> wasmtime::Result<Proxy> {
        self.0.instantiate_async(store).await
    }
}

/// What a component exports to its triggers: at least one of both.
#[derive(Clone)]
pub(crate) struct Exports {
    /// Handles HTTP requests.
    pub(crate) http: Option<Pre>,
    /// Handles the events of cron triggers.
    pub(crate) cron: Option<CronPre>,
}

/// A linked component and the file that it comes from.
#[derive(Clone)]
pub(crate) struct Compiled {
    source: PathBuf,
    /// The contents of the file. They tell whether a component has changed, and are compiled
    /// again for another engine, when the file may already have other contents.
    wasm: Arc<[u8]>,
    /// The interfaces that it imports.
    pub(crate) imports: Arc<[String]>,
    engine: Engine,
    pub(crate) exports: Exports,
}

impl Compiled {
    /// Returns the file that it comes from.
    pub(crate) fn source(&self) -> &Path {
        &self.source
    }

    /// Returns whether both have the same code.
    pub(crate) fn has_same_code(&self, other: &Self) -> bool {
        self.wasm == other.wasm
    }
}

/// The compiler rejected a file. The file is invalid, or uses a feature that the compiler lacks.
#[derive(Debug, thiserror::Error)]
#[error("{} is not a valid component", .0.display())]
pub(crate) struct CompileError(PathBuf);

/// Compiles and links the components of a manifest in parallel.
///
/// The file of a component in `previous` is only read again if `changed` contains its id. The
/// previous code is used if the file has the same contents and the engine is the same.
///
/// # Errors
/// Returns the error of the first component, by id. It is a [`CompileError`] if the compiler
/// rejected the file.
pub(crate) fn compile_all(
    linker: &Linker<Guest>,
    components: &BTreeMap<String, Component>,
    previous: &BTreeMap<String, Compiled>,
    changed: &BTreeSet<String>,
) -> anyhow::Result<Vec<Compiled>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = components
            .values()
            .map(|component| {
                let previous = previous
                    .get(&component.id)
                    .filter(|previous| previous.source == component.source);
                let is_changed = changed.contains(&component.id);
                scope.spawn(move || {
                    compile(linker, component, previous, is_changed)
                        .with_context(|| format!("component {}", component.id))
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| bail!("the compiler panicked"))
            })
            .collect()
    })
}

fn compile(
    linker: &Linker<Guest>,
    component: &Component,
    previous: Option<&Compiled>,
    is_changed: bool,
) -> anyhow::Result<Compiled> {
    let path = &component.source;
    let wasm = match previous {
        Some(previous) if !is_changed => previous.wasm.clone(),
        _ => read(component)?,
    };
    let engine = linker.engine();
    if let Some(previous) = previous
        && previous.wasm == wasm
        && Engine::same(&previous.engine, engine)
    {
        return Ok(previous.clone());
    }
    check_format(&wasm, path)?;
    let compiled = WasmComponent::new(engine, &wasm)
        .map_err(anyhow::Error::from)
        .with_context(|| CompileError(path.clone()))?;
    let imports = linker::imports(&compiled, engine);
    let missing = imports.iter().filter(|name| !linker::is_provided(name));
    let missing: Vec<_> = missing.map(String::as_str).collect();
    if !missing.is_empty() {
        bail!(
            "{} imports {}, which this host does not provide; leave them out of the component's \
             world if it does not use them, or {USE_SPIN}",
            path.display(),
            missing.join(", ")
        );
    }
    let pre = linker
        .instantiate_pre(&compiled)
        .map_err(anyhow::Error::from)
        .with_context(|| {
            format!(
                "{} is not compatible with this host; {USE_SPIN}",
                path.display()
            )
        })?;
    let cron = CronPre::find(&pre);
    let http = match find_handler(pre) {
        Err(_) if cron.is_some() => None,
        handler => Some(
            handler.with_context(|| format!("{} does not handle HTTP requests", path.display()))?,
        ),
    };
    Ok(Compiled {
        source: path.clone(),
        wasm,
        imports: imports.into(),
        engine: engine.clone(),
        exports: Exports { http, cron },
    })
}

fn read(component: &Component) -> anyhow::Result<Arc<[u8]>> {
    let path = &component.source;
    match std::fs::read(path) {
        Ok(wasm) => Ok(wasm.into()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!(
                "{} does not exist; {}",
                path.display(),
                build_hint(component)
            )
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
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

const USE_SPIN: &str = "run the application with `spin up` and put this host in front of it \
                        with --upstream URL";

/// Checks the first bytes of a file.
fn check_format(wasm: &[u8], path: &Path) -> anyhow::Result<()> {
    let path = path.display();
    match (wasm.get(..4), wasm.get(4..8)) {
        (Some(b"\0asm"), Some([_, _, 1, 0])) => Ok(()),
        (Some(b"\0asm"), Some(_)) => bail!(
            "{path} is a core module, not a component: build it for wasm32-wasip2, \
             or convert it with `wasm-tools component new`"
        ),
        _ => bail!("{path} is not WebAssembly"),
    }
}

/// Finds the export that handles requests.
fn find_handler(pre: InstancePre<Guest>) -> anyhow::Result<Pre> {
    let engine = pre.engine().clone();
    let component_type = pre.component().component_type();
    let exports: Vec<_> = component_type
        .exports(&engine)
        .map(|(name, _)| name.to_owned())
        .collect();
    if let Ok(pre) = p3::bindings::ServicePre::new(pre.clone()) {
        return Ok(Pre(Arc::new(ProxyPre::P3(pre))));
    }
    if let Ok(pre) = p2::bindings::ProxyPre::new(pre) {
        return Ok(Pre(Arc::new(ProxyPre::P2(pre))));
    }
    let exports = if exports.is_empty() {
        "nothing".to_owned()
    } else {
        exports.join(", ")
    };
    bail!(
        "it exports {exports}, but neither wasi:http/handler@0.3 nor \
         wasi:http/incoming-handler@0.2; {USE_SPIN}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_formats_are_errors() {
        let check = |bytes: &[u8]| {
            check_format(bytes, Path::new("a.wasm")).map_err(|error| error.to_string())
        };
        assert_eq!(check(b"\0asm\x0d\0\x01\0..."), Ok(()));
        assert!(
            check(b"\0asm\x01\0\0\0...")
                .unwrap_err()
                .contains("core module")
        );
        assert!(check(b"").unwrap_err().contains("is not WebAssembly"));
        assert!(
            check(b"(component)")
                .unwrap_err()
                .contains("is not WebAssembly")
        );
    }
}
