//! Components made ready: compiled, checked and linked, so that an instance is made in microseconds.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::sync::Semaphore;
use wasmtime::{
    Engine,
    component::{Component as Compiled, InstancePre, Linker},
};
use wasmtime_wasi_http::{WasiHttp, WasiHttpView as _, handler::ProxyPre, p2, p3};

use super::{
    app::Current,
    client::Client,
    files::Mounts,
    key_value::{self, Labels},
    outbound,
    output::Stream,
    state::Guest,
    variables::{self, Values},
};
use crate::{manifest, outbound::AllowedHosts};

/// A component, as its instances share it.
pub struct Component {
    /// Its id in the manifest.
    pub id: Arc<str>,
    /// Compiled and linked.
    pub pre: Pre,
    /// Its whole environment.
    pub environment: Vec<(String, String)>,
    /// What it sees of the file system.
    pub mounts: Mounts,
    /// Where its stdout goes.
    pub stdout: Stream,
    /// Where its stderr goes.
    pub stderr: Stream,
    /// Its variables.
    pub variables: Values,
    /// The key-value stores it may open.
    pub stores: Labels,
    /// Where it may send requests.
    pub allowed: AllowedHosts,
    /// Sends them.
    pub client: Client,
    /// What an instance may use.
    pub limits: Limits,
    /// One for each instance that may exist.
    pub permits: Arc<Semaphore>,
    /// The application it is part of, for requests to other components. An instance that is left
    /// over from before an exchange calls those of today.
    pub app: Weak<Current>,
}

/// What an instance, and a request, may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From a request to the head of its answer.
    pub deadline: Duration,
    /// Linear memory, in bytes.
    pub max_memory: usize,
    /// Instances, which are those that hold a permit.
    pub instances: usize,
    /// Requests in the life of an instance (WASI 0.3).
    pub reuse: usize,
    /// Requests at once (WASI 0.3).
    pub concurrency: usize,
    /// How long an instance waits for its next request (WASI 0.3).
    pub idle: Duration,
}

impl Component {
    /// Whether an instance answers more than one request: WASI 0.3.
    pub fn shares_instances(&self) -> bool {
        matches!(*self.pre.0, ProxyPre::P3(_))
    }
}

/// A component that is ready to be instantiated. Clones share what is compiled.
#[derive(Clone)]
pub struct Pre(Arc<ProxyPre<Guest>>);

impl Pre {
    /// The engine it is compiled for.
    pub fn engine(&self) -> &Engine {
        match &*self.0 {
            ProxyPre::P2(pre) => pre.engine(),
            ProxyPre::P3(pre) => pre.engine(),
        }
    }

    /// A new instance.
    ///
    /// # Errors
    /// When it traps on start or there is no memory for it.
    pub async fn instantiate_async(
        &self,
        store: &mut wasmtime::Store<Guest>,
    ) -> wasmtime::Result<wasmtime_wasi_http::handler::Proxy> {
        self.0.instantiate_async(store).await
    }
}

/// Everything that guests may import.
///
/// # Errors
/// When two interfaces clash, which is a mistake of ours.
pub fn linker(engine: &Engine) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi::p3::add_to_linker(&mut linker)?;
    let options = p2::bindings::LinkOptions::default();
    let types = p2::bindings::http::types::add_to_linker::<_, WasiHttp>;
    types(&mut linker, &options.into(), Guest::http)?;
    p3::bindings::http::types::add_to_linker::<_, WasiHttp>(&mut linker, Guest::http)?;
    outbound::add_to_linker(&mut linker)?;
    key_value::add_to_linker(&mut linker)?;
    variables::add_to_linker(&mut linker)?;
    Ok(linker)
}

/// A component's file as it was read, and what was made of it.
#[derive(Clone)]
pub struct Prepared {
    /// The file.
    pub source: PathBuf,
    /// Its content, which tells one build from the next, and from which another engine makes code
    /// when the file may hold something else.
    wasm: Arc<[u8]>,
    /// Compiled and linked.
    pub pre: Pre,
}

impl Prepared {
    /// Whether both come from the same content.
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.wasm == other.wasm
    }
}

/// The engine makes nothing of a file: it is broken, or has in it what the compiler does not know.
#[derive(Debug, thiserror::Error)]
#[error("{} is no valid component", .0.display())]
pub struct NotCompiled(PathBuf);

/// Compiles every component of a manifest, several at once, and links them. The file of one that is
/// in `known`, by its id, is read again when it is `fresh` only; and its code is taken as it is when it
/// has the same content and was made for the same engine.
///
/// # Errors
/// The first component's, in the order of ids, that is missing, broken ([`NotCompiled`]), or made for
/// another host.
pub fn prepare(
    linker: &Linker<Guest>,
    components: &BTreeMap<String, manifest::Component>,
    known: &BTreeMap<String, Prepared>,
    fresh: impl Fn(&str) -> bool,
) -> anyhow::Result<Vec<Prepared>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = components
            .values()
            .map(|component| {
                let known = known
                    .get(&component.id)
                    .filter(|known| known.source == component.source);
                let fresh = fresh(&component.id);
                scope.spawn(move || {
                    prepare_one(linker, component, known, fresh)
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

fn prepare_one(
    linker: &Linker<Guest>,
    component: &manifest::Component,
    known: Option<&Prepared>,
    fresh: bool,
) -> anyhow::Result<Prepared> {
    let path = &component.source;
    let wasm = match known {
        Some(known) if !fresh => known.wasm.clone(),
        _ => read(component)?,
    };
    let is_code =
        |known: &&Prepared| known.wasm == wasm && Engine::same(known.pre.engine(), linker.engine());
    if let Some(known) = known.filter(is_code) {
        return Ok(known.clone());
    }
    check_kind(&wasm, path)?;
    let compiled = Compiled::new(linker.engine(), &wasm)
        .map_err(anyhow::Error::from)
        .with_context(|| NotCompiled(path.clone()))?;
    check_imports(&compiled, linker.engine())?;
    let pre = linker
        .instantiate_pre(&compiled)
        .map_err(anyhow::Error::from)
        .with_context(|| format!("{} does not fit this host. {ELSEWHERE}", path.display()))?;
    let pre =
        export(pre).with_context(|| format!("{} answers no HTTP requests", path.display()))?;
    Ok(Prepared {
        source: path.clone(),
        wasm,
        pre,
    })
}

fn read(component: &manifest::Component) -> anyhow::Result<Arc<[u8]>> {
    let path = &component.source;
    match std::fs::read(path) {
        Ok(wasm) => Ok(wasm.into()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!(
                "{} does not exist. {}",
                path.display(),
                how_to_build(component)
            )
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Says what makes the file that is missing.
fn how_to_build(component: &manifest::Component) -> String {
    match &component.build {
        Some(build) => format!(
            "Run `socket-host build`, or start with --build: it is made by `{}` in {}",
            build.commands.join(" && "),
            build.workdir.display()
        ),
        None => format!(
            "Build it, or correct `source` of [component.{}]; the manifest has no build command for it",
            component.id
        ),
    }
}

const ELSEWHERE: &str = "`spin up` may run it: start that, and put this host in front of it \
                         with --upstream URL";

/// Tells apart what is mistaken for a component, by the first bytes.
fn check_kind(wasm: &[u8], path: &Path) -> anyhow::Result<()> {
    let path = path.display();
    match (wasm.get(..4), wasm.get(4..8)) {
        (Some(b"\0asm"), Some([_, _, 1, 0])) => Ok(()),
        (Some(b"\0asm"), Some(_)) => bail!(
            "{path} is a core module, not a component: build it for wasm32-wasip2, \
             or turn it into a component with `wasm-tools component new`"
        ),
        _ => bail!("{path} is not WebAssembly"),
    }
}

/// Names what this host has not got, before wasmtime complains about the first of it.
fn check_imports(compiled: &Compiled, engine: &Engine) -> anyhow::Result<()> {
    let ty = compiled.component_type();
    let unknown: Vec<_> = ty
        .imports(engine)
        .map(|(name, _)| name)
        .filter(|name| !is_provided(name))
        .collect();
    if unknown.is_empty() {
        return Ok(());
    }
    bail!(
        "it imports {}, which this host does not provide. {ELSEWHERE}",
        unknown.join(", ")
    )
}

/// Whether the interface is one of ours; of WASI's own packages wasmtime knows the versions.
fn is_provided(import: &str) -> bool {
    const WASI: [&str; 8] = [
        "cli",
        "clocks",
        "filesystem",
        "http",
        "io",
        "random",
        "sockets",
        "config",
    ];
    const OURS: [&str; 7] = [
        "spin:key-value/key-value@3",
        "spin:variables/variables@3",
        "fermyon:spin/key-value@2",
        "fermyon:spin/variables@2",
        "wasi:keyvalue/store@",
        "wasi:keyvalue/atomics@",
        "wasi:keyvalue/batch@",
    ];
    match import
        .strip_prefix("wasi:")
        .and_then(|rest| rest.split_once('/'))
    {
        Some((package, _)) if WASI.contains(&package) => true,
        _ => OURS.iter().any(|ours| import.starts_with(ours)),
    }
}

/// Finds the export that answers requests.
fn export(pre: InstancePre<Guest>) -> anyhow::Result<Pre> {
    let engine = pre.engine().clone();
    let exports = pre.component().component_type();
    let exports: Vec<_> = exports
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
        "it exports {exports}, and neither wasi:http/handler@0.3 nor \
         wasi:http/incoming-handler@0.2. {ELSEWHERE}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_no_components_are_told_apart() {
        let kind = |bytes: &[u8]| {
            check_kind(bytes, Path::new("a.wasm")).map_err(|error| error.to_string())
        };
        assert_eq!(kind(b"\0asm\x0d\0\x01\0..."), Ok(()));
        assert!(
            kind(b"\0asm\x01\0\0\0...")
                .unwrap_err()
                .contains("core module")
        );
        assert!(kind(b"").unwrap_err().contains("is not WebAssembly"));
        assert!(
            kind(b"(component)")
                .unwrap_err()
                .contains("is not WebAssembly")
        );
    }

    #[test]
    fn what_this_host_lacks_is_known_by_name() {
        for provided in [
            "wasi:http/client@0.3.0",
            "wasi:io/streams@0.2.6",
            "wasi:keyvalue/atomics@0.2.0-draft2",
            "spin:key-value/key-value@3.0.0",
            "fermyon:spin/variables@2.0.0",
            "wasi:config/store@0.2.0-draft-2024-09-27",
        ] {
            assert!(is_provided(provided), "{provided}");
        }
        for unknown in [
            "spin:sqlite/sqlite@3.1.0",
            "fermyon:spin/redis@2.0.0",
            "fermyon:spin/key-value",
            "wasi:otel/tracing@0.2.0-rc.2",
            "my:own/thing",
        ] {
            assert!(!is_provided(unknown), "{unknown}");
        }
    }
}
