//! Compiles and links components, so that an instance starts in microseconds.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context as _, anyhow, bail};
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

/// The code of a component before it is compiled.
pub(crate) struct Code {
    recipe: Recipe,
    /// The composed contents of the files, as a component.
    wasm: Arc<[u8]>,
}

/// A linked component and the parts that it comes from.
#[derive(Clone)]
pub(crate) struct Compiled {
    pub(crate) recipe: Recipe,
    /// The contents of [`Code`], unless they were released. They tell whether a component has changed,
    /// and are compiled again for another engine, when the files may already have other contents.
    wasm: Option<Arc<[u8]>>,
    /// The interfaces that it imports.
    pub(crate) imports: Arc<[String]>,
    /// The imports whose functions the host does not provide, so that calling them fails.
    pub(crate) stubs: Arc<[String]>,
    engine: Engine,
    pub(crate) exports: Exports,
}

impl Compiled {
    /// Returns whether it is known that both have the same code.
    pub(crate) fn has_same_code(&self, other: &Self) -> bool {
        self.wasm.is_some() && self.wasm == other.wasm
    }

    /// Releases the contents of the files. They are read again to load the component once more.
    pub(crate) fn release_wasm(&mut self) {
        self.wasm = None;
    }
}

/// The compiler rejected a file. The file is invalid, or uses a feature that the compiler lacks.
#[derive(Debug, thiserror::Error)]
#[error("{} is not a valid component", .0.display())]
pub(crate) struct CompileError(Source);

/// Reads the code of the components of a manifest in parallel, in the order of their ids.
///
/// The files of a component in `previous` are only read again if `changed` contains its id, or if their
/// contents were released.
///
/// # Errors
/// Returns the error of the first component, by id.
pub(crate) fn load_all(
    loader: &SourceLoader,
    components: &BTreeMap<String, Component>,
    previous: &BTreeMap<String, Compiled>,
    changed: &BTreeSet<String>,
) -> anyhow::Result<Vec<Code>> {
    let load = |component: &Component| {
        let recipe = Recipe::of(component);
        let previous = previous.get(&component.id);
        let kept = previous.filter(|it| it.recipe == recipe && !changed.contains(&component.id));
        let wasm = match kept.and_then(|previous| previous.wasm.clone()) {
            Some(wasm) => wasm,
            None => {
                let wasm = loader.load(component)?;
                match wasm_format::to_component(&wasm, &component.source)? {
                    Cow::Borrowed(_) => wasm,
                    Cow::Owned(converted) => converted.into(),
                }
            }
        };
        anyhow::Ok(Code { recipe, wasm })
    };
    let load = &load;
    std::thread::scope(|scope| {
        let threads: Vec<_> = components
            .values()
            .map(|component| {
                scope.spawn(move || {
                    load(component).with_context(|| format!("component {}", component.id))
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| bail!("loading a component panicked"))
            })
            .collect()
    })
}

/// Compiles and links components, the smallest first. `codes` has the code of each.
///
/// The code in `previous` is used if it comes from the same contents and the engine is the same.
/// `compiled` is called as soon as a component is compiled.
///
/// # Errors
/// Returns the first error, which may be one of `compiled`. It is a [`CompileError`] if the compiler
/// rejected the file.
pub(crate) fn compile_all(
    linker: &Linker<Guest>,
    components: &BTreeMap<String, Component>,
    codes: &[Code],
    previous: &BTreeMap<String, Compiled>,
    compiled: impl Fn(&Component, &Compiled) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Compiled>> {
    // Wasmtime compiles the functions of a component on all processors, and needs one processor alone
    // for hardly more than a hundredth of the work. If several components were compiled at the same
    // time, all would be ready at the end: what a large one does keeps the processors busy whenever a
    // small one has completed a step.
    let mut in_order: Vec<_> = components.values().zip(codes).collect();
    in_order.sort_by_key(|(_, code)| code.wasm.len());
    let mut results = BTreeMap::new();
    for (component, code) in in_order {
        let start = Instant::now();
        let result = compile(linker, component, code, previous.get(&component.id))
            .and_then(|result| compiled(component, &result).map(|()| result))
            .with_context(|| format!("component {}", component.id))?;
        tracing::debug!(
            component = component.id,
            elapsed_ms = start.elapsed().as_millis(),
            "component compiled"
        );
        results.insert(&component.id, result);
    }
    Ok(results.into_values().collect())
}

fn compile(
    linker: &Linker<Guest>,
    component: &Component,
    code: &Code,
    previous: Option<&Compiled>,
) -> anyhow::Result<Compiled> {
    let source = &component.source;
    let engine = linker.engine();
    if let Some(previous) = previous
        && previous.recipe == code.recipe
        && previous.wasm.as_ref() == Some(&code.wasm)
        && Engine::same(&previous.engine, engine)
    {
        return Ok(previous.clone());
    }
    // The engine keeps nothing of a compilation that has panicked.
    let compiled = AssertUnwindSafe(|| WasmComponent::new(engine, &code.wasm));
    let compiled = catch_unwind(compiled)
        .map_err(|_| anyhow!("the compiler panicked"))?
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
        recipe: code.recipe.clone(),
        wasm: Some(code.wasm.clone()),
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
