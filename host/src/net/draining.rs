//! When a connection finishes because the host shuts down.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{config::Limits, net::connection::ConnectionHandle, shutdown::Shutdown};

/// How long a connection without a request stays open. Its client has connected before the drain, so
/// that a request may be on its way.
const FIRST_REQUEST_TIMEOUT: Duration = Limits::DEFAULT.drain_request_timeout;

/// The steps of a shutdown, as they concern connections. Clones are for the same listener.
#[derive(Clone)]
pub(crate) struct Draining {
    /// Clients should move to other hosts.
    stop: CancellationToken,
    /// Connections are closed once they are idle.
    pub(super) drain: CancellationToken,
}

impl Draining {
    /// Creates the steps of a listener that sends its clients away first.
    pub(crate) fn gradual(shutdown: &Shutdown) -> Self {
        Self {
            stop: shutdown.stop.clone(),
            drain: shutdown.drain.clone(),
        }
    }

    /// Creates the steps of a listener that drains at once.
    pub(crate) fn at_once(drain: CancellationToken) -> Self {
        Self {
            stop: drain.clone(),
            drain,
        }
    }

    /// Waits until a connection should be closed gracefully, or at once if it has no request.
    pub(super) async fn connection_ends(&self, connection: &ConnectionHandle) {
        let is_new = self.stop.is_cancelled();
        self.stop.cancelled().await;
        connection.leave();
        // In HTTP/1.1, a header asks the client to leave. A new connection serves its first requests: the
        // client may have left another one.
        if connection.is_h2() && connection.has_request() && !is_new {
            return;
        }
        self.drain.cancelled().await;
        if !connection.has_request() {
            tokio::select! {
                () = connection.first_request() => {}
                () = sleep(FIRST_REQUEST_TIMEOUT) => return,
            }
        }
        if !connection.is_h2() {
            // hyper would also add `close` to the `Connection: upgrade` of a WebSocket, which clients
            // reject.
            connection.idle().await;
        }
    }

    /// Waits until a connection without a request is closed.
    pub(super) async fn handshake_ends(&self) {
        self.drain.cancelled().await;
        sleep(FIRST_REQUEST_TIMEOUT).await;
    }
}
