//! The stored orders: numbered without gaps, limited to the newest thousand.

use sockets::store::{Entry, Ring, StoreError};

use crate::order::{Order, Status};

/// The id of the first order.
pub(crate) const FIRST_ID: u64 = 100;

/// The number of orders that are kept.
const CAPACITY: u64 = 1000;

/// The orders in the key-value store. Each entry is the JSON of an order.
#[derive(Clone, Debug)]
pub(crate) struct History(Ring);

/// An error while updating an order's status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UpdateError {
    #[error("order {0} not found")]
    NotFound(u64),
    #[error("order {id} is {}: it cannot become {}", from.name(), to.name())]
    InvalidTransition { id: u64, from: Status, to: Status },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Default for History {
    fn default() -> History {
        History(Ring::new("orders").starting_at(FIRST_ID).keep(CAPACITY))
    }
}

impl History {
    /// Stores an order under the next id. The order is durable when this returns.
    pub(crate) async fn add(&self, mut order: Order) -> Result<Order, StoreError> {
        let value = |id| {
            order.id = id;
            order.to_json()
        };
        self.0.append(value).await?;
        Ok(order)
    }

    /// Sets the status of an order, if the transition is allowed.
    pub(crate) async fn update(&self, id: u64, status: Status) -> Result<Order, UpdateError> {
        let change = |entry: &Entry| {
            let order: Order = entry.json()?;
            if !order.status.can_become(status) {
                return Err(UpdateError::InvalidTransition {
                    id,
                    from: order.status,
                    to: status,
                });
            }
            Ok(Order { status, ..order }.to_json())
        };
        let updated = self.0.update(id, change).await?;
        Ok(updated.ok_or(UpdateError::NotFound(id))?.json()?)
    }

    /// Returns an order.
    pub(crate) async fn get(&self, id: u64) -> Result<Option<Entry>, StoreError> {
        self.0.get(id).await
    }

    /// Returns the newest orders, oldest first.
    pub(crate) async fn latest(&self, limit: u64) -> Result<Vec<Entry>, StoreError> {
        self.0.latest(limit).await
    }

    /// Returns the first orders after `id`, oldest first.
    pub(crate) async fn after(&self, id: u64, limit: u64) -> Result<Vec<Entry>, StoreError> {
        self.0.after(id, limit).await
    }

    /// Removes the orders that exceed the capacity, given the newest id.
    pub(crate) async fn prune(&self, newest: u64) -> Result<(), StoreError> {
        self.0.prune(newest).await
    }
}

#[cfg(test)]
mod tests {
    use sockets::testing::block_on;

    use super::*;
    use crate::testing::{self, create};

    #[test]
    fn a_status_changes_only_as_allowed() {
        let orders = testing::empty_orders();
        let update = |id, status| block_on(orders.history.update(id, status));
        assert_eq!(
            update(FIRST_ID, Status::Fired),
            Err(UpdateError::NotFound(FIRST_ID))
        );
        let order = create(&orders);
        assert_eq!(order.id, FIRST_ID);
        let fired = update(FIRST_ID, Status::Fired).unwrap();
        let status = Status::Fired;
        assert_eq!(fired, Order { status, ..order });
        let invalid = UpdateError::InvalidTransition {
            id: FIRST_ID,
            from: Status::Fired,
            to: Status::Fired,
        };
        assert_eq!(update(FIRST_ID, Status::Fired), Err(invalid));
    }

    #[test]
    fn other_values_are_no_orders() {
        let orders = testing::empty_orders();
        block_on(Ring::new("orders").starting_at(FIRST_ID).push(&1)).unwrap();
        let error = block_on(orders.update(FIRST_ID, Status::Fired)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "key \"orders/100/1\" of the key-value store does not hold JSON for \
             orders::order::Order: remove the key or the store"
        );
    }
}
