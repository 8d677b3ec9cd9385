//! The names of WebSocket-over-HTTP and GRIP in HTTP: headers in lower case, and the content type.

/// The content type of a body of [events](crate::event), in requests and answers.
pub const WEBSOCKET_EVENTS: &str = "application/websocket-events";

/// The content type of a body of [instructions](crate::hold).
pub const GRIP_INSTRUCT: &str = "application/grip-instruct";

/// Request: which connection the events are of; the same in all its requests.
pub const CONNECTION_ID: &str = "connection-id";
/// Request: the [signature](crate::signature) that shows that the host sent it.
pub const GRIP_SIG: &str = "grip-sig";
/// Request: what a host that fetches the next part of a stream has sent of a channel, see
/// [`Channel::from_grip_last`](crate::hold::Channel::from_grip_last).
pub const GRIP_LAST: &str = "grip-last";
/// Request: what the host can do, comma-separated.
pub const GRIP_FEATURE: &str = "grip-feature";
/// Request and answer to OPEN: turns GRIP on, see [`Extension`](crate::Extension).
pub const SEC_WEBSOCKET_EXTENSIONS: &str = "sec-websocket-extensions";
/// Answer: idle time in seconds after which the host sends an empty request.
pub const KEEP_ALIVE_INTERVAL: &str = "keep-alive-interval";
/// Answer: how many content bytes of those offered were taken.
pub const CONTENT_BYTES_ACCEPTED: &str = "content-bytes-accepted";
/// Request: how many of the content bytes were offered before.
pub const CONTENT_BYTES_REPLAYED: &str = "content-bytes-replayed";
/// Request: prefix of the headers that carry remembered metadata.
pub const META_PREFIX: &str = "meta-";
/// Answer: prefix of the headers that set metadata to be remembered.
pub const SET_META_PREFIX: &str = "set-meta-";
/// Prefix of all that is between the host and what is behind it.
pub const GRIP_PREFIX: &str = "grip-";

/// Whether a `Content-Type` names a body of events, whatever its parameters and case.
pub fn is_websocket_events(content_type: &str) -> bool {
    is_type(content_type, WEBSOCKET_EVENTS)
}

/// Whether a `Content-Type` names a body of instructions, whatever its parameters and case.
pub fn is_grip_instruct(content_type: &str) -> bool {
    is_type(content_type, GRIP_INSTRUCT)
}

/// Whether a header is between the host and what is behind it, in whatever case.
pub fn is_grip(name: &str) -> bool {
    let begin = name.as_bytes().get(..GRIP_PREFIX.len());
    begin.is_some_and(|begin| begin.eq_ignore_ascii_case(GRIP_PREFIX.as_bytes()))
}

fn is_type(content_type: &str, wanted: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types() {
        for yes in [
            "application/websocket-events",
            "Application/WebSocket-Events; x=1",
            " application/websocket-events ",
        ] {
            assert!(is_websocket_events(yes), "{yes}");
        }
        for no in [
            "",
            ";",
            "application/json",
            "application/websocket-events2",
            "x application/websocket-events",
        ] {
            assert!(!is_websocket_events(no), "{no}");
        }
    }
}
