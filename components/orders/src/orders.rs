//! Creating and updating orders: each change is stored first and then published.

use std::time::SystemTime;

use rand::Rng;
use sockets::store::StoreError;

use crate::{
    event::OrderEvent,
    generator,
    history::{History, UpdateError},
    order::{Order, Status},
    timestamp::rfc3339,
};

/// The stored orders. Changes to them are published.
///
/// A change succeeds once it is stored. A failure to publish it is only logged: clients find
/// missing orders by their ids and fetch them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Orders {
    pub(crate) history: History,
}

impl Orders {
    /// Creates a random order.
    pub(crate) async fn create(
        &self,
        rng: &mut impl Rng,
        now: SystemTime,
    ) -> Result<Order, StoreError> {
        let order = generator::random_order(rng, rfc3339(now));
        let order = self.history.add(order).await?;
        self.publish(OrderEvent::Received, &order).await;
        if let Err(error) = self.history.prune(order.id).await {
            // Creating the next order prunes again.
            eprintln!(
                "failed to remove old orders: order={} error={error:?}",
                order.id
            );
        }
        Ok(order)
    }

    /// Sets the status of an order.
    pub(crate) async fn update(&self, id: u64, status: Status) -> Result<Order, UpdateError> {
        let order = self.history.update(id, status).await?;
        self.publish(OrderEvent::Updated, &order).await;
        Ok(order)
    }

    async fn publish(&self, event: OrderEvent, order: &Order) {
        if let Err(error) = sockets::publish(event.items(order)).await {
            eprintln!(
                "failed to publish: event={} order={} error={error}",
                event.name(),
                order.id
            );
        }
    }
}
