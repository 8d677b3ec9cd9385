//! A held request: what the host keeps while a client waits for published content.

use std::{collections::HashSet, sync::Arc};

use grip::{Instruct, hold::HoldMode};
use http::{Method, Response};
use tracing::warn;

use crate::{
    hold::{cursors::Cursors, inbox::Inbox, replay::ReplayableRequest},
    net::connection::ConnectionHandle,
    state::{Services, holds::HoldGuard},
};
use spin_runtime::backend::Body;

/// A request with what is held for it.
pub(super) struct HeldRequest {
    pub(super) services: Arc<Services>,
    pub(super) request: ReplayableRequest,
    pub(super) instruct: Instruct,
    pub(super) inbox: Arc<Inbox>,
    pub(super) follow: Cursors,
    pub(super) place: HoldGuard,
    /// Cuts the connection.
    pub(super) cut: Option<ConnectionHandle>,
    /// The client has all it gets, and is not told to be gone.
    pub(super) over: bool,
}

/// What becomes of an answer of the backend.
pub(super) enum Step {
    /// The client gets this.
    Answer(Response<Body>),
    /// The request is sent again; this is for the client when it cannot be.
    Again(Response<Body>),
}

impl HeldRequest {
    /// Is on the channels that the backend asks for when this returns, and says which are new.
    pub(super) fn take_up(&mut self, instruct: Instruct) -> Result<HashSet<String>, String> {
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
    pub(super) fn insist(&self, channels: &HashSet<String>) {
        for name in channels {
            self.services.channels.forget_last_id(name);
        }
    }

    pub(super) fn warn(&self, what: &str) {
        warn!(route = self.request.path(), "hold: {what}");
    }
}

impl Drop for HeldRequest {
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
