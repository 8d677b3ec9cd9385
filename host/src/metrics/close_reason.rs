//! How a session ends: the first cause of it, for the log and for the figures.

/// See the module's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum CloseReason {
    /// The client closed it.
    Client,
    /// The client was gone without a close frame.
    Vanished,
    /// The client broke the protocol, or sent a message over the limit.
    Protocol,
    /// The client left more unread than it may.
    Slow,
    /// The client showed no life when it was asked to.
    Silent,
    /// The backend closed it, or had the client dropped.
    Backend,
    /// The backend failed, or said what makes no sense.
    Failed,
    /// A publication closed it.
    Published,
    /// The host stops.
    Shutdown,
}

impl CloseReason {
    /// All of them.
    pub(crate) const ALL: [Self; 9] = [
        Self::Client,
        Self::Vanished,
        Self::Protocol,
        Self::Slow,
        Self::Silent,
        Self::Backend,
        Self::Failed,
        Self::Published,
        Self::Shutdown,
    ];

    /// Its name, in lower case.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Vanished => "vanished",
            Self::Protocol => "protocol",
            Self::Slow => "slow",
            Self::Silent => "silent",
            Self::Backend => "backend",
            Self::Failed => "failed",
            Self::Published => "published",
            Self::Shutdown => "shutdown",
        }
    }
}
