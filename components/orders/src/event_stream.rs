//! New orders as server-sent events: each of them once, and in order.
//!
//! Behind a GRIP host the response is held, and goes on with what is published on
//! [`CHAIN`]. It names the last order that it knows, so the host sees when what is
//! published does not follow that: when orders were made between reading them here and
//! holding, or one was never published. It then fetches what is missing from here, with
//! the link that the response has for that, and appends it.
//!
//! Where no host holds it, the response ends, and the browser asks again: it polls.

use grip::{Instruct, hold};
use spin_sdk::http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    announce::{CHAIN, CHANNEL, News},
    history::{FIRST, History, HistoryError},
    order::{Order, Status},
    query::{self, MAX_AFTER, MAX_LATEST, parse_number},
    reply::{self, Reply},
    storage::Storage,
};

/// Where the stream is.
pub const PATH: &str = "/api/orders/stream";

/// How many orders a host is given in one part, to stay below the 100,000 bytes that
/// Pushpin takes. When there are more, it fetches the next part at once.
const MAX_PART: u64 = 100;

/// How long nothing is sent before a comment is, in seconds: what is between here and
/// the browser often drops connections that are idle for 30 or 60.
const KEEP_ALIVE: u32 = 20;

/// How long a stream is quiet before the host fetches its next part, in seconds: news
/// that was not published is told after that at the latest.
const QUIET: u32 = 120;

/// When a browser is to ask again where nobody holds the response, in milliseconds.
const RETRY: u32 = 2000;

/// The order that the stream is to go on after. There are three who say it: the query,
/// for the first request; `Last-Event-ID`, for a browser that connects again with the
/// same query; and `Grip-Last`, for a host that has appended more since it got the link
/// that it follows. The latest counts.
pub fn after(query: &str, headers: &HeaderMap) -> Result<Option<u64>, String> {
    let expected = "the id of an order, a whole number";
    let mut after = query::after(query)?;
    if let Some(id) = headers.get("last-event-id") {
        match id.to_str().ok().and_then(parse_number) {
            Some(id) => after = after.max(Some(id)),
            None => return Err(format!("Last-Event-ID: {expected}")),
        }
    }
    let last = headers.get_all(grip::header::GRIP_LAST).iter();
    let last = hold::Channel::from_grip_last(last.map(HeaderValue::as_bytes));
    for channel in last.map_err(|error| error.to_string())? {
        if let (CHAIN, Some(id)) = (&*channel.name, channel.prev_id) {
            match parse_number(&id) {
                Some(id) => after = after.max(Some(id)),
                None => return Err(format!("Grip-Last: {CHAIN}: {expected}")),
            }
        }
    }
    Ok(after)
}

/// The orders after one, or the newest, and what a host is to do then if it holds the response.
pub async fn answer<S: Storage>(
    history: &History<S>,
    after: Option<u64>,
    held: bool,
) -> Result<Reply, HistoryError> {
    let limit = if held { MAX_PART } else { MAX_AFTER };
    let mut part = Part::read(history, after, limit).await?;
    if !held {
        part.events.push_str(&format!("retry: {RETRY}\n\n"));
        return Ok(reply::event_stream(part.events));
    }
    let mut reply = reply::event_stream(part.events);
    let instruct = match part.more {
        true => Instruct::default(),
        false => Instruct::stream([
            hold::Channel::new(CHAIN).after(part.last.to_string()),
            hold::Channel::new(CHANNEL),
        ])
        .with_keep_alive(":\n\n", KEEP_ALIVE),
    };
    let instruct = instruct.with_next(format!("{PATH}?after={}", part.last), QUIET);
    let headers = instruct.to_headers();
    for (name, value) in headers.expect("names, numbers and this link have a form in headers") {
        let name = HeaderName::from_bytes(name.as_bytes());
        let value = HeaderValue::from_str(&value);
        if let (Ok(name), Ok(value)) = (name, value) {
            reply.headers_mut().append(name, value);
        }
    }
    Ok(reply)
}

/// A part of the stream.
struct Part {
    events: String,
    /// The last order that a client knows when it has read them.
    last: u64,
    /// Whether there may be more after that.
    more: bool,
}

impl Part {
    async fn read<S: Storage>(
        history: &History<S>,
        after: Option<u64>,
        limit: u64,
    ) -> Result<Part, HistoryError> {
        let latest = parse(history.latest(MAX_LATEST).await?)?;
        let Some(newest) = latest.last().map(|order| order.id) else {
            return Ok(Part {
                events: String::new(),
                last: FIRST - 1,
                more: false,
            });
        };
        let mut events = String::new();
        // One that was never given out is of another store, or was made up.
        let after = after.filter(|id| *id <= newest);
        let known = after.unwrap_or_default();
        // It may have missed that they changed. A change that it has seen does no harm.
        let changed = |order: &&Order| order.id <= known && order.status != Status::Received;
        for order in latest.iter().filter(changed) {
            events.push_str(&News::Updated.stream_event(order));
        }
        let (orders, more) = match (after, latest.first()) {
            // What is missing goes back further than the latest.
            (Some(id), Some(oldest)) if id + 1 < oldest.id => {
                let orders = parse(history.after(id, limit).await?)?;
                let more = orders.len() as u64 == limit;
                (orders, more)
            }
            _ => (latest, false),
        };
        let mut last = known;
        for order in orders.iter().filter(|order| order.id > known) {
            events.push_str(&News::Received.stream_event(order));
            last = order.id;
        }
        Ok(Part { events, last, more })
    }
}

fn parse(orders: Vec<Vec<u8>>) -> Result<Vec<Order>, HistoryError> {
    let orders = orders.iter().map(|order| {
        serde_json::from_slice(order).map_err(|_| HistoryError::Corrupt {
            key: "orders/…".into(),
            expected: "an order",
        })
    });
    orders.collect()
}

#[cfg(test)]
mod tests;
