//! Held responses: the client gets one published response, or the backend's after a timeout.

use bytes::Bytes;
use http::{Response, header, response::Parts};
use hyper::ext::ReasonPhrase;
use spin_runtime::backend::{Body, full};
use tokio::time::sleep;
use tracing::warn;

use crate::{
    config::Limits,
    hold::{
        cursors::Disposition,
        grip_response::{MAX_HELD_RESPONSE_BYTES, invalid_response, set_reason_phrase},
        held_request::HeldRequest,
        inbox::Received,
    },
    http::{
        body::read_body,
        headers::{is_framing_header, remove_headers},
    },
    pubsub::publication::{Publication, PublishedResponse},
};

/// The outcome of waiting for a publication.
pub(super) enum Outcome {
    /// The client gets this response.
    Respond(Response<Body>),
    /// The request has to be sent to the backend again. The client gets this response if that is
    /// not possible.
    Retry(Response<Body>),
}

/// What a publication means for a held response.
enum Action {
    Ignore,
    Retry,
    Respond(PublishedResponse),
    /// The publication cannot be delivered. The reason has been logged.
    Reject,
}

/// Waits for a publication or the timeout. `default` is the backend's response.
pub(super) async fn wait(held: &mut HeldRequest, default: Response<Body>) -> Outcome {
    let (mut parts, body) = default.into_parts();
    let body = match read_body(
        body,
        MAX_HELD_RESPONSE_BYTES,
        Limits::DEFAULT.response_body_timeout,
    )
    .await
    {
        // Copied, since it may be a slice of a read buffer, and is kept for as long as the hold.
        Ok(body) => Bytes::copy_from_slice(&body),
        Err(error) => {
            warn!(route = held.request.path(), %error, "failed to read the response to hold");
            return Outcome::Respond(invalid_response());
        }
    };
    remove_headers(&mut parts.headers, is_framing_header);
    let inbox = held.inbox.clone();
    let stop = held.guard.stop();
    let stopped = stop.cancelled();
    let timeout = sleep(held.instruct.hold_timeout());
    tokio::pin!(stopped, timeout);
    loop {
        let received = tokio::select! {
            biased;
            received = inbox.recv() => received,
            () = &mut stopped => return Outcome::Respond(Response::from_parts(parts, full(body))),
            () = &mut timeout => return Outcome::Respond(Response::from_parts(parts, full(body))),
        };
        let Received::Publications(publications) = received else {
            return Outcome::Retry(Response::from_parts(parts, full(body)));
        };
        for publication in publications {
            match action(held, &publication) {
                Action::Ignore => {}
                Action::Retry => return Outcome::Retry(Response::from_parts(parts, full(body))),
                Action::Respond(published) => return Outcome::Respond(merge(parts, published)),
                Action::Reject => return Outcome::Respond(invalid_response()),
            }
        }
    }
}

fn action(held: &mut HeldRequest, publication: &Publication) -> Action {
    let Some(format) = &publication.response else {
        return Action::Ignore;
    };
    let (route, channel) = (held.request.path(), &publication.channel);
    let filters = match held.cursors.advance(publication, &format.content_filters) {
        Disposition::Ignore => return Action::Ignore,
        Disposition::Gap => return Action::Retry,
        Disposition::FilterMismatch => {
            warn!(route, channel, "publication requires other content filters");
            return Action::Reject;
        }
        Disposition::Deliver(filters) => filters.clone(),
    };
    let Some(published) = &format.response else {
        return Action::Retry;
    };
    match filters.rewrite(published.body.clone(), &held.cursors.ids) {
        Ok(body) => Action::Respond(PublishedResponse {
            body,
            ..published.clone()
        }),
        Err(error) => {
            warn!(route, channel, %error, "content filter failed");
            Action::Reject
        }
    }
}

/// Returns the published response, completed with the headers of the backend's response that it
/// does not set.
fn merge(mut parts: Parts, published: PublishedResponse) -> Response<Body> {
    for name in published.headers.keys() {
        parts.headers.remove(name);
    }
    if !published.headers.contains_key(header::CONTENT_ENCODING) {
        // It applied to the content that is replaced.
        parts.headers.remove(header::CONTENT_ENCODING);
    }
    for (name, value) in &published.headers {
        parts.headers.append(name, value.clone());
    }
    parts.status = published.status;
    parts.extensions.remove::<ReasonPhrase>();
    set_reason_phrase(&mut parts.extensions, published.reason);
    Response::from_parts(parts, full(published.body))
}
