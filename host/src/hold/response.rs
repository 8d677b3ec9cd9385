//! A held response: one published answer, or the backend's own when the time is over.

use http::{Response, header, response::Parts};
use tokio::time::sleep;

use super::{
    Hold, Step,
    follow::Verdict,
    inbox::Found,
    part::{reason_phrase, refusal, whole},
};
use crate::publication::{Answer, Publication, is_of_the_wire};
use spin_runtime::backend::{Body, full};

impl Hold {
    /// Waits for what the client is answered with.
    pub(super) async fn wait(&mut self, own: Response<Body>) -> Step {
        let (mut parts, body) = own.into_parts();
        let body = match whole(body).await {
            Ok(body) => body,
            Err(problem) => {
                self.warn(&problem.to_string());
                return Step::Answer(refusal());
            }
        };
        for name in parts.headers.keys().cloned().collect::<Vec<_>>() {
            if is_of_the_wire(&name) {
                parts.headers.remove(name);
            }
        }
        let inbox = self.inbox.clone();
        let stop = self.place.stop();
        let stopped = stop.cancelled();
        let timeout = sleep(self.instruct.hold_timeout());
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
                match self.weigh(&publication) {
                    Weighed::Nothing => {}
                    Weighed::Again => return Step::Again(Response::from_parts(parts, full(body))),
                    Weighed::Answer(answer) => return Step::Answer(with_headers_of(parts, answer)),
                    Weighed::Wrong(problem) => {
                        self.warn(&problem);
                        return Step::Answer(refusal());
                    }
                }
            }
        }
    }

    fn weigh(&mut self, publication: &Publication) -> Weighed {
        let Some(form) = &publication.response else {
            return Weighed::Nothing;
        };
        let filters = match self.follow.judge(publication, &form.counted_on) {
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
        let Some(answer) = &form.answer else {
            return Weighed::Again;
        };
        match filters.content(answer.body.clone(), &self.follow.ids) {
            Ok(body) => Weighed::Answer(Answer {
                body,
                ..answer.clone()
            }),
            Err(error) => Weighed::Wrong(format!("on {:?}: {error}", publication.channel)),
        }
    }
}

/// What a publication does to a held response.
enum Weighed {
    Nothing,
    Again,
    Answer(Answer),
    Wrong(String),
}

/// A published answer, with the headers of the backend's own that it does not replace.
fn with_headers_of(mut parts: Parts, answer: Answer) -> Response<Body> {
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
