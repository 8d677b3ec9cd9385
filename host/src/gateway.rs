//! The gateway: what every request from outside passes through.
//!
//! It keeps the outside from pretending to be the host, closes the private routes,
//! and tells WebSockets from plain requests.

use std::{net::SocketAddr, sync::Arc};

use grip::header::is_websocket_events;
use http::{Request, Response, StatusCode, Version, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::{answer::answer, exchange::remove_private_headers, handshake, hold, session::Services};
use runtime::{
    backend::{Body, Caller},
    router::Private,
};

/// See the module's words.
pub struct Gateway {
    services: Arc<Services>,
    private: Private,
}

impl Gateway {
    /// A gateway that answers 404 for `private` routes.
    pub fn new(services: Arc<Services>, private: Private) -> Self {
        Self { services, private }
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
        if handshake::is_upgrade(&request) {
            return handshake::open(&self.services, request, client).await;
        }
        request.extensions_mut().insert(Caller::Client(client));
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        hold::serve(&self.services, request).await
    }
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
