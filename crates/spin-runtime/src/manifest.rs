//! The manifest: `spin.toml`, read as Spin reads it, with our own table beside it.

mod component;
mod error;
mod host_table;
mod id;
pub(crate) mod pattern;
mod read;
mod reader;
pub(crate) mod template;
#[cfg(test)]
mod tests;
mod trigger;
mod upstream_url;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use http::{HeaderMap, Method, StatusCode};

pub use error::{ManifestError, Problem};
pub use host_table::{LONGEST, parse_duration};
pub use reader::suggest;
pub use upstream_url::{UpstreamScheme, UpstreamUrl};

/// Where the host itself answers: `health` and `info`.
pub(crate) const WELL_KNOWN: &str = "/.well-known/spin/";

/// An application as its manifest describes it, checked.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The manifest's file.
    pub path: PathBuf,
    /// The folder of the manifest; relative paths in it start here.
    pub root: PathBuf,
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
    /// `[component.ID]`, by id, those written inline in a trigger included.
    pub components: BTreeMap<String, Component>,
    /// `[application.tool.socket-host]`.
    pub host: HostTable,
    /// What is allowed and probably not meant; to be shown at start.
    pub warnings: Vec<String>,
}

/// One of the application's variables. Its `Debug` leaves out the default of a secret one.
#[derive(Clone, PartialEq, Eq)]
pub struct Variable {
    /// The value when no provider has one; `None` for a required variable.
    pub default: Option<String>,
    /// Never printed.
    pub secret: bool,
}

impl fmt::Debug for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Variable");
        if !self.secret {
            shown.field("default", &self.default);
        }
        shown.field("secret", &self.secret).finish_non_exhaustive()
    }
}

/// A route and what answers there.
#[derive(Clone, Debug)]
pub struct Trigger {
    /// Where.
    pub route: Route,
    /// What.
    pub target: Target,
}

/// Where a trigger listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// A path in routefinder's notation: `/exact`, `/:name/x`, `/under/...`, as it was written.
    Path(String),
    /// `{ private = true }`: reached by service chaining only.
    Private,
}

/// What answers a route.
#[derive(Clone, Debug)]
pub enum Target {
    /// A component, by its id in [`Manifest::components`].
    Component(String),
    /// An answer that needs no component.
    Static {
        /// The status, 200 when not given.
        status: StatusCode,
        /// The headers, in no particular order.
        headers: HeaderMap,
        /// The body, empty when not given.
        body: String,
    },
}

/// One `[component.ID]`.
#[derive(Clone, Debug)]
pub struct Component {
    /// The component's id.
    pub id: String,
    /// The wasm file, absolute; empty for one that is not a local file, which only
    /// [`Manifest::load_for_upstream`] lets pass.
    pub source: PathBuf,
    /// What the component sees of the file system.
    pub files: Vec<Files>,
    /// Globs under the manifest's folder that are left out of [`Self::files`].
    pub exclude_files: Vec<String>,
    /// Where it may send requests; may hold `{{ variable }}` templates.
    pub allowed_outbound_hosts: Vec<String>,
    /// Labels of key-value stores it may open.
    pub key_value_stores: Vec<String>,
    /// Labels of SQLite databases it may open.
    pub sqlite_databases: Vec<String>,
    /// Its whole environment.
    pub environment: BTreeMap<String, String>,
    /// Its variables; values may hold `{{ variable }}` templates.
    pub variables: BTreeMap<String, String>,
    /// How it is built, when the manifest says.
    pub build: Option<Build>,
}

/// An entry of `files`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Files {
    /// Every file under the manifest's folder that matches, at the same path in the guest.
    Glob(String),
    /// A file or folder, absolute, at another place in the guest.
    Placed {
        /// The file or folder on the host.
        source: PathBuf,
        /// The absolute path in the guest.
        destination: String,
    },
}

/// `[component.ID.build]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// Shell commands, run one after another.
    pub commands: Vec<String>,
    /// Where they run, absolute.
    pub workdir: PathBuf,
    /// Globs, under `workdir`, of what a rebuild depends on.
    pub watch: Vec<String>,
    /// Added to the commands' environment.
    pub environment: BTreeMap<String, String>,
}

/// `[application.tool.socket-host]`: what is ours in the manifest.
#[derive(Clone, Debug, Default)]
pub struct HostTable {
    /// Routes that only timers and components may call, in routefinder's notation.
    pub private: Vec<String>,
    /// Requests sent again and again.
    pub timers: Vec<Timer>,
    /// Routes whose upgrades are tunnelled.
    pub passthrough: Vec<Passthrough>,
    /// Limits of every WebSocket.
    pub websocket: WebSocketLimits,
}

/// `[[application.tool.socket-host.passthrough]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passthrough {
    /// The route, in routefinder's notation, as it was written.
    pub route: String,
    /// The server behind it; `None` for the one that answers everything else.
    pub upstream: Option<UpstreamUrl>,
}

/// `[[application.tool.socket-host.timer]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timer {
    /// The method of its request.
    pub method: Method,
    /// The path and query of its request.
    pub path: String,
    /// The shortest pause between two calls.
    pub least: Duration,
    /// The longest pause; the same as `least` when it is not a range.
    pub most: Duration,
}

/// `[application.tool.socket-host.websocket]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSocketLimits {
    /// Who may open a WebSocket (key `allowed-origins`).
    pub allowed_origins: AllowedOrigins,
    /// The largest message a client may send, in bytes (key `max-message-size`, default 64 KiB).
    pub max_message_size: usize,
    /// The most a client may leave unread, in bytes, before it is closed with 1013
    /// (key `max-outgoing-buffer`, default 1 MiB).
    pub max_outgoing_buffer: usize,
    /// The most that waits for the backend from one client, in bytes, before its socket is
    /// no longer read (key `max-incoming-buffer`, default 200,000 bytes as in Pushpin).
    pub max_incoming_buffer: usize,
    /// The most sockets at once (key `max-connections`, default 100,000); above it, 503.
    pub max_connections: usize,
    /// How long a silent client is left alone before it is asked with a ping, and then how long
    /// it may take to show life before it is dropped (key `ping-interval`, default 30 s; "off" for never).
    pub ping_interval: Option<Duration>,
}

/// Which `Origin` a WebSocket handshake may carry. One without the header is not a browser's
/// and is always let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedOrigins {
    /// `"*"`: any.
    pub any: bool,
    /// `"same-origin"`: the origin's host and port are those of the `Host` header.
    pub same_origin: bool,
    /// Exact origins, `scheme://host[:port]`, in lower case, without the default port.
    pub exact: Vec<String>,
}

impl Default for WebSocketLimits {
    fn default() -> Self {
        Self {
            allowed_origins: AllowedOrigins {
                any: false,
                same_origin: true,
                exact: Vec::new(),
            },
            max_message_size: 64 * 1024,
            max_outgoing_buffer: 1024 * 1024,
            max_incoming_buffer: 200_000,
            max_connections: 100_000,
            ping_interval: Some(Duration::from_secs(30)),
        }
    }
}

impl Manifest {
    /// Reads a manifest that is to be run here: a file, or a folder that holds a `spin.toml`.
    ///
    /// # Errors
    /// Everything that is wrong with it, what Spin runs and this host does not included.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ManifestError> {
        let (text, path) = read::file(path.as_ref())?;
        read::manifest(&text, &path, true)
    }

    /// Reads a manifest that another host runs, with this one in front. It may hold what this
    /// host does not run: other triggers (left out of [`Self::triggers`]), components from
    /// elsewhere, dependencies.
    ///
    /// # Errors
    /// Everything that Spin too would find wrong with it, or that is wrong in our own table.
    pub fn load_for_upstream(path: impl AsRef<Path>) -> Result<Self, ManifestError> {
        let (text, path) = read::file(path.as_ref())?;
        read::manifest(&text, &path, false)
    }

    /// What holds where another host runs the application and there is no manifest: the defaults
    /// alone. Its path is where a manifest would be, in the current folder.
    pub fn absent() -> Self {
        Self {
            path: PathBuf::from("spin.toml"),
            root: PathBuf::from("."),
            name: String::new(),
            version: String::new(),
            description: String::new(),
            variables: BTreeMap::new(),
            triggers: Vec::new(),
            components: BTreeMap::new(),
            host: HostTable::default(),
            warnings: Vec::new(),
        }
    }

    /// Reads the text of a manifest as [`Self::load`] does. No file is looked at; `path` names
    /// the manifest in errors, and relative paths in it start at its folder.
    ///
    /// # Errors
    /// See [`Self::load`].
    pub fn parse(text: &str, path: impl AsRef<Path>) -> Result<Self, ManifestError> {
        read::manifest(text, path.as_ref(), true)
    }

    /// Reads the text of a manifest as [`Self::load_for_upstream`] does.
    ///
    /// # Errors
    /// See [`Self::load_for_upstream`].
    pub fn parse_for_upstream(text: &str, path: impl AsRef<Path>) -> Result<Self, ManifestError> {
        read::manifest(text, path.as_ref(), false)
    }
}
