//! The gateway: what every request from outside passes through.
//!
//! It keeps the outside from pretending to be the host, closes the private routes,
//! and tells WebSockets from plain requests.

use std::{net::SocketAddr, sync::Arc};

use grip::header::is_websocket_events;
use http::{Method, Request, Response, StatusCode, Version, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::{
    answer::{answer, failure},
    exchange::remove_private_headers,
    handshake, hold,
    passthrough::Passthrough,
    session::Services,
    tunnel::{self, Tunnels},
};
use runtime::{
    backend::{Backend, Body, Caller},
    router::{Private, Routes},
};

/// See the module's words.
pub struct Gateway {
    services: Arc<Services>,
    private: Private,
    passthroughs: Routes<Passthrough>,
    tunnels: Arc<Tunnels>,
}

impl Gateway {
    /// A gateway that answers 404 for `private` routes, and tunnels the upgrades of
    /// `passthroughs`.
    pub fn new(
        services: Arc<Services>,
        private: Private,
        passthroughs: Routes<Passthrough>,
        tunnels: Arc<Tunnels>,
    ) -> Self {
        Self {
            services,
            private,
            passthroughs,
            tunnels,
        }
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
        if self.private.matches(request.uri().path()) {
            return answer(StatusCode::NOT_FOUND, "there is nothing here");
        }
        remove_private_headers(request.headers_mut());
        request.extensions_mut().insert(Caller::Client(client));
        if let Some(passthrough) = self.passthroughs.find(request.uri().path()) {
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
            return handshake::open(&self.services, request, client).await;
        }
        // Signed there: backends answer with a hold only where somebody can hold it.
        hold::serve(&self.services, boxed(request)).await
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
