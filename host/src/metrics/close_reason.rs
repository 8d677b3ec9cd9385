//! Why a session was closed, for logs and metrics.

/// The first cause of the end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum CloseReason {
    /// The client closed the WebSocket.
    Client,
    /// The client disconnected without a close frame.
    Vanished,
    /// The client violated the protocol.
    Protocol,
    /// The client sent a message over the limit.
    TooLarge,
    /// The client sent too many messages.
    TooMany,
    /// The client did not read fast enough.
    Slow,
    /// The client did not respond to a ping.
    Silent,
    /// The backend closed the WebSocket, or disconnected the client.
    Backend,
    /// The backend failed, or its response was invalid.
    Failed,
    /// A publication closed the WebSocket.
    Published,
    /// A request to the control port closed the session, or the sessions of its user.
    Control,
    /// The time of the user was over, and the backend has not bound the session again.
    Expired,
    /// The host is shutting down.
    Shutdown,
}

impl CloseReason {
    /// Every reason.
    pub(crate) const ALL: [Self; 13] = [
        Self::Client,
        Self::Vanished,
        Self::Protocol,
        Self::TooLarge,
        Self::TooMany,
        Self::Slow,
        Self::Silent,
        Self::Backend,
        Self::Failed,
        Self::Published,
        Self::Control,
        Self::Expired,
        Self::Shutdown,
    ];

    /// Returns the name used in logs and metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Vanished => "vanished",
            Self::Protocol => "protocol",
            Self::TooLarge => "too-large",
            Self::TooMany => "too-many",
            Self::Slow => "slow",
            Self::Silent => "silent",
            Self::Backend => "backend",
            Self::Failed => "failed",
            Self::Published => "published",
            Self::Control => "control",
            Self::Expired => "expired",
            Self::Shutdown => "shutdown",
        }
    }
}
