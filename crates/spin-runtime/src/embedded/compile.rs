//! Compiles and links components, so that an instance starts in microseconds.

use std::{
    collections::{BTreeMap, BTreeSet},
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

use super::{
    cron_call::CronPre,
    guest::Guest,
    linker,
    source::{Recipe, SourceLoader},
    stubs, wasm_format,
    websocket::WebSocketPre,
};
use crate::{
    limits::Limits,
    manifest::{Component, Source, USE_SPIN},
};

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
        self.requests_of(limits.instances_per_component, limits)
    }

    /// Returns how many requests a number of instances serve at the same time.
    pub(crate) fn requests_of(&self, instances: usize, limits: &Limits) -> usize {
        let per_instance = if self.reuses_instances() {
            limits.concurrent_requests_per_instance
        } else {
            1
        };
        instances.saturating_mul(per_instance)
    }

    /// Creates an instance.
    pub(crate) async fn instantiate_async(
        &self,
        store: &mut wasmtime::Store<Guest>,
    ) -> wasmtime::Result<Proxy> {
        self.0.instantiate_async(store).await
    }
}

/// What a component exports to its triggers: at least one of them.
#[derive(Clone)]
pub(crate) struct Exports {
    /// Handles HTTP requests.
    pub(crate) http: Option<Pre>,
    /// Handles WebSockets by typed frames.
    pub(crate) websocket: Option<WebSocketPre>,
    /// Handles the events of cron triggers.
    pub(crate) cron: Option<CronPre>,
}

impl Exports {
    /// Finds the exports of a component.
    ///
    /// # Errors
    /// Fails if it exports none of them, or one that handles WebSockets with other functions than the
    /// host calls.
    fn find(pre: InstancePre<Guest>, id: &str, source: &Source) -> anyhow::Result<Self> {
        let source = source.display();
        let websocket = WebSocketPre::find(&pre)
            .with_context(|| format!("{source} cannot handle WebSockets"))?;
        let cron =
            CronPre::find(&pre).with_context(|| format!("{source} cannot handle cron events"));
        let http = find_handler(pre);
        let handles_requests = http.is_ok() || websocket.is_some();
        let cron = match cron {
            Err(error) if handles_requests => {
                // The component may have no cron trigger.
                tracing::warn!(
                    component = id,
                    error = %format_args!("{error:#}"),
                    "unusable export for cron triggers"
                );
                None
            }
            cron => cron?,
        };
        let http = match http {
            Err(error) if !handles_requests && cron.is_none() => {
                return Err(error.context(format!("{source} does not handle HTTP requests")));
            }
            http => http.ok(),
        };
        Ok(Self {
            http,
            websocket,
            cron,
        })
    }
}

/// A linked component and the parts that it comes from.
#[derive(Clone)]
pub(crate) struct Compiled {
    pub(crate) recipe: Recipe,
    /// The composed contents of the files. They tell whether a component has changed, and are
    /// compiled again for another engine, when the files may already have other contents.
    wasm: Arc<[u8]>,
    /// The interfaces that it imports.
    pub(crate) imports: Arc<[String]>,
    /// The imports whose functions the host does not provide, so that calling them fails.
    pub(crate) stubs: Arc<[String]>,
    engine: Engine,
    pub(crate) exports: Exports,
}

impl Compiled {
    /// Returns whether both have the same code.
    pub(crate) fn has_same_code(&self, other: &Self) -> bool {
        self.wasm == other.wasm
    }
}

/// The compiler rejected a file. The file is invalid, or uses a feature that the compiler lacks.
#[derive(Debug, thiserror::Error)]
#[error("{} is not a valid component", .0.display())]
pub(crate) struct CompileError(Source);

/// Compiles and links the components of a manifest in parallel.
///
/// The files of a component in `previous` are only read again if `changed` contains its id. The
/// previous code is used if the files have the same contents and the engine is the same.
///
/// # Errors
/// Returns the error of the first component, by id. It is a [`CompileError`] if the compiler
/// rejected the file.
pub(crate) fn compile_all(
    linker: &Linker<Guest>,
    loader: &SourceLoader,
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
                    .filter(|previous| previous.recipe == Recipe::of(component));
                let is_changed = changed.contains(&component.id);
                scope.spawn(move || {
                    compile(linker, loader, component, previous, is_changed)
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
    loader: &SourceLoader,
    component: &Component,
    previous: Option<&Compiled>,
    is_changed: bool,
) -> anyhow::Result<Compiled> {
    let source = &component.source;
    let wasm = match previous {
        Some(previous) if !is_changed => previous.wasm.clone(),
        _ => loader.load(component)?,
    };
    let engine = linker.engine();
    if let Some(previous) = previous
        && previous.wasm == wasm
        && Engine::same(&previous.engine, engine)
    {
        return Ok(previous.clone());
    }
    let code = wasm_format::to_component(&wasm, source)?;
    let compiled = WasmComponent::new(engine, &code)
        .map_err(anyhow::Error::from)
        .with_context(|| CompileError(source.clone()))?;
    let imports = linker::imports(&compiled);
    check_release_candidates(&imports, source)?;
    let incompatible = || {
        let source = source.display();
        format!("{source} is not compatible with this host; {USE_SPIN}")
    };
    let mut linker = linker.clone();
    let stubs = stubs::define(&mut linker, &compiled, linker::is_provided)
        .map_err(anyhow::Error::from)
        .with_context(incompatible)?;
    let pre = linker
        .instantiate_pre(&compiled)
        .map_err(anyhow::Error::from)
        .with_context(incompatible)?;
    let exports = Exports::find(pre, &component.id, source)?;
    Ok(Compiled {
        recipe: Recipe::of(component),
        wasm,
        imports: imports.into(),
        stubs: stubs.into(),
        engine: engine.clone(),
        exports,
    })
}

/// Checks that a component does not import a version of WASI 0.2 that preceded its release.
fn check_release_candidates(imports: &[String], source: &Source) -> anyhow::Result<()> {
    let is_candidate =
        |import: &&String| import.starts_with("wasi:") && import.contains("@0.2.0-rc-2023-");
    match imports.iter().find(is_candidate) {
        Some(import) => bail!("{} imports {import} {OLD_SDK}", source.display()),
        None => Ok(()),
    }
}

/// The origin of an interface of Spin 1 or 2, and what to do about it, for errors.
const OLD_SDK: &str = "of an SDK that precedes WASI 0.2: rebuild it with a current one, such as \
                       spin-sdk 3 or later for Rust";

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
    let is_old = |export: &String| {
        export == "fermyon:spin/inbound-http" || export.contains("@0.2.0-rc-2023-")
    };
    if let Some(export) = exports.iter().find(|export| is_old(export)) {
        bail!("it exports {export} {OLD_SDK}");
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
