//! Held HTTP requests: a stream that is extended by what is published, or a response that waits
//! for one publication (long-polling).
//!
//! The backend answers at once and asks the host to hold the request: with `Grip-Hold: stream` the
//! body stays open, with `Grip-Hold: response` the client waits. The protocol is
//! [GRIP](https://pushpin.org/docs/protocols/grip/).

use std::sync::Arc;

use grip::{Instruct, hold::HoldMode};
use http::{Method, Response, StatusCode};
use spin_runtime::backend::{Body, empty};
use tracing::debug;

use crate::{
    hold::{
        cursors::Cursors,
        grip_response::GripResponse,
        held_request::{HeldRequest, Step},
        inbox::Inbox,
        replay::ReplayableRequest,
    },
    http::error_response::answer,
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

/// How often in a row a request is sent again because the backend's answer is older than what was
/// published in the meantime.
const MAX_AGAIN: usize = 5;

/// Holds a request whose response asks for it, and returns what the client gets.
///
/// `connection` is cut off when the client of a stream does not keep up; there is none for HTTP/2,
/// where only the stream is reset.
pub(crate) async fn hold(
    services: &Arc<Services>,
    request: ReplayableRequest,
    connection: Option<ConnectionHandle>,
    mode: HoldMode,
    response: GripResponse,
) -> Response<Body> {
    let Some(place) = services.holds.register(mode) else {
        services.metrics.dropped(Dropped::Full).inc();
        return answer(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many requests are held, try again later",
        );
    };
    let inbox = Inbox::new(
        services.limits.max_outgoing_buffer_bytes,
        services.metrics.dropped(Dropped::SlowHold),
    );
    let held = HeldRequest {
        services: services.clone(),
        request,
        instruct: Instruct::default(),
        follow: Cursors::new(inbox.clone()),
        inbox,
        place,
        cut: connection,
        over: false,
    };
    run(held, response).await
}

async fn run(mut held: HeldRequest, mut part: GripResponse) -> Response<Body> {
    // What the backend said the last time, when something else was published since.
    let mut doubted: Option<LastIds> = None;
    let mut in_a_row = 0;
    loop {
        let (instruct, response) = (part.instruct.unwrap_or_default(), part.response);
        if instruct.hold.is_none() && instruct.next.is_none() {
            held.over = true;
            return response;
        }
        // Before anything is looked at, so that nothing is missed in between.
        if let Err(problem) = held.take_up(instruct) {
            held.warn(&problem);
            held.over = true;
            return grip_response::refusal();
        }
        // What came since the channels were joined may be all that the backend did not know.
        held.follow.drop_known();
        let unknown = held.follow.conflicts(&held.services.channels);
        let mut behind = !unknown.is_empty();
        if behind && doubted.as_ref() == Some(&held.follow.ids) {
            held.insist(&unknown);
            behind = false;
        }
        let is_response = held.instruct.hold == Some(HoldMode::Response);
        let mut ahead = false;
        let step = if behind && (is_response || held.instruct.next.is_none()) {
            doubted = Some(held.follow.ids.clone());
            in_a_row += 1;
            ahead = true;
            Step::Again(response)
        } else if is_response {
            in_a_row = 0;
            response::wait(&mut held, response).await
        } else if held.request.method() == Method::HEAD {
            held.over = true;
            Step::Answer(response.map(|_| empty()))
        } else if grip_response::is_coded(&response) {
            // What is published could not be appended to it.
            if !held.request.refuse_codings() {
                held.warn("the answer of a stream has a Content-Encoding");
                held.over = true;
                return grip_response::refusal();
            }
            ahead = true;
            Step::Again(grip_response::refusal())
        } else {
            return stream::answer(held, response, behind);
        };
        let own = match step {
            Step::Answer(response) => {
                held.over = true;
                return response;
            }
            Step::Again(own) => own,
        };
        if !ahead {
            doubted = None;
        }
        let again = match in_a_row > MAX_AGAIN {
            true => None,
            false => held.request.again(&held.services.signer, &held.follow.ids),
        };
        let Some(request) = again else {
            debug!(
                route = held.request.path(),
                "not sent again: the backend's own answer goes out"
            );
            held.over = true;
            return own;
        };
        part = match GripResponse::fetch(&*held.services.backend, request).await {
            Ok(part) => part,
            Err(refusal) => {
                held.over = true;
                return refusal;
            }
        };
    }
}
