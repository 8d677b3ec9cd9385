//! Held HTTP requests: streams that published content is appended to, and responses that wait for
//! one publication (long-polling).
//!
//! The backend responds at once and asks the host to hold the request. With `Grip-Hold: stream` the
//! body stays open. With `Grip-Hold: response` the client waits. The protocol is
//! [GRIP](https://pushpin.org/docs/protocols/grip/).
//!
//! - [`hold`] is the entry point. It runs a hold until the response for the client is known.
//! - [`grip_response`] parses a backend's response into instructions and a response.
//! - [`replay`] keeps the client's request, so that it can be sent to the backend again.
//! - [`held_request`] is the state of one hold. Its [`cursors`] track the last id of each channel,
//!   its [`inbox`] queues publications.
//! - [`response`] waits for one publication.
//! - [`stream`] appends publications to a body, which is a [`future_body`].

use std::{net::IpAddr, sync::Arc};

use grip::{Instruct, hold::HoldMode};
use http::{Method, Response, StatusCode};
use spin_runtime::backend::{Body, empty};
use tracing::{debug, warn};

use crate::{
    config::Limits,
    hold::{
        cursors::Cursors, grip_response::GripResponse, held_request::HeldRequest, inbox::Inbox,
        replay::ReplayableRequest, response::Outcome,
    },
    http::error_response::{RETRY_AFTER, overload_response},
    metrics::registry::Dropped,
    net::connection::ConnectionHandle,
    pubsub::filter::LastIds,
    state::Services,
};

mod cursors;
mod future_body;
pub(crate) mod grip_response;
mod held_request;
mod inbox;
pub(crate) mod replay;
mod response;
mod stream;
#[cfg(test)]
mod tests;

/// How many stale responses in a row are retried. A response is stale if its last ids are older
/// than what was published in the meantime.
const MAX_REPLAYS: usize = Limits::DEFAULT.max_replays;

/// The client of a held request.
pub(crate) struct HeldClient {
    /// The address that limits by address apply to.
    pub(crate) address: Option<IpAddr>,
    /// Closed when the client of a stream is too slow. `None` for HTTP/2, where only the HTTP/2
    /// stream is reset.
    pub(crate) connection: Option<ConnectionHandle>,
}

/// Holds a request whose response asks for it, and returns the response for the client.
pub(crate) async fn hold(
    services: &Arc<Services>,
    request: ReplayableRequest,
    client: HeldClient,
    mode: HoldMode,
    response: GripResponse,
) -> Response<Body> {
    let Ok(address_guard) = services.addresses.hold(client.address) else {
        services.metrics.dropped(Dropped::AddressHolds).inc();
        let text = "too many held requests of one address, try again later";
        return overload_response(StatusCode::TOO_MANY_REQUESTS, text, RETRY_AFTER);
    };
    let Some(guard) = services.holds.register(mode) else {
        services.metrics.dropped(Dropped::Full).inc();
        let text = "too many held requests, try again later";
        return overload_response(StatusCode::SERVICE_UNAVAILABLE, text, RETRY_AFTER);
    };
    let inbox = Inbox::new(
        services.limits.max_outgoing_buffer_bytes,
        services.metrics.dropped(Dropped::SlowHold),
    );
    let held = HeldRequest {
        services: services.clone(),
        request,
        instruct: Instruct::default(),
        cursors: Cursors::new(inbox.clone()),
        inbox,
        guard,
        _address_guard: address_guard,
        connection: client.connection,
        finished: false,
    };
    run(held, response).await
}

/// Asks the backend again until its response is current, and then waits or streams.
async fn run(mut held: HeldRequest, mut grip_response: GripResponse) -> Response<Body> {
    // The last ids of the previous response, if it was stale.
    let mut stale_ids: Option<LastIds> = None;
    let mut stale_responses = 0;
    loop {
        let GripResponse { instruct, response } = grip_response;
        let instruct = instruct.unwrap_or_default();
        if instruct.hold.is_none() && instruct.next.is_none() {
            return held.finish(response);
        }
        // Subscribe before comparing ids, so that no publication is missed in between.
        if let Err(error) = held.apply(instruct) {
            let error = format!("{error:#}");
            warn!(
                route = held.request.path(),
                error, "invalid GRIP instructions"
            );
            return held.finish(grip_response::invalid_response());
        }
        held.confirmed().await;
        // The inbox may already have all that the response lacks.
        held.cursors.drop_seen();
        let stale_channels = held.cursors.stale_channels(&held.services.channels);
        let mut is_stale = !stale_channels.is_empty();
        if is_stale && stale_ids.as_ref() == Some(&held.cursors.ids) {
            // The backend has confirmed these ids, so the last id of the channel is wrong.
            held.forget_last_ids(&stale_channels);
            is_stale = false;
        }
        let is_long_poll = match held.instruct.hold {
            Some(HoldMode::Response) => true,
            // A response with a next link is a stream too.
            Some(HoldMode::Stream) | None => false,
        };
        // What the client gets if the request cannot be sent again.
        let fallback = if is_stale && (is_long_poll || held.instruct.next.is_none()) {
            stale_ids = Some(held.cursors.ids.clone());
            stale_responses += 1;
            response
        } else if is_long_poll {
            stale_ids = None;
            stale_responses = 0;
            match response::wait(&mut held, response).await {
                Outcome::Respond(response) => return held.finish(response),
                Outcome::Retry(fallback) => fallback,
            }
        } else if held.request.method() == Method::HEAD {
            return held.finish(response.map(|_| empty()));
        } else if grip_response::has_content_encoding(&response) {
            // Published content cannot be appended to encoded content.
            if !held.request.require_identity_encoding() {
                warn!(
                    route = held.request.path(),
                    "cannot hold a stream with a Content-Encoding"
                );
                return held.finish(grip_response::invalid_response());
            }
            grip_response::invalid_response()
        } else {
            return stream::respond(held, response, is_stale);
        };
        let request = if stale_responses > MAX_REPLAYS {
            None
        } else {
            held.request
                .replay(&held.services.signer, &held.cursors.ids)
        };
        let Some(request) = request else {
            debug!(route = held.request.path(), "held request not retried");
            return held.finish(fallback);
        };
        grip_response = match GripResponse::fetch(&*held.services.backend, request).await {
            Ok(grip_response) => grip_response,
            Err(error_response) => return held.finish(error_response),
        };
    }
}
