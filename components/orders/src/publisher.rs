//! The interface to the GRIP host that publishes items to clients.

use grip::Item;

/// Publishes items to the subscribers of their channels.
pub(crate) trait Publisher {
    /// Publishes `items` in one request.
    async fn publish(&self, items: Vec<Item>) -> Result<(), PublishError>;
}

/// An error from the GRIP host, or from the request to it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct PublishError(pub(crate) String);
