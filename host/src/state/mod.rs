//! What all requests, sessions and timers of a host share.

pub(crate) mod activity;
mod gradual;
pub(crate) mod holds;
pub(crate) mod members;
pub(crate) mod publisher;
pub(crate) mod sessions;
pub(crate) mod stop_tokens;
pub(crate) mod timer_status;
pub(crate) mod users;

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use spin_runtime::{RateLimitedLog, backend::Backend};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    bus::Bus,
    cache::CurrentCache,
    config::{AllowedOrigins, HostConfig, Limits},
    http::signer::Signer,
    metrics::{
        backend::Metered,
        registry::{Metrics, Snapshot},
    },
    net::addresses::Addresses,
    pubsub::channels::Channels,
    state::{
        holds::Holds, members::Members, publisher::Publisher, sessions::Sessions,
        timer_status::TimerStatuses, users::Users,
    },
    telemetry::{Telemetry, backend::Traced},
    ws::{token_router::RouterParts, tokens::SocketTokens},
};

/// The shared services. Clones share everything but the configuration.
#[derive(Clone)]
pub(crate) struct Services {
    /// Handles requests and events.
    pub(crate) backend: Arc<dyn Backend>,
    /// Responses that never change.
    pub(crate) cache: Arc<CurrentCache>,
    /// What sessions and holds subscribe to.
    pub(crate) channels: Channels,
    /// Carries publications between hosts. `None` if there is only this one.
    pub(crate) bus: Option<Arc<Bus>>,
    /// The open sessions.
    pub(crate) sessions: Arc<Sessions>,
    /// The users of sessions.
    pub(crate) users: Users,
    /// The members of channels.
    pub(crate) members: Members,
    /// The open WebSockets of components that handle typed frames.
    pub(crate) socket_tokens: SocketTokens,
    /// The held requests.
    pub(crate) holds: Arc<Holds>,
    /// What clients have open, by address.
    pub(crate) addresses: Arc<Addresses>,
    /// What the timers are doing.
    pub(crate) timers: TimerStatuses,
    /// Signs requests to the backend.
    pub(crate) signer: Signer,
    /// The limits of new sessions and holds.
    pub(crate) limits: Limits,
    /// The origins that may open WebSockets and hold requests.
    pub(crate) allowed_origins: AllowedOrigins,
    /// Logs handshakes of pages whose origin is not allowed.
    pub(crate) refused_origins: RateLimitedLog,
    /// Counts what happens.
    pub(crate) metrics: Arc<Metrics>,
    /// What else is recorded about requests.
    pub(crate) telemetry: Telemetry,
}

impl Services {
    /// Returns how long a subscription may take to be confirmed by the bus.
    pub(crate) fn confirmation_timeout(&self) -> Duration {
        let bus = self.bus.as_ref();
        bus.map_or(Duration::ZERO, |bus| bus.confirmation_timeout())
    }

    /// Returns what the components of this host can do with WebSockets.
    pub(crate) fn router_parts(&self) -> RouterParts {
        RouterParts {
            tokens: self.socket_tokens.clone(),
            channels: self.channels.clone(),
            bus: self.bus.clone(),
            publisher: self.publisher(),
        }
    }

    /// Returns what publishes to the channels.
    pub(crate) fn publisher(&self) -> Publisher {
        Publisher::new(self.channels.clone(), self.bus.clone())
    }

    /// Creates the services of a host whose holds end with `drain`.
    ///
    /// Metrics attribute responses of the backend itself, rather than of a component, to `name`.
    pub(crate) fn new(
        backend: Arc<dyn Backend>,
        name: &str,
        signer: Signer,
        config: &HostConfig,
        drain: CancellationToken,
    ) -> Self {
        let metrics = Arc::new(Metrics::default());
        let max_connections = config.limits.max_connections;
        Self {
            backend: Arc::new(Metered::new(backend, metrics.clone(), name)),
            cache: Arc::new(CurrentCache::new(metrics.cache_counters())),
            channels: Channels::new(config.channels.clone(), metrics.channel_counters(), false),
            bus: None,
            sessions: Sessions::new(max_connections),
            users: Users::default(),
            members: Members::default(),
            socket_tokens: SocketTokens::new(metrics.clone()),
            holds: Holds::new(max_connections, drain),
            addresses: Addresses::new(&config.limits),
            timers: TimerStatuses::default(),
            signer,
            limits: config.limits.clone(),
            allowed_origins: config.allowed_origins.clone(),
            refused_origins: RateLimitedLog::new(
                spin_runtime::Limits::DEFAULT.log_lines_per_second,
                |suppressed| warn!(suppressed, "WebSocket refused: origin not allowed"),
            ),
            metrics,
            telemetry: Telemetry::default(),
        }
    }

    /// Returns services that record what `telemetry` says.
    pub(crate) fn with_telemetry(self, telemetry: Telemetry) -> Self {
        let backend = if telemetry.tracer.is_enabled() {
            Arc::new(Traced::new(self.backend, telemetry.tracer.clone()))
        } else {
            self.backend
        };
        Self {
            backend,
            telemetry,
            ..self
        }
    }

    /// Returns services whose publications come from the Redis server at `url`, and reach
    /// `replicas` of it.
    ///
    /// # Errors
    /// Fails if the URL is invalid.
    pub(crate) fn with_bus(self, url: &str, replicas: u32, config: &HostConfig) -> Result<Self> {
        let counters = self.metrics.channel_counters();
        let channels = Channels::new(config.channels.clone(), counters, true);
        let (users, members) = (self.users.clone(), self.members.clone());
        Ok(Self {
            bus: Some(Bus::new(
                url,
                replicas,
                channels.clone(),
                users,
                self.sessions.clone(),
                members,
                self.socket_tokens.clone(),
            )?),
            channels,
            ..self
        })
    }

    /// Returns services with another configuration, or the same if it is equal.
    pub(crate) fn configured(self: &Arc<Self>, config: &HostConfig) -> Arc<Self> {
        if self.limits == config.limits && self.allowed_origins == config.allowed_origins {
            return self.clone();
        }
        Arc::new(Self {
            limits: config.limits.clone(),
            allowed_origins: config.allowed_origins.clone(),
            ..Self::clone(self)
        })
    }

    /// Applies the limits on the number of sessions, holds and connections.
    pub(crate) fn apply_limits(&self) {
        self.addresses.set_limits(&self.limits);
        let max_connections = self.limits.max_connections;
        self.holds.set_limit(max_connections);
        self.sessions
            .set_limits(max_connections, self.limits.ping_interval);
    }

    /// Returns the current number of sessions, holds, channels and instances.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let sessions = self.sessions.by_stage();
        Snapshot {
            sessions: sessions.map(|(stage, count)| (stage.name(), count)),
            holds: [
                ("stream", self.holds.streams()),
                ("response", self.holds.responses()),
            ],
            channels: self.channels.len(),
            subscriptions: self.channels.subscriptions(),
            tasks: Handle::try_current().map_or(0, |runtime| runtime.metrics().num_alive_tasks()),
            memory: resident_memory().unwrap_or_default(),
            cache: self.cache.get().map_or((0, 0), |cache| cache.size()),
            bus_is_up: self.bus.as_ref().map(|bus| bus.is_up()),
            instances: self.backend.instances(),
            failures: self.backend.failures(),
        }
    }
}

/// Returns the memory that the process occupies, in bytes, on Linux.
fn resident_memory() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
