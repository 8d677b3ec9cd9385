//! Instructions of an HTTP response to the host: hold it, and on which channels.
//!
//! Responses carry them in headers,
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
//! or as JSON, in a body of type `application/grip-instruct`:
//!
//! ```text
//! { "hold": { "mode", "channels": [{ "name", "prev-id", "filters" }], "timeout",
//!             "keep-alive": { "content" or "content-bin", "timeout", "mode" }, "meta" },
//!   "response": { "code", "reason", "headers", "body" or "body-bin" } }
//! ```
//!
//! What the JSON cannot express, such as links, stays in headers.
//!
//! When a stream continues at its next link, the request has a header `Grip-Last: NAME;
//! last-id=ID` for each channel with ids: the last item that the client got.
//!
//! The protocol is Pushpin's: <https://pushpin.org/docs/protocols/grip/>.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    control::KeepAliveMode,
    header,
    json::{self, is_default},
    publish::HttpResponse,
};

mod body;
mod cstring;
mod headers;

/// The default time that a response is held.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(55);

/// The shortest time that a response is held.
pub const MIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The default idle time of a stream before a keep-alive.
pub const DEFAULT_KEEP_ALIVE: Duration = Duration::from_secs(55);

/// The shortest time between two keep-alives.
pub const MIN_KEEP_ALIVE: Duration = Duration::from_secs(1);

/// The default idle time of a stream before its next part is fetched.
pub const DEFAULT_LINK_TIMEOUT: Duration = Duration::from_secs(120);

/// The status codes that a client can get. An interim status never ends a response.
const STATUS_CODES: RangeInclusive<u16> = 200..=999;

/// Response headers, as names and values.
pub type Headers = Vec<(&'static str, String)>;

/// Instructions of a response to the host. Timeouts are in seconds.
///
/// Every field is optional. A link to the next part does not need a hold: without one, the
/// next part is fetched at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instruct {
    /// How the response is held. `None` means that it is not.
    pub hold: Option<HoldMode>,
    /// The channels that the hold is subscribed to.
    pub channels: Vec<Channel>,
    /// How long a response is held, see [`hold_timeout`](Instruct::hold_timeout).
    pub timeout: Option<u32>,
    /// What is sent on an idle stream.
    pub keep_alive: Option<KeepAlive>,
    /// Metadata of the client, for filters.
    pub meta: BTreeMap<String, String>,
    /// The status that replaces the response's own.
    pub status: Option<Status>,
    /// The only headers that the client gets. When empty, it gets all that do not begin
    /// with `Grip-`.
    pub expose_headers: Vec<String>,
    /// Where a stream continues when it falls behind or is idle.
    pub next: Option<NextLink>,
    /// The URI that gets a request when the client has disconnected. It may be relative.
    pub gone: Option<String>,
    /// The response for the client, when the body carries the instructions.
    pub response: Option<HttpResponse>,
}

/// How a response is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HoldMode {
    /// Sends the response now and keeps it open. Published content is appended.
    Stream,
    /// Delays the response until one is published, or the timeout.
    Response,
}

/// A channel that a hold is subscribed to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Channel {
    /// The channel's name, not empty.
    #[serde(deserialize_with = "name")]
    pub name: String,
    /// The id of the last item that the response includes.
    #[serde(
        default,
        deserialize_with = "prev_id",
        skip_serializing_if = "is_default"
    )]
    pub prev_id: Option<String>,
    /// The names of the filters that apply to published items.
    #[serde(
        default,
        deserialize_with = "filters",
        skip_serializing_if = "is_default"
    )]
    pub filters: Vec<String>,
}

json::field_readers! {
    required name: String = json::non_empty_string;
    optional prev_id: Option<String> = json::string;
    or_default filters: Vec<String> = json::strings;
}

/// What is sent on an idle stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepAlive {
    /// The bytes, not empty.
    #[serde(flatten, with = "body::keep_alive_content")]
    pub content: Bytes,
    /// The time between keep-alives, see [`interval`](KeepAlive::interval).
    #[serde(
        default,
        deserialize_with = "timeout",
        skip_serializing_if = "is_default"
    )]
    pub timeout: Option<u32>,
    /// What the timeout counts from.
    #[serde(default, deserialize_with = "mode", skip_serializing_if = "is_default")]
    pub mode: KeepAliveMode,
}

json::field_readers! {
    optional timeout: Option<u32> = json::seconds;
    or_default mode: KeepAliveMode = body::keep_alive_mode;
}

/// A status line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The code, 200 to 999.
    pub code: u16,
    /// The reason phrase. `None` means the usual one for the code.
    pub reason: Option<String>,
}

/// The link to the next part of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextLink {
    /// A URI, which may be relative to that of the request.
    pub uri: String,
    /// The idle time before it is fetched, see [`idle_timeout`](NextLink::idle_timeout).
    pub timeout: Option<u32>,
}

/// The reason why instructions are invalid, or cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct InstructError {
    /// A header, such as `Grip-Channel`, or a place in the JSON, such as
    /// `instruct.hold.channels[0].name`.
    pub path: String,
    /// What is wrong there.
    pub problem: String,
}

impl InstructError {
    fn new(path: impl Into<String>, problem: impl Into<String>) -> InstructError {
        InstructError {
            path: path.into(),
            problem: problem.into(),
        }
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

    /// Sends `content` whenever the stream was idle for `timeout` seconds.
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

    /// Continues the stream at `uri` when it falls behind, or is idle for `timeout` seconds.
    pub fn with_next(self, uri: impl Into<String>, timeout: u32) -> Instruct {
        Instruct {
            next: Some(NextLink {
                uri: uri.into(),
                timeout: Some(timeout),
            }),
            ..self
        }
    }

    /// Returns how long a response is held, with default and minimum applied.
    pub fn hold_timeout(&self) -> Duration {
        seconds_or(self.timeout, DEFAULT_TIMEOUT).max(MIN_TIMEOUT)
    }

    /// Whether the client gets the header with this name. Case does not matter.
    pub fn exposes(&self, name: &str) -> bool {
        let mut exposed = self.expose_headers.iter();
        !header::is_grip(name)
            && (self.expose_headers.is_empty()
                || exposed.any(|exposed| exposed.eq_ignore_ascii_case(name)))
    }
}

impl Channel {
    /// Creates a channel without an id and filters.
    pub fn new(name: impl Into<String>) -> Channel {
        Channel {
            name: name.into(),
            ..Channel::default()
        }
    }

    /// Starts after the item with this id.
    pub fn after(self, id: impl Into<String>) -> Channel {
        Channel {
            prev_id: Some(id.into()),
            ..self
        }
    }
}

impl KeepAlive {
    /// Returns the time between keep-alives, with default and minimum applied.
    pub fn interval(&self) -> Duration {
        seconds_or(self.timeout, DEFAULT_KEEP_ALIVE).max(MIN_KEEP_ALIVE)
    }
}

impl NextLink {
    /// Returns the idle time before the next part is fetched, with default applied.
    pub fn idle_timeout(&self) -> Duration {
        seconds_or(self.timeout, DEFAULT_LINK_TIMEOUT)
    }
}

fn seconds_or(seconds: Option<u32>, default: Duration) -> Duration {
    seconds.map_or(default, |seconds| Duration::from_secs(seconds.into()))
}

#[cfg(test)]
mod tests;
