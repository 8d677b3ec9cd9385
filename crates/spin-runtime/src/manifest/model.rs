//! The contents of a manifest.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
};

use http::{HeaderMap, StatusCode};
use url::Url;

use super::{dependency_name::DependencyName, reader::Value};
use crate::cron_schedule::CronSchedule;

/// The paths that the host answers itself: `health` and `info`.
pub(crate) const WELL_KNOWN: &str = "/.well-known/spin/";

/// Who runs the components of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManifestUse {
    /// This process runs them. What only Spin supports is an error.
    Embedded,
    /// An upstream runs them. The manifest may contain what only Spin supports: other triggers
    /// (left out of [`Manifest::triggers`]), and packages of registries.
    Upstream,
}

/// How to read a manifest. A [`ManifestUse`] converts to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManifestOptions<'a> {
    /// Who runs the components.
    pub usage: ManifestUse,
    /// The profile whose settings, `[component.ID.profile.NAME]`, replace those of the components.
    /// A profile that no component defines is an error.
    pub profile: Option<&'a str>,
}

impl From<ManifestUse> for ManifestOptions<'_> {
    fn from(usage: ManifestUse) -> Self {
        Self {
            usage,
            profile: None,
        }
    }
}

/// A manifest that has been read and checked.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The manifest's file.
    pub path: PathBuf,
    /// The manifest's folder. Relative paths in the manifest start here.
    pub root: PathBuf,
    /// The profile that the components were read with.
    pub profile: Option<String>,
    /// `application.name`.
    pub name: String,
    /// `application.version`.
    pub version: String,
    /// `application.description`.
    pub description: String,
    /// `[variables]`, by name.
    pub variables: BTreeMap<String, Variable>,
    /// `[[trigger.http]]`, in the order of the file.
    pub triggers: Vec<Trigger>,
    /// `[[trigger.cron]]`, in the order of the file. Empty with [`ManifestUse::Upstream`].
    pub cron_triggers: Vec<CronTrigger>,
    /// `[component.ID]`, by id, including components defined inline in a trigger.
    pub components: BTreeMap<String, Component>,
    /// Entries that are valid but have no effect, or that do not mean what they seem to. They should
    /// be shown at startup.
    pub warnings: Vec<String>,
}

impl Manifest {
    /// Returns the manifest without the components that only exist to be dependencies of others.
    pub(crate) fn served(&self) -> Cow<'_, Self> {
        let is_dependency = |component: &Component| component.is_dependency;
        if !self.components.values().any(is_dependency) {
            return Cow::Borrowed(self);
        }
        let mut served = self.clone();
        served
            .components
            .retain(|_, component| !component.is_dependency);
        Cow::Owned(served)
    }

    /// Creates an empty manifest, for an upstream whose manifest is not available.
    ///
    /// Its path is `spin.toml` in the current folder.
    pub fn absent() -> Self {
        Self {
            path: PathBuf::from("spin.toml"),
            root: Path::new(".").to_owned(),
            profile: None,
            name: String::new(),
            version: String::new(),
            description: String::new(),
            variables: BTreeMap::new(),
            triggers: Vec::new(),
            cron_triggers: Vec::new(),
            components: BTreeMap::new(),
            warnings: Vec::new(),
        }
    }
}

/// An application variable. `Debug` omits the default of a secret variable.
#[derive(Clone, PartialEq, Eq)]
pub struct Variable {
    /// The value to use when no provider has one. `None` for a required variable.
    pub default: Option<String>,
    /// Whether the value must not be printed.
    pub secret: bool,
}

impl fmt::Debug for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut output = f.debug_struct("Variable");
        if !self.secret {
            output.field("default", &self.default);
        }
        output.field("secret", &self.secret).finish_non_exhaustive()
    }
}

/// A route and its target.
#[derive(Clone, Debug)]
pub struct Trigger {
    /// The route that requests must match.
    pub route: Route,
    /// What answers those requests.
    pub target: Target,
}

/// A `[[trigger.cron]]` entry.
#[derive(Clone, Debug)]
pub struct CronTrigger {
    /// The component to call, by its id in [`Manifest::components`].
    pub component: String,
    /// When to call it.
    pub schedule: CronSchedule,
}

/// The route of a trigger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// A path in routefinder's notation, as written: `/exact`, `/:name/x`, `/prefix/...`.
    Path(String),
    /// `{ private = true }`: reachable by service chaining only.
    Private,
}

/// What answers the requests of a route.
#[derive(Clone, Debug)]
pub enum Target {
    /// A component, by its id in [`Manifest::components`].
    Component(String),
    /// A fixed response.
    Static {
        /// The status, 200 by default.
        status: StatusCode,
        /// The headers, in no particular order.
        headers: HeaderMap,
        /// The body, empty by default.
        body: String,
    },
}

/// A `[component.ID]` table.
#[derive(Clone, Debug)]
pub struct Component {
    /// The component's id.
    pub id: String,
    /// Where its code comes from.
    pub source: Source,
    /// The components that provide imports of this one.
    pub dependencies: BTreeMap<DependencyName, Dependency>,
    /// The components that handle a request before this one does, the outermost first:
    /// `dependencies.middleware` of the trigger.
    pub middleware: Vec<Dependency>,
    /// Whether the component only exists to be a dependency of others: no trigger names it.
    pub is_dependency: bool,
    /// The files that the component can read.
    pub files: Vec<Files>,
    /// Globs, relative to the manifest's folder, of files to leave out of [`Self::files`].
    pub exclude_files: Vec<String>,
    /// The hosts that it may send requests to. May contain `{{ variable }}` templates.
    pub allowed_outbound_hosts: Vec<String>,
    /// The labels of the key-value stores that it may open.
    pub key_value_stores: Vec<String>,
    /// The labels of the SQLite databases that it may open.
    pub sqlite_databases: Vec<String>,
    /// Its environment variables.
    pub environment: BTreeMap<String, String>,
    /// Its variables. Values may contain `{{ variable }}` templates.
    pub variables: BTreeMap<String, String>,
    /// How to build it, if the manifest says so.
    pub build: Option<Build>,
    /// Whether an instance handles the frames of several calls, if the component handles WebSockets by
    /// typed frames. No key of a manifest sets this.
    pub reuses_websocket_instances: bool,
}

impl Component {
    /// Returns what the code of the component is made of: its own source, then those of its
    /// dependencies and of its middleware.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        let dependencies = self.dependencies.values().chain(&self.middleware);
        std::iter::once(&self.source).chain(dependencies.map(|dependency| &dependency.source))
    }
}

/// Where the code of a component comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The absolute path of a wasm file.
    File(PathBuf),
    /// A file that is downloaded, and verified by its digest.
    Download {
        /// An `http` or `https` URL.
        url: String,
        /// `sha256:` and 64 hexadecimal digits in lower case.
        digest: String,
    },
    /// A package of a registry, as `NAME@VERSION`. Only possible with [`ManifestUse::Upstream`].
    Package(String),
}

impl Source {
    /// Returns the path of a file on this machine.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Download { .. } | Self::Package(_) => None,
        }
    }

    /// Returns whether it is a file that does not exist. What is downloaded is never missing.
    pub fn is_missing(&self) -> bool {
        self.file().is_some_and(|path| !path.exists())
    }

    /// Returns a URL for messages, without its user and its query, which may contain secrets.
    pub(crate) fn display_url(url: &str) -> String {
        let Ok(mut url) = Url::parse(url) else {
            return "an invalid URL".to_owned();
        };
        url.set_query(None);
        url.set_fragment(None);
        // Fails for a URL without a host, which has no user.
        let _ = (url.set_username(""), url.set_password(None));
        url.to_string()
    }

    /// Returns the path or URL for messages.
    pub fn display(&self) -> impl fmt::Display {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Download { url, .. } => Self::display_url(url),
            Self::Package(name) => name.clone(),
        }
    }
}

/// A component that is composed into another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependency {
    /// Where its code comes from.
    pub source: Source,
    /// The export that provides the import. `None` for the one with the same name.
    pub export: Option<String>,
    /// The permissions that it shares with the component that it is composed into.
    pub inherit: Inherit,
}

/// The permissions that a dependency shares with its component: `inherit_configuration`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inherit {
    /// All of them.
    All,
    /// Those of these keys, such as `key_value_stores`.
    Only(BTreeSet<String>),
}

impl Inherit {
    /// The keys that permissions are inherited by.
    pub const KEYS: [&str; 7] = [
        "ai_models",
        "allowed_outbound_hosts",
        "environment",
        "files",
        "key_value_stores",
        "sqlite_databases",
        "variables",
    ];

    /// Shares nothing.
    pub const NONE: Self = Self::Only(BTreeSet::new());
}

/// An entry of a component's `files`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Files {
    /// Every matching file in the manifest's folder, at the same path in the guest.
    Glob(String),
    /// A file or folder at another path in the guest.
    Placed {
        /// The absolute path of the file or folder on the host.
        source: PathBuf,
        /// The absolute path in the guest.
        destination: String,
    },
}

/// A `[component.ID.build]` table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// Shell commands, run one after another.
    pub commands: Vec<String>,
    /// The absolute path of the folder to run them in.
    pub workdir: PathBuf,
    /// Globs, relative to `workdir`, of the files that the build depends on.
    pub watch: Vec<String>,
    /// Environment variables to add for the commands.
    pub environment: BTreeMap<String, String>,
}

/// The `[application.tool.NAME]` tables of a manifest, which Spin leaves to other tools.
#[derive(Default)]
pub struct ToolTables<'a> {
    tables: BTreeMap<&'a str, Value<'a>>,
}

impl<'a> ToolTables<'a> {
    pub(super) fn insert(&mut self, name: &'a str, table: Value<'a>) {
        self.tables.insert(name, table);
    }

    /// Returns the table of the tool `name`, if the manifest has one.
    pub fn get(&self, name: &str) -> Option<Value<'a>> {
        self.tables.get(name).cloned()
    }
}
