//! Forwards plain requests to the backend, and hands responses that ask for it to `hold`.

use std::sync::Arc;

use http::{Request, Response, Version};
use spin_runtime::backend::Body;

use crate::{
    hold::{self, grip_response::GripResponse, replay::ReplayableRequest},
    net::connection::ConnectionHandle,
    state::Services,
};

/// Forwards a client's request to the backend and returns its response, or what becomes of it when
/// it asks to be held.
pub(crate) async fn forward(services: &Arc<Services>, request: Request<Body>) -> Response<Body> {
    // The connection of HTTP/2 carries other requests too.
    let connection = if request.version() == Version::HTTP_2 {
        None
    } else {
        ConnectionHandle::of(&request)
    };
    // Signed here: backends ask for a hold only where somebody can hold.
    let (replayable, request) = ReplayableRequest::new(request, &services.signer);
    let response = match GripResponse::fetch(&*services.backend, request).await {
        Ok(response) => response,
        Err(refusal) => return refusal,
    };
    match response.hold_mode() {
        Some(mode) => hold::hold(services, replayable, connection, mode, response).await,
        None => response.response,
    }
}
