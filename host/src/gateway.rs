//! The gateway: what every request from outside passes through.
//!
//! It keeps the outside from pretending to be the host, closes the private routes,
//! and tells WebSockets from plain requests.

use std::{net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use grip::header::is_websocket_events;
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Version, header,
    uri::{Authority, Scheme},
};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::{
    dev::reload::Reload,
    http::{
        error_response::{answer, failure},
        headers::remove_private_headers,
    },
    metrics::backend::metered,
    proxy,
    state::Services,
    upstream::{
        passthrough::Passthrough,
        tunnel::{self, Tunnels},
    },
    ws::handshake,
};
use spin_runtime::{
    backend::{Backend, Body, Caller},
    router::{Private, Routes, climbs},
};

/// See the module's words.
pub(crate) struct Gateway {
    rules: ArcSwap<Rules>,
    tunnels: Arc<Tunnels>,
    /// With `--watch`.
    reload: Option<Arc<Reload>>,
}

/// What an application's manifest says about requests from outside.
#[derive(Clone)]
pub(crate) struct Rules {
    /// Where requests go, and what bounds the sessions that begin.
    pub(crate) services: Arc<Services>,
    /// The routes that are 404.
    pub(crate) private: Private,
    /// The routes whose upgrades are tunnelled.
    pub(crate) passthroughs: Arc<Routes<Passthrough>>,
}

impl Gateway {
    /// A gateway with these rules; `reload` goes into pages where there is one.
    pub(crate) fn new(rules: Rules, tunnels: Arc<Tunnels>, reload: Option<Arc<Reload>>) -> Self {
        Self {
            rules: ArcSwap::from_pointee(rules),
            tunnels,
            reload,
        }
    }

    /// Has other rules for the requests that come from now on.
    pub(crate) fn exchange(&self, rules: Rules) {
        self.rules.store(Arc::new(rules));
    }

    /// Answers one request of a client.
    pub(crate) async fn handle(
        &self,
        mut request: Request<Incoming>,
        client: SocketAddr,
    ) -> Response<Body> {
        if let Err(refusal) = check(&request) {
            return *refusal;
        }
        // Before everything of the application, whose routes may be any.
        let own = self.reload.as_ref();
        if let Some(answer) = own.and_then(|reload| reload.handle(&request)) {
            return answer;
        }
        let rules = self.rules.load_full();
        if rules.private.matches(request.uri().path()) {
            return answer(StatusCode::NOT_FOUND, "there is nothing here");
        }
        remove_private_headers(request.headers_mut());
        request.extensions_mut().insert(Caller::Client(client));
        if let Some(passthrough) = rules.passthroughs.find(request.uri().path()) {
            if let Some(protocols) = tunnel::protocols(&request) {
                let upstream = &passthrough.upstream;
                return self
                    .tunnels
                    .open(upstream, boxed(request), &protocols)
                    .await;
            }
            // Not signed: the key is shared with the application, and this is another server.
            if passthrough.own {
                let upstream = &passthrough.upstream;
                let answer = upstream.call(boxed(request));
                let answer = metered(answer, &rules.services.metrics, upstream.name()).await;
                return answer.unwrap_or_else(|error| failure(&error));
            }
        }
        if handshake::is_upgrade(&request) {
            return handshake::open(&rules.services, request, client).await;
        }
        let script = own.and_then(|reload| reload.prepare(&mut request));
        let response = proxy::forward(&rules.services, boxed(request)).await;
        match script {
            Some(script) => script.inject(response),
            None => response,
        }
    }
}

fn boxed(request: Request<Incoming>) -> Request<Body> {
    request.map(|body| body.map_err(Into::into).boxed_unsync())
}

/// Refuses what must not reach a component.
fn check<B>(request: &Request<B>) -> Result<(), Box<Response<Body>>> {
    let refuse = |status, text: &str| Err(Box::new(answer(status, text)));
    if let Some(problem) = problem_of_host(request) {
        return refuse(StatusCode::BAD_REQUEST, problem);
    }
    if request.method() == Method::CONNECT {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "this is no forward proxy");
    }
    // Behind the path of an upstream it would lead to what is not served here.
    if climbs(request.uri().path()) {
        return refuse(StatusCode::BAD_REQUEST, "the path leads above its root");
    }
    let claims_events = request
        .headers()
        .get_all(header::CONTENT_TYPE)
        .iter()
        .any(|value| is_websocket_events(&String::from_utf8_lossy(value.as_bytes())));
    if claims_events {
        return refuse(
            StatusCode::FORBIDDEN,
            "WebSocket events come from the host alone",
        );
    }
    Ok(())
}

/// What is wrong with the names of the host that a request is for (RFC 9112, 3.2; RFC 9113,
/// 8.3.1): of two that differ, the host and a component may each take another.
fn problem_of_host<B>(request: &Request<B>) -> Option<&'static str> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Some("there is more than one Host header");
    }
    match (host, request.uri().authority()) {
        (Some(host), Some(authority)) => (!is_same(host, authority, request.uri().scheme()))
            .then_some("the Host header and the address that is asked for differ"),
        // HTTP/2 has the host in the URI.
        (None, _) if request.version() == Version::HTTP_11 => Some("the Host header is missing"),
        _ => None,
    }
}

/// Whether a `Host` is the authority of a URI, whose scheme says which port needs no naming.
fn is_same(host: &HeaderValue, authority: &Authority, scheme: Option<&Scheme>) -> bool {
    let default = match scheme {
        Some(scheme) if *scheme == Scheme::HTTPS => 443,
        _ => 80,
    };
    let Ok(named) = Authority::try_from(host.as_bytes()) else {
        return false;
    };
    let port = |authority: &Authority| authority.port_u16().unwrap_or(default);
    named.host().eq_ignore_ascii_case(authority.host())
        && port(&named) == port(authority)
        && !named.as_str().contains('@')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(uri: &str, version: Version, hosts: &[&str]) -> Option<u16> {
        let mut request = Request::get(uri).version(version);
        for host in hosts {
            request = request.header(header::HOST, *host);
        }
        let checked = check(&request.body(()).expect("a request"));
        checked.err().map(|refusal| refusal.status().as_u16())
    }

    #[test]
    fn one_host_is_named_and_no_other() {
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
    fn no_path_leads_above_its_root() {
        for path in ["/../app/internal", "/%2e%2e/app", "/a/..%2f../app"] {
            assert_eq!(refusal(path, Version::HTTP_11, &["a"]), Some(400), "{path}");
        }
        for path in ["/", "/a/../b", "/.well-known/x"] {
            assert_eq!(refusal(path, Version::HTTP_11, &["a"]), None, "{path}");
        }
    }
}
