//! A session with a component that handles typed frames (SIP-016): passes it what a client does. What
//! the component sends reaches the client by its token.

use std::sync::Arc;

use http::{HeaderMap, Response, StatusCode};
use spin_runtime::{
    backend::{BackendError, Body},
    websocket::{Frame, FramesCall, Pending},
};

use super::{
    client::{Client, ClientAction, Closed},
    handshake::{Opened, accepted_headers},
    tokens::TokenGuard,
    typed_frames,
};
use crate::{
    failure::error_response,
    host::Host,
    request::{self, ClientRequest},
};

/// A WebSocket that is open.
struct Session {
    host: Arc<Host>,
    path: String,
    component: Arc<str>,
    /// Valid until the component has handled the last frame.
    token: TokenGuard,
    client: Client,
    /// The number of the next frame.
    next_number: u64,
}

/// Opens a WebSocket whose component handles typed frames.
///
/// # Errors
/// Returns the response if the component does not accept the WebSocket.
pub(super) async fn open(
    host: Arc<Host>,
    request: ClientRequest,
) -> Result<Opened, Response<Body>> {
    let client = Client::default();
    let token = host.tokens.register(client.clone());
    let opening = host
        .open_websocket(token.token().clone(), request.to_backend())
        .await
        .map_err(|error| error_response(&error))?;
    let mut response = opening.response;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        request::remove_private_headers(response.headers_mut());
        return Err(response);
    }
    let session = Session {
        host,
        path: request.uri.path().to_owned(),
        component: opening.component,
        token,
        client: client.clone(),
        next_number: 0,
    };
    tokio::spawn(session.run(opening.call));
    let headers = accepted_headers(response.headers());
    Ok(Opened { client, headers })
}

impl Session {
    /// Serves the WebSocket until it is closed. `opening` is the rest of the call that has accepted it.
    async fn run(mut self, opening: Pending<'static, Result<(), BackendError>>) {
        if self.serve(opening).await.is_err() {
            self.client.close(Closed::failed());
        }
    }

    /// # Errors
    /// Fails if a call fails, which is recorded. The component is not called again.
    async fn serve(
        &mut self,
        opening: Pending<'static, Result<(), BackendError>>,
    ) -> Result<(), BackendError> {
        self.host.record(&self.path, opening.await)?;
        loop {
            let pending = self.client.actions().await;
            if let Some(closed) = self.client.closed() {
                // By a frame or a publication. The client confirms.
                return self.receive(vec![typed_frames::from_closed(closed)]).await;
            }
            // The senders are dropped when the component has handled the frames.
            let (actions, _handled): (Vec<_>, Vec<_>) = pending
                .into_iter()
                .map(|pending| (pending.action, pending.handled))
                .unzip();
            let end = actions.last().and_then(ClientAction::closes);
            let frames = actions.into_iter().map(typed_frames::from_action);
            let received = self.receive(frames.collect()).await;
            if let Some(closed) = end {
                self.client.close(closed);
                return received;
            }
            received?;
        }
    }

    /// Passes frames to the component, and waits until it has handled them.
    async fn receive(&mut self, frames: Vec<Frame>) -> Result<(), BackendError> {
        let frames = typed_frames::number(frames, self.next_number);
        self.next_number += frames.len() as u64;
        let call = FramesCall {
            component: self.component.clone(),
            token: self.token.token().clone(),
            frames,
            caller: request::caller(),
            trace: HeaderMap::new(),
        };
        self.host.receive_frames(&self.path, call).await
    }
}
