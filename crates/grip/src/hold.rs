//! Holds: what a plain HTTP response asks of the host, in `Grip-*` headers or as JSON.
//!
//! Source: <https://pushpin.org/docs/protocols/grip/>. The headers are
//!
//! ```text
//! Grip-Hold: stream | response
//! Grip-Channel: NAME; prev-id=ID; filter=F; filter=G, NAME, …
//! Grip-Timeout: SECONDS
//! Grip-Keep-Alive: DATA; format=raw | cstring | base64; timeout=SECONDS; mode=idle | interval
//! Grip-Set-Meta: NAME="VALUE", …
//! Grip-Status: CODE REASON
//! Grip-Expose-Headers: NAME, …
//! Grip-Link: <URI>; rel=next; timeout=SECONDS, <URI>; rel=gone
//! ```
//!
//! and the JSON, in a body of the type `application/grip-instruct`,
//!
//! ```text
//! { "hold": { "mode", "channels": [{ "name", "prev-id", "filters" }], "timeout",
//!             "keep-alive": { "content" or "content-bin", "timeout", "mode" }, "meta" },
//!   "response": { "code", "reason", "headers", "body" or "body-bin" } }
//! ```
//!
//! When a stream goes on at its next link, the host says in `Grip-Last: NAME; last-id=ID`
//! what it has sent of each channel that has ids.
//!
//! What the JSON has no word for, the links for one, stands in headers there too.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;

use crate::{control::KeepAliveMode, fields::Invalid, header, publish::HttpResponse};

mod cstring;
mod headers;
mod json;

/// How long a response is held when it does not say how long.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(55);

/// The shortest time that a response is held.
pub const MIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a stream is idle before a keep-alive that does not say how long.
pub const DEFAULT_KEEP_ALIVE: Duration = Duration::from_secs(55);

/// The shortest time between two keep-alives.
pub const MIN_KEEP_ALIVE: Duration = Duration::from_secs(1);

/// How long a stream is quiet before its next part is fetched, when the link does not
/// say how long.
pub const DEFAULT_LINK_TIMEOUT: Duration = Duration::from_secs(120);

/// Headers of a response, as names and values.
pub type Headers = Vec<(&'static str, String)>;

/// What a response asks of the host. `timeout`s are in seconds.
///
/// Everything is optional: a link to the next part needs no hold, it is fetched at once
/// then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instruct {
    /// How the response is held; `None`: it is not.
    pub hold: Option<HoldMode>,
    /// What it waits for.
    pub channels: Vec<Channel>,
    /// How long a response is held, see [`hold_timeout`](Instruct::hold_timeout).
    pub timeout: Option<u32>,
    /// What a stream says when it has nothing to say.
    pub keep_alive: Option<KeepAlive>,
    /// What filters know of the client.
    pub meta: BTreeMap<String, String>,
    /// The status that the client gets in place of the response's own.
    pub status: Option<Status>,
    /// The headers that the client gets; when empty, all. None that begins with `Grip-`.
    pub expose_headers: Vec<String>,
    /// Where a stream goes on when it falls behind or is quiet.
    pub next: Option<NextLink>,
    /// Who is told when the client is gone: a URI, which may be relative.
    pub gone: Option<String>,
    /// The response for the client, where the instructions are the body.
    pub response: Option<HttpResponse>,
}

/// How a response is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldMode {
    /// Sent now and kept open: what is published is appended.
    Stream,
    /// Kept back until there is something published to answer with, or no more time.
    Response,
}

/// A channel that a hold is subscribed to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Channel {
    /// Its name, not empty.
    pub name: String,
    /// The id of the last item that the response knows of.
    pub prev_id: Option<String>,
    /// Names of the filters that published items pass through.
    pub filters: Vec<String>,
}

/// What is sent on a held stream to keep it alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// The bytes, not none.
    pub content: Bytes,
    /// After how long, see [`interval`](KeepAlive::interval).
    pub timeout: Option<u32>,
    /// When it is due.
    pub mode: KeepAliveMode,
}

/// A status line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The code, 200 to 999.
    pub code: u16,
    /// The reason phrase; `None` leaves it to the code.
    pub reason: Option<String>,
}

/// Where the next part of a stream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextLink {
    /// A URI, which may be relative to that of the request.
    pub uri: String,
    /// After how long, see [`quiet`](NextLink::quiet).
    pub timeout: Option<u32>,
}

/// Why a response's instructions cannot be followed, or be written: what is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct InstructError {
    /// The header, `Grip-Channel`, or the place in the JSON, `instruct.hold.channels[0].name`.
    pub place: String,
    /// What is wrong there.
    pub problem: String,
}

impl InstructError {
    fn new(place: impl Into<String>, problem: impl Into<String>) -> InstructError {
        InstructError {
            place: place.into(),
            problem: problem.into(),
        }
    }
}

impl From<Invalid> for InstructError {
    fn from(Invalid { path, problem }: Invalid) -> InstructError {
        InstructError::new(path, problem)
    }
}

impl Instruct {
    /// Holds a stream on `channels`.
    pub fn stream(channels: impl IntoIterator<Item = Channel>) -> Instruct {
        Instruct {
            hold: Some(HoldMode::Stream),
            channels: channels.into_iter().collect(),
            ..Instruct::default()
        }
    }

    /// Holds a response until something is published on one of `channels`.
    pub fn response(channels: impl IntoIterator<Item = Channel>) -> Instruct {
        Instruct {
            hold: Some(HoldMode::Response),
            channels: channels.into_iter().collect(),
            ..Instruct::default()
        }
    }

    /// The same, with `content` whenever a stream was idle for `timeout` seconds.
    pub fn with_keep_alive(self, content: impl Into<Bytes>, timeout: u32) -> Instruct {
        Instruct {
            keep_alive: Some(KeepAlive {
                content: content.into(),
                timeout: Some(timeout),
                mode: KeepAliveMode::Idle,
            }),
            ..self
        }
    }

    /// The same, going on at `uri` when it falls behind, or is quiet for `timeout` seconds.
    pub fn with_next(self, uri: impl Into<String>, timeout: u32) -> Instruct {
        Instruct {
            next: Some(NextLink {
                uri: uri.into(),
                timeout: Some(timeout),
            }),
            ..self
        }
    }

    /// How long a response is held, defaults and minimum applied.
    pub fn hold_timeout(&self) -> Duration {
        seconds_or(self.timeout, DEFAULT_TIMEOUT).max(MIN_TIMEOUT)
    }

    /// Whether the client gets the header with this name, in whatever case.
    pub fn exposes(&self, name: &str) -> bool {
        let is = |exposed: &String| exposed.eq_ignore_ascii_case(name);
        !header::is_grip(name)
            && (self.expose_headers.is_empty() || self.expose_headers.iter().any(is))
    }
}

impl Channel {
    /// A channel, without an id and filters.
    pub fn new(name: impl Into<String>) -> Channel {
        Channel {
            name: name.into(),
            ..Channel::default()
        }
    }

    /// The same, from the item after the one with this id.
    pub fn after(self, id: impl Into<String>) -> Channel {
        Channel {
            prev_id: Some(id.into()),
            ..self
        }
    }
}

impl KeepAlive {
    /// How long before it is due, default and minimum applied.
    pub fn interval(&self) -> Duration {
        seconds_or(self.timeout, DEFAULT_KEEP_ALIVE).max(MIN_KEEP_ALIVE)
    }
}

impl NextLink {
    /// How long the stream is quiet before the next part is fetched, default applied.
    pub fn quiet(&self) -> Duration {
        seconds_or(self.timeout, DEFAULT_LINK_TIMEOUT)
    }
}

fn seconds_or(seconds: Option<u32>, default: Duration) -> Duration {
    seconds.map_or(default, |seconds| Duration::from_secs(seconds.into()))
}

/// What a client can be told: an interim status never ends a response.
const STATUS_CODES: std::ops::RangeInclusive<u16> = 200..=999;

#[cfg(test)]
mod tests;
