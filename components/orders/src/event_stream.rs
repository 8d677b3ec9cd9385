//! New orders as server-sent events: each order once, in the order of the ids.
//!
//! A GRIP host holds the response open and appends the items published on [`RECEIVED_CHANNEL`].
//! The response tells the host the id of the last order that it contains. The host can then
//! detect a gap: an order that was created after the response was read from the store and before
//! the host subscribed, or one whose publication failed. To fill the gap, the host fetches the
//! next part of the stream, from the link in the response, and appends it.
//!
//! Without a GRIP host, the response ends and the browser polls.

use grip::{Instruct, hold};
use sockets::store::{Entry, StoreError};
use spin_sdk::http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    event::{ORDERS_CHANNEL, OrderEvent, RECEIVED_CHANNEL},
    history::{FIRST_ID, History},
    order::{Order, Status},
    query::{self, MAX_AFTER, MAX_LATEST, parse_number},
    response::{self, Response},
};

/// The path of the stream.
pub(crate) const PATH: &str = "/api/orders/stream";

/// The maximum number of orders in a part that the host appends. Parts stay below 100,000 bytes,
/// which is the limit of Pushpin. The host fetches a longer stream part by part.
const MAX_PART_ORDERS: u64 = 100;

/// The idle time after which the host sends a comment. Proxies often drop connections that are
/// idle for 30 or 60 seconds.
const KEEP_ALIVE_SECONDS: u32 = 20;

/// The idle time after which the host fetches the next part. This bounds the delay of an order
/// whose publication failed.
const POLL_SECONDS: u32 = 120;

/// The time after which a browser reconnects if the response is not held.
const RETRY_MILLIS: u32 = 2000;

/// Returns the id of the last order that the client has received, if there is one.
///
/// The id may come from three sources: the query; `Last-Event-ID`, when a browser reconnects with
/// the same query; and `Grip-Last`, when the host follows a link after it has appended more
/// orders. The highest id counts.
pub(crate) fn parse_position(query: &str, headers: &HeaderMap) -> Result<Option<u64>, String> {
    const EXPECTED: &str = "expected the id of an order";

    let mut position = query::parse_after(query)?;
    if let Some(id) = headers.get("last-event-id") {
        match id.to_str().ok().and_then(parse_number) {
            Some(id) => position = position.max(Some(id)),
            None => return Err(format!("Last-Event-ID: {EXPECTED}")),
        }
    }
    let grip_last = headers.get_all(grip::header::GRIP_LAST).iter();
    let channels = hold::Channel::from_grip_last(grip_last.map(HeaderValue::as_bytes))
        .map_err(|error| error.to_string())?;
    for channel in channels {
        if let (RECEIVED_CHANNEL, Some(id)) = (&*channel.name, channel.prev_id) {
            match parse_number(&id) {
                Some(id) => position = position.max(Some(id)),
                None => return Err(format!("Grip-Last: {RECEIVED_CHANNEL}: {EXPECTED}")),
            }
        }
    }
    Ok(position)
}

/// Returns the orders after `position`, or the newest orders if it is `None`.
///
/// If `hold` is set, the response instructs the GRIP host to hold it open.
pub(crate) async fn respond(
    history: &History,
    position: Option<u64>,
    hold: bool,
) -> Result<Response, StoreError> {
    let limit = if hold { MAX_PART_ORDERS } else { MAX_AFTER };
    let mut part = Part::read(history, position, limit).await?;
    if !hold {
        part.events.push_str(&format!("retry: {RETRY_MILLIS}\n\n"));
        return Ok(response::event_stream(part.events));
    }
    let instruct = if part.more {
        Instruct::default()
    } else {
        Instruct::stream([
            hold::Channel::new(RECEIVED_CHANNEL).after(part.last.to_string()),
            hold::Channel::new(ORDERS_CHANNEL),
        ])
        .with_keep_alive(":\n\n", KEEP_ALIVE_SECONDS)
    };
    let instruct = instruct.with_next(format!("{PATH}?after={}", part.last), POLL_SECONDS);
    let headers = instruct
        .to_headers()
        .expect("channel names, ids and the link are valid in headers");
    let mut response = response::event_stream(part.events);
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes());
        let value = HeaderValue::from_str(&value);
        if let (Ok(name), Ok(value)) = (name, value) {
            response.headers_mut().append(name, value);
        }
    }
    Ok(response)
}

/// A part of the stream.
struct Part {
    /// The encoded events.
    events: String,
    /// The id of the last order that the client has after these events.
    last: u64,
    /// Whether more orders may follow.
    more: bool,
}

impl Part {
    async fn read(
        history: &History,
        position: Option<u64>,
        limit: u64,
    ) -> Result<Part, StoreError> {
        let latest = parse_orders(history.latest(MAX_LATEST).await?)?;
        let Some(newest) = latest.last().map(|order| order.id) else {
            return Ok(Part {
                events: String::new(),
                last: FIRST_ID - 1,
                more: false,
            });
        };
        let mut events = String::new();
        // An id above the newest one comes from another store, or was made up.
        let position = position.filter(|id| *id <= newest);
        let received = position.unwrap_or_default();
        // The client may have missed updates of these orders. Repeating one does no harm.
        let updated = |order: &&Order| order.id <= received && order.status != Status::Received;
        for order in latest.iter().filter(updated) {
            events.push_str(&OrderEvent::Updated.to_server_sent_event(order));
        }
        let (orders, more) = match (position, latest.first()) {
            // The missing orders go back further than `latest`.
            (Some(id), Some(oldest)) if id + 1 < oldest.id => {
                let orders = parse_orders(history.after(id, limit).await?)?;
                let more = orders.len() as u64 == limit;
                (orders, more)
            }
            _ => (latest, false),
        };
        let mut last = received;
        for order in orders.iter().filter(|order| order.id > received) {
            events.push_str(&OrderEvent::Received.to_server_sent_event(order));
            last = order.id;
        }
        Ok(Part { events, last, more })
    }
}

fn parse_orders(orders: Vec<Entry>) -> Result<Vec<Order>, StoreError> {
    orders.iter().map(Entry::json).collect()
}

#[cfg(test)]
mod tests;
