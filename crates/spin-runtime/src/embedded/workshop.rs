//! Where applications are made: the engine, and what outlasts the exchange of one for another.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use anyhow::Context as _;
use tokio::sync::Semaphore;
use wasmtime::component::Linker;

use super::{
    Options,
    client::Client,
    component::{self, Component, NotCompiled, Prepared},
    engine::{self, Compiler},
    files::Mounts,
    key_value::Labels,
    output::Output,
    sqlite::Database,
    state::Guest,
    store::Store,
};
use crate::{manifest, manifest::Manifest, router::Router, variables::Variables};

/// The label of the key-value store that every application has.
const DEFAULT_STORE: &str = "default";

/// Key-value stores by their labels.
type Stores = BTreeMap<String, Arc<dyn Store>>;

/// See the module's words.
pub struct Workshop {
    options: Options,
    bench: Bench,
    output: Output,
    client: Client,
    /// The key-value stores that are open.
    stores: Stores,
    /// What was compiled for the application that answers now, by the component's id.
    prepared: BTreeMap<String, Prepared>,
    /// The instances that each component may have, those left over from before an exchange
    /// included: the pool has room for no more. Those of a component that is gone stay for as long as
    /// an instance may be left.
    permits: BTreeMap<String, Arc<Semaphore>>,
}

/// An engine, and what links for it.
struct Bench {
    linker: Linker<Guest>,
    compiler: Compiler,
    /// Components that its pool has room for.
    room: usize,
}

impl Bench {
    fn new(options: &Options, compiler: Compiler, room: usize) -> anyhow::Result<Self> {
        let engine = engine::start(options, room, compiler)?;
        let linker = component::linker(&engine)
            .map_err(anyhow::Error::from)
            .context("cannot link the host's interfaces")?;
        Ok(Self {
            linker,
            compiler,
            room,
        })
    }
}

/// What an application is put together from.
pub struct Parts {
    /// Its routes.
    pub router: Router,
    /// Its components, in the order of their ids.
    pub components: Vec<Component>,
    /// The ids of those whose code is another than the last time.
    pub changed: Vec<String>,
}

impl Workshop {
    /// A workshop with room for the components of `manifest`.
    ///
    /// # Errors
    /// When the engine or a thread cannot be started.
    pub fn open(manifest: &Manifest, options: Options) -> anyhow::Result<Self> {
        let room = manifest.components.len();
        Ok(Self {
            bench: Bench::new(&options, Compiler::of(&options), room)?,
            output: Output::start(!options.quiet)?,
            client: Client::new(),
            stores: BTreeMap::new(),
            prepared: BTreeMap::new(),
            permits: BTreeMap::new(),
            options,
        })
    }

    /// Makes the parts of an application; `fresh` says whether the file of a component that was
    /// compiled before is read again.
    ///
    /// # Errors
    /// As of loading an application. Everything then stays as it was.
    pub fn make(
        &mut self,
        manifest: &Manifest,
        variables: &Variables,
        fresh: impl Fn(&str) -> bool,
    ) -> anyhow::Result<Parts> {
        let (bench, prepared) = self.prepare(manifest, fresh)?;
        let router = Router::new(manifest)?;
        let stores = self.stores(manifest)?;
        // The places of instances are the engine's.
        let nobody = BTreeMap::new();
        let permits = bench.as_ref().map_or(&self.permits, |_| &nobody);
        let mut components = Vec::with_capacity(prepared.len());
        for (component, prepared) in manifest.components.values().zip(&prepared) {
            let permits = permits.get(&component.id).cloned();
            let ready = self.component(component, prepared, manifest, variables, &stores, permits);
            components.push(ready.with_context(|| format!("component {}", component.id))?);
        }

        let ids = || manifest.components.keys().cloned();
        let is_other = |id: &String, new: &Prepared| {
            let old = self.prepared.get(id);
            old.is_none_or(|old| !old.is_same_as(new))
        };
        let changed = ids().zip(&prepared);
        let changed = changed.filter(|(id, new)| is_other(id, new));
        let changed = changed.map(|(id, _)| id).collect();
        // Nothing fails from here on.
        match bench {
            Some(bench) => {
                self.bench = bench;
                self.permits.clear();
            }
            None => self.permits.retain(|_, permits| is_in_use(permits)),
        }
        self.stores = stores;
        self.prepared = ids().zip(prepared).collect();
        let permits = components.iter().map(|ready| ready.permits.clone());
        self.permits.extend(ids().zip(permits));
        Ok(Parts {
            router,
            components,
            changed,
        })
    }

    /// Compiles and links the components; also gives the bench where that was done, if it had to be
    /// another: code belongs to an engine.
    fn prepare(
        &self,
        manifest: &Manifest,
        fresh: impl Fn(&str) -> bool,
    ) -> anyhow::Result<(Option<Bench>, Vec<Prepared>)> {
        let components = &manifest.components;
        let on =
            |bench: &Bench| component::prepare(&bench.linker, components, &self.prepared, &fresh);
        let Bench { compiler, room, .. } = self.bench;
        let (bench, prepared) = if components.len() + self.left(manifest) > room {
            let bench = Bench::new(&self.options, compiler, components.len())?;
            let prepared = on(&bench);
            (Some(bench), prepared)
        } else {
            (None, on(&self.bench))
        };
        match prepared {
            Err(error) if compiler == Compiler::Baseline && error.is::<NotCompiled>() => {
                let room = room.max(components.len());
                let bench = Bench::new(&self.options, Compiler::Hasty, room)?;
                // What Cranelift does not know either is a mistake in the component.
                let prepared = on(&bench)?;
                tracing::warn!(
                    "{error:#}; compiled by Cranelift instead of Winch from now on, which takes longer"
                );
                Ok((Some(bench), prepared))
            }
            prepared => Ok((bench, prepared?)),
        }
    }

    /// Components of before that have a place in the pool, and are none of this manifest's.
    fn left(&self, manifest: &Manifest) -> usize {
        let left = self
            .permits
            .iter()
            .filter(|(id, permits)| !manifest.components.contains_key(*id) && is_in_use(permits));
        left.count()
    }

    fn component(
        &self,
        component: &manifest::Component,
        prepared: &Prepared,
        manifest: &Manifest,
        variables: &Variables,
        stores: &Stores,
        permits: Option<Arc<Semaphore>>,
    ) -> anyhow::Result<Component> {
        let id = &component.id;
        let options = &self.options;
        let mut environment = component.environment.clone();
        environment.extend(options.environment.clone());
        let log = |name| {
            let folder = options.log_dir.clone();
            let folder = folder.unwrap_or_else(|| options.state_dir.join("logs"));
            self.output.stream(&folder.join(format!("{id}_{name}.txt")))
        };
        Ok(Component {
            id: id.as_str().into(),
            pre: prepared.pre.clone(),
            environment: environment.into_iter().collect(),
            mounts: Mounts::gather(component, &manifest.root)?,
            stdout: log("stdout")?,
            stderr: log("stderr")?,
            variables: variables.component_variables(id),
            stores: labels(component, stores),
            allowed: variables.allowed_hosts(component)?,
            client: self.client.clone(),
            limits: options.limits(),
            permits: permits
                .unwrap_or_else(|| Arc::new(Semaphore::new(options.max_instances.max(1)))),
            app: Weak::new(),
        })
    }

    /// The stores of an application. The file is made only when a component may open it.
    fn stores(&self, manifest: &Manifest) -> anyhow::Result<Stores> {
        let mut stores = self.stores.clone();
        let mut labels = manifest
            .components
            .values()
            .flat_map(|component| &component.key_value_stores);
        if labels.any(|label| label == DEFAULT_STORE) && !stores.contains_key(DEFAULT_STORE) {
            let file = self.options.state_dir.join("sqlite_key_value.db");
            let store = Database::open(&file)?.store(DEFAULT_STORE);
            stores.insert(DEFAULT_STORE.to_owned(), Arc::new(store));
        }
        Ok(stores)
    }
}

/// Whether anybody but the workshop has permits of these.
fn is_in_use(permits: &Arc<Semaphore>) -> bool {
    Arc::strong_count(permits) > 1
}

fn labels(component: &manifest::Component, stores: &Stores) -> Labels {
    let labels = component.key_value_stores.iter().map(|label| {
        let store = stores.get(label).cloned();
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
