//! The control port: components publish to it, and it reports on clients and on the health of the host.
//!
//! - `publish` delivers items, and `observe` sends clients what is published.
//! - `reports` is about channels, their members, and users, over all hosts.
//! - `sessions` lists WebSockets, and acts on one of them.
//! - `status` is about timers, hosts on the bus, all channels of this host, and the log.
//! - `cache` purges stored responses.
//! - `dashboard` is a page that shows all of this.
//! - `access` decides who may use the port, and `cors` which pages may.

mod access;
mod cache;
mod cors;
#[cfg(feature = "dashboard")]
mod dashboard;
mod observe;
mod parameters;
mod publish;
mod reports;
mod sessions;
mod status;

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Result, bail};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use spin_runtime::backend::{Body, full};
use tokio::time::Instant;

use self::{
    access::{Access, unauthorized},
    cors::Cors,
    observe::Observers,
    sessions::Operation,
};
use crate::{
    http::{
        error_response::{internal_error, overload_response, refusal_response, text_response},
        validate::check_message,
    },
    metrics::registry::CONTENT_TYPE,
    net::{
        draining::Draining,
        listener::{Admission, Listener},
    },
    options::HostOptions,
    shutdown::Shutdown,
    state::Services,
    telemetry::{
        panics::{self, Panicked},
        trace_context::SpanContext,
        tracer::SpanKind,
    },
};

/// Serves the control port.
pub(crate) struct Control {
    /// Not set until the public port is served.
    services: OnceLock<Arc<Services>>,
    /// Whether all components can be called.
    is_ready: AtomicBool,
    access: Access,
    cors: Cors,
    observers: Observers,
    max_connections: usize,
    started: Instant,
    shutdown: Shutdown,
}

impl Control {
    /// Creates the control port of a host that is starting. It requires tokens if a key is
    /// configured, which an address beyond loopback needs.
    ///
    /// # Errors
    /// Fails if the address is not on loopback, and either no key is configured or neither a
    /// certificate nor `insecure_control` is.
    pub(crate) fn new(
        options: &HostOptions,
        address: SocketAddr,
        max_connections: usize,
        shutdown: &Shutdown,
    ) -> Result<Arc<Self>> {
        let has_key = options.grip_key.is_some();
        let source = match options.sockets.control {
            Some(_) => "the passed socket of the control port",
            None => "--control",
        };
        if !address.ip().is_loopback() && !has_key {
            bail!(
                "{source} {address} is not on loopback: set a key with --grip-key or SOCKET_HOST_GRIP_KEY"
            );
        }
        let is_secure = !options.control_tls.is_empty() || options.insecure_control;
        if !address.ip().is_loopback() && !is_secure {
            bail!(
                "{source} {address} is not on loopback: set a certificate with --control-tls-cert \
                 and --control-tls-key, or allow plain HTTP with --insecure-control"
            );
        }
        Ok(Arc::new(Self {
            services: OnceLock::new(),
            is_ready: AtomicBool::new(false),
            access: Access {
                requires_token: has_key,
                names: options.control_names.clone(),
            },
            cors: Cors {
                origins: options.control_origins.clone(),
            },
            observers: Observers::default(),
            max_connections,
            started: Instant::now(),
            shutdown: shutdown.clone(),
        }))
    }

    /// Accepts publish requests and reports from now on. Must be called before components can publish.
    pub(crate) fn set_services(&self, services: Arc<Services>) {
        // Set only once, when the host starts.
        let _ = self.services.set(services);
    }

    /// Reports readiness from now on.
    pub(crate) fn set_ready(&self) {
        self.is_ready.store(true, Relaxed);
    }

    /// Serves requests until the end of the shutdown: components publish until they have ended.
    pub(crate) async fn serve(self: Arc<Self>, listener: Listener) {
        let draining = Draining::at_once(self.shutdown.drain_control.clone());
        let admission = Admission::up_to(self.max_connections);
        let handler = move |request, _| {
            let control = self.clone();
            async move {
                let response = panics::catch(control.handle(request)).await;
                response.unwrap_or_else(|Panicked| internal_error())
            }
        };
        listener.serve(Arc::new(handler), admission, draining).await;
    }

    async fn handle(&self, request: Request<Incoming>) -> Response<Body> {
        if let Err(refusal) = check_message(&request) {
            return refusal_response(refusal);
        }
        let Some(route) = Route::parse(request.uri().path()) else {
            return text_response(
                StatusCode::NOT_FOUND,
                "not found: the control port serves GET /, POST /publish/, GET /channels/, GET \
                 /channels/NAME, GET /channels/NAME/events, GET /presence/?channel=NAME, GET \
                 /sessions/, DELETE /sessions/ID, POST /sessions/ID/send, POST \
                 /sessions/ID/refresh, GET and DELETE /users/ID/sessions, GET and DELETE /cache/, \
                 GET /status/, GET /log/, GET /healthz, GET /readyz and GET /metrics",
            );
        };
        // Everything else is either public or not for pages.
        let origin = self.cors.origin(request.headers());
        let Some(origin) = origin.filter(|_| route.is_private()) else {
            return self.respond(request, route).await;
        };
        let mut response = if cors::is_preflight(&request) {
            cors::preflight_response(route.methods())
        } else {
            self.respond(request, route).await
        };
        cors::allow(origin, &mut response);
        response
    }

    /// Responds to a request for what is served.
    async fn respond(&self, mut request: Request<Incoming>, route: Route) -> Response<Body> {
        if !route.allows(request.method()) {
            return method_not_allowed(route.methods());
        }
        // Browsers need a token to publish, and readiness contains nothing to protect.
        if !matches!(route, Route::Publish | Route::Ready)
            && let Err(refusal) = self.access.check_host(&request)
        {
            return refusal_response(refusal);
        }
        let Some(services) = self.services.get() else {
            return match route {
                Route::Health => json_response(&json!({ "status": "starting" })),
                #[cfg(feature = "dashboard")]
                Route::Dashboard(file) => file.response(),
                _ => text_response(StatusCode::SERVICE_UNAVAILABLE, "starting"),
            };
        };
        if route.is_private()
            && let Err(reason) = self.access.authorize(&services.signer, &request)
        {
            let refusal = unauthorized(&reason);
            if route == Route::Publish {
                services.metrics.publish(refusal.status().as_u16(), 0);
            }
            return refusal;
        }
        match route {
            Route::Health => health(services, self.is_ready.load(Relaxed)),
            Route::Ready if self.shutdown.stop.is_cancelled() => {
                text_response(StatusCode::SERVICE_UNAVAILABLE, "stopping")
            }
            Route::Ready if !self.is_ready.load(Relaxed) => {
                text_response(StatusCode::SERVICE_UNAVAILABLE, "starting")
            }
            // Also without the bus: clients stay connected, and all hosts would be unready at once.
            Route::Ready => match bus_state(services) {
                Some(state) => text_response(StatusCode::OK, &format!("ready, bus: {state}")),
                None => text_response(StatusCode::OK, "ready"),
            },
            Route::Metrics => {
                let text = services.metrics.text(&services.snapshot());
                response_with_type(CONTENT_TYPE, text)
            }
            Route::Publish => {
                let parent = SpanContext::accept(request.headers_mut());
                let tracer = &services.telemetry.tracer;
                let span = tracer.start(SpanKind::Server, "POST /publish/", parent);
                let (response, items) = publish::publish(services, request).await;
                let status = response.status().as_u16();
                if let Some(mut span) = span {
                    span.record(|record| {
                        record.number("http.response.status_code", status);
                        record.number("items", items);
                        let is_error = response.status().is_server_error();
                        record.error = is_error.then_some("the response is an error");
                    });
                }
                services.metrics.publish(status, items);
                response
            }
            Route::Channels => status::channels(services, &request),
            Route::Channel(name) => reports::channel(services, name).await,
            Route::Events { channel } => {
                let stop = self.shutdown.drain.clone();
                let observers = &self.observers;
                observers.respond(services, &request, &channel, stop).await
            }
            Route::Presence => reports::presence(services, &request).await,
            Route::Sessions => sessions::list(services, &request),
            Route::Session {
                connection,
                operation,
            } => sessions::act(services, request, &connection, operation).await,
            Route::UserSessions { user } => reports::user_sessions(services, &request, user).await,
            Route::Cache => cache::respond(services, &request),
            Route::Status => status::status(services, self.started, self.is_ready.load(Relaxed)),
            Route::Log => status::log(&request),
            #[cfg(feature = "dashboard")]
            Route::Dashboard(file) => file.response(),
        }
    }
}

/// What a path of the control port is for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Route {
    Publish,
    Channels,
    Channel(String),
    Events {
        channel: String,
    },
    Presence,
    Sessions,
    Session {
        connection: String,
        operation: Operation,
    },
    UserSessions {
        user: String,
    },
    Cache,
    Status,
    Log,
    Health,
    Ready,
    Metrics,
    #[cfg(feature = "dashboard")]
    Dashboard(dashboard::File),
}

impl Route {
    fn parse(path: &str) -> Option<Self> {
        #[cfg(feature = "dashboard")]
        if let Some(file) = dashboard::File::find(path) {
            return Some(Self::Dashboard(file));
        }
        let mut segments = path.strip_prefix('/')?.splitn(3, '/');
        let segments = [segments.next(), segments.next(), segments.next()];
        Some(match segments {
            [Some("publish"), None | Some(""), None] => Self::Publish,
            [Some("presence"), None | Some(""), None] => Self::Presence,
            [Some("cache"), None | Some(""), None] => Self::Cache,
            [Some("channels"), None | Some(""), None] => Self::Channels,
            [Some("channels"), Some(name), None] => Self::Channel(decode(name)?),
            [Some("channels"), Some(name), Some("events")] => {
                let channel = decode(name)?;
                Self::Events { channel }
            }
            [Some("sessions"), None | Some(""), None] => Self::Sessions,
            [Some("sessions"), Some(connection), operation] => Self::Session {
                connection: decode(connection)?,
                operation: match operation {
                    None => Operation::Close,
                    Some("send") => Operation::Send,
                    Some("refresh") => Operation::Refresh,
                    Some(_) => return None,
                },
            },
            [Some("users"), Some(user), Some("sessions")] => {
                let user = decode(user)?;
                Self::UserSessions { user }
            }
            [Some("status"), None | Some(""), None] => Self::Status,
            [Some("log"), None | Some(""), None] => Self::Log,
            [Some("healthz"), None, None] => Self::Health,
            [Some("readyz"), None, None] => Self::Ready,
            [Some("metrics"), None, None] => Self::Metrics,
            _ => return None,
        })
    }

    /// Returns the value of `Allow`.
    fn methods(&self) -> &'static str {
        match self {
            Self::Publish => "POST",
            Self::Session { operation, .. } => match operation {
                Operation::Close => "DELETE",
                Operation::Send | Operation::Refresh => "POST",
            },
            Self::UserSessions { .. } | Self::Cache => "GET, HEAD, DELETE",
            _ => "GET, HEAD",
        }
    }

    fn allows(&self, method: &Method) -> bool {
        let mut methods = self.methods().split(", ");
        methods.any(|allowed| allowed == method.as_str())
    }

    /// Returns whether it concerns clients, or what they receive. Only authorized requests are served.
    fn is_private(&self) -> bool {
        match self {
            Self::Health | Self::Ready | Self::Metrics => false,
            // The page itself contains nothing to protect.
            #[cfg(feature = "dashboard")]
            Self::Dashboard(_) => false,
            _ => true,
        }
    }
}

/// Decodes a segment of a path, which must not be empty.
fn decode(segment: &str) -> Option<String> {
    let decoded = percent_decode_str(segment).decode_utf8().ok()?;
    (!decoded.is_empty()).then(|| decoded.into_owned())
}

fn health(services: &Services, is_ready: bool) -> Response<Body> {
    let mut health = json!({
        "status": if is_ready { "ok" } else { "starting" },
        "sessions": services.sessions.len(),
        "holds": {
            "stream": services.holds.streams(),
            "response": services.holds.responses(),
        },
        "channels": services.channels.len(),
        "subscriptions": services.channels.subscriptions(),
    });
    if let Some(state) = bus_state(services) {
        health["bus"] = state.into();
    }
    json_response(&health)
}

/// Returns whether the bus works, if there is one.
fn bus_state(services: &Services) -> Option<&'static str> {
    let bus = services.bus.as_ref()?;
    Some(if bus.is_up() { "up" } else { "down" })
}

fn json_response(value: &Value) -> Response<Body> {
    response_with_type("application/json", value.to_string())
}

fn response_with_type(content_type: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(full(text));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Returns the response to a request that may succeed a second later.
fn unavailable(text: &str) -> Response<Body> {
    overload_response(
        StatusCode::SERVICE_UNAVAILABLE,
        text,
        Duration::from_secs(1),
    )
}

fn method_not_allowed(allowed: &'static str) -> Response<Body> {
    let text = format!("method not allowed: expected {allowed}");
    let mut response = text_response(StatusCode::METHOD_NOT_ALLOWED, &text);
    response
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use grip::{Item, Key};
    use spin_runtime::backend::{Backend, BackendError, ResponseFuture, ServedBy, empty};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        config::HostConfig,
        http::signer::Signer,
        metrics::close_reason::CloseReason,
        net::frame,
        pubsub::{filter::Filters, publication::Publication},
        state::sessions::SessionInfo,
        ws::outbox::Outbox,
    };

    const KEY: &str = "a key that is long enough for tokens";

    #[test]
    fn names_in_paths_are_decoded() {
        for (path, expected) in [
            ("/publish", Some(Route::Publish)),
            ("/publish/", Some(Route::Publish)),
            ("/publish/x", None),
            (
                "/channels/a%2Fb%20%C3%BC",
                Some(Route::Channel("a/b ü".to_owned())),
            ),
            ("/channels/a/b", None),
            ("/channels/", Some(Route::Channels)),
            ("/channels", Some(Route::Channels)),
            (
                "/channels/a%2Fb/events",
                Some(Route::Events {
                    channel: "a/b".to_owned(),
                }),
            ),
            ("/sessions/", Some(Route::Sessions)),
            (
                "/sessions/a/send",
                Some(Route::Session {
                    connection: "a".to_owned(),
                    operation: Operation::Send,
                }),
            ),
            (
                "/sessions/a",
                Some(Route::Session {
                    connection: "a".to_owned(),
                    operation: Operation::Close,
                }),
            ),
            ("/sessions/a/x", None),
            ("/sessions/a/", None),
            ("/status/", Some(Route::Status)),
            ("/log/", Some(Route::Log)),
            ("/channels/%FF", None),
            ("/presence/", Some(Route::Presence)),
            (
                "/users/a%40b/sessions",
                Some(Route::UserSessions {
                    user: "a@b".to_owned(),
                }),
            ),
            ("/users/a/sessions/", None),
            ("/users//sessions", None),
            ("/cache", Some(Route::Cache)),
            ("/cache/", Some(Route::Cache)),
            ("/cache/x", None),
            ("/metrics/", None),
            ("", None),
        ] {
            assert_eq!(Route::parse(path), expected, "{path}");
        }
    }

    /// Serves `/` by the component `page`.
    struct TestBackend;

    impl Backend for TestBackend {
        fn call(&self, request: Request<Body>) -> ResponseFuture<'_> {
            let path = request.uri().path().to_owned();
            Box::pin(async move {
                if path != "/" {
                    return Err(BackendError::NoRoute { path });
                }
                let mut response = Response::new(empty());
                response.extensions_mut().insert(ServedBy("page".into()));
                Ok(response)
            })
        }

        fn instances(&self) -> Vec<(Arc<str>, usize)> {
            vec![("page".into(), 3)]
        }
    }

    fn services() -> Services {
        let key = Key::parse(KEY).expect("valid key");
        let config = HostConfig::default();
        let drain = CancellationToken::new();
        Services::new(
            Arc::new(TestBackend),
            "own",
            Signer::new(key),
            &config,
            drain,
        )
    }

    fn item(id: Option<&str>) -> Publication {
        let item = Item::ws_text("c", "hello");
        let item = match id {
            Some(id) => item.with_id(id, None),
            None => item,
        };
        Publication::new(item).expect("valid item")
    }

    #[tokio::test]
    async fn metrics_count_what_happens() {
        let services = services();
        for path in ["/", "/", "/nowhere"] {
            let request = Request::get(path).body(empty()).expect("valid request");
            let _ = services.backend.call(request).await;
        }
        let outbox = Outbox::new(1000, 0, None);
        let _guard = services
            .sessions
            .register(outbox.clone(), SessionInfo::test());
        let channels = &services.channels;
        let _subscription = channels.subscribe("c", outbox.clone(), Filters::default());
        let _twice = channels.subscribe("c", outbox.clone(), Filters::default());
        for id in [None, Some("1"), Some("1")] {
            channels.publish(item(id)).await;
        }
        outbox.close(frame::close(frame::GOING_AWAY, ""), CloseReason::Shutdown);
        let metrics = &services.metrics;
        metrics.session_ended(CloseReason::Slow);
        metrics.publish(200, 3);
        metrics.timer("/tick", true);
        metrics.timer("/tick", false);
        metrics.received.add(1, 5);
        let text = metrics.text(&services.snapshot());
        for line in [
            "socket_host_build_info{version=\"0.1.0\"} 1",
            "socket_host_sessions{state=\"closing\"} 1",
            "socket_host_sessions{state=\"open\"} 0",
            "socket_host_channels 1",
            "socket_host_subscriptions 2",
            "socket_host_instances{component=\"page\"} 3",
            // Of three publications, one was a duplicate; each of the others had two subscribers.
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
            "socket_host_cache_requests_total{result=\"hit\"} 0",
            "socket_host_cache_requests_total{result=\"collapsed\"} 0",
            "socket_host_cache_evictions_total 0",
            "socket_host_cache_entries 0",
            "socket_host_cache_bytes 0",
            "socket_host_backend_requests_total{component=\"page\",status=\"200\"} 2",
            "socket_host_backend_requests_total{component=\"own\",status=\"no-route\"} 1",
            "socket_host_backend_seconds_count{component=\"page\"} 2",
            "# EOF",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "missing {line} in\n{text}"
            );
        }
    }
}
