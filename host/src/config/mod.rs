//! The configuration of a host: the application's manifest and the host's own table in it.

mod cache;
mod channels;
mod duration;
mod limits;
mod origins;
mod passthrough;
mod requests;
mod route;
#[cfg(test)]
mod tests;
mod timer;
mod upstream_url;
mod websocket;

use std::{collections::BTreeSet, path::Path};

use spin_runtime::{
    Manifest, ManifestError, ManifestOptions, ManifestUse, RoutePattern,
    manifest::{Route, ToolTables, reader::Value, suggest},
    notation_warning,
};

pub use cache::CacheLimits;
pub use channels::{ChannelRules, HistoryLimits};
pub use duration::{parse_duration, parse_duration_from};
pub use limits::Limits;
pub use origins::AllowedOrigins;
pub(crate) use origins::parse_origin;
pub use passthrough::Passthrough;
pub use timer::{Timer, TimerSchedule, TimerTarget};
pub use upstream_url::{UpstreamScheme, UpstreamUrl};

/// The name of the host's table under `[application.tool]`.
const TOOL_NAME: &str = "socket-host";

/// An application's manifest and the host's configuration in it.
#[derive(Clone, Debug)]
pub struct AppConfig {
    /// The manifest. Its warnings include those of [`Self::host`].
    pub manifest: Manifest,
    /// `[application.tool.socket-host]`.
    pub host: HostConfig,
}

impl AppConfig {
    /// Reads a manifest whose components run in this process.
    ///
    /// `path` is the manifest, or a folder that contains a `spin.toml`.
    ///
    /// # Errors
    /// Returns every problem of the manifest and of the host's table.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ManifestError> {
        Self::load_with(path, ManifestUse::Embedded)
    }

    /// Reads a manifest with options, such as a profile.
    ///
    /// # Errors
    /// Returns every problem of the manifest and of the host's table.
    pub fn load_with<'a>(
        path: impl AsRef<Path>,
        options: impl Into<ManifestOptions<'a>>,
    ) -> Result<Self, ManifestError> {
        let options = options.into();
        let read_tool = |tools: &ToolTables<'_>| read_tool(tools, options.usage);
        Manifest::load_with_tools(path, options, read_tool).map(Self::new)
    }

    /// Returns the defaults, for an upstream whose manifest is not available.
    pub fn absent() -> Self {
        Self {
            manifest: Manifest::absent(),
            host: HostConfig::default(),
        }
    }

    /// Returns what is called repeatedly: the timers of the host's table and the cron triggers.
    pub fn timers(&self) -> Vec<Timer> {
        let triggers = self.manifest.cron_triggers.iter().map(Timer::from);
        self.host.timers.iter().cloned().chain(triggers).collect()
    }

    fn new((mut manifest, host): (Manifest, HostConfig)) -> Self {
        let warnings = host.warnings(&manifest);
        manifest.warnings.extend(warnings);
        for id in &host.instance_reuse {
            if let Some(component) = manifest.components.get_mut(id) {
                component.reuses_websocket_instances = true;
            }
        }
        Self { manifest, host }
    }
}

fn read_tool(tools: &ToolTables<'_>, usage: ManifestUse) -> HostConfig {
    HostConfig::read(tools.get(TOOL_NAME), usage)
}

/// `[application.tool.socket-host]`: the host's own settings in a manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostConfig {
    /// Routes that only timers and components may call, in routefinder's notation.
    pub private: Vec<String>,
    /// Requests that are sent repeatedly. [`AppConfig::timers`] adds the cron triggers.
    pub timers: Vec<Timer>,
    /// Routes whose upgrades are tunneled.
    pub passthroughs: Vec<Passthrough>,
    /// Which channels keep a history.
    pub channels: ChannelRules,
    /// The bounds of the cache. `None` if nothing is cached.
    pub cache: Option<CacheLimits>,
    /// The origins that may open WebSockets and hold requests.
    pub allowed_origins: AllowedOrigins,
    /// The ids of the components whose instances are reused for typed frames.
    pub instance_reuse: BTreeSet<String>,
    /// The limits of connections and messages.
    pub limits: Limits,
}

impl HostConfig {
    /// Reads the host's table. Problems are reported to the reader of the manifest.
    pub(crate) fn read(table: Option<Value<'_>>, usage: ManifestUse) -> Self {
        let mut config = Self::default();
        let Some(mut table) = table.and_then(|value| value.table()) else {
            return config;
        };
        if let Some(value) = table.get("private") {
            let routes = value.array();
            let routes = routes.iter().filter_map(route::read_private);
            config.private = routes.collect();
        }
        if let Some(value) = table.get("timer") {
            config.timers = value.array().iter().filter_map(Timer::read).collect();
        }
        if let Some(value) = table.get("passthrough") {
            config.passthroughs = passthrough::read_all(&value, usage);
        }
        if let Some(value) = table.get("channels") {
            config.channels = ChannelRules::read(&value);
        }
        if let Some(value) = table.get("cache") {
            config.cache = CacheLimits::read(&value);
        }
        if let Some(value) = table.get("websocket") {
            let (origins, limits) = (&mut config.allowed_origins, &mut config.limits);
            config.instance_reuse = websocket::read(&value, origins, limits);
        }
        if let Some(value) = table.get("http") {
            requests::read(&value, &mut config.limits);
        }
        table.finish();
        config
    }

    /// Finds routes in a foreign notation, and private routes and timers that match no route of the
    /// application.
    fn warnings(&self, manifest: &Manifest) -> Vec<String> {
        let passthroughs = self.passthroughs.iter();
        let routes = passthroughs.map(|passthrough| &passthrough.route);
        let mut warnings: Vec<_> = routes
            .chain(&self.private)
            .filter_map(|route| notation_warning(route))
            .collect();
        // A manifest for an upstream may leave its routes out.
        if manifest.triggers.is_empty() {
            return warnings;
        }
        let paths = manifest
            .triggers
            .iter()
            .filter_map(|trigger| match &trigger.route {
                Route::Path(path) => RoutePattern::parse(path).ok(),
                Route::Private => None,
            });
        let routes: Vec<RoutePattern> = paths.collect();
        let components = &manifest.components;
        for id in &self.instance_reuse {
            if !components.contains_key(id) {
                let similar = suggest(id, components.keys().map(String::as_str));
                warnings.push(format!(
                    "instance-reuse {id:?} has no effect: no such component{similar}"
                ));
            }
        }
        for private in &self.private {
            let Ok(pattern) = RoutePattern::parse(private) else {
                continue;
            };
            if !routes.iter().any(|route| route.overlaps(&pattern)) {
                warnings.push(format!(
                    "private route {private:?} has no effect: it matches no route"
                ));
            }
        }
        for timer in &self.timers {
            let TimerTarget::Request { path, .. } = &timer.target else {
                continue;
            };
            let path = path.split('?').next().unwrap_or_default();
            if !routes.iter().any(|route| route.matches(path)) {
                let target = &timer.target;
                warnings.push(format!("timer {target}: no route matches the path"));
            }
        }
        warnings
    }
}
