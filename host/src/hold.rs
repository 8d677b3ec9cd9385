//! A held request: one that is answered bit by bit, or not before there is something to say.
//!
//! The backend answers at once, and asks the host to hold: `Grip-Hold: stream` keeps the body
//! open for what is published, `Grip-Hold: response` waits for one published answer. The
//! protocol: <https://pushpin.org/docs/protocols/grip/>.

use std::{collections::HashSet, sync::Arc};

use grip::{Instruct, hold::HoldMode};
use http::{Method, Request, Response, StatusCode, Version};
use tracing::{debug, warn};

use crate::{
    answer::answer, connection::Cut, filter::Followed, holds::Place, metrics::Dropped,
    services::Services,
};
use follow::Follow;
use inbox::Inbox;
use kept::Kept;
use part::Part;
use spin_runtime::backend::{Body, empty};

mod driven;
mod follow;
mod inbox;
mod kept;
mod part;
mod response;
mod stream;

/// How often in a row a request is sent again because the backend's answer is behind what was
/// published since.
const MAX_AGAIN: usize = 5;

/// A request with what is held for it.
struct Hold {
    services: Arc<Services>,
    request: Kept,
    method: Method,
    instruct: Instruct,
    inbox: Arc<Inbox>,
    follow: Follow,
    place: Place,
    /// Cuts the connection.
    cut: Option<Cut>,
    /// The client has all it gets, and is not told to be gone.
    over: bool,
}

/// What becomes of an answer of the backend.
enum Step {
    /// The client gets this.
    Answer(Response<Body>),
    /// The request is sent again; this is for the client when it cannot be.
    Again(Response<Body>),
}

/// Sends a client's request to the backend, and holds it when the answer says so.
pub async fn serve(services: &Arc<Services>, request: Request<Body>) -> Response<Body> {
    // An HTTP/2 connection has other requests on it; a stream on it is reset once it is read.
    let cut = match request.version() {
        Version::HTTP_2 => None,
        _ => request.extensions().get::<Cut>().cloned(),
    };
    let method = request.method().clone();
    let (kept, request) = Kept::new(request, &services.signer);
    let part = match Part::fetch(&*services.backend, request).await {
        Ok(part) => part,
        Err(refusal) => return refusal,
    };
    let mode = match &part.instruct {
        Some(instruct) if instruct.hold.is_some() => instruct.hold,
        // The rest of the body is fetched part by part.
        Some(instruct) if instruct.next.is_some() => Some(HoldMode::Stream),
        _ => None,
    };
    let Some(mode) = mode else {
        return part.response;
    };
    let Some(place) = services.holds.register(mode) else {
        services.metrics.dropped(Dropped::Full).inc();
        return answer(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many requests are held, try again later",
        );
    };
    let inbox = Inbox::new(
        services.limits.max_outgoing_buffer,
        services.metrics.dropped(Dropped::SlowHold),
    );
    let hold = Hold {
        services: services.clone(),
        request: kept,
        method,
        instruct: Instruct::default(),
        follow: Follow::new(inbox.clone()),
        inbox,
        place,
        cut,
        over: false,
    };
    hold.run(part).await
}

impl Hold {
    async fn run(mut self, mut part: Part) -> Response<Body> {
        // What the backend said the last time, when something else was published since.
        let mut doubted: Option<Followed> = None;
        let mut in_a_row = 0;
        loop {
            let (instruct, response) = (part.instruct.unwrap_or_default(), part.response);
            if instruct.hold.is_none() && instruct.next.is_none() {
                self.over = true;
                return response;
            }
            // Before anything is looked at, so that nothing is missed in between.
            if let Err(problem) = self.take_up(instruct) {
                self.warn(&problem);
                self.over = true;
                return part::refusal();
            }
            // What came since the channels were joined may be all that the backend did not know.
            self.follow.drop_known();
            let unknown = self.follow.conflicts(&self.services.channels);
            let mut behind = !unknown.is_empty();
            if behind && doubted.as_ref() == Some(&self.follow.ids) {
                self.insist(&unknown);
                behind = false;
            }
            let is_response = self.instruct.hold == Some(HoldMode::Response);
            let mut ahead = false;
            let step = if behind && (is_response || self.instruct.next.is_none()) {
                doubted = Some(self.follow.ids.clone());
                in_a_row += 1;
                ahead = true;
                Step::Again(response)
            } else if is_response {
                in_a_row = 0;
                self.wait(response).await
            } else if self.method == Method::HEAD {
                self.over = true;
                Step::Answer(response.map(|_| empty()))
            } else if part::is_coded(&response) {
                // What is published could not be appended to it.
                if !self.request.refuse_codings() {
                    self.warn("the answer of a stream has a Content-Encoding");
                    self.over = true;
                    return part::refusal();
                }
                ahead = true;
                Step::Again(part::refusal())
            } else {
                return stream::answer(self, response, behind);
            };
            let own = match step {
                Step::Answer(response) => {
                    self.over = true;
                    return response;
                }
                Step::Again(own) => own,
            };
            if !ahead {
                doubted = None;
            }
            let again = match in_a_row > MAX_AGAIN {
                true => None,
                false => self.request.again(&self.services.signer, &self.follow.ids),
            };
            let Some(request) = again else {
                debug!(
                    route = self.request.path(),
                    "not sent again: the backend's own answer goes out"
                );
                self.over = true;
                return own;
            };
            part = match Part::fetch(&*self.services.backend, request).await {
                Ok(part) => part,
                Err(refusal) => {
                    self.over = true;
                    return refusal;
                }
            };
        }
    }

    /// Is on the channels that the backend asks for when this returns, and says which are new.
    fn take_up(&mut self, instruct: Instruct) -> Result<HashSet<String>, String> {
        let joined = self.follow.apply(&instruct, &self.services.channels)?;
        self.place
            .set_mode(instruct.hold.unwrap_or(HoldMode::Stream));
        // Who can catch up is not cut off.
        let cut = self.cut.clone();
        self.inbox.on_overflow(
            cut.filter(|_| instruct.hold == Some(HoldMode::Stream) && instruct.next.is_none()),
        );
        self.instruct = instruct;
        Ok(joined)
    }

    /// The backend says the same again, and knows better than what was published on these.
    fn insist(&self, channels: &HashSet<String>) {
        for name in channels {
            self.services.channels.forget_last_id(name);
        }
    }

    fn warn(&self, what: &str) {
        warn!(route = self.request.path(), "hold: {what}");
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let Some(link) = &self.instruct.gone else {
            return;
        };
        let signer = &self.services.signer;
        let told = self
            .request
            .follow(Method::POST, link, signer, &self.follow.ids);
        match (told, tokio::runtime::Handle::try_current()) {
            (Ok(request), Ok(runtime)) => {
                let services = self.services.clone();
                runtime.spawn(async move {
                    if let Err(error) = services.backend.call(request).await {
                        warn!("a client is gone, but the backend was not told: {error}");
                    }
                });
            }
            (Err(error), _) => self.warn(&error.to_string()),
            // The host itself is at its end.
            (_, Err(_)) => {}
        }
    }
}

#[cfg(test)]
mod tests;
