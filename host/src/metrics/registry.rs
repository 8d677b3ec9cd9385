//! The metrics of the host, in the Prometheus text format (OpenMetrics 1.0).
//!
//! Events are counted where they happen, a publication once for all of its subscribers. What exists
//! at a time, such as sessions and channels, is read when the metrics are scraped.

use std::{
    borrow::Cow,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::Registry,
};
use spin_runtime::backend::{BackendError, Failures};

use crate::{
    metrics::close_reason::CloseReason,
    pubsub::channel::ChannelCounters,
    telemetry::{line_queue, panics},
};

/// The upper bounds of the buckets of backend latency, in seconds.
const LATENCY_BUCKETS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0,
];

/// The upper bounds of the buckets of the time that a delivery takes, in seconds.
const DELIVERY_BUCKETS: [f64; 14] = [
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0,
];

/// The content type of the text.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A label with few different values.
type Label = (&'static str, Cow<'static, str>);

/// A metric with one label.
type By<M> = Family<[Label; 1], M>;

/// A metric by component or upstream.
type ByComponent<M, C = fn() -> M> = Family<[(&'static str, Arc<str>); 1], M, C>;

/// A component or upstream, and the status of its response.
type ComponentStatus = ([(&'static str, Arc<str>); 1], [Label; 1]);

/// A component, and the reason of its failure.
type ComponentReason = ([(&'static str, Arc<str>); 1], [Label; 1]);

/// Everything that is counted.
pub(crate) struct Metrics {
    registry: Registry,
    /// Open connections of the public port, including upgraded ones.
    pub(crate) connections: Gauge,
    /// Open tunnels.
    pub(crate) tunnels: Gauge,
    sessions: By<Gauge>,
    holds: By<Gauge>,
    channels: Gauge,
    subscriptions: Gauge,
    tasks: Gauge,
    /// Whether the bus works. Not exported without one.
    bus: By<Gauge>,
    instances: ByComponent<Gauge>,
    /// Failures of components by reason.
    failures: Family<ComponentReason, Counter>,
    /// Messages from WebSocket clients, without control frames.
    pub(crate) received: Traffic,
    /// Messages from backends to one WebSocket.
    pub(crate) replied: Traffic,
    /// Published messages, counted for each subscriber.
    pub(crate) published: Traffic,
    deliveries: DeliveryTimes,
    memory: Gauge,
    publishes: By<Counter>,
    /// Subscriptions that were to begin at an earlier item, by result.
    recoveries: By<Counter>,
    items: Counter,
    dropped: By<Counter>,
    ended: By<Counter>,
    requests: Family<ComponentStatus, Counter>,
    latencies: ByComponent<Histogram>,
    timers: Family<[Label; 2], Counter>,
    /// Requests that the cache was asked for, by result.
    cache_requests: By<Counter>,
    cache_evictions: Counter,
    cache_entries: Gauge,
    cache_bytes: Gauge,
    /// Messages with spans or metrics, by signal and outcome.
    exports: Family<[Label; 2], Counter>,
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
    /// Tasks of the runtime.
    pub(crate) tasks: usize,
    /// The memory that the process occupies, in bytes, or 0 where the system does not tell.
    pub(crate) memory: usize,
    /// Responses in the cache, and their size.
    pub(crate) cache: (usize, usize),
    /// Whether the bus works, if there is one.
    pub(crate) bus_is_up: Option<bool>,
    /// Instances by component.
    pub(crate) instances: Vec<(Arc<str>, usize)>,
    /// Failures of components, which the backend counts.
    pub(crate) failures: Vec<Failures>,
}

/// Counts what the cache does.
#[derive(Clone)]
pub(crate) struct CacheCounters {
    /// Requests that were answered with a stored response.
    pub(crate) hits: Counter,
    /// Requests that were forwarded, since nothing is stored for them.
    pub(crate) misses: Counter,
    /// Requests that were answered with the response to another request, for which they have waited.
    pub(crate) collapsed: Counter,
    /// Requests that only the backend can answer.
    pub(crate) bypassed: Counter,
    /// Responses that were removed for lack of memory.
    pub(crate) evictions: Counter,
}

/// The time from a publication until it is written to sockets. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct DeliveryTimes(Histogram);

impl Default for DeliveryTimes {
    fn default() -> Self {
        Self(Histogram::new(DELIVERY_BUCKETS))
    }
}

impl DeliveryTimes {
    /// Records that the subscribers of a shard have been sent a publication.
    pub(crate) fn record(&self, time: Duration) {
        self.0.observe(time.as_secs_f64());
    }
}

/// Messages and their bytes, in one direction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Traffic {
    messages: Counter,
    bytes: Counter,
}

/// Why a publication, a request, a connection or a span was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// The id of the publication was published before.
    Duplicate,
    /// The client of a held request does not read fast enough.
    SlowHold,
    /// The maximum number of connections, WebSockets, holds or tunnels is reached.
    Full,
    /// A page of this origin may not open WebSockets, or hold requests.
    Origin,
    /// The TLS handshake of a connection failed.
    TlsHandshake,
    /// A connection has no valid header of the PROXY protocol.
    ProxyHeader,
    /// An address has too many connections.
    AddressConnections,
    /// An address has too many WebSockets and held requests.
    AddressHolds,
    /// An address opens WebSockets too often.
    AddressHandshakes,
    /// The head of a request exceeds the limits.
    LargeHead,
    /// The body of a request exceeds the limit.
    LargeBody,
    /// The body of a request arrives too slowly.
    SlowBody,
    /// A request is malformed, or one that no component may get.
    Invalid,
    /// A span could not be exported.
    Span,
    /// A connection could not be accepted yet, such as for lack of file descriptors.
    Accept,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("socket_host"),
            connections: Gauge::default(),
            tunnels: Gauge::default(),
            sessions: By::default(),
            holds: By::default(),
            channels: Gauge::default(),
            subscriptions: Gauge::default(),
            tasks: Gauge::default(),
            bus: By::default(),
            instances: Family::new_with_constructor(Gauge::default),
            failures: Family::default(),
            received: Traffic::default(),
            replied: Traffic::default(),
            published: Traffic::default(),
            deliveries: DeliveryTimes::default(),
            memory: Gauge::default(),
            publishes: By::default(),
            recoveries: By::default(),
            items: Counter::default(),
            dropped: By::default(),
            ended: By::default(),
            requests: Family::default(),
            latencies: Family::new_with_constructor(|| Histogram::new(LATENCY_BUCKETS)),
            timers: Family::default(),
            cache_requests: By::default(),
            cache_evictions: Counter::default(),
            cache_entries: Gauge::default(),
            cache_bytes: Gauge::default(),
            exports: Family::default(),
        };
        metrics.register();
        // Exported from the start, so that a rate over them has a first value.
        for reason in CloseReason::ALL {
            drop(metrics.ended.get_or_create(&by("reason", reason.name())));
        }
        for reason in Dropped::ALL {
            metrics.dropped(reason);
        }
        drop(metrics.channel_counters());
        drop(metrics.cache_counters());
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        let registry = &mut self.registry;
        registry.register("build", "The version of the host", Info::new(version));
        let mut add = |name: &str, help: &str, metric: &dyn AnyMetric| {
            metric.register(registry, name, help);
        };
        add(
            "connections",
            "Open connections of the public port, including upgraded ones",
            &self.connections,
        );
        add(
            "tunnels",
            "Connections that are tunneled to an upstream",
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
        add("tasks", "Tasks of the runtime", &self.tasks);
        add("instances", "Instances by component", &self.instances);
        add(
            "component_failures",
            "Failures of components by reason",
            &self.failures,
        );
        add("bus", "1 for the state of the bus", &self.bus);
        for (what, help, traffic) in [
            (
                "received",
                "received from WebSocket clients",
                &self.received,
            ),
            ("replied", "from backends to one WebSocket", &self.replied),
            (
                "published",
                "delivered to subscribers, counted for each of them",
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
            "delivery_seconds",
            "Time from a publication until it is written to the sockets of a shard",
            &self.deliveries.0,
        );
        add(
            "memory_bytes",
            "Resident memory of the process, or 0 if it is not known",
            &self.memory,
        );
        add("publishes", "Publish requests by status", &self.publishes);
        add("items", "Items in successful publish requests", &self.items);
        add(
            "dropped",
            "Dropped publications, requests, connections and spans by reason",
            &self.dropped,
        );
        add(
            "recoveries",
            "Subscriptions with prev-id or recover, by whether all items were known",
            &self.recoveries,
        );
        add("sessions_ended", "Ended WebSockets by reason", &self.ended);
        add(
            "backend_requests",
            "Requests to components and upstreams, including tunnels, by status or failure",
            &self.requests,
        );
        add(
            "backend_seconds",
            "Time from a request to the head of its response",
            &self.latencies,
        );
        add("timer_runs", "Runs of timers by outcome", &self.timers);
        add(
            "cache_requests",
            "Requests that the cache was asked for, by result",
            &self.cache_requests,
        );
        add(
            "cache_evictions",
            "Responses that the cache has dropped for lack of memory",
            &self.cache_evictions,
        );
        add(
            "cache_entries",
            "Responses in the cache",
            &self.cache_entries,
        );
        add(
            "cache_bytes",
            "Memory of the responses in the cache",
            &self.cache_bytes,
        );
        add(
            "panics",
            "Panics of the host, each of which is a bug",
            &panics::counter(),
        );
        add(
            "dropped_log_lines",
            "Lines of the access log that were dropped",
            &line_queue::dropped_lines(),
        );
        add(
            "otlp_exports",
            "Messages to an OpenTelemetry collector by signal and outcome",
            &self.exports,
        );
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
        set(&self.tasks, snapshot.tasks);
        set(&self.memory, snapshot.memory);
        let (entries, bytes) = snapshot.cache;
        set(&self.cache_entries, entries);
        set(&self.cache_bytes, bytes);
        if let Some(is_up) = snapshot.bus_is_up {
            for (state, holds) in [("up", is_up), ("down", !is_up)] {
                set(&self.bus.get_or_create(&by("state", state)), holds.into());
            }
        }
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
        for failures in &snapshot.failures {
            let counter = self.failures_of(failures.component.clone(), failures.reason);
            counter.inner().store(failures.count, Relaxed);
        }
    }

    fn failures_of(&self, component: Arc<str>, reason: &'static str) -> Counter {
        let labels = ([("component", component)], by("reason", reason));
        self.failures.get_or_create_owned(&labels)
    }

    /// Counts a publish request and its items.
    pub(crate) fn publish(&self, status: u16, items: usize) {
        let status = Cow::Owned(status.to_string());
        self.publishes.get_or_create(&[("status", status)]).inc();
        self.items.inc_by(items as u64);
    }

    /// Returns the counter of what is dropped for a reason.
    pub(crate) fn dropped(&self, reason: Dropped) -> Counter {
        self.dropped
            .get_or_create_owned(&by("reason", reason.name()))
    }

    /// Counts the end of a session.
    pub(crate) fn session_ended(&self, reason: CloseReason) {
        self.ended.get_or_create(&by("reason", reason.name())).inc();
    }

    /// Returns the counters of channels.
    pub(crate) fn channel_counters(&self) -> ChannelCounters {
        let recoveries = |result| self.recoveries.get_or_create_owned(&by("result", result));
        ChannelCounters {
            published: self.published.clone(),
            delivery_times: self.deliveries.clone(),
            duplicates: self.dropped(Dropped::Duplicate),
            recovered: recoveries("complete"),
            unrecovered: recoveries("unknown"),
        }
    }

    /// Returns the counters of the cache.
    pub(crate) fn cache_counters(&self) -> CacheCounters {
        let requests = |result| {
            self.cache_requests
                .get_or_create_owned(&by("result", result))
        };
        CacheCounters {
            hits: requests("hit"),
            misses: requests("miss"),
            collapsed: requests("collapsed"),
            bypassed: requests("bypass"),
            evictions: self.cache_evictions.clone(),
        }
    }

    /// Counts and times a response of a component or an upstream, or its failure.
    pub(crate) fn response(
        &self,
        served_by: Arc<str>,
        status: Result<u16, &BackendError>,
        latency: Duration,
    ) {
        let status = match status {
            Ok(status) => Cow::Owned(status.to_string()),
            Err(error) => Cow::Borrowed(failure(error)),
        };
        let component = [("component", served_by)];
        self.latencies
            .get_or_create(&component)
            .observe(latency.as_secs_f64());
        self.requests
            .get_or_create(&(component, [("status", status)]))
            .inc();
    }

    /// Exports the counters of messages to a collector from the start.
    #[cfg(feature = "otel")]
    pub(crate) fn register_export(&self, signal: &'static str) {
        for succeeded in [true, false] {
            drop(
                self.exports
                    .get_or_create(&export_labels(signal, succeeded)),
            );
        }
    }

    /// Counts a message to a collector.
    #[cfg(feature = "otel")]
    pub(crate) fn export(&self, signal: &'static str, succeeded: bool) {
        let labels = export_labels(signal, succeeded);
        self.exports.get_or_create(&labels).inc();
    }

    /// Counts a run of a timer.
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

/// Returns the labels of a message to a collector.
#[cfg(feature = "otel")]
fn export_labels(signal: &'static str, succeeded: bool) -> [Label; 2] {
    let outcome = if succeeded { "success" } else { "failure" };
    [
        ("signal", Cow::Borrowed(signal)),
        ("outcome", Cow::Borrowed(outcome)),
    ]
}

impl Traffic {
    /// Counts messages and their bytes.
    pub(crate) fn add(&self, messages: usize, bytes: usize) {
        self.messages.inc_by(messages as u64);
        self.bytes.inc_by(bytes as u64);
    }
}

impl Dropped {
    const ALL: [Self; 15] = [
        Self::Duplicate,
        Self::SlowHold,
        Self::Full,
        Self::Origin,
        Self::TlsHandshake,
        Self::ProxyHeader,
        Self::AddressConnections,
        Self::AddressHolds,
        Self::AddressHandshakes,
        Self::LargeHead,
        Self::LargeBody,
        Self::SlowBody,
        Self::Invalid,
        Self::Span,
        Self::Accept,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Duplicate => "duplicate",
            Self::SlowHold => "slow-hold",
            Self::Full => "full",
            Self::Origin => "origin",
            Self::TlsHandshake => "tls-handshake",
            Self::ProxyHeader => "proxy-header",
            Self::AddressConnections => "address-connections",
            Self::AddressHolds => "address-holds",
            Self::AddressHandshakes => "address-handshakes",
            Self::LargeHead => "large-head",
            Self::LargeBody => "large-body",
            Self::SlowBody => "slow-body",
            Self::Invalid => "invalid",
            Self::Span => "span",
            Self::Accept => "accept",
        }
    }
}

/// A metric of any type.
trait AnyMetric {
    fn register(&self, registry: &mut Registry, name: &str, help: &str);
}

impl<M: prometheus_client::registry::Metric + Clone> AnyMetric for M {
    fn register(&self, registry: &mut Registry, name: &str, help: &str) {
        registry.register(name, help, self.clone());
    }
}

fn by(label: &'static str, value: &'static str) -> [Label; 1] {
    [(label, Cow::Borrowed(value))]
}

/// Returns the label value of a request without a response.
pub(crate) fn failure(error: &BackendError) -> &'static str {
    match error {
        BackendError::NoRoute { .. } => "no-route",
        BackendError::RequestBody(_) => "request-body",
        BackendError::Busy { .. } => "busy",
        BackendError::Failed { .. } => "failed",
        BackendError::Deadline { .. } => "deadline",
        BackendError::Unreachable { .. } => "unreachable",
        BackendError::Broken { .. } => "broken",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!("../../../docs/deploying.md");

    /// Returns the first cells of the table that follows a text in the documentation.
    fn documented(text: &str) -> Vec<&'static str> {
        let (_, rest) = PAGE.split_once(text).expect("a table");
        let rows = rest.lines().skip_while(|line| !line.starts_with('|'));
        rows.take_while(|line| line.starts_with('|'))
            .filter_map(|row| row.strip_prefix("| `")?.split_once('`'))
            .map(|(name, _)| name)
            .collect()
    }

    #[test]
    fn reasons_are_documented() {
        let dropped = Dropped::ALL.map(Dropped::name);
        assert_eq!(documented("`socket_host_dropped_total`"), dropped);
        let ended = CloseReason::ALL.map(CloseReason::name);
        assert_eq!(documented("`socket_host_sessions_ended_total`"), ended);
    }
}
