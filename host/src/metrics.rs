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

use crate::{ending::Ending, services::Services};

/// Upper bounds of the buckets of the backend's latency, in seconds.
const LATENCIES: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0,
];

/// What the text is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A label with one of few values.
type Label = (&'static str, Cow<'static, str>);

/// A metric by one label.
type By<M> = Family<[Label; 1], M>;

/// Who answered a request: the component, or the upstream.
type By1<M, C = fn() -> M> = Family<[(&'static str, Arc<str>); 1], M, C>;

/// Who answered a request, and what.
type Answered = ([(&'static str, Arc<str>); 1], [Label; 1]);

/// See the module's words.
pub struct Metrics {
    registry: Registry,
    /// Open connections of the public port, whatever they carry.
    pub connections: Gauge,
    /// Those of them that are tunnels.
    pub tunnels: Gauge,
    sessions: By<Gauge>,
    holds: By<Gauge>,
    channels: Gauge,
    subscriptions: Gauge,
    instances: By1<Gauge>,
    /// What clients sent on WebSockets, without pings, pongs and closes.
    pub received: Traffic,
    /// What backends answered for one WebSocket.
    pub replied: Traffic,
    /// What publications brought, counted for each whom they were handed to.
    pub published: Traffic,
    publishes: By<Counter>,
    items: Counter,
    dropped: By<Counter>,
    ended: By<Counter>,
    requests: Family<Answered, Counter>,
    latencies: By1<Histogram>,
    timers: Family<[Label; 2], Counter>,
}

/// Messages and their bytes, in one direction.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    messages: Counter,
    bytes: Counter,
}

/// Why something that was published or asked for was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
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
        for ending in Ending::ALL {
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

    /// What is counted and what there is, as text.
    pub fn text(&self, services: &Services) -> String {
        self.look(services);
        let mut text = String::new();
        // Writing to memory does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// What there is at this time.
    fn look(&self, services: &Services) {
        let set = |gauge: &Gauge, count: usize| {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        };
        for (stage, count) in services.sessions.by_stage() {
            set(
                &self.sessions.get_or_create(&by("state", stage.name())),
                count,
            );
        }
        let holds = &services.holds;
        for (mode, count) in [("stream", holds.streams()), ("response", holds.responses())] {
            set(&self.holds.get_or_create(&by("mode", mode)), count);
        }
        set(&self.channels, services.channels.len());
        set(&self.subscriptions, services.channels.subscriptions());
        // A component may be gone since the last time.
        self.instances.clear();
        for (component, count) in services.backend.instances() {
            set(
                &self.instances.get_or_create(&[("component", component)]),
                count,
            );
        }
    }

    /// A publish request was answered, and brought so many items.
    pub fn publish(&self, status: u16, items: usize) {
        let status = Cow::Owned(status.to_string());
        self.publishes.get_or_create(&[("status", status)]).inc();
        self.items.inc_by(items as u64);
    }

    /// Counts what is dropped for a reason.
    pub fn dropped(&self, reason: Dropped) -> Counter {
        self.dropped
            .get_or_create_owned(&by("reason", reason.name()))
    }

    /// A session is over.
    pub fn ended(&self, ending: Ending) {
        self.ended.get_or_create(&by("reason", ending.name())).inc();
    }

    /// A component or the upstream answered, or failed to, after so long.
    pub fn answered(&self, by_whom: Arc<str>, what: Result<u16, &BackendError>, after: Duration) {
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
    pub fn timer(&self, timer: &str, succeeded: bool) {
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
    pub fn add(&self, messages: usize, bytes: usize) {
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

#[cfg(test)]
mod tests {
    use grip::{Item, Key};
    use http::Request;
    use spin_runtime::{
        backend::{Answer, AnsweredBy, Backend, Body, empty},
        manifest::WebSocketLimits,
    };
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{filter::Filters, frame, outbox::Outbox, publication::Publication, signer::Signer};

    /// Answers `/`, as a component, and nothing else.
    struct Backends;

    impl Backend for Backends {
        fn call(&self, request: Request<Body>) -> Answer<'_> {
            let path = request.uri().path().to_owned();
            Box::pin(async move {
                if path != "/" {
                    return Err(BackendError::NoRoute { path });
                }
                let mut response = http::Response::new(empty());
                response.extensions_mut().insert(AnsweredBy("page".into()));
                Ok(response)
            })
        }

        fn instances(&self) -> Vec<(Arc<str>, usize)> {
            vec![("page".into(), 3)]
        }
    }

    fn services() -> Services {
        let key = Key::parse("a key of some length, since it has to be").expect("a key");
        let (signer, stop) = (Signer::new(key), CancellationToken::new());
        let limits = WebSocketLimits::default();
        Services::new(Arc::new(Backends), "own", signer, limits, stop)
    }

    fn item(id: Option<&str>) -> Publication {
        let item = Item::ws_text("c", "hello");
        let item = match id {
            Some(id) => item.with_id(id, None),
            None => item,
        };
        Publication::new(item).expect("an item")
    }

    #[tokio::test]
    async fn what_happens_is_told() {
        let services = services();
        for path in ["/", "/", "/nowhere"] {
            let request = Request::get(path).body(empty()).expect("a request");
            let _ = services.backend.call(request).await;
        }
        let outbox = Outbox::new(1000);
        let _registration = services.sessions.register(&outbox);
        let channels = &services.channels;
        let _subscribed = channels.subscribe("c", outbox.clone(), Filters::default());
        let _twice = channels.subscribe("c", outbox.clone(), Filters::default());
        for id in [None, Some("1"), Some("1")] {
            channels.publish(item(id)).await;
        }
        outbox.close(frame::close(frame::AWAY, ""), Ending::Shutdown);
        let metrics = &services.metrics;
        metrics.ended(Ending::Slow);
        metrics.publish(200, 3);
        metrics.timer("/tick", true);
        metrics.timer("/tick", false);
        metrics.received.add(1, 5);
        let text = metrics.text(&services);
        for line in [
            "socket_host_build_info{version=\"0.1.0\"} 1",
            "socket_host_sessions{state=\"closing\"} 1",
            "socket_host_sessions{state=\"open\"} 0",
            "socket_host_channels 1",
            "socket_host_subscriptions 2",
            "socket_host_instances{component=\"page\"} 3",
            // Of three publications one had been there; each of the others went to two.
            "socket_host_published_messages_total 4",
            "socket_host_published_bytes_total 28",
            "socket_host_dropped_total{reason=\"duplicate\"} 1",
            "socket_host_dropped_total{reason=\"full\"} 0",
            "socket_host_sessions_ended_total{reason=\"slow\"} 1",
            "socket_host_sessions_ended_total{reason=\"client\"} 0",
            "socket_host_publishes_total{status=\"200\"} 1",
            "socket_host_items_total 3",
            "socket_host_timer_runs_total{timer=\"/tick\",outcome=\"failure\"} 1",
            "socket_host_received_bytes_total 5",
            "socket_host_backend_requests_total{component=\"page\",status=\"200\"} 2",
            "socket_host_backend_requests_total{component=\"own\",status=\"no-route\"} 1",
            "socket_host_backend_seconds_count{component=\"page\"} 2",
            "# EOF",
        ] {
            assert!(
                text.lines().any(|told| told == line),
                "{line} is not in\n{text}"
            );
        }
    }
}
