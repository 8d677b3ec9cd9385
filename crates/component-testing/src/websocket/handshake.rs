//! Opens WebSockets: selects their transport.

use std::sync::Arc;

use grip::header::{
    CONTENT_BYTES_ACCEPTED, KEEP_ALIVE_INTERVAL, SEC_WEBSOCKET_EXTENSIONS, SET_META_PREFIX, is_grip,
};
use http::{HeaderMap, Response};
use spin_runtime::backend::{Backend as _, Body};

use super::{client::Client, grip_session, typed_session};
use crate::{
    host::Host,
    request::{ClientRequest, remove_headers},
};

/// A WebSocket that the component has accepted.
pub(crate) struct Opened {
    pub(crate) client: Client,
    /// The headers that the client gets with its handshake.
    pub(crate) headers: HeaderMap,
}

/// Opens a WebSocket.
///
/// # Errors
/// Returns the response if the component does not accept the WebSocket.
pub(crate) async fn open(
    host: Arc<Host>,
    request: ClientRequest,
) -> Result<Opened, Response<Body>> {
    if let Some(refusal) = host.refuse(&request) {
        return Err(refusal);
    }
    match host.backend.websocket_component(request.uri.path()) {
        Some(_) => typed_session::open(host, request).await,
        None => grip_session::open(host, request).await,
    }
}

/// Returns the headers of a component's response that a client gets with its handshake.
pub(super) fn accepted_headers(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    remove_headers(&mut headers, |name| {
        is_grip(name)
            || name.starts_with(SET_META_PREFIX)
            || [
                "content-type",
                "content-length",
                SEC_WEBSOCKET_EXTENSIONS,
                KEEP_ALIVE_INTERVAL,
                CONTENT_BYTES_ACCEPTED,
            ]
            .contains(&name)
    });
    headers
}
