//! Forwards plain requests to the backend, and holds those whose response asks for it.

use std::sync::Arc;

use http::{Request, Response, StatusCode, Version, header};
use spin_runtime::backend::{Body, Caller};

use crate::{
    cache::Forward,
    hold::{self, HeldClient, grip_response::GripResponse, replay::ReplayableRequest},
    http::{error_response::text_response, origin::Origin},
    metrics::registry::Dropped,
    net::connection::ConnectionHandle,
    state::Services,
};

/// Forwards a client's request to the backend and returns the response for the client, which may
/// be held. The cache gets the response of the backend, if there is one.
pub(crate) async fn forward(
    services: &Arc<Services>,
    request: Request<Body>,
    cache: Option<Forward>,
) -> Response<Body> {
    // An HTTP/2 connection carries other requests too, so it must not be closed for this one.
    let connection = if request.version() == Version::HTTP_2 {
        None
    } else {
        ConnectionHandle::of(&request)
    };
    // Backends hold only requests that a proxy with GRIP support has signed.
    let origin = Origin::of(&request, &services.allowed_origins);
    let address = match request.extensions().get() {
        Some(Caller::Client(client)) => client.limited_address,
        Some(Caller::Host) | None => None,
    };
    let (replayable, request) = ReplayableRequest::new(request, &services.signer);
    let mut response = match GripResponse::fetch(&*services.backend, request).await {
        Ok(response) => response,
        Err(mut error_response) => {
            if let Some(cache) = cache {
                cache.pass(&mut error_response);
            }
            return error_response;
        }
    };
    let mode = response.hold_mode();
    if let Some(cache) = cache {
        if response.instruct.is_none() {
            return cache.store(replayable.headers(), response.response);
        }
        // Before a hold, which other requests must not wait for.
        cache.pass(&mut response.response);
    }
    let Some(mode) = mode else {
        return response.response;
    };
    let headers = response.response.headers();
    if origin == Origin::Refused && !headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
        services.metrics.dropped(Dropped::Origin).inc();
        return text_response(
            StatusCode::FORBIDDEN,
            "held responses are not allowed for this origin",
        );
    }
    let client = HeldClient {
        address,
        connection,
    };
    let response = hold::hold(services, replayable, client, mode, response);
    // Boxed, because it is large and most requests do not need it.
    let mut response = Box::pin(response).await;
    if let Origin::Allowed(origin) = origin {
        origin.apply(response.headers_mut());
    }
    response
}
