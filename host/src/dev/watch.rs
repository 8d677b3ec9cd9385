//! Keeps a running application as its files say: builds what changed, exchanges it, tells pages.
//!
//! What changes is noticed by [`changes`], found by [`eye`] and weighed by [`interests`]. Whatever goes wrong, the
//! application that was there before goes on.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    time::Instant,
};

use anyhow::Result;
use spin_runtime::{Manifest, ManifestError};
use tracing::{debug, error, info, warn};

use crate::dev::{
    build::{self, Output},
    reload::{News, Problem, Reload},
};
use crate::dev::{fs_events::Changes, watch_set::WatchSet};

/// An application that can be reloaded.
pub(crate) trait Apply: Send {
    /// Serves the application of `config` from now on, and returns the ids of the components whose
    /// code has changed.
    fn apply(
        &mut self,
        config: &crate::config::AppConfig,
        changes: &spin_runtime::Changes,
    ) -> impl Future<Output = Result<Vec<String>>> + Send;
}

/// See the module's words.
pub(crate) struct Watch {
    /// What the files say, which is served as soon as it can be.
    manifest: Manifest,
    interests: Arc<WatchSet>,
    changes: Changes,
    problems: Problems,
    /// What the next exchange brings.
    due: Due,
}

/// What is wrong, by where it went wrong: mended by the same step.
#[derive(Default)]
struct Problems(BTreeMap<Step, Problem>);

/// In the order in which problems are shown.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// Reading the manifest.
    Settings,
    /// Building a component.
    Build(String),
    /// Loading all of it.
    Load,
}

/// What an exchange is for.
#[derive(Default)]
struct Due {
    /// Components whose files are read again.
    fresh: BTreeSet<String>,
    settings: bool,
    files: bool,
    styles: bool,
}

impl Due {
    fn is_any(&self) -> bool {
        !self.fresh.is_empty() || self.settings || self.files || self.styles
    }
}

/// Components being built, and what came of it.
struct Building {
    components: BTreeSet<String>,
    results: Pin<Box<dyn Future<Output = Vec<Built>> + Send>>,
}

/// A component, and what came of building it.
type Built = (String, Result<(), Problem>);

impl Building {
    fn of(manifest: &Manifest, components: BTreeSet<String>) -> Self {
        let results = Box::pin(build(manifest.clone(), components.clone()));
        Self {
            components,
            results,
        }
    }
}

/// Whether there is a component that says how it is built.
fn is_built(manifest: &Manifest, id: &str) -> bool {
    let component = manifest.components.get(id);
    component.is_some_and(|component| component.build.is_some())
}

/// Builds the components that say how, each whatever became of the one before.
async fn build(manifest: Manifest, components: BTreeSet<String>) -> Vec<Built> {
    let mut results = Vec::new();
    for id in components {
        let component = manifest.components.get(&id);
        let Some(build) = component.and_then(|component| component.build.as_ref()) else {
            continue;
        };
        let mut output = Output::default();
        let start = Instant::now();
        let built = build::run(&id, build, Some(&mut output)).await;
        let took = start.elapsed();
        let built = built.map_err(|error| {
            error!("{error:#}; what was there before goes on");
            Problem {
                title: format!("{error:#}"),
                text: output.text(),
            }
        });
        if built.is_ok() {
            info!(component = id, ?took, "built");
        }
        results.push((id, built));
    }
    results
}

impl Problems {
    fn note(&mut self, step: Step, result: Result<(), Problem>) {
        match result {
            Ok(()) => drop(self.0.remove(&step)),
            Err(problem) => drop(self.0.insert(step, problem)),
        }
    }

    /// Components whose last build failed.
    fn unbuilt(&self) -> impl Iterator<Item = &String> {
        self.0.keys().filter_map(|step| match step {
            Step::Build(id) => Some(id),
            _ => None,
        })
    }

    fn list(&self) -> Vec<Problem> {
        self.0.values().cloned().collect()
    }
}

impl Watch {
    /// Begins to watch the files of an application, and builds the components that say how. One
    /// that cannot be built is what it was before.
    ///
    /// # Errors
    /// When a pattern of the manifest is none, or the system gives no more watches.
    pub(crate) async fn start(config: &crate::config::AppConfig) -> Result<Self> {
        let manifest = &config.manifest;
        let interests = Arc::new(WatchSet::of(manifest)?);
        // What changes while it is built is built again.
        let changes = Changes::watch(interests.clone())?;
        let mut watch = Self {
            manifest: manifest.clone(),
            interests,
            changes,
            problems: Problems::default(),
            due: Due::default(),
        };
        let all = manifest.components.keys().cloned().collect();
        for (id, built) in build(manifest.clone(), all).await {
            watch.problems.note(Step::Build(id), built);
        }
        Ok(watch)
    }

    /// Does all that changes ask for, to the application that was loaded meanwhile, and tells
    /// pages. Runs until it is dropped, which ends a build under way.
    pub(crate) async fn run(mut self, mut app: impl Apply, reload: Arc<Reload>) {
        reload.tell(News::Nothing, self.problems.list());
        let mut to_build = BTreeSet::new();
        let mut building: Option<Building> = None;
        loop {
            if building.is_none() && !to_build.is_empty() {
                let components = std::mem::take(&mut to_build);
                // Their files are read when they are whole.
                self.due.fresh.retain(|id| !components.contains(id));
                building = Some(Building::of(&self.manifest, components));
            }
            let results = async {
                match &mut building {
                    Some(building) => (&mut building.results).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                results = results => {
                    building = None;
                    self.built(results);
                }
                changed = self.changes.next() => {
                    to_build.extend(self.changed(&changed));
                    let current = building.iter().flat_map(|building| &building.components);
                    for id in to_build.iter().chain(current) {
                        self.due.fresh.remove(id);
                    }
                }
            }
            let current = building.iter().flat_map(|building| &building.components);
            let awaited = to_build.iter().chain(current);
            let is_ready = !self.lacks(awaited.chain(self.problems.unbuilt()));
            let news = match self.due.is_any() && is_ready {
                true => self.exchange(&mut app).await,
                false => News::Nothing,
            };
            reload.tell(news, self.problems.list());
        }
    }

    /// Whether one of these was never made.
    fn lacks<'a>(&self, mut components: impl Iterator<Item = &'a String>) -> bool {
        components.any(|id| {
            let component = self.manifest.components.get(id);
            component.is_some_and(|component| !component.source.exists())
        })
    }

    fn built(&mut self, results: Vec<Built>) {
        for (id, built) in results {
            // It may have gone from the manifest meanwhile.
            if !is_built(&self.manifest, &id) {
                continue;
            }
            if built.is_ok() {
                self.due.fresh.insert(id.clone());
            }
            self.problems.note(Step::Build(id), built);
        }
    }

    /// Weighs changed files; gives the components to build.
    fn changed(&mut self, files: &BTreeSet<PathBuf>) -> BTreeSet<String> {
        let plan = self.interests.plan(files);
        let mut to_build = plan.build;
        if plan.settings {
            let read = self.read_settings();
            let read = read.map(|components| to_build.extend(components));
            self.problems.note(
                Step::Settings,
                read.inspect_err(|problem| {
                    error!("{}; what was there before goes on", problem.text);
                }),
            );
        }
        // One that was deleted is about to be made again, or else the code that is there is kept.
        let exists = |id: &String| {
            let component = self.manifest.components.get(id);
            component.is_some_and(|component| component.source.exists())
        };
        self.due.fresh.extend(plan.code.into_iter().filter(exists));
        self.due.files |= plan.files;
        self.due.styles |= plan.styles;
        to_build.retain(|id| self.manifest.components.contains_key(id));
        to_build
    }

    /// Reads the manifest again; gives the components that are built in another way than before,
    /// or never were.
    fn read_settings(&mut self) -> Result<BTreeSet<String>, Problem> {
        let problem = |text: String| Problem {
            title: "The manifest cannot be used".to_owned(),
            text,
        };
        let manifest = Manifest::load(&self.manifest.path, spin_runtime::ManifestUse::Embedded)
            .map_err(|error: ManifestError| problem(error.to_string()))?;
        let interests = WatchSet::of(&manifest).map_err(|error| problem(format!("{error:#}")))?;
        let before = std::mem::replace(&mut self.manifest, manifest);
        for warning in &self.manifest.warnings {
            if !before.warnings.contains(warning) {
                warn!("{warning}");
            }
        }
        let to_build = self.manifest.components.values().filter(|component| {
            let old = before.components.get(&component.id);
            component.build.is_some()
                && (old.is_none_or(|old| old.build != component.build)
                    || !component.source.exists())
        });
        let to_build = to_build.map(|component| component.id.clone()).collect();
        self.interests = Arc::new(interests);
        self.changes.exchange(self.interests.clone());
        let manifest = &self.manifest;
        self.problems.0.retain(|step, _| match step {
            Step::Build(id) => is_built(manifest, id),
            _ => true,
        });
        self.due.settings = true;
        Ok(to_build)
    }

    async fn exchange(&mut self, app: &mut impl Apply) -> News {
        let start = Instant::now();
        let fresh = self.due.fresh.clone();
        let only_code = !(self.due.settings || self.due.files || self.due.styles);
        let config = crate::config::AppConfig {
            manifest: self.manifest.clone(),
            host: Default::default(),
        };
        let changes = spin_runtime::Changes {
            code: fresh,
            only_code,
        };
        let exchanged = app.apply(&config, &changes);
        match exchanged.await {
            Ok(changed) => {
                self.problems.note(Step::Load, Ok(()));
                let due = std::mem::take(&mut self.due);
                let news = if due.settings || due.files || !changed.is_empty() {
                    News::Pages
                } else if due.styles {
                    News::Styles
                } else {
                    News::Nothing
                };
                let took = start.elapsed();
                let components = changed.join(", ");
                match news {
                    News::Pages => info!(
                        components,
                        settings = due.settings,
                        files = due.files,
                        ?took,
                        "exchanged"
                    ),
                    News::Styles => info!(?took, "style sheets exchanged"),
                    News::Nothing => debug!(?took, "nothing is different"),
                }
                news
            }
            Err(error) => {
                let text = format!("{error:#}");
                error!("{text}; what was there before goes on");
                let title = "The application cannot be loaded".to_owned();
                self.problems.note(Step::Load, Err(Problem { title, text }));
                News::Nothing
            }
        }
    }
}
