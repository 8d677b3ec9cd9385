//! The frames of the subprotocol `rooms.v1`, see `docs/subprotocol.md`.

use serde::{Deserialize, Serialize};

use crate::store::Entry;

/// The name of the subprotocol in `Sec-WebSocket-Protocol`.
pub(crate) const SUBPROTOCOL: &str = "rooms.v1";

/// The beginning of all frames, which distinguishes them from messages of the application.
const PREFIX: &str = r#"{"$":"#;

/// The heartbeat of a client. The host answers it, and compares its bytes.
pub(crate) const PING: &str = r#"{"$":"ping"}"#;

pub(crate) const PONG: &str = r#"{"$":"pong"}"#;

/// A frame from a client.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "$", rename_all = "lowercase")]
pub(crate) enum ClientFrame {
    Ping,
    /// The client has missed items after `id`.
    Resume {
        channel: String,
        id: u64,
    },
    /// A frame of a later version, which is ignored.
    #[serde(other)]
    Unknown,
}

impl ClientFrame {
    /// Parses a text message. Returns `None` if it is a message of the application.
    pub(crate) fn parse(text: &str) -> Option<ClientFrame> {
        if !text.starts_with(PREFIX) {
            return None;
        }
        // An invalid frame is not for the application either.
        Some(serde_json::from_str(text).unwrap_or(ClientFrame::Unknown))
    }
}

/// A frame for a client, other than an item.
#[derive(Debug, Serialize)]
#[serde(tag = "$", rename_all = "lowercase")]
pub(crate) enum ServerFrame<'a> {
    /// The first frame.
    Open {
        /// Whether all that the client has missed follows. `None` if it did not ask.
        #[serde(skip_serializing_if = "Option::is_none")]
        recovered: Option<bool>,
    },
    /// The client has missed items of a room that are no longer kept.
    Reset { channel: &'a str },
    /// The number of connections in a room.
    Count {
        channel: &'a str,
        count: u32,
        /// Rises with each change.
        version: u64,
    },
}

impl ServerFrame<'_> {
    pub(crate) fn to_json(&self) -> String {
        serde_json::json!(self).to_string()
    }
}

/// Returns the frame with an item of a room. The value of the entry is JSON.
pub(crate) fn item(channel: &str, entry: &Entry) -> String {
    let data = String::from_utf8_lossy(&entry.value);
    // Names of channels are percent-encoded, so they need no escapes in JSON.
    format!(
        r#"{PREFIX}"item","channel":"{channel}","id":{},"data":{data}}}"#,
        entry.id
    )
}

/// Returns the id of an item in a stream of server-sent events.
pub(crate) fn event_id(channel: &str, id: u64) -> String {
    format!("{id},{channel}")
}

/// Parses `ID,CHANNEL`: the last item that a client has of a channel.
pub(crate) fn parse_position(text: &str) -> Option<(String, u64)> {
    let (id, channel) = text.split_once(',')?;
    Some((channel.to_owned(), id.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_clients_are_told_from_messages() {
        assert_eq!(ClientFrame::parse(PING), Some(ClientFrame::Ping));
        assert_eq!(
            ClientFrame::parse(r#"{"$":"resume","channel":"room:a","id":7}"#),
            Some(ClientFrame::Resume {
                channel: "room:a".into(),
                id: 7
            })
        );
        for unknown in [
            r#"{"$":"later","x":1}"#,
            r#"{"$":1}"#,
            r#"{"$":"resume"}"#,
            r#"{"$":"#,
        ] {
            assert_eq!(ClientFrame::parse(unknown), Some(ClientFrame::Unknown));
        }
        for message in ["", "hello", "{}", r#"{ "$":"ping"}"#] {
            assert_eq!(ClientFrame::parse(message), None);
        }
    }

    #[test]
    fn frames_for_clients_are_json() {
        let open = |recovered| ServerFrame::Open { recovered }.to_json();
        assert_eq!(open(None), r#"{"$":"open"}"#);
        assert_eq!(open(Some(true)), r#"{"$":"open","recovered":true}"#);
        let channel = "room:a";
        assert_eq!(
            ServerFrame::Reset { channel }.to_json(),
            r#"{"$":"reset","channel":"room:a"}"#
        );
    }

    #[test]
    fn positions_end_at_the_first_comma() {
        assert_eq!(
            parse_position("7,room:a,b"),
            Some(("room:a,b".to_owned(), 7))
        );
        for invalid in ["", "7", ",room:a", "x,room:a", "-1,room:a"] {
            assert_eq!(parse_position(invalid), None);
        }
    }
}
