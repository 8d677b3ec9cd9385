//! Where orders are made and changed: stored first, then announced.

use std::time::SystemTime;

use rand::Rng;

use crate::{
    announce::{Announce, News},
    generator,
    history::{History, HistoryError, UpdateError},
    order::{Order, Status},
    storage::Storage,
    timestamp::rfc3339,
};

/// A history, and who is told of what is new in it.
///
/// What is stored counts, announced or not: a browser that missed something sees it by
/// the ids, and fetches it. So a failed announcement is logged, and no error.
#[derive(Clone, Debug)]
pub struct Kitchen<S, A> {
    /// The orders.
    pub history: History<S>,
    /// Where news goes.
    pub announcer: A,
}

impl<S: Storage, A: Announce> Kitchen<S, A> {
    /// Makes a random order.
    pub async fn make(&self, rng: &mut impl Rng, now: SystemTime) -> Result<Order, HistoryError> {
        let order = generator::order(rng, rfc3339(now));
        let order = self.history.add(order).await?;
        self.announce(News::Received, &order).await;
        if let Err(error) = self.history.prune(order.id).await {
            // The next order tries again.
            eprintln!(
                "old orders were not removed: order={} error={error:?}",
                order.id
            );
        }
        Ok(order)
    }

    /// Changes the status of an order.
    pub async fn update(&self, id: u64, status: Status) -> Result<Order, UpdateError> {
        let order = self.history.update(id, status).await?;
        self.announce(News::Updated, &order).await;
        Ok(order)
    }

    async fn announce(&self, news: News, order: &Order) {
        if let Err(error) = self.announcer.announce(news.items(order)).await {
            eprintln!(
                "not published: news={news:?} order={} error={error}",
                order.id
            );
        }
    }
}
