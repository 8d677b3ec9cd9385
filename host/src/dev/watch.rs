//! Keeps a running application up to date with its files.
//!
//! Changed files lead to builds, and to changes of the running application, which a callback
//! applies. Open pages are notified of both. When any step fails, the previous version keeps
//! running.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    time::Instant,
};

use anyhow::{Result, bail, ensure};
use spin_runtime::{
    Changes, Manifest, ManifestError, ManifestOptions, ManifestUse,
    manifest::{Build, Component},
};
use tracing::{Instrument as _, debug, error, info, info_span, warn};

use crate::{
    config::AppConfig,
    dev::{
        build::{self, OutputTail},
        fs_events::FileWatcher,
        reload::{Problem, Reload, ReloadEvent},
        watch_set::WatchSet,
    },
};

/// An application that can be reloaded.
pub(crate) trait Apply: Send {
    /// Serves the application of `config` from now on, and returns the ids of the components whose
    /// code has changed.
    fn apply(
        &mut self,
        config: &AppConfig,
        changes: &Changes,
    ) -> impl Future<Output = Result<Vec<String>>> + Send;
}

/// Watches an application, rebuilds its components and applies changes.
pub(crate) struct Watch {
    /// The latest valid configuration, which may not have been applied yet.
    config: AppConfig,
    watch_set: Arc<WatchSet>,
    file_watcher: FileWatcher,
    problems: Problems,
    pending: PendingChanges,
}

/// Changes that have not been applied to the running application.
#[derive(Default)]
struct PendingChanges {
    /// Components whose wasm may have changed.
    components: BTreeSet<String>,
    /// The manifest or `.env` changed.
    settings: bool,
    /// Files of components changed that are not style sheets.
    files: bool,
    /// Style sheets changed.
    styles: bool,
}

impl PendingChanges {
    /// Returns whether at most the wasm of components changed.
    fn is_components_only(&self) -> bool {
        !(self.settings || self.files || self.styles)
    }

    fn is_empty(&self) -> bool {
        self.components.is_empty() && self.is_components_only()
    }
}

/// The current problem of each stage that failed.
#[derive(Default)]
struct Problems(BTreeMap<Stage, Problem>);

/// A stage that can fail. The order is that in which problems are displayed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    ReadSettings,
    Build(String),
    Apply,
}

impl Problems {
    /// Sets or clears the problem of a stage.
    fn record(&mut self, stage: Stage, result: Result<(), Problem>) {
        match result {
            Ok(()) => drop(self.0.remove(&stage)),
            Err(problem) => drop(self.0.insert(stage, problem)),
        }
    }

    /// Returns the components whose last build failed.
    fn failed_builds(&self) -> impl Iterator<Item = &String> {
        self.0.keys().filter_map(|stage| match stage {
            Stage::Build(id) => Some(id),
            _ => None,
        })
    }

    fn list(&self) -> Vec<Problem> {
        self.0.values().cloned().collect()
    }
}

/// A component's id and the result of its build.
type BuildResult = (String, Result<(), Problem>);

/// Builds that are running. Dropping this terminates them.
struct RunningBuilds {
    components: BTreeSet<String>,
    results: Pin<Box<dyn Future<Output = Vec<BuildResult>> + Send>>,
}

impl RunningBuilds {
    fn start(manifest: &Manifest, components: BTreeSet<String>) -> Self {
        let results = Box::pin(build_all(manifest.clone(), components.clone()));
        Self {
            components,
            results,
        }
    }
}

/// Builds components one after another. A failed build does not prevent the next one.
async fn build_all(manifest: Manifest, components: BTreeSet<String>) -> Vec<BuildResult> {
    let mut results = Vec::new();
    for id in components {
        let component = manifest.components.get(&id);
        if let Some(build) = component.and_then(|component| component.build.as_ref()) {
            let span = info_span!("build", component = id);
            let result = build_component(&id, build).instrument(span).await;
            results.push((id, result));
        }
    }
    // One command may build several components.
    for (id, result) in &mut results {
        if result.is_ok()
            && let Some(component) = manifest.components.get(id)
            && let Err(error) = build::check_output(component)
        {
            *result = Err(build_failure(&error, String::new()));
        }
    }
    results
}

async fn build_component(id: &str, build: &Build) -> Result<(), Problem> {
    let mut output = OutputTail::default();
    let start = Instant::now();
    match build::build_component(id, build, Some(&mut output)).await {
        Ok(()) => {
            info!(component = id, took = ?start.elapsed(), "build finished");
            Ok(())
        }
        Err(error) => Err(build_failure(&error, output.text())),
    }
}

/// Logs the failure of a build.
fn build_failure(error: &anyhow::Error, text: String) -> Problem {
    let title = format!("{error:#}");
    error!(error = %title, "build failed");
    Problem { title, text }
}

/// Returns the components that contain the code of a component: itself, and those that it is
/// composed into.
fn users<'a>(manifest: &'a Manifest, id: &str) -> impl Iterator<Item = &'a String> {
    let source = manifest
        .components
        .get(id)
        .map(|component| &component.source);
    let components = manifest.components.values();
    let uses = move |component: &&Component| component.sources().any(|part| Some(part) == source);
    components.filter(uses).map(|component| &component.id)
}

fn has_build(manifest: &Manifest, id: &str) -> bool {
    let component = manifest.components.get(id);
    component.is_some_and(|component| component.build.is_some())
}

impl Watch {
    /// Starts to watch an application, and builds its components. A failed build is logged, and
    /// leaves the component's previous wasm in place.
    ///
    /// # Errors
    /// Fails if a pattern in the manifest is invalid, the system cannot watch files, or the build of a
    /// component fails that has no previous wasm.
    pub(crate) async fn start(config: &AppConfig) -> Result<Self> {
        let manifest = &config.manifest;
        let watch_set = Arc::new(WatchSet::new(manifest)?);
        // Starts before the builds, so that a change during a build leads to another one.
        let file_watcher = FileWatcher::start(watch_set.clone())?;
        let mut watch = Self {
            config: config.clone(),
            watch_set,
            file_watcher,
            problems: Problems::default(),
            pending: PendingChanges::default(),
        };
        let all = manifest.components.keys().cloned().collect();
        for (id, result) in build_all(manifest.clone(), all).await {
            if let Err(problem) = &result
                && let Some(component) = manifest.components.get(&id)
                && component.source.is_missing()
            {
                let (title, source) = (&problem.title, component.source.display().to_string());
                // A build that succeeded without creating the file already names it.
                ensure!(title.contains(&source), "{title}; {source} does not exist");
                bail!("{title}");
            }
            watch.problems.record(Stage::Build(id), result);
        }
        Ok(watch)
    }

    /// Handles changes and notifies pages. Never returns. Dropping the future terminates running
    /// builds.
    ///
    /// Changes are applied to `app`.
    pub(crate) async fn run(mut self, mut app: impl Apply, reload: Arc<Reload>) {
        reload.broadcast(ReloadEvent::Nothing, self.problems.list());
        let mut queue = BTreeSet::new();
        let mut builds: Option<RunningBuilds> = None;
        loop {
            if builds.is_none() && !queue.is_empty() {
                let components = std::mem::take(&mut queue);
                self.postpone(&components);
                builds = Some(RunningBuilds::start(&self.config.manifest, components));
            }
            let results = async {
                match &mut builds {
                    Some(builds) => (&mut builds.results).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                results = results => {
                    builds = None;
                    self.record_builds(results);
                }
                changed = self.file_watcher.changed() => {
                    queue.extend(self.handle_changes(&changed));
                    self.postpone(&queue);
                    if let Some(builds) = &builds {
                        self.postpone(&builds.components);
                    }
                }
            }
            let running = builds.iter().flat_map(|builds| &builds.components);
            let unfinished = queue.iter().chain(running);
            let is_complete = !self.any_missing(unfinished.chain(self.problems.failed_builds()));
            let event = if is_complete && !self.pending.is_empty() {
                self.apply_pending(&mut app).await
            } else {
                ReloadEvent::Nothing
            };
            reload.broadcast(event, self.problems.list());
        }
    }

    /// Leaves out components that are being built: their wasm is incomplete until the build ends.
    fn postpone(&mut self, components: &BTreeSet<String>) {
        for user in components
            .iter()
            .flat_map(|id| users(&self.config.manifest, id))
        {
            self.pending.components.remove(user);
        }
    }

    /// Returns whether the wasm of any of these components does not exist.
    fn any_missing<'a>(&self, mut components: impl Iterator<Item = &'a String>) -> bool {
        components.any(|id| {
            let component = self.config.manifest.components.get(id);
            component.is_some_and(|component| component.source.is_missing())
        })
    }

    fn record_builds(&mut self, results: Vec<BuildResult>) {
        for (id, result) in results {
            // The manifest may have changed during the build.
            if !has_build(&self.config.manifest, &id) {
                continue;
            }
            if result.is_ok() {
                let users = users(&self.config.manifest, &id);
                self.pending.components.extend(users.cloned());
            }
            self.problems.record(Stage::Build(id), result);
        }
    }

    /// Updates the pending changes, and returns the components to build.
    fn handle_changes(&mut self, files: &BTreeSet<PathBuf>) -> BTreeSet<String> {
        let plan = self.watch_set.plan(files);
        let mut to_build = plan.build;
        if plan.settings {
            let result = self.read_settings();
            if let Err(problem) = &result {
                error!(
                    error = %problem.text,
                    "invalid manifest, keeping the previous version"
                );
            }
            let result = result.map(|components| to_build.extend(components));
            self.problems.record(Stage::ReadSettings, result);
        }
        // A component whose wasm was deleted keeps the loaded one. Often a new file follows.
        let exists = |id: &String| {
            let component = self.config.manifest.components.get(id);
            component.is_some_and(|component| !component.source.is_missing())
        };
        self.pending
            .components
            .extend(plan.wasm.into_iter().filter(exists));
        self.pending.files |= plan.files;
        self.pending.styles |= plan.styles;
        to_build.retain(|id| self.config.manifest.components.contains_key(id));
        to_build
    }

    /// Reads the manifest again. Returns the components whose build or wasm file is another one, or
    /// whose wasm does not exist.
    fn read_settings(&mut self) -> Result<BTreeSet<String>, Problem> {
        let problem = |text: String| Problem {
            title: "Invalid manifest".to_owned(),
            text,
        };
        let manifest = &self.config.manifest;
        let options = ManifestOptions {
            usage: ManifestUse::Embedded,
            profile: manifest.profile.as_deref(),
        };
        let config = AppConfig::load_with(&manifest.path, options)
            .map_err(|error: ManifestError| problem(error.to_string()))?;
        let watch_set =
            WatchSet::new(&config.manifest).map_err(|error| problem(format!("{error:#}")))?;
        let old = std::mem::replace(&mut self.config, config).manifest;
        for warning in &self.config.manifest.warnings {
            if !old.warnings.contains(warning) {
                warn!(%warning, "manifest warning");
            }
        }
        let needs_build = |component: &&Component| {
            let old = old.components.get(&component.id);
            component.build.is_some()
                && (old.is_none_or(|old| {
                    old.build != component.build || old.source != component.source
                }) || component.source.is_missing())
        };
        let to_build = self.config.manifest.components.values().filter(needs_build);
        let to_build = to_build.map(|component| component.id.clone()).collect();
        self.watch_set = Arc::new(watch_set);
        self.file_watcher.replace(self.watch_set.clone());
        let manifest = &self.config.manifest;
        self.problems.0.retain(|stage, _| match stage {
            Stage::Build(id) => has_build(manifest, id),
            _ => true,
        });
        self.pending.settings = true;
        Ok(to_build)
    }

    /// Applies the pending changes, and returns the event for pages. After a failure they stay
    /// pending.
    async fn apply_pending(&mut self, app: &mut impl Apply) -> ReloadEvent {
        let start = Instant::now();
        let changes = Changes {
            code: self.pending.components.clone(),
            only_code: self.pending.is_components_only(),
        };
        match app.apply(&self.config, &changes).await {
            Ok(changed) => {
                self.problems.record(Stage::Apply, Ok(()));
                let applied = std::mem::take(&mut self.pending);
                let took = start.elapsed();
                if applied.settings || applied.files || !changed.is_empty() {
                    info!(
                        components = changed.join(", "),
                        settings = applied.settings,
                        files = applied.files,
                        ?took,
                        "application reloaded"
                    );
                    ReloadEvent::Pages
                } else if applied.styles {
                    info!(?took, "style sheets reloaded");
                    ReloadEvent::Styles
                } else {
                    debug!(?took, "no component changed");
                    ReloadEvent::Nothing
                }
            }
            Err(error) => {
                let text = format!("{error:#}");
                error!(error = %text, "reload failed, keeping the previous version");
                let title = "Failed to load the application".to_owned();
                self.problems
                    .record(Stage::Apply, Err(Problem { title, text }));
                ReloadEvent::Nothing
            }
        }
    }
}
