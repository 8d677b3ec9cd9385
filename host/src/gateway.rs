//! The gateway: what every request from outside passes through.
//!
//! It keeps the outside from pretending to be the host, closes the private routes,
//! and tells WebSockets from plain requests.

use std::{net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use grip::header::is_websocket_events;
use http::{Method, Request, Response, StatusCode, Version, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::{
    answer::{answer, failure},
    exchange::remove_private_headers,
    handshake, hold,
    passthrough::Passthrough,
    reload::Reload,
    services::Services,
    tunnel::{self, Tunnels},
};
use runtime::{
    backend::{Backend, Body, Caller},
    router::{Private, Routes},
};

/// See the module's words.
pub struct Gateway {
    rules: ArcSwap<Rules>,
    tunnels: Arc<Tunnels>,
    /// With `--watch`.
    reload: Option<Arc<Reload>>,
}

/// What an application's manifest says about requests from outside.
#[derive(Clone)]
pub struct Rules {
    /// Where requests go, and what bounds the sessions that begin.
    pub services: Arc<Services>,
    /// The routes that are 404.
    pub private: Private,
    /// The routes whose upgrades are tunnelled.
    pub passthroughs: Arc<Routes<Passthrough>>,
}

impl Gateway {
    /// A gateway with these rules; `reload` goes into pages where there is one.
    pub fn new(rules: Rules, tunnels: Arc<Tunnels>, reload: Option<Arc<Reload>>) -> Self {
        Self {
            rules: ArcSwap::from_pointee(rules),
            tunnels,
            reload,
        }
    }

    /// Has other rules for the requests that come from now on.
    pub fn exchange(&self, rules: Rules) {
        self.rules.store(Arc::new(rules));
    }

    /// Answers one request of a client.
    pub async fn handle(
        &self,
        mut request: Request<Incoming>,
        client: SocketAddr,
    ) -> Response<Body> {
        if let Err(refusal) = check(&request) {
            return *refusal;
        }
        // Before everything of the application, whose routes may be any.
        let own = self.reload.as_ref();
        if let Some(answer) = own.and_then(|reload| reload.answer(&request)) {
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
                return call(&*passthrough.upstream, boxed(request)).await;
            }
        }
        if handshake::is_upgrade(&request) {
            return handshake::open(&rules.services, request, client).await;
        }
        let page = own.and_then(|reload| reload.page(&mut request));
        // Signed there: backends answer with a hold only where somebody can hold it.
        let response = hold::serve(&rules.services, boxed(request)).await;
        match page {
            Some(page) => page.inject(response),
            None => response,
        }
    }
}

async fn call(backend: &dyn Backend, request: Request<Body>) -> Response<Body> {
    match backend.call(request).await {
        Ok(response) => response,
        Err(error) => failure(&error),
    }
}

fn boxed(request: Request<Incoming>) -> Request<Body> {
    request.map(|body| body.map_err(Into::into).boxed_unsync())
}

/// Refuses what must not reach a component.
fn check(request: &Request<Incoming>) -> Result<(), Box<Response<Body>>> {
    let headers = request.headers();
    // HTTP/2 has the host in the URI.
    if !headers.contains_key(header::HOST)
        && request.uri().host().is_none()
        && request.version() == Version::HTTP_11
    {
        return Err(Box::new(answer(
            StatusCode::BAD_REQUEST,
            "the Host header is missing",
        )));
    }
    if request.method() == Method::CONNECT {
        return Err(Box::new(answer(
            StatusCode::METHOD_NOT_ALLOWED,
            "this is no forward proxy",
        )));
    }
    let claims_events = headers
        .get_all(header::CONTENT_TYPE)
        .iter()
        .any(|value| is_websocket_events(&String::from_utf8_lossy(value.as_bytes())));
    if claims_events {
        return Err(Box::new(answer(
            StatusCode::FORBIDDEN,
            "WebSocket events come from the host alone",
        )));
    }
    Ok(())
}
