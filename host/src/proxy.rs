//! Forwards plain requests to the backend, and holds those whose response asks for it.

use std::sync::Arc;

use http::{Request, Response, Version};
use spin_runtime::backend::Body;

use crate::{
    hold::{self, grip_response::GripResponse, replay::ReplayableRequest},
    net::connection::ConnectionHandle,
    state::Services,
};

/// Forwards a client's request to the backend and returns the response for the client, which may
/// be held.
pub(crate) async fn forward(services: &Arc<Services>, request: Request<Body>) -> Response<Body> {
    // An HTTP/2 connection carries other requests too, so it must not be closed for this one.
    let connection = if request.version() == Version::HTTP_2 {
        None
    } else {
        ConnectionHandle::of(&request)
    };
    // Backends hold only requests that a proxy with GRIP support has signed.
    let (replayable, request) = ReplayableRequest::new(request, &services.signer);
    let response = match GripResponse::fetch(&*services.backend, request).await {
        Ok(response) => response,
        Err(error_response) => return error_response,
    };
    match response.hold_mode() {
        Some(mode) => hold::hold(services, replayable, connection, mode, response).await,
        None => response.response,
    }
}
