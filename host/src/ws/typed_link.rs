//! The link of a session to a component that handles typed frames (SIP-016).

use std::sync::Arc;

use grip::Event;
use http::HeaderMap;
use spin_runtime::{
    backend::{BackendError, Caller},
    websocket::{FramesCall, Pending},
};

use crate::ws::{tokens::TokenGuard, typed_frames};

/// A component with its token for the WebSocket.
pub(super) struct TypedLink {
    component: Arc<str>,
    token: TokenGuard,
    /// The number of the first frame that the component has not handled.
    next_number: u64,
    /// The frames of the call in flight.
    in_flight: u64,
    /// The rest of the call that has accepted the WebSocket.
    opening: Option<Pending<'static, Result<(), BackendError>>>,
}

impl TypedLink {
    pub(super) fn new(
        component: Arc<str>,
        token: TokenGuard,
        opening: Pending<'static, Result<(), BackendError>>,
    ) -> Self {
        Self {
            component,
            token,
            next_number: 0,
            in_flight: 0,
            opening: Some(opening),
        }
    }

    /// Returns the rest of the first call, which no other call may overlap.
    pub(super) fn take_opening(&mut self) -> Option<Pending<'static, Result<(), BackendError>>> {
        self.opening.take()
    }

    /// Returns a call with events of the client that the component has not handled.
    pub(super) fn frames(&mut self, events: &[Event], caller: Caller) -> FramesCall {
        let frames = typed_frames::received(events, self.next_number);
        self.in_flight = frames.len() as u64;
        FramesCall {
            component: self.component.clone(),
            token: self.token.token().clone(),
            frames,
            caller,
            trace: HeaderMap::new(),
        }
    }

    /// Records that the component has handled the frames of the last call.
    pub(super) fn accept(&mut self) {
        self.next_number += std::mem::take(&mut self.in_flight);
    }

    /// Delivers what the client had no room for.
    pub(super) fn catch_up(&self) {
        self.token.catch_up();
    }
}
