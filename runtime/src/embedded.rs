//! Components in this process, in embedded Wasmtime.
//!
//! [`Embedded::load`] compiles and links what a manifest names. A request then goes [`app`] (route
//! and headers) → wasmtime's `ProxyHandler` (finds or makes an instance) → [`worker`] (decides for
//! how long) → guest, and its answer comes back as a [`body`] that is read while the guest writes.

mod app;
mod bindings;
mod body;
mod client;
mod component;
mod engine;
mod files;
mod key_value;
mod outbound;
mod output;
mod sqlite;
mod state;
mod store;
mod variables;
mod worker;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

use anyhow::Context as _;
use http::Request;
use tokio::sync::Semaphore;

use self::{
    app::App,
    client::Client,
    component::{Component, Limits, Pre},
    files::Mounts,
    key_value::Labels,
    output::Output,
    sqlite::Database,
    state::Call,
    store::Store,
};
use crate::{
    backend::{Answer, Backend, Body, Caller},
    manifest,
    manifest::Manifest,
    router::Router,
    variables::Variables,
};

/// The label of the key-value store that every application has.
const DEFAULT_STORE: &str = "default";

/// How components are run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the default store and the logs are kept (`.spin`): created when missing.
    pub state_dir: PathBuf,
    /// Where the components' output is kept; `logs` in the state folder when `None`.
    pub log_dir: Option<PathBuf>,
    /// Added to the environment of every component, over its own.
    pub environment: BTreeMap<String, String>,
    /// The components' output goes to the log files only, not to stderr as well.
    pub quiet: bool,
    /// How long a component may take to the head of its answer, waiting for an instance included
    /// (default 30 s). Its body may take as long as somebody reads it.
    pub deadline: Duration,
    /// Linear memory of an instance, in bytes (default 512 MiB). Growing beyond it fails within
    /// the guest, which mostly ends in a trap.
    pub max_memory: usize,
    /// Instances of each component (default 500). A request that needs one more waits; that each
    /// component has its own lets one call another without waiting for itself.
    pub max_instances: usize,
    /// Requests in the life of an instance, of a WASI 0.3 component (default 128).
    pub instance_reuse: usize,
    /// Requests at once in an instance, of a WASI 0.3 component (default 16).
    pub instance_concurrency: usize,
    /// How long an instance waits for its next request (default 1 s).
    pub instance_idle: Duration,
}

impl Options {
    /// The defaults, with state in this folder.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            log_dir: None,
            environment: BTreeMap::new(),
            quiet: false,
            deadline: Duration::from_secs(30),
            max_memory: 512 << 20,
            max_instances: 500,
            instance_reuse: 128,
            instance_concurrency: 16,
            instance_idle: Duration::from_secs(1),
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            deadline: self.deadline,
            max_memory: self.max_memory,
            reuse: self.instance_reuse.max(1),
            concurrency: self.instance_concurrency.max(1),
            idle: self.instance_idle,
        }
    }
}

/// An application whose components run in this process.
pub struct Embedded {
    /// One whole, so that it can be exchanged for another.
    app: Arc<App>,
}

impl Embedded {
    /// Compiles the components of a manifest, or takes them from the compilation cache, and makes
    /// everything they need. This takes processor time, seconds without the cache: call it off the
    /// threads that serve.
    ///
    /// # Errors
    /// Names the component and what is wrong: its file is missing (and what builds it), is no
    /// component, imports what this host does not provide, answers no requests; its files cannot be
    /// read; a template cannot be expanded. Or the state folder cannot be used.
    pub fn load(
        manifest: &Manifest,
        variables: &Variables,
        options: Options,
    ) -> anyhow::Result<Self> {
        let engine = engine::start(&options, manifest.components.len())?;
        let linker = component::linker(&engine)
            .map_err(anyhow::Error::from)
            .context("cannot link the host's interfaces")?;
        let prepared = component::prepare(&linker, &manifest.components)?;
        let loading = Loading {
            stores: stores(manifest, &options)?,
            output: Output::start(!options.quiet)?,
            client: Client::new(),
            manifest,
            variables,
            options,
        };
        let router = Router::new(manifest)?;
        let mut components = Vec::with_capacity(prepared.len());
        for (component, pre) in manifest.components.values().zip(prepared) {
            let ready = loading.component(component, pre);
            components.push(ready.with_context(|| format!("component {}", component.id))?);
        }
        // The components know the application, which has the components.
        let app = Arc::new_cyclic(|app| {
            for component in &mut components {
                component.app = app.clone();
            }
            App::new(manifest, router, components, loading.output)
        });
        Ok(Self { app })
    }
}

impl Backend for Embedded {
    fn call(&self, request: Request<Body>) -> Answer<'_> {
        let caller = request.extensions().get().copied().unwrap_or(Caller::Host);
        Box::pin(self.app.call(request, Call { caller, depth: 0 }))
    }
}

/// What goes into every component.
struct Loading<'a> {
    manifest: &'a Manifest,
    variables: &'a Variables,
    options: Options,
    stores: BTreeMap<String, Arc<dyn Store>>,
    output: Output,
    client: Client,
}

impl Loading<'_> {
    fn component(&self, component: &manifest::Component, pre: Pre) -> anyhow::Result<Component> {
        let id = &component.id;
        let mut environment = component.environment.clone();
        environment.extend(self.options.environment.clone());
        let log = |name| {
            let folder = self.options.log_dir.clone();
            let folder = folder.unwrap_or_else(|| self.options.state_dir.join("logs"));
            self.output.stream(&folder.join(format!("{id}_{name}.txt")))
        };
        Ok(Component {
            id: id.as_str().into(),
            pre,
            environment: environment.into_iter().collect(),
            mounts: Mounts::gather(component, &self.manifest.root)?,
            stdout: log("stdout")?,
            stderr: log("stderr")?,
            variables: self.variables.component_variables(id),
            stores: self.labels(component),
            allowed: self.variables.allowed_hosts(component)?,
            client: self.client.clone(),
            limits: self.options.limits(),
            permits: Arc::new(Semaphore::new(self.options.max_instances.max(1))),
            app: Weak::new(),
        })
    }

    fn labels(&self, component: &manifest::Component) -> Labels {
        let labels = component.key_value_stores.iter().map(|label| {
            let store = self.stores.get(label).cloned();
            if store.is_none() {
                tracing::warn!(
                    component = component.id,
                    "there is no key-value store {label:?}: opening it will fail with no-such-store"
                );
            }
            (label.clone(), store)
        });
        labels.collect()
    }
}

/// The key-value stores by label. The file is made only when a component may open it.
fn stores(
    manifest: &Manifest,
    options: &Options,
) -> anyhow::Result<BTreeMap<String, Arc<dyn Store>>> {
    let mut stores: BTreeMap<String, Arc<dyn Store>> = BTreeMap::new();
    let mut labels = manifest
        .components
        .values()
        .flat_map(|component| &component.key_value_stores);
    if labels.any(|label| label == DEFAULT_STORE) {
        let database = Database::open(&options.state_dir.join("sqlite_key_value.db"))?;
        stores.insert(
            DEFAULT_STORE.to_owned(),
            Arc::new(database.store(DEFAULT_STORE)),
        );
    }
    Ok(stores)
}
