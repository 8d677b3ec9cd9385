//! Loads applications. Keeps what one application hands over to the next.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak},
};

use anyhow::{Context as _, bail, ensure};
use tokio::sync::Semaphore;
use wasmtime::component::Linker;

use super::{
    app::{App, CurrentApp},
    call::LocalCalls,
    client::Client,
    compile::{self, Code, CompileError, Compiled},
    component::Component,
    component_log::ComponentLog,
    compute::Processors,
    engine::{self, Compiler},
    files::Mounts,
    guest::Guest,
    key_value::Store,
    linker,
    options::{EmbeddedOptions, FolderError},
    output::{Output, Targets, source::OutputSource},
    permissions,
    simulation::World,
    source::SourceLoader,
    storage::Storage,
};
use crate::{
    manifest::{self, Manifest, Target},
    router::Router,
    variables::Variables,
};

/// Loads the applications of a runtime.
pub(crate) struct AppLoader {
    options: EmbeddedOptions,
    compiler: Compiler,
    /// `None` until an application has components.
    toolchain: Option<Toolchain>,
    output: Output,
    client: Client,
    /// What surrounds the components, if that is simulated.
    world: Option<Arc<World>>,
    processors: Processors,
    sources: SourceLoader,
    storage: Storage,
    /// The code of the current application, by component id.
    compiled: BTreeMap<String, Compiled>,
    /// The permits for the instances of each component. They include instances of previous
    /// applications, because these occupy the pool too. The permits of a removed component are
    /// kept while it may still have instances.
    permits: BTreeMap<String, Arc<Semaphore>>,
    /// Whether an application has been loaded.
    has_loaded: bool,
}

/// An engine and its linker.
struct Toolchain {
    linker: Linker<Guest>,
    /// The number of components that the engine's pool has room for.
    capacity: usize,
}

impl Toolchain {
    fn new(options: &EmbeddedOptions, compiler: Compiler, capacity: usize) -> anyhow::Result<Self> {
        let engine = engine::start(options, capacity, compiler)?;
        let linker = linker::create(&engine)
            .map_err(anyhow::Error::from)
            .context("cannot link the host interfaces")?;
        Ok(Self { linker, capacity })
    }
}

/// A loaded application.
pub(crate) struct Loaded {
    pub(crate) app: Arc<App>,
    /// The ids of the components whose code differs from the previous application.
    pub(crate) changed: Vec<String>,
}

/// The first application, whose components are not compiled yet.
pub(crate) struct Prepared {
    pub(crate) app: Arc<App>,
    manifest: Manifest,
    /// In the order of the component ids.
    codes: Vec<Code>,
}

/// An application without the code of its components.
struct Parts {
    app: App,
    storage: Storage,
    /// The permits for the instances of each component.
    permits: BTreeMap<String, Arc<Semaphore>>,
}

/// The code of an application.
struct Build {
    /// The toolchain that it was built with, if that is a new one.
    toolchain: Option<Toolchain>,
    compiler: Compiler,
    /// In the order of the component ids.
    compiled: Vec<Compiled>,
}

impl AppLoader {
    /// Creates a loader.
    ///
    /// # Errors
    /// Fails if a thread cannot be started.
    pub(crate) fn new(mut options: EmbeddedOptions) -> anyhow::Result<Self> {
        options.limits = options.limits.normalized();
        let world = options
            .simulation
            .clone()
            .map(|it| Arc::new(World::new(it)));
        Ok(Self {
            compiler: Compiler::select(options.optimize),
            toolchain: None,
            output: Output::start(&options.limits, options.log_rotation)?,
            client: Client::new(&options.limits, world.clone()),
            world,
            processors: Processors::of_machine(),
            sources: SourceLoader::new(options.cache_dir.clone(), &options.limits),
            storage: Storage::default(),
            compiled: BTreeMap::new(),
            permits: BTreeMap::new(),
            has_loaded: false,
            options,
        })
    }

    /// Loads an application whose components call each other through `current`.
    ///
    /// `changed` contains the ids of the components whose file is read again.
    ///
    /// # Errors
    /// Fails if the application cannot run. The loader is then unchanged.
    pub(crate) fn load(
        &mut self,
        manifest: &Manifest,
        variables: &Variables,
        changed: &BTreeSet<String>,
        current: &Arc<CurrentApp>,
    ) -> anyhow::Result<Loaded> {
        self.check_followed(manifest)?;
        let components = &manifest.components;
        let codes = compile::load_all(&self.sources, components, &self.compiled, changed)?;
        let build = self.build(manifest, &codes, |_, _| {})?;
        // Permits stand for places in the pool of an engine.
        let none = BTreeMap::new();
        let permits = match &build.toolchain {
            None => &self.permits,
            Some(_) => &none,
        };
        let Parts {
            app,
            storage,
            permits,
        } = self.load_parts(manifest, variables, permits, current)?;

        // Nothing fails from here on.
        self.storage = storage;
        self.has_loaded = true;
        match build.toolchain {
            Some(_) => self.permits.clear(),
            None => self.permits.retain(|_, permits| is_shared(permits)),
        }
        self.permits.extend(permits);
        let changed = self.changed(manifest, &build.compiled);
        self.set_built(manifest, build, &app);
        Ok(Loaded {
            app: Arc::new(app),
            changed,
        })
    }

    /// Loads the first application except for what compiling its components takes.
    ///
    /// # Errors
    /// Fails if the application cannot run. What only the compiler finds is left to
    /// [`Self::compile`].
    pub(crate) fn prepare(
        &mut self,
        manifest: &Manifest,
        variables: &Variables,
        current: &Arc<CurrentApp>,
    ) -> anyhow::Result<Prepared> {
        ensure!(!self.has_loaded, "an application is loaded already");
        self.check_followed(manifest)?;
        let components = &manifest.components;
        let (compiled, changed) = (BTreeMap::new(), BTreeSet::new());
        let codes = compile::load_all(&self.sources, components, &compiled, &changed)?;
        if !components.is_empty() {
            let toolchain = Toolchain::new(&self.options, self.compiler, components.len())?;
            self.toolchain = Some(toolchain);
        }
        let parts = self.load_parts(manifest, variables, &BTreeMap::new(), current)?;
        self.storage = parts.storage;
        self.has_loaded = true;
        self.permits = parts.permits;
        Ok(Prepared {
            app: Arc::new(parts.app),
            manifest: manifest.clone(),
            codes,
        })
    }

    /// Compiles the components of an application, each of which can be called as soon as it is
    /// compiled.
    ///
    /// # Errors
    /// Fails if a component cannot run.
    pub(crate) fn compile(&mut self, prepared: &Prepared) -> anyhow::Result<()> {
        let Prepared {
            app,
            manifest,
            codes,
        } = prepared;
        // What Winch compiles may have to be compiled again, for another engine.
        let at_once = self.compiler != Compiler::Winch;
        let mut build = self.build(manifest, codes, |component, compiled| {
            if at_once {
                app.set_compiled(&component.id, compiled.exports.clone());
            }
        })?;
        if self.options.optimize {
            // An application whose speed matters is rarely replaced.
            build.compiled.iter_mut().for_each(Compiled::release_wasm);
        }
        self.set_built(manifest, build, app);
        Ok(())
    }

    /// Keeps the code of an application, and lets its components be called.
    fn set_built(&mut self, manifest: &Manifest, build: Build, app: &App) {
        for (component, compiled) in manifest.components.values().zip(&build.compiled) {
            permissions::log_missing(component, &compiled.imports);
            if !compiled.stubs.is_empty() {
                tracing::warn!(
                    component = component.id,
                    interfaces = compiled.stubs.join(", "),
                    "component imports interfaces that this host does not provide; calling them fails"
                );
            }
            app.set_compiled(&component.id, compiled.exports.clone());
        }
        if let Some(toolchain) = build.toolchain {
            self.toolchain = Some(toolchain);
        }
        self.compiler = build.compiler;
        let ids = manifest.components.keys().cloned();
        self.compiled = ids.zip(build.compiled).collect();
    }

    /// Loads an application except for the code of its components, whose permits are those of
    /// `permits`, if they are there. Runs the statements for the first application.
    fn load_parts(
        &self,
        manifest: &Manifest,
        variables: &Variables,
        permits: &BTreeMap<String, Arc<Semaphore>>,
        current: &Arc<CurrentApp>,
    ) -> anyhow::Result<Parts> {
        let router = Router::new(manifest)?;
        let storage = self.storage.extended(manifest, &self.options)?;
        let current = Arc::downgrade(current);
        let mut components = Vec::with_capacity(manifest.components.len());
        for component in manifest.components.values() {
            let permits = permits.get(&component.id).cloned();
            let app: Weak<dyn LocalCalls> = current.clone();
            let loaded =
                self.load_component(component, manifest, variables, &storage, permits, app);
            components.push(loaded.with_context(|| format!("component {}", component.id))?);
        }
        if !self.has_loaded {
            storage.run_statements(&self.options)?;
        }
        let permits = components
            .iter()
            .map(|component| (component.id.to_string(), component.permits.clone()));
        Ok(Parts {
            permits: permits.collect(),
            app: App::new(manifest, router, components),
            storage,
        })
    }

    /// Checks that the components exist whose output is followed.
    fn check_followed(&self, manifest: &Manifest) -> anyhow::Result<()> {
        let components = &manifest.components;
        match self
            .options
            .follow
            .iter()
            .find(|id| !components.contains_key(*id))
        {
            Some(id) => bail!(
                "cannot follow the output of {id:?}: no such component{}",
                manifest::suggest(id, components.keys().map(String::as_str))
            ),
            None => Ok(()),
        }
    }

    /// Returns the default key-value store, if a component of the application may open it.
    pub(crate) fn default_store(&self) -> Option<Arc<dyn Store>> {
        self.storage.default_store()
    }

    /// Compiles and links the components, in a new toolchain if the current one cannot be used.
    /// `compiled` is called for each component that can run.
    fn build(
        &self,
        manifest: &Manifest,
        codes: &[Code],
        compiled: impl Fn(&manifest::Component, &Compiled),
    ) -> anyhow::Result<Build> {
        let components = &manifest.components;
        let check = |component: &manifest::Component, code: &Compiled| {
            check_exports(manifest, component, code)?;
            compiled(component, code);
            Ok(())
        };
        let compile = |toolchain: &Toolchain| {
            compile::compile_all(&toolchain.linker, components, codes, &self.compiled, check)
        };
        let capacity = self
            .toolchain
            .as_ref()
            .map_or(0, |current| current.capacity);
        let needed = components.len() + self.removed_components(manifest);
        let (toolchain, compiled) = match &self.toolchain {
            Some(current) if needed <= capacity => (None, compile(current)),
            None if needed == 0 => (None, Ok(Vec::new())),
            _ => {
                let toolchain = Toolchain::new(&self.options, self.compiler, components.len())?;
                let compiled = compile(&toolchain);
                (Some(toolchain), compiled)
            }
        };
        match compiled {
            Err(error) if self.compiler == Compiler::Winch && error.is::<CompileError>() => {
                let compiler = Compiler::CraneliftFast;
                let capacity = capacity.max(components.len());
                let toolchain = Toolchain::new(&self.options, compiler, capacity)?;
                // If this fails too, the component is invalid.
                let compiled = compile(&toolchain)?;
                tracing::warn!(
                    error = %format_args!("{error:#}"),
                    "Winch cannot compile a component; compiling with Cranelift, which takes longer"
                );
                Ok(Build {
                    toolchain: Some(toolchain),
                    compiler,
                    compiled,
                })
            }
            compiled => Ok(Build {
                toolchain,
                compiler: self.compiler,
                compiled: compiled?,
            }),
        }
    }

    /// Counts the components that are not in the manifest and may still have instances.
    fn removed_components(&self, manifest: &Manifest) -> usize {
        let removed = self
            .permits
            .iter()
            .filter(|(id, permits)| !manifest.components.contains_key(*id) && is_shared(permits));
        removed.count()
    }

    fn changed(&self, manifest: &Manifest, compiled: &[Compiled]) -> Vec<String> {
        let has_changed = |id: &String, new: &Compiled| {
            let previous = self.compiled.get(id);
            previous.is_none_or(|previous| !previous.has_same_code(new))
        };
        let ids = manifest.components.keys().zip(compiled);
        let changed = ids.filter(|(id, new)| has_changed(id, new));
        changed.map(|(id, _)| id.clone()).collect()
    }

    fn load_component(
        &self,
        component: &manifest::Component,
        manifest: &Manifest,
        variables: &Variables,
        storage: &Storage,
        permits: Option<Arc<Semaphore>>,
        app: Weak<dyn LocalCalls>,
    ) -> anyhow::Result<Component> {
        let id = &component.id;
        let options = &self.options;
        let limits = options.limits;
        let mut environment = component.environment.clone();
        environment.extend(options.environment.clone());
        let shared_id: Arc<str> = id.as_str().into();
        let log = |source: OutputSource| {
            let (folder, kind) = match &options.log_dir {
                Some(folder) => (folder.clone(), FolderError::Log),
                None => (options.state_dir.join("logs"), FolderError::State),
            };
            let has_file = self.world.is_none() && !folder.as_os_str().is_empty();
            let file = folder.join(format!("{id}_{}.txt", source.name()));
            let targets = Targets {
                file: has_file.then_some(&file),
                truncate: options.truncate_logs && !self.has_loaded,
                echo: !options.quiet && (options.follow.is_empty() || options.follow.contains(id)),
                world: self.world.clone(),
            };
            let stream = self.output.stream(shared_id.clone(), source, targets);
            stream.context(kind)
        };
        let mounts = Mounts::gather(component, &manifest.root)?;
        for pattern in mounts.unmatched() {
            tracing::warn!(component = %id, pattern, "entry of files matches nothing");
        }
        Ok(Component {
            id: shared_id.clone(),
            environment: environment.into_iter().collect(),
            mounts,
            stdout: log(OutputSource::Stdout)?,
            stderr: log(OutputSource::Stderr)?,
            variables: variables.component_variables(id),
            stores: storage.component_stores(component),
            databases: storage.component_databases(component, options),
            #[cfg(feature = "redis")]
            redis_permits: Arc::new(Semaphore::new(limits.redis_connections)),
            allowed_hosts: variables.allowed_hosts(component)?,
            client: self.client.clone(),
            limits,
            world: self.world.clone(),
            log: Arc::new(ComponentLog::new(shared_id.clone(), &limits)),
            permits: permits
                .unwrap_or_else(|| Arc::new(Semaphore::new(limits.instances_per_component))),
            compute_queue: self
                .processors
                .queue(limits.computing_instances_per_processor),
            outgoing_permits: Arc::new(Semaphore::new(limits.outgoing_requests)),
            websockets: options.websockets.clone(),
            app,
        })
    }
}

/// Checks that a component exports what its triggers call.
fn check_exports(
    manifest: &Manifest,
    component: &manifest::Component,
    compiled: &Compiled,
) -> anyhow::Result<()> {
    let id = &component.id;
    let has_route = |trigger: &manifest::Trigger| match &trigger.target {
        Target::Component(component) => component == id,
        Target::Static { .. } => false,
    };
    let (exports, file) = (&compiled.exports, compiled.recipe.source());
    let handles_requests = exports.http.is_some() || exports.websocket.is_some();
    if !handles_requests && manifest.triggers.iter().any(has_route) {
        bail!(
            "{file} handles the events of cron triggers only: it has a route, but exports no HTTP \
             handler"
        );
    }
    let has_schedule = |trigger: &manifest::CronTrigger| trigger.component == *id;
    if exports.cron.is_none() && manifest.cron_triggers.iter().any(has_schedule) {
        bail!(
            "{file} does not export handle-cron-event, which [[trigger.cron]] calls: build it with \
             an SDK for cron components, or send requests to its HTTP handler with \
             [[application.tool.socket-host.timer]] and `cron`"
        );
    }
    Ok(())
}

/// Returns whether a component, besides the loader, holds these permits.
fn is_shared(permits: &Arc<Semaphore>) -> bool {
    Arc::strong_count(permits) > 1
}
