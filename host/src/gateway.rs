//! The gateway: checks each request of a client and decides what handles it.
//!
//! A request is passed through to another server, opens a WebSocket, or is forwarded to the
//! backend. Before that, the gateway removes headers by which a client could impersonate the host,
//! and hides the private routes.

use std::{net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use grip::header::is_websocket_events;
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Version, header,
    uri::{Authority, Scheme},
};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use spin_runtime::{
    PrivateRoutes, Routes,
    backend::{Backend as _, Body, Caller},
    escapes_root,
};
use tracing::{Instrument as _, debug_span};

use crate::{
    dev::reload::Reload,
    http::{
        error_response::{backend_error_response, text_response},
        headers::remove_private_headers,
    },
    metrics::backend::metered,
    net::listener::Listener,
    proxy,
    shutdown::Shutdown,
    state::Services,
    upstream::{
        passthrough::PassthroughRoute,
        tunnel::{self, Tunnels},
    },
    ws::handshake,
};

/// Handles the requests of clients.
pub(crate) struct Gateway {
    rules: ArcSwap<Rules>,
    tunnels: Arc<Tunnels>,
    /// Injects the reload script into pages; only with `--watch`.
    reload: Option<Arc<Reload>>,
    shutdown: Shutdown,
}

/// How requests of clients are handled. A reload replaces it.
#[derive(Clone)]
pub(crate) struct Rules {
    /// The backend, and the limits of new sessions.
    pub(crate) services: Arc<Services>,
    /// Routes that get 404.
    pub(crate) private: PrivateRoutes,
    /// Routes whose upgrades are tunneled.
    pub(crate) passthroughs: Arc<Routes<PassthroughRoute>>,
}

impl Rules {
    /// Returns rules without private routes and passthroughs.
    pub(crate) fn none(services: Arc<Services>) -> anyhow::Result<Self> {
        Ok(Self {
            services,
            private: PrivateRoutes::default(),
            passthroughs: Arc::new(Routes::new([])?),
        })
    }
}

impl Gateway {
    /// Creates a gateway. `reload` injects its script into pages.
    pub(crate) fn new(
        rules: Rules,
        tunnels: Arc<Tunnels>,
        reload: Option<Arc<Reload>>,
        shutdown: Shutdown,
    ) -> Self {
        Self {
            rules: ArcSwap::from_pointee(rules),
            tunnels,
            reload,
            shutdown,
        }
    }

    /// Returns the current rules.
    pub(crate) fn rules(&self) -> Arc<Rules> {
        self.rules.load_full()
    }

    /// Replaces the rules for the requests that follow.
    pub(crate) fn set_rules(&self, rules: Rules) {
        self.rules.store(Arc::new(rules));
    }

    /// Serves the public port until the host drains.
    pub(crate) async fn serve(self: Arc<Self>, listener: Listener) {
        let connections = self.rules().services.metrics.connections.clone();
        let drain = self.shutdown.drain.clone();
        let reload = self.reload.clone();
        let handler = move |request: Request<Incoming>, client| {
            let span =
                debug_span!("request", method = %request.method(), path = request.uri().path());
            let gateway = self.clone();
            async move { gateway.handle(request, client).await }.instrument(span)
        };
        listener.serve(Arc::new(handler), connections, drain).await;
        if let Some(reload) = reload {
            reload.closed().await;
        }
    }

    /// Handles one request of a client.
    async fn handle(&self, mut request: Request<Incoming>, client: SocketAddr) -> Response<Body> {
        if let Err(refusal) = reject_invalid(&request) {
            return *refusal;
        }
        // The reload endpoint takes precedence over the routes of the application.
        let reload = self.reload.as_ref();
        if let Some(response) = reload.and_then(|reload| reload.handle(&mut request)) {
            return response;
        }
        let rules = self.rules();
        if rules.private.matches(request.uri().path()) {
            return text_response(StatusCode::NOT_FOUND, "not found");
        }
        remove_private_headers(request.headers_mut());
        request.extensions_mut().insert(Caller::Client(client));
        if let Some(passthrough) = rules.passthroughs.find(request.uri().path()) {
            let upstream = &passthrough.upstream;
            if let Some(protocols) = tunnel::requested_protocols(&request) {
                let request = request.map(boxed);
                return self.tunnels.open(upstream, request, &protocols).await;
            }
            // Not signed: the key is shared with the application, and this is another server.
            if passthrough.forwards_plain_requests {
                let response = upstream.call(request.map(boxed));
                let metrics = &rules.services.metrics;
                let response = metered(response, metrics, upstream.name()).await;
                return response.unwrap_or_else(|error| backend_error_response(&error));
            }
        }
        if handshake::is_upgrade(&request) {
            return handshake::open(&rules.services, request, client).await;
        }
        let script = reload.and_then(|reload| reload.prepare(&mut request));
        let response = proxy::forward(&rules.services, request.map(boxed)).await;
        match script {
            Some(script) => script.inject(response),
            None => response,
        }
    }
}

fn boxed(body: Incoming) -> Body {
    body.map_err(Into::into).boxed_unsync()
}

/// Refuses requests that must not reach a backend.
fn reject_invalid<B>(request: &Request<B>) -> Result<(), Box<Response<Body>>> {
    let refuse = |status, text: &str| Err(Box::new(text_response(status, text)));
    if let Some(problem) = host_problem(request) {
        return refuse(StatusCode::BAD_REQUEST, problem);
    }
    if request.method() == Method::CONNECT {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "CONNECT is not supported");
    }
    // Appended to the path of an upstream, it would reach what this host does not serve.
    if escapes_root(request.uri().path()) {
        return refuse(StatusCode::BAD_REQUEST, "the path escapes the root");
    }
    let claims_events = request
        .headers()
        .get_all(header::CONTENT_TYPE)
        .iter()
        .any(|value| is_websocket_events(&String::from_utf8_lossy(value.as_bytes())));
    if claims_events {
        return refuse(
            StatusCode::FORBIDDEN,
            "only the host may send WebSocket events",
        );
    }
    Ok(())
}

/// Returns what is wrong with the host that a request names (RFC 9112, section 3.2; RFC 9113,
/// section 8.3.1). If the two differ, the host and a component could pick different ones.
fn host_problem<B>(request: &Request<B>) -> Option<&'static str> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Some("more than one Host header");
    }
    match (host, request.uri().authority()) {
        (Some(host), Some(authority)) => (!is_same_host(host, authority, request.uri().scheme()))
            .then_some("the Host header differs from the request target"),
        // HTTP/2 has the host in the URI.
        (None, _) if request.version() == Version::HTTP_11 => Some("the Host header is missing"),
        _ => None,
    }
}

/// Returns whether a `Host` header names the authority of a URI. The scheme determines which port
/// may be omitted.
fn is_same_host(host: &HeaderValue, authority: &Authority, scheme: Option<&Scheme>) -> bool {
    let default_port = match scheme {
        Some(scheme) if *scheme == Scheme::HTTPS => 443,
        _ => 80,
    };
    let Ok(host) = Authority::try_from(host.as_bytes()) else {
        return false;
    };
    let port = |authority: &Authority| authority.port_u16().unwrap_or(default_port);
    host.host().eq_ignore_ascii_case(authority.host())
        && port(&host) == port(authority)
        && !host.as_str().contains('@')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(uri: &str, version: Version, hosts: &[&str]) -> Option<u16> {
        let mut request = Request::get(uri).version(version);
        for host in hosts {
            request = request.header(header::HOST, *host);
        }
        let checked = reject_invalid(&request.body(()).expect("valid request"));
        checked.err().map(|refusal| refusal.status().as_u16())
    }

    #[test]
    fn exactly_one_host_is_accepted() {
        for (uri, version, hosts) in [
            ("/", Version::HTTP_11, &["burger.example"][..]),
            ("/", Version::HTTP_11, &[""]),
            ("/", Version::HTTP_10, &[]),
            (
                "http://burger.example/",
                Version::HTTP_11,
                &["Burger.Example"],
            ),
            (
                "http://burger.example/",
                Version::HTTP_11,
                &["burger.example:80"],
            ),
            (
                "http://burger.example:80/",
                Version::HTTP_2,
                &["burger.example"],
            ),
            (
                "https://burger.example/",
                Version::HTTP_2,
                &["burger.example:443"],
            ),
            ("http://[::1]:3000/", Version::HTTP_2, &["[::1]:3000"]),
            ("http://burger.example/", Version::HTTP_2, &[]),
        ] {
            assert_eq!(refusal(uri, version, hosts), None, "{uri} {hosts:?}");
        }
        for (uri, version, hosts) in [
            ("/", Version::HTTP_11, &[][..]),
            ("http://burger.example/", Version::HTTP_11, &[]),
            ("/", Version::HTTP_11, &["a", "b"]),
            ("/", Version::HTTP_11, &["a", "a"]),
            ("/", Version::HTTP_10, &["a", "a"]),
            ("http://a/", Version::HTTP_2, &["a", "a"]),
            (
                "http://burger.example/",
                Version::HTTP_11,
                &["evil.example"],
            ),
            ("http://burger.example/", Version::HTTP_2, &["evil.example"]),
            (
                "http://burger.example/",
                Version::HTTP_2,
                &["burger.example:81"],
            ),
            (
                "https://burger.example/",
                Version::HTTP_2,
                &["burger.example:80"],
            ),
            (
                "http://burger.example/",
                Version::HTTP_11,
                &["x@burger.example"],
            ),
            ("http://burger.example/", Version::HTTP_11, &[""]),
            ("http://burger.example/", Version::HTTP_11, &["a b"]),
        ] {
            assert_eq!(refusal(uri, version, hosts), Some(400), "{uri} {hosts:?}");
        }
    }

    #[test]
    fn paths_that_escape_the_root_are_refused() {
        for path in ["/../app/internal", "/%2e%2e/app", "/a/..%2f../app"] {
            assert_eq!(refusal(path, Version::HTTP_11, &["a"]), Some(400), "{path}");
        }
        for path in ["/", "/a/../b", "/.well-known/x"] {
            assert_eq!(refusal(path, Version::HTTP_11, &["a"]), None, "{path}");
        }
    }
}
