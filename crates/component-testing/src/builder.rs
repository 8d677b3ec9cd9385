//! Sets up an application for a test.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use grip::Key;
use rand::{SeedableRng as _, rngs::StdRng};
use spin_runtime::{
    Changes, Embedded, EmbeddedOptions, LimitRange, Limits, Manifest, PrivateRoutes, RuntimeConfig,
    Variables,
    runtime_config::SqliteDatabase,
    simulation::{self, SimulatedClock, Simulation},
};

use crate::{
    app::{Parts, TestApp},
    channels::Channels,
    host::Host,
    log::{ComponentLogs, Warnings},
    manifest::{self, ComponentSettings, HostSettings},
    outbound::{Fake, OutboundRequest},
    publisher::Publisher,
    reply::Reply,
    runtime::Runtime,
    servers::SimulatedServers,
    shuffle::Shuffle,
    store::Store,
    timers,
    websocket::SocketTokens,
};

impl TestApp {
    /// Tests the application of a manifest: a file, or a folder with a `spin.toml`.
    pub fn from_manifest(path: impl AsRef<Path>) -> TestAppBuilder {
        TestAppBuilder::new(Application::Manifest(path.as_ref().to_owned()))
    }

    /// Tests a component without a manifest. It serves all paths.
    pub fn from_component(file: impl AsRef<Path>) -> TestAppBuilder {
        TestAppBuilder::new(Application::Component(file.as_ref().to_owned()))
    }
}

/// The time at which the clock starts: 2026-01-01, 00:00 UTC.
const DEFAULT_START: Duration = Duration::from_secs(1_767_225_600);

/// The control port of the host, for applications that do not set the variable `grip_url`.
const DEFAULT_GRIP_URL: &str = "http://127.0.0.1:5561";

/// The key of the host, for applications that do not set the variable `grip_key`.
const DEFAULT_GRIP_KEY: &str = "the key of component-testing";

/// The most requests that an instance serves at the same time.
const MAX_CONCURRENT_REQUESTS: usize = 3;

/// Settings of a [`TestApp`].
#[must_use = "the application starts with `build`"]
pub struct TestAppBuilder {
    application: Application,
    /// For an application without a manifest.
    component: ComponentSettings,
    variables: Vec<(String, String)>,
    environment: BTreeMap<String, String>,
    seed: u64,
    start: SystemTime,
    fake: Option<Fake>,
    with_timers: bool,
    limits: Limits,
}

enum Application {
    Manifest(PathBuf),
    Component(PathBuf),
}

impl TestAppBuilder {
    fn new(application: Application) -> Self {
        Self {
            application,
            component: ComponentSettings::default(),
            variables: Vec::new(),
            environment: BTreeMap::new(),
            seed: 0,
            start: UNIX_EPOCH + DEFAULT_START,
            fake: None,
            with_timers: false,
            limits: Limits::DEFAULT,
        }
    }

    /// Sets the seed of all random choices: the random numbers of the components, the tokens of
    /// WebSockets, the pauses of timers, and the order in which concurrent requests make progress.
    /// Default: 0.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Sets the time at which the clock starts. Default: 2026-01-01, 00:00 UTC.
    pub fn start_time(mut self, time: SystemTime) -> Self {
        self.start = time;
        self
    }

    /// Sets a variable.
    ///
    /// A manifest must declare it. `grip_url` and `grip_key` have values by default. A component
    /// without a manifest can read all variables that are set.
    pub fn variable(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// Sets an environment variable of all components.
    pub fn environment(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    /// Lets a component without a manifest open a key-value store.
    pub fn key_value_store(mut self, label: impl Into<String>) -> Self {
        self.component.key_value_stores.push(label.into());
        self
    }

    /// Lets a component without a manifest open a SQLite database.
    pub fn sqlite_database(mut self, label: impl Into<String>) -> Self {
        self.component.sqlite_databases.push(label.into());
        self
    }

    /// Lets a component without a manifest send requests to a host, such as `https://api.example`.
    pub fn allowed_outbound_host(mut self, host: impl Into<String>) -> Self {
        self.component.allowed_outbound_hosts.push(host.into());
        self
    }

    /// Lets WebSockets of an application without a manifest resume on a channel. `items` is the number
    /// of items that the host keeps.
    pub fn channel_history(mut self, channel: impl Into<String>, items: usize) -> Self {
        self.component.history_items.insert(channel.into(), items);
        self
    }

    /// Answers the requests that components send to servers. `allowed_outbound_hosts` is checked
    /// first, and the GRIP host answers publish requests itself.
    ///
    /// The function must not use the [`TestApp`]. Without it, such requests fail.
    pub fn outbound<R: Into<Reply>>(
        mut self,
        fake: impl Fn(&OutboundRequest) -> R + Send + Sync + 'static,
    ) -> Self {
        self.fake = Some(Arc::new(move |request| fake(request).into()));
        self
    }

    /// Calls the timers and cron triggers of the manifest when they are due.
    ///
    /// Without this, a test calls them itself, by [`TestApp::run_timer`] and [`TestApp::run_cron`].
    pub fn with_timers(mut self) -> Self {
        self.with_timers = true;
        self
    }

    /// Sets the limits of the components. Those about connections, locks and log files have no effect.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Starts the application.
    ///
    /// The code of components is compiled once and then cached in the user's cache folder.
    ///
    /// # Errors
    /// Fails if the manifest is missing or invalid, if a component has not been built or cannot be
    /// loaded, or if a required variable is not set.
    pub fn build(self) -> Result<TestApp> {
        let warnings = Warnings::default();
        let runtime = Runtime::start(warnings.subscriber()).context("cannot start the runtime")?;
        let parts = runtime.with_log(|| self.start(&runtime))?;
        Ok(TestApp::new(Rc::new(runtime), warnings, parts))
    }

    fn start(mut self, runtime: &Runtime) -> Result<Parts> {
        let _context = runtime.enter();
        let (manifest, settings) = self.load()?;
        let variables = self.variables(&manifest)?;
        let grip_url = variables.get("grip_url").unwrap_or(DEFAULT_GRIP_URL);
        let grip_key = variables.get("grip_key").filter(|key| !key.is_empty());
        let key = Key::parse(grip_key.unwrap_or(DEFAULT_GRIP_KEY)).context("grip_key")?;

        let mut rng = StdRng::seed_from_u64(self.seed);
        let clock = SimulatedClock::start(self.start);
        let channels = Channels::new(settings.history_items);
        let publisher = Publisher::new(grip_url, key, clock, channels.clone());
        let shuffle = Shuffle::new(rng.fork());
        let servers = SimulatedServers::new(clock, publisher.clone(), self.fake, shuffle.clone());
        let logs = ComponentLogs::default();
        let stores = stores(&manifest, &mut rng);
        let tokens = SocketTokens::new(
            rng.fork(),
            channels.clone(),
            publisher.clone(),
            shuffle.clone(),
        );
        let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
        let mut options = EmbeddedOptions::new(folder.path());
        options.environment = self.environment;
        options.pooling = false;
        options.limits = with_instance_range(self.limits);
        options.runtime_config = RuntimeConfig {
            sqlite_databases: databases(&manifest, folder.path()),
            ..RuntimeConfig::default()
        };
        options.websockets = Arc::new(tokens.clone());
        options.simulation = Some(Simulation {
            clock,
            seed: self.seed,
            stores: stores.iter().map(simulated).collect(),
            servers: Arc::new(servers.clone()),
            output: Arc::new(logs.clone()),
        });
        let backend = Embedded::new(options)?;
        backend.replace(&manifest, &variables, &Changes::default(), || {})?;
        let private = PrivateRoutes::new(&settings.private)?;
        let host = Arc::new(Host::new(
            backend, clock, publisher, channels, tokens, private, shuffle,
        ));
        if self.with_timers {
            for timer in &settings.timers {
                tokio::spawn(timers::run(host.clone(), timer.clone(), rng.fork()));
            }
            for trigger in &manifest.cron_triggers {
                tokio::spawn(timers::run_cron(host.clone(), trigger.clone()));
            }
        }
        Ok(Parts {
            host,
            stores,
            servers,
            logs,
            timers: settings.timers,
            folder,
        })
    }

    fn load(&mut self) -> Result<(Manifest, HostSettings)> {
        let (manifest, settings) = match &self.application {
            Application::Manifest(path) => {
                ensure!(
                    self.component == ComponentSettings::default(),
                    "stores, databases, hosts and the history of channels come from the manifest {}: \
                     set them there",
                    path.display()
                );
                manifest::load(path)?
            }
            Application::Component(path) => {
                self.component.variables = self.variables.clone();
                manifest::of_component(path, &self.component)?
            }
        };
        for warning in &manifest.warnings {
            tracing::warn!(warning, "manifest");
        }
        manifest::check_files(&manifest)?;
        Ok((manifest, settings))
    }

    fn variables(&self, manifest: &Manifest) -> Result<Variables> {
        let host = BTreeMap::from([
            ("grip_url".to_owned(), DEFAULT_GRIP_URL.to_owned()),
            ("grip_key".to_owned(), DEFAULT_GRIP_KEY.to_owned()),
        ]);
        // The environment would make tests depend on the machine.
        Variables::new(manifest, &self.variables, host, |_| None)
    }
}

/// Creates the key-value stores of an application, by label.
fn stores(manifest: &Manifest, rng: &mut StdRng) -> BTreeMap<String, Store> {
    let components = manifest.components.values();
    let labels: BTreeSet<_> = components
        .flat_map(|component| &component.key_value_stores)
        .collect();
    let store = |label: &String| (label.clone(), Store::new(Shuffle::new(rng.fork())));
    labels.into_iter().map(store).collect()
}

fn simulated((label, store): (&String, &Store)) -> (String, Arc<dyn simulation::Store>) {
    (label.clone(), Arc::new(store.clone()))
}

/// Returns the databases of an application, by label, with their files in a folder.
fn databases(manifest: &Manifest, folder: &Path) -> BTreeMap<String, SqliteDatabase> {
    let components = manifest.components.values();
    let labels = components.flat_map(|component| &component.sqlite_databases);
    let database = |label: &String| {
        let database = SqliteDatabase {
            path: Some(folder.join(format!("{label}.db"))),
            allow_attach_file: false,
        };
        (label.clone(), database)
    };
    labels.map(database).collect()
}

/// Lets each instance pick how many requests it serves at the same time, unless the limits have such a
/// range, so that requests meet in one instance and in several.
fn with_instance_range(mut limits: Limits) -> Limits {
    let most = limits
        .concurrent_requests_per_instance
        .min(MAX_CONCURRENT_REQUESTS);
    let range = &mut limits.instance_ranges.concurrent_requests;
    *range = range.or(LimitRange::new(1, most + 1));
    limits
}
