//! Publishes items to the clients of this host, or of all hosts that share a bus.

use std::{error::Error as _, sync::Arc};

use grip::Item;
use thiserror::Error;
use tokio::task::JoinError;
use tracing::{error, field, warn};

use crate::{
    bus::{self, Bus},
    pubsub::{
        channels::Channels,
        publication::{InvalidItem, Publication},
    },
};

/// Publishes items. Clones publish to the same channels.
#[derive(Clone)]
pub(crate) struct Publisher {
    channels: Channels,
    bus: Option<Arc<Bus>>,
}

/// Why items may not have been published.
#[derive(Debug, Error)]
pub(crate) enum PublishError {
    #[error(transparent)]
    Invalid(#[from] InvalidItem),
    /// Publishing the same items again later may succeed.
    #[error(transparent)]
    Bus(#[from] bus::PublishError),
    #[error("publish failed")]
    Panicked(#[from] JoinError),
}

impl Publisher {
    pub(crate) fn new(channels: Channels, bus: Option<Arc<Bus>>) -> Self {
        Self { channels, bus }
    }

    /// Publishes items, in order. Failures are logged.
    ///
    /// # Errors
    /// Fails without publishing anything if an item is invalid. If the bus fails, some of the items may
    /// have been published.
    pub(crate) async fn publish(&self, items: Vec<Item>) -> Result<(), PublishError> {
        let published = match &self.bus {
            Some(bus) => publish_on_bus(bus, items).await,
            None => self.publish_here(items).await,
        };
        if let Err(PublishError::Panicked(error)) = &published {
            error!(%error, "publish failed");
        }
        published
    }

    /// Publishes items to the clients of this host.
    async fn publish_here(&self, items: Vec<Item>) -> Result<(), PublishError> {
        let publications = items.into_iter().map(Publication::new);
        let publications: Vec<_> = publications.collect::<Result<_, _>>()?;
        // A task, which completes even if the publisher disconnects: an item must not reach only some
        // of its subscribers.
        let channels = self.channels.clone();
        let published = tokio::spawn(async move {
            let mut publications = publications.into_iter().peekable();
            while let Some(publication) = publications.next() {
                let channel = publication.channel.clone();
                channels.publish(publication).await;
                // A subscriber of both channels receives the items in their order.
                if publications
                    .peek()
                    .is_some_and(|next| next.channel != channel)
                {
                    channels.wait_delivered(&channel).await;
                }
            }
        });
        Ok(published.await?)
    }
}

/// Publishes items to the clients of all hosts.
async fn publish_on_bus(bus: &Arc<Bus>, items: Vec<Item>) -> Result<(), PublishError> {
    for item in &items {
        Publication::new(item.clone())?;
    }
    // A task, which completes even if the publisher disconnects.
    let publisher = bus.clone();
    let published = tokio::spawn(async move { publisher.publish(&items).await });
    published.await?.map_err(|error| {
        bus.log_failure(|| {
            let cause = error.source().map(field::display);
            warn!(%error, cause, "publish failed");
        });
        error.into()
    })
}
