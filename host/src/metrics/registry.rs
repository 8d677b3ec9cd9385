//! What the host counts, told as Prometheus text (OpenMetrics 1.0).
//!
//! What happens often is counted where it happens, once for all whom it concerns; what is
//! there at a time (sessions, channels) is looked at when somebody asks.

use std::{borrow::Cow, sync::Arc, time::Duration};

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::Registry,
};
use spin_runtime::backend::BackendError;

use crate::metrics::close_reason::CloseReason;

/// Upper bounds of the buckets of the backend's latency, in seconds.
const LATENCIES: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0,
];

/// What the text is.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A label with one of few values.
type Label = (&'static str, Cow<'static, str>);

/// A metric by one label.
type By<M> = Family<[Label; 1], M>;

/// Who answered a request: the component, or the upstream.
type By1<M, C = fn() -> M> = Family<[(&'static str, Arc<str>); 1], M, C>;

/// Who answered a request, and what.
type Answered = ([(&'static str, Arc<str>); 1], [Label; 1]);

/// See the module's words.
pub(crate) struct Metrics {
    registry: Registry,
    /// Open connections of the public port, whatever they carry.
    pub(crate) connections: Gauge,
    /// Those of them that are tunnels.
    pub(crate) tunnels: Gauge,
    sessions: By<Gauge>,
    holds: By<Gauge>,
    channels: Gauge,
    subscriptions: Gauge,
    instances: By1<Gauge>,
    /// What clients sent on WebSockets, without pings, pongs and closes.
    pub(crate) received: Traffic,
    /// What backends answered for one WebSocket.
    pub(crate) replied: Traffic,
    /// What publications brought, counted for each whom they were handed to.
    pub(crate) published: Traffic,
    publishes: By<Counter>,
    items: Counter,
    dropped: By<Counter>,
    ended: By<Counter>,
    requests: Family<Answered, Counter>,
    latencies: By1<Histogram>,
    timers: Family<[Label; 2], Counter>,
}

/// What exists at the time of a scrape, and is therefore not counted as it happens.
pub(crate) struct Snapshot {
    /// Sessions by state.
    pub(crate) sessions: [(&'static str, usize); 3],
    /// Held requests by mode.
    pub(crate) holds: [(&'static str, usize); 2],
    /// Channels with subscribers.
    pub(crate) channels: usize,
    /// Subscriptions over all channels.
    pub(crate) subscriptions: usize,
    /// Instances by component.
    pub(crate) instances: Vec<(Arc<str>, usize)>,
}

/// Messages and their bytes, in one direction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Traffic {
    messages: Counter,
    bytes: Counter,
}

/// Why something that was published or asked for was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// A publication with an id that its channel has had.
    Duplicate,
    /// What waited for a held request whose client does not keep up.
    SlowHold,
    /// A WebSocket, a hold or a tunnel for which there is no room.
    Full,
}

impl Default for Metrics {
    /// Everything at 0.
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("socket_host"),
            connections: Gauge::default(),
            tunnels: Gauge::default(),
            sessions: By::default(),
            holds: By::default(),
            channels: Gauge::default(),
            subscriptions: Gauge::default(),
            instances: Family::new_with_constructor(Gauge::default),
            received: Traffic::default(),
            replied: Traffic::default(),
            published: Traffic::default(),
            publishes: By::default(),
            items: Counter::default(),
            dropped: By::default(),
            ended: By::default(),
            requests: Family::default(),
            latencies: Family::new_with_constructor(|| Histogram::new(LATENCIES)),
            timers: Family::default(),
        };
        metrics.register();
        // Told from the beginning, so that a rate over them has a first value.
        for ending in CloseReason::ALL {
            drop(metrics.ended.get_or_create(&by("reason", ending.name())));
        }
        for reason in Dropped::ALL {
            metrics.dropped(reason);
        }
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        let registry = &mut self.registry;
        registry.register("build", "What runs", Info::new(version));
        let mut add = |name: &str, help: &str, metric: &dyn Registered| {
            metric.register(registry, name, help);
        };
        add(
            "connections",
            "Open connections of the public port, whatever they carry",
            &self.connections,
        );
        add(
            "tunnels",
            "Connections that are tunnelled to an upstream",
            &self.tunnels,
        );
        add("sessions", "WebSockets by state", &self.sessions);
        add("holds", "Held HTTP requests by mode", &self.holds);
        add("channels", "Channels with subscribers", &self.channels);
        add(
            "subscriptions",
            "Subscriptions over all channels",
            &self.subscriptions,
        );
        add("instances", "Instances of components", &self.instances);
        for (what, help, traffic) in [
            (
                "received",
                "received from WebSocket clients",
                &self.received,
            ),
            (
                "replied",
                "that backends sent to one WebSocket",
                &self.replied,
            ),
            (
                "published",
                "handed to subscribers, counted for each of them",
                &self.published,
            ),
        ] {
            let (messages, bytes) = (&traffic.messages, &traffic.bytes);
            add(
                &format!("{what}_messages"),
                &format!("Messages {help}"),
                messages,
            );
            add(
                &format!("{what}_bytes"),
                &format!("Bytes of messages {help}"),
                bytes,
            );
        }
        add(
            "publishes",
            "Publish requests by the status of their answer",
            &self.publishes,
        );
        add(
            "items",
            "Items in publish requests that were good",
            &self.items,
        );
        add("dropped", "What was dropped by reason", &self.dropped);
        add(
            "sessions_ended",
            "WebSockets that ended, by the first cause of it",
            &self.ended,
        );
        add(
            "backend_requests",
            "Requests of clients, timers and sessions to components and upstreams, tunnels \
             included, by status or by what failed",
            &self.requests,
        );
        add(
            "backend_seconds",
            "Time from a request to the head of its answer",
            &self.latencies,
        );
        add("timer_runs", "Runs of timers by outcome", &self.timers);
    }

    /// Encodes everything counted so far, and `snapshot`, as text.
    pub(crate) fn text(&self, snapshot: &Snapshot) -> String {
        self.set(snapshot);
        let mut text = String::new();
        // Writing to memory does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    fn set(&self, snapshot: &Snapshot) {
        let set = |gauge: &Gauge, count: usize| {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        };
        for (state, count) in snapshot.sessions {
            set(&self.sessions.get_or_create(&by("state", state)), count);
        }
        for (mode, count) in snapshot.holds {
            set(&self.holds.get_or_create(&by("mode", mode)), count);
        }
        set(&self.channels, snapshot.channels);
        set(&self.subscriptions, snapshot.subscriptions);
        // Components may have been removed since the last time.
        self.instances.clear();
        for (component, count) in &snapshot.instances {
            set(
                &self
                    .instances
                    .get_or_create(&[("component", component.clone())]),
                *count,
            );
        }
    }

    /// A publish request was answered, and brought so many items.
    pub(crate) fn publish(&self, status: u16, items: usize) {
        let status = Cow::Owned(status.to_string());
        self.publishes.get_or_create(&[("status", status)]).inc();
        self.items.inc_by(items as u64);
    }

    /// Counts what is dropped for a reason.
    pub(crate) fn dropped(&self, reason: Dropped) -> Counter {
        self.dropped
            .get_or_create_owned(&by("reason", reason.name()))
    }

    /// A session is over.
    pub(crate) fn ended(&self, ending: CloseReason) {
        self.ended.get_or_create(&by("reason", ending.name())).inc();
    }

    /// A component or the upstream answered, or failed to, after so long.
    pub(crate) fn answered(
        &self,
        by_whom: Arc<str>,
        what: Result<u16, &BackendError>,
        after: Duration,
    ) {
        let status = match what {
            Ok(status) => Cow::Owned(status.to_string()),
            Err(error) => Cow::Borrowed(failure(error)),
        };
        let component = [("component", by_whom)];
        self.latencies
            .get_or_create(&component)
            .observe(after.as_secs_f64());
        self.requests
            .get_or_create(&(component, [("status", status)]))
            .inc();
    }

    /// A timer ran.
    pub(crate) fn timer(&self, timer: &str, succeeded: bool) {
        let outcome = if succeeded { "success" } else { "failure" };
        self.timers
            .get_or_create(&[
                ("timer", Cow::Owned(timer.to_owned())),
                ("outcome", Cow::Borrowed(outcome)),
            ])
            .inc();
    }
}

impl Traffic {
    /// Counts messages and their bytes.
    pub(crate) fn add(&self, messages: usize, bytes: usize) {
        self.messages.inc_by(messages as u64);
        self.bytes.inc_by(bytes as u64);
    }
}

impl Dropped {
    const ALL: [Self; 3] = [Self::Duplicate, Self::SlowHold, Self::Full];

    fn name(self) -> &'static str {
        match self {
            Self::Duplicate => "duplicate",
            Self::SlowHold => "slow-hold",
            Self::Full => "full",
        }
    }
}

/// What can be put into the registry.
trait Registered {
    fn register(&self, registry: &mut Registry, name: &str, help: &str);
}

impl<M: prometheus_client::registry::Metric + Clone> Registered for M {
    fn register(&self, registry: &mut Registry, name: &str, help: &str) {
        registry.register(name, help, self.clone());
    }
}

fn by(label: &'static str, value: &'static str) -> [Label; 1] {
    [(label, Cow::Borrowed(value))]
}

/// The status of a request that had no answer.
fn failure(error: &BackendError) -> &'static str {
    match error {
        BackendError::NoRoute { .. } => "no-route",
        BackendError::Failed { .. } => "failed",
        BackendError::Deadline { .. } => "deadline",
        BackendError::Unreachable { .. } => "unreachable",
        BackendError::Broken { .. } => "broken",
    }
}
