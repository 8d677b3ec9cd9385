//! Connections that are streams of server-sent events.
//!
//! A GRIP host holds the response open and appends what is published. The response tells the host the
//! last item of each room that it contains. The host can then detect a gap, and fetches the next part
//! of the stream from the link in the response.

use std::collections::BTreeMap;

use bytes::Bytes;
use grip::{Instruct, header, hold};
use http::{HeaderValue, Method, Response, StatusCode, request::Parts};

use crate::{
    Connection, Handler, Result,
    connection::{Effect, Head, Meta, RESUME, Transport},
    events,
    frame::event_id,
    hold::add_headers,
    query,
    serve::{failure, text_response},
    server_sent_event::{data_event, event_with_id},
};

/// The content type of a stream.
const EVENT_STREAM: &str = "text/event-stream";

/// The parameter of the links to later parts of a stream.
const PART: &str = "part";

/// The size of a part after which the next item is in another one. Pushpin's limit is 100,000 bytes.
const MAX_PART_BYTES: usize = 90_000;

/// The idle time after which the host sends a comment. Proxies often drop connections that are
/// idle for 30 or 60 seconds.
const KEEP_ALIVE_SECONDS: u32 = 20;

/// The idle time after which the host fetches the next part. This bounds the delay of an item whose
/// publication failed, and of those that are published with typed frames.
const POLL_SECONDS: u32 = if cfg!(feature = "sip-016") { 5 } else { 120 };

/// The time after which a browser reconnects if the response is not held.
const RETRY_MILLIS: u32 = 2000;

/// Whether a request asks for a stream, or for the next part of one.
pub(crate) fn is_requested(head: &Parts) -> bool {
    // The host fetches the next part without the headers of the client.
    let is_part = query::parameters(head.uri.query().unwrap_or_default())
        .any(|(name, value)| name == PART && value == "1");
    let accepted = head.headers.get_all("accept").iter();
    let mut accepted = accepted.filter_map(|value| value.to_str().ok());
    let mut is_accepted = || {
        accepted.any(|list| {
            list.split(',').any(|accepted| {
                let essence = accepted.split(';').next().unwrap_or_default();
                essence.trim().eq_ignore_ascii_case(EVENT_STREAM)
            })
        })
    };
    head.method == Method::GET && (is_part || is_accepted())
}

/// Responds with a stream, or with its next part. The host holds it open if `is_held`.
pub(crate) async fn respond(
    handler: &impl Handler,
    head: &Parts,
    is_held: bool,
) -> Response<Bytes> {
    let query = head.uri.query().unwrap_or_default();
    let is_continued = is_held && query::parameters(query).any(|(name, _)| name == PART);
    let transport = Transport::Stream { is_continued };
    let mut connection = Connection::new(Head::of(head), transport, Meta::default(), true);
    if is_held {
        let grip_last = head.headers.get_all(header::GRIP_LAST).iter();
        let channels = hold::Channel::from_grip_last(grip_last.map(HeaderValue::as_bytes));
        for channel in channels.unwrap_or_default() {
            if let Some(id) = channel.prev_id {
                connection.add_grip_last(channel.name, id);
            }
        }
    }
    if let Err(error) = events::open(handler, &mut connection).await {
        return failure("open a stream", &error);
    }
    if let Some((status, text)) = connection.rejection.take() {
        return text_response(status, &text);
    }
    let part = Part::new(&connection);
    match encode(part, &connection, is_held) {
        Ok(response) => response,
        Err(error) => failure("respond with a stream", &error),
    }
}

/// A part of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct Part {
    events: String,
    channels: Vec<hold::Channel>,
    /// The last items of rooms that the client has after these events.
    positions: BTreeMap<String, u64>,
    meta: BTreeMap<String, String>,
    /// Whether there are more items than fit into the part.
    is_cut: bool,
    is_closed: bool,
}

impl Part {
    fn new(connection: &Connection) -> Part {
        let mut part = Part {
            is_closed: connection.is_closed(),
            ..Part::default()
        };
        for membership in &connection.meta.memberships {
            let channel = membership.channel.clone();
            part.positions.insert(channel, membership.last);
        }
        for effect in &connection.effects {
            part.add(effect, connection.is_continued());
        }
        part
    }

    fn add(&mut self, effect: &Effect, is_continued: bool) {
        match effect {
            // What the handler sends at the beginning is not repeated.
            Effect::Send(grip::Message::Text(text)) if !is_continued => {
                self.events.push_str(&data_event(text));
            }
            Effect::SendFrame(frame) => self.events.push_str(&data_event(frame)),
            Effect::SendItem { channel, id, frame } => {
                if self.events.len() >= MAX_PART_BYTES {
                    self.is_cut = true;
                    let position = self.positions.entry(channel.clone()).or_default();
                    // The first item that is left out has the lowest id.
                    *position = (id - 1).min(*position);
                } else {
                    let event = event_with_id(&event_id(channel, *id), frame);
                    self.events.push_str(&event);
                }
            }
            Effect::Subscribe { channel, prev_id } => {
                let prev_id = prev_id.clone();
                self.channels.push(hold::Channel {
                    prev_id,
                    ..hold::Channel::new(channel)
                });
            }
            Effect::Control(grip::ControlMessage::SetMeta { name, value }) => {
                let value = value.clone().unwrap_or_default();
                self.meta.insert(name.clone(), value);
            }
            Effect::Send(_) | Effect::Unsubscribe(_) | Effect::Control(_) | Effect::Close(_) => {}
        }
    }

    /// Returns the link to the next part.
    fn next_link(&self, connection: &Connection) -> String {
        let query = connection.uri().query().unwrap_or_default();
        let kept = query.split('&').filter(|pair| {
            let name = query::decode(pair.split('=').next().unwrap_or_default());
            !pair.is_empty() && name != RESUME && name != PART
        });
        let mut pairs: Vec<String> = kept.map(str::to_owned).collect();
        for (channel, id) in &self.positions {
            let position = query::encode(&event_id(channel, *id));
            pairs.push(format!("{RESUME}={position}"));
        }
        pairs.push(format!("{PART}=1"));
        format!("{}?{}", connection.path(), pairs.join("&"))
    }
}

fn encode(mut part: Part, connection: &Connection, is_held: bool) -> Result<Response<Bytes>> {
    let instruct = if !is_held || part.is_closed {
        part.events.push_str(&format!("retry: {RETRY_MILLIS}\n\n"));
        None
    } else if part.is_cut {
        // The host fetches the next part at once.
        let instruct = Instruct::default();
        Some(instruct.with_next(part.next_link(connection), POLL_SECONDS))
    } else {
        let mut instruct = Instruct::stream(part.channels.clone())
            .with_keep_alive(":\n\n", KEEP_ALIVE_SECONDS)
            .with_next(part.next_link(connection), POLL_SECONDS);
        instruct.meta = std::mem::take(&mut part.meta);
        Some(instruct)
    };
    let length = part.events.len();
    let mut response = Response::new(Bytes::from(part.events));
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static(EVENT_STREAM));
    headers.insert("content-length", HeaderValue::from(length));
    headers.insert("cache-control", HeaderValue::from_static("no-store"));
    // Disables response buffering in nginx and in proxies that follow it.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    if let Some(instruct) = instruct {
        add_headers(&mut response, &instruct)?;
    }
    Ok(response)
}

#[cfg(test)]
mod tests;
