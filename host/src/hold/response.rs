//! A held response: one published answer, or the backend's own when the time is over.

use http::{Response, header, response::Parts};
use tokio::time::sleep;

use crate::hold::{
    cursors::Verdict,
    grip_response::{reason_phrase, refusal, whole},
    held_request::{HeldRequest, Step},
    inbox::Found,
};
use crate::pubsub::publication::{Publication, PublishedResponse, is_framing_header};
use spin_runtime::backend::{Body, full};

/// Waits for what the client is answered with.
pub(super) async fn wait(held: &mut HeldRequest, own: Response<Body>) -> Step {
    let (mut parts, body) = own.into_parts();
    let body = match whole(body).await {
        Ok(body) => body,
        Err(problem) => {
            held.warn(&problem.to_string());
            return Step::Answer(refusal());
        }
    };
    for name in parts.headers.keys().cloned().collect::<Vec<_>>() {
        if is_framing_header(&name) {
            parts.headers.remove(name);
        }
    }
    let inbox = held.inbox.clone();
    let stop = held.place.stop();
    let stopped = stop.cancelled();
    let timeout = sleep(held.instruct.hold_timeout());
    tokio::pin!(stopped, timeout);
    loop {
        let found = tokio::select! {
            biased;
            found = inbox.find() => found,
            () = &mut stopped => return Step::Answer(Response::from_parts(parts, full(body))),
            () = &mut timeout => return Step::Answer(Response::from_parts(parts, full(body))),
        };
        let Found::Published(publications) = found else {
            return Step::Again(Response::from_parts(parts, full(body)));
        };
        for publication in publications {
            match weigh(held, &publication) {
                Weighed::Nothing => {}
                Weighed::Again => return Step::Again(Response::from_parts(parts, full(body))),
                Weighed::Answer(answer) => return Step::Answer(with_headers_of(parts, answer)),
                Weighed::Wrong(problem) => {
                    held.warn(&problem);
                    return Step::Answer(refusal());
                }
            }
        }
    }
}

fn weigh(held: &mut HeldRequest, publication: &Publication) -> Weighed {
    let Some(form) = &publication.response else {
        return Weighed::Nothing;
    };
    let filters = match held.follow.judge(publication, &form.content_filters) {
        Verdict::Skip => return Weighed::Nothing,
        Verdict::Missed => return Weighed::Again,
        Verdict::Unsuitable => {
            return Weighed::Wrong(format!(
                "what is published on {:?} is for other content filters",
                publication.channel
            ));
        }
        Verdict::Use(filters) => filters.clone(),
    };
    let Some(answer) = &form.response else {
        return Weighed::Again;
    };
    match filters.rewrite(answer.body.clone(), &held.follow.ids) {
        Ok(body) => Weighed::Answer(PublishedResponse {
            body,
            ..answer.clone()
        }),
        Err(error) => Weighed::Wrong(format!("on {:?}: {error}", publication.channel)),
    }
}

/// What a publication does to a held response.
enum Weighed {
    Nothing,
    Again,
    Answer(PublishedResponse),
    Wrong(String),
}

/// A published answer, with the headers of the backend's own that it does not replace.
fn with_headers_of(mut parts: Parts, answer: PublishedResponse) -> Response<Body> {
    for name in answer.headers.keys() {
        parts.headers.remove(name);
    }
    if !answer.headers.contains_key(header::CONTENT_ENCODING) {
        // That was of the backend's own content.
        parts.headers.remove(header::CONTENT_ENCODING);
    }
    for (name, value) in &answer.headers {
        parts.headers.append(name, value.clone());
    }
    parts.status = answer.status;
    parts.extensions.remove::<hyper::ext::ReasonPhrase>();
    parts.extensions.extend(reason_phrase(answer.reason));
    Response::from_parts(parts, full(answer.body))
}
