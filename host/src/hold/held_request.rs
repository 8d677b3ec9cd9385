//! The state of one hold.

use std::{collections::HashSet, sync::Arc};

use grip::{Instruct, hold::HoldMode};
use http::{Method, Response};
use spin_runtime::backend::Body;
use tracing::warn;

use crate::{
    hold::{cursors::Cursors, inbox::Inbox, replay::ReplayableRequest},
    net::{addresses::AddressGuard, connection::ConnectionHandle},
    state::{Services, holds::HoldGuard},
};

/// A request that waits for published content.
///
/// Dropping it unfinished means that the client is gone. The backend is notified if it asked for
/// that.
pub(super) struct HeldRequest {
    pub(super) services: Arc<Services>,
    pub(super) request: ReplayableRequest,
    /// The current instructions.
    pub(super) instruct: Instruct,
    pub(super) inbox: Arc<Inbox>,
    pub(super) cursors: Cursors,
    pub(super) guard: HoldGuard,
    pub(super) _address_guard: Option<AddressGuard>,
    /// Closed when the client is too slow.
    pub(super) connection: Option<ConnectionHandle>,
    /// Whether the client has its whole response.
    pub(super) finished: bool,
}

impl HeldRequest {
    /// Applies new instructions and returns the channels that were newly subscribed to.
    ///
    /// The subscriptions are in place when this returns.
    ///
    /// # Errors
    /// Returns an error if the instructions are invalid. Nothing has changed then.
    pub(super) fn apply(&mut self, instruct: Instruct) -> anyhow::Result<HashSet<String>> {
        let joined = self.cursors.apply(&instruct, &self.services.channels)?;
        self.guard
            .set_mode(instruct.hold.unwrap_or(HoldMode::Stream));
        // With a next link, a slow client catches up from there instead.
        let closes = instruct.hold == Some(HoldMode::Stream) && instruct.next.is_none();
        let connection = self.connection.clone().filter(|_| closes);
        self.inbox.close_on_overflow(connection);
        self.instruct = instruct;
        Ok(joined)
    }

    /// Waits until the bus confirms the subscriptions, or for a while. The host then receives what is
    /// published on other hosts, and knows the last ids.
    pub(super) fn confirmed(&self) -> impl Future<Output = ()> + Send + use<> {
        let time = self.services.confirmation_timeout();
        self.cursors.confirmed(time)
    }

    /// Makes the host forget the last ids of channels on which the backend contradicts them.
    pub(super) fn forget_last_ids(&self, channels: &HashSet<String>) {
        for name in channels {
            self.services.channels.forget_last_id(name);
        }
    }

    /// Ends the hold with the final response, so that the backend is not notified.
    pub(super) fn finish(mut self, response: Response<Body>) -> Response<Body> {
        self.finished = true;
        response
    }
}

impl Drop for HeldRequest {
    fn drop(&mut self) {
        const FAILED: &str = "failed to notify the backend of a disconnected client";
        if self.finished {
            return;
        }
        let Some(link) = &self.instruct.gone else {
            return;
        };
        let signer = &self.services.signer;
        let ids = &self.cursors.ids;
        let request = match self.request.link_request(Method::POST, link, signer, ids) {
            Ok(request) => request,
            Err(error) => {
                warn!(route = self.request.path(), %error, "{FAILED}");
                return;
            }
        };
        // There is no runtime when the host itself is shut down.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let services = self.services.clone();
        let route = self.request.path().to_owned();
        runtime.spawn(async move {
            if let Err(error) = services.backend.call(request).await {
                warn!(route, %error, "{FAILED}");
            }
        });
    }
}
