//! The orders that were published on the bus, as Redis keeps them.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::Redis;

use crate::client::Score;

/// The orders that were published, in the order of the bus.
#[derive(Default)]
pub struct Published {
    /// The id of each order. Its offset on the bus is its index plus 1.
    ids: Vec<u64>,
}

impl Published {
    /// Adds what was published since the last time.
    pub fn update(&mut self, redis: &Redis) -> Result<()> {
        let key = redis.bus_command(&["KEYS", "*:items:orders"])?;
        let start = format!("({}", self.ids.len());
        let entries = redis.bus_command(&["XRANGE", &key, &start, "+"])?;
        // An entry is its offset, and three names of fields with their values. The first is the item.
        let lines: Vec<_> = entries.lines().collect();
        for entry in lines.chunks(7) {
            let [offset, _, item, ..] = entry else {
                continue;
            };
            let expected = format!("{}-0", self.ids.len() + 1);
            ensure!(*offset == expected, "offset {offset}, expected {expected}");
            let item: Value = serde_json::from_str(item)?;
            let (id, _) = item["id"]
                .as_str()
                .and_then(|id| id.split_once('-'))
                .with_context(|| format!("no id in {item}"))?;
            self.ids.push(id.parse()?);
        }
        Ok(())
    }

    /// Returns the number of orders.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Returns the last order.
    pub fn last(&self) -> Option<u64> {
        self.ids.last().copied()
    }

    /// Checks that a client has received each order since it first connected once and in order, and that
    /// those it has fetched were not published.
    pub fn check(&self, score: &Score) -> Result<()> {
        let Score {
            first,
            received,
            fetched,
            reloads,
            ..
        } = score;
        ensure!(
            *reloads == 0,
            "{reloads} reloads, although Redis has lost nothing"
        );
        let since = received.first().context("nothing received")?;
        let is_complete = (first + 1..*since).all(|id| fetched.contains(&id));
        ensure!(is_complete, "{since} is the first order after {first}");
        let start = self.ids.iter().position(|id| id == since);
        let expected = &self.ids[start.with_context(|| format!("{since} is not on the bus"))?..];
        // The client may have received more in the meantime.
        for (index, id) in expected.iter().enumerate() {
            let found = received.get(index);
            ensure!(found == Some(id), "received {found:?}, expected {id}");
        }
        let lost: Vec<_> = fetched.iter().filter(|id| self.ids.contains(id)).collect();
        ensure!(lost.is_empty(), "published, but not received: {lost:?}");
        Ok(())
    }
}
