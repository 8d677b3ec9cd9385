//! The control port: components publish to it, and it reports the health of the host.

use std::{
    error::Error as _,
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
};

use anyhow::{Result, bail};
use grip::{Item, publish};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use prometheus_client::metrics::gauge::Gauge;
use serde_json::{Value, json};
use spin_runtime::backend::{Body, full};
use tokio::task::JoinError;
use tracing::{error, field, warn};

use crate::{
    bus::Bus,
    config::Limits,
    http::{
        error_response::{refusal_response, text_response},
        signer::Signer,
        validate::{Refusal, check_message},
    },
    metrics::registry::CONTENT_TYPE,
    net::{
        connections::Connections,
        listener::{Listener, RefusalCounters},
    },
    options::HostOptions,
    pubsub::{
        channels::Channels,
        publication::{InvalidItem, Publication},
    },
    shutdown::Shutdown,
    state::Services,
};

/// The largest body of a publish request, in bytes.
const MAX_PUBLISH_BYTES: usize = Limits::DEFAULT.max_publish_bytes;

/// Serves the control port.
pub(crate) struct Control {
    /// Not set while the host starts.
    services: OnceLock<Arc<Services>>,
    /// Publishing requires a token that is signed with the host's key.
    requires_token: bool,
    /// The names, besides `localhost`, by which requests may address the control port.
    names: Vec<String>,
    connections: Arc<Connections>,
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
        if !address.ip().is_loopback() && !has_key {
            bail!(
                "--control {address} is not on loopback: set a key with --grip-key or SOCKET_HOST_GRIP_KEY"
            );
        }
        let is_secure = !options.control_tls.is_empty() || options.insecure_control;
        if !address.ip().is_loopback() && !is_secure {
            bail!(
                "--control {address} is not on loopback: set a certificate with --control-tls-cert \
                 and --control-tls-key, or allow plain HTTP with --insecure-control"
            );
        }
        Ok(Arc::new(Self {
            services: OnceLock::new(),
            requires_token: has_key,
            names: options.control_names.clone(),
            connections: Connections::new(Gauge::default(), max_connections),
            shutdown: shutdown.clone(),
        }))
    }

    /// Accepts publish requests and reports readiness from now on.
    pub(crate) fn set_ready(&self, services: Arc<Services>) {
        // Set only once, when the host has started.
        let _ = self.services.set(services);
    }

    /// Serves requests until the host aborts: components publish until they have ended.
    pub(crate) async fn serve(self: Arc<Self>, listener: Listener) {
        let abort = self.shutdown.abort.clone();
        let connections = self.connections.clone();
        let handler = move |request, _| {
            let control = self.clone();
            async move { control.handle(request).await }
        };
        listener
            .serve(
                Arc::new(handler),
                connections,
                RefusalCounters::default(),
                abort,
            )
            .await;
    }

    async fn handle(&self, request: Request<Incoming>) -> Response<Body> {
        if let Err(refusal) = check_message(&request) {
            return refusal_response(refusal);
        }
        let (path, method) = (request.uri().path(), request.method());
        match path {
            "/publish" | "/publish/" if method != Method::POST => {
                return method_not_allowed("POST");
            }
            "/healthz" | "/readyz" | "/metrics"
                if method != Method::GET && method != Method::HEAD =>
            {
                return method_not_allowed("GET, HEAD");
            }
            "/publish" | "/publish/" | "/healthz" | "/readyz" | "/metrics" => {}
            _ => {
                return text_response(
                    StatusCode::NOT_FOUND,
                    "not found: the control port serves POST /publish/, GET /healthz, GET /readyz \
                     and GET /metrics",
                );
            }
        }
        // Browsers need a token to publish, and readiness contains nothing to protect.
        if matches!(path, "/healthz" | "/metrics")
            && let Err(refusal) = self.check_host(&request)
        {
            return refusal_response(refusal);
        }
        let Some(services) = self.services.get() else {
            return if path == "/healthz" {
                json_response(&json!({ "status": "starting" }))
            } else {
                text_response(StatusCode::SERVICE_UNAVAILABLE, "starting")
            };
        };
        match path {
            "/healthz" => health(services),
            "/readyz" if self.shutdown.drain.is_cancelled() => {
                text_response(StatusCode::SERVICE_UNAVAILABLE, "stopping")
            }
            // Also without the bus: clients stay connected, and all hosts would be unready at once.
            "/readyz" => match bus_state(services) {
                Some(state) => text_response(StatusCode::OK, &format!("ready, bus: {state}")),
                None => text_response(StatusCode::OK, "ready"),
            },
            "/metrics" => {
                let text = services.metrics.text(&services.snapshot());
                response_with_type(CONTENT_TYPE, text)
            }
            _ => {
                let (response, items) = self.publish(services, request).await;
                let status = response.status().as_u16();
                services.metrics.publish(status, items);
                response
            }
        }
    }

    /// Publishes the items of a request, and returns their number.
    async fn publish(
        &self,
        services: &Services,
        request: Request<Incoming>,
    ) -> (Response<Body>, usize) {
        let items = match self.read_items(services, request).await {
            Ok(items) => items,
            Err(refusal) => return (*refusal, 0),
        };
        let count = items.len();
        let published = match &services.bus {
            Some(bus) => publish_on_bus(bus, items).await,
            None => publish_here(&services.channels, items).await,
        };
        match published {
            Ok(()) => (text_response(StatusCode::OK, "Published"), count),
            Err(refusal) => (*refusal, 0),
        }
    }

    async fn read_items(
        &self,
        services: &Services,
        request: Request<Incoming>,
    ) -> Result<Vec<Item>, Box<Response<Body>>> {
        let refuse = |status, text: &str| Box::new(text_response(status, text));
        if let Err(reason) = self.authorize(&services.signer, request.headers()) {
            let mut refusal = refuse(StatusCode::UNAUTHORIZED, &reason);
            let scheme = HeaderValue::from_static("Bearer");
            refusal
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, scheme);
            return Err(refusal);
        }
        let body = Limited::new(request.into_body(), MAX_PUBLISH_BYTES);
        let body = body.collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                refuse(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    &format!("the body is too large: expected at most {MAX_PUBLISH_BYTES} bytes"),
                )
            } else {
                let text = format!("the body ended early: {error}");
                refuse(StatusCode::BAD_REQUEST, &text)
            }
        })?;
        publish::parse(&body.to_bytes())
            .map_err(|error| refuse(StatusCode::BAD_REQUEST, &error.to_string()))
    }

    /// Checks that a request may publish.
    ///
    /// Browsers need a token even on loopback, where a page of any origin can send a POST. A token
    /// that is sent must be valid, whether it is required or not.
    fn authorize(&self, signer: &Signer, headers: &HeaderMap) -> Result<(), String> {
        let token = headers.get(header::AUTHORIZATION).map(|value| {
            value
                .to_str()
                .ok()
                .and_then(|value| value.split_once(' '))
                .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
                .map_or("", |(_, token)| token)
        });
        let is_browser =
            headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site");
        match token {
            Some(token) => signer
                .verify(token.trim())
                .map_err(|error| format!("invalid token: {error}")),
            None if self.requires_token || is_browser => Err(
                "missing token: expected `Authorization: Bearer` with a token that is signed with \
                 the host's key"
                    .to_owned(),
            ),
            None => Ok(()),
        }
    }

    /// Checks that a request names this host. A page of another site could otherwise make its own
    /// name resolve to this address, and read the responses (DNS rebinding). An address cannot be
    /// used for that.
    fn check_host<B>(&self, request: &Request<B>) -> Result<(), Refusal> {
        let header = request.headers().get(header::HOST);
        let host = match (request.uri().host(), header) {
            (Some(host), _) => host,
            (None, Some(header)) => without_port(header.to_str().unwrap_or_default()),
            // HTTP/1.0, which browsers do not use.
            (None, None) => return Ok(()),
        };
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let address = host.trim_start_matches('[').trim_end_matches(']');
        let is_own = address.parse::<IpAddr>().is_ok()
            || host == "localhost"
            || host.ends_with(".localhost")
            || self
                .names
                .iter()
                .any(|name| name.eq_ignore_ascii_case(&host));
        if is_own {
            Ok(())
        } else {
            Err(Refusal(
                StatusCode::MISDIRECTED_REQUEST,
                "unknown host: expected an address, localhost, or a name set with --control-host",
            ))
        }
    }
}

/// Publishes items to the clients of this host.
async fn publish_here(channels: &Channels, items: Vec<Item>) -> Result<(), Box<Response<Body>>> {
    let publications = items.into_iter().map(Publication::new);
    let publications: Vec<_> = publications
        .collect::<Result<_, _>>()
        .map_err(invalid_item)?;
    // A task, which completes even if the publisher disconnects: an item must not reach only some of
    // its subscribers.
    let channels = channels.clone();
    let published = tokio::spawn(async move {
        let mut publications = publications.into_iter().peekable();
        while let Some(publication) = publications.next() {
            let channel = publication.channel.clone();
            channels.publish(publication).await;
            // A subscriber of both channels receives the items in their order.
            if publications
                .peek()
                .is_some_and(|next| next.channel != channel)
            {
                channels.wait_delivered(&channel).await;
            }
        }
    });
    published.await.map_err(publish_failed)
}

/// Publishes items to the clients of all hosts.
async fn publish_on_bus(bus: &Arc<Bus>, items: Vec<Item>) -> Result<(), Box<Response<Body>>> {
    for item in &items {
        Publication::new(item.clone()).map_err(invalid_item)?;
    }
    // A task, which completes even if the publisher disconnects.
    let bus = bus.clone();
    let published = tokio::spawn(async move { bus.publish(&items).await });
    let published = published.await.map_err(publish_failed)?;
    published.map_err(|error| {
        let cause = error.source().map(field::display);
        warn!(%error, cause, "publish failed");
        let text = format!("{error}: publish the same items again later");
        let mut refusal = text_response(StatusCode::SERVICE_UNAVAILABLE, &text);
        let headers = refusal.headers_mut();
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        Box::new(refusal)
    })
}

fn invalid_item(error: InvalidItem) -> Box<Response<Body>> {
    Box::new(text_response(StatusCode::BAD_REQUEST, &error.to_string()))
}

fn publish_failed(error: JoinError) -> Box<Response<Body>> {
    error!(%error, "publish failed");
    Box::new(text_response(
        StatusCode::INTERNAL_SERVER_ERROR,
        "publish failed",
    ))
}

/// Returns a valid `Host` header without its port.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    }
}

fn health(services: &Services) -> Response<Body> {
    let mut health = json!({
        "status": "ok",
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
    use crate::config::HostConfig;
    use grip::{Item, Key, signature::sign};
    use spin_runtime::backend::{Backend, BackendError, ResponseFuture, ServedBy, empty};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        metrics::close_reason::CloseReason, net::frame, pubsub::filter::Filters, ws::outbox::Outbox,
    };

    const KEY: &str = "a key that is long enough for tokens";

    fn control(requires_token: bool) -> Control {
        Control {
            services: OnceLock::new(),
            requires_token,
            names: vec!["Control.example".to_owned()],
            connections: Connections::new(Gauge::default(), 10),
            shutdown: Shutdown::default(),
        }
    }

    #[test]
    fn refusals_name_what_is_wrong_with_a_token() {
        let signer = Signer::new(Key::parse(KEY).expect("valid key"));
        let refusal = |token: &str| {
            let mut headers = HeaderMap::new();
            let value = HeaderValue::from_str(&format!("Bearer {token}")).expect("valid value");
            headers.insert(header::AUTHORIZATION, value);
            control(true).authorize(&signer, &headers).expect_err(token)
        };
        let now = std::time::SystemTime::now();
        let hour = std::time::Duration::from_secs(3600);
        let other_key = Key::parse("another key").expect("valid key");
        let key = Key::parse(KEY).expect("valid key");
        for (token, problem) in [
            (sign(&other_key, "a", now, hour), "signature"),
            (sign(&key, "a", now - 2 * hour, hour), "expired"),
            ("no.token".to_owned(), "JWT"),
        ] {
            assert!(refusal(&token).contains(problem), "{}", refusal(&token));
        }
        let missing = control(true).authorize(&signer, &HeaderMap::new());
        assert!(missing.is_err_and(|text| text.contains("missing token")));
    }

    #[test]
    fn the_host_must_be_this_one() {
        let control = control(false);
        let check = |host: &str| {
            let request = Request::get("/metrics").header(header::HOST, host).body(());
            control.check_host(&request.expect("valid request")).is_ok()
        };
        for own in [
            "127.0.0.1",
            "127.0.0.1:5561",
            "10.0.0.7:5561",
            "[::1]",
            "[::1]:5561",
            "localhost",
            "LocalHost:5561",
            "localhost.",
            "app.localhost:1",
            "control.example:5561",
        ] {
            assert!(check(own), "{own}");
        }
        for other in [
            "",
            "evil.example",
            "evil.example:5561",
            "notlocalhost",
            "1.2.3.4.example",
        ] {
            assert!(!check(other), "{other}");
        }
        let absolute = Request::get("http://evil.example/metrics").body(());
        assert!(
            control
                .check_host(&absolute.expect("valid request"))
                .is_err()
        );
    }

    #[test]
    fn tokens_are_required_where_configured_and_from_browsers() {
        let signer = Signer::new(Key::parse(KEY).expect("valid key"));
        let token = signer.token();
        let token = token.to_str().expect("valid token");
        let is_authorized = |requires_token, name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_str(value).expect("valid value"));
            control(requires_token).authorize(&signer, &headers).is_ok()
        };
        for required in [true, false] {
            for valid in [
                format!("Bearer {token}"),
                format!("bearer  {token}"),
                format!("Bearer {KEY}"),
            ] {
                assert!(is_authorized(required, "authorization", &valid));
            }
            for invalid in ["Bearer", "Bearer ", "Bearer x", "Basic eDp5", KEY, token] {
                assert!(
                    !is_authorized(required, "authorization", invalid),
                    "{invalid}"
                );
            }
            assert!(!is_authorized(required, "origin", "http://localhost:3000"));
            assert!(!is_authorized(required, "sec-fetch-site", "same-site"));
        }
        assert!(is_authorized(false, "x-other", "") && !is_authorized(true, "x-other", ""));
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
        let _guard = services.sessions.register(outbox.clone());
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
