//! Header names, in lower case, and content types of WebSocket-over-HTTP and GRIP.

/// The content type of [events](crate::event), in requests and responses.
pub const WEBSOCKET_EVENTS: &str = "application/websocket-events";

/// The content type of [instructions](crate::hold).
pub const GRIP_INSTRUCT: &str = "application/grip-instruct";

/// Request: the id of the connection, the same in all its requests.
pub const CONNECTION_ID: &str = "connection-id";
/// Request: the [signature](crate::signature) that proves that the host sent it.
pub const GRIP_SIG: &str = "grip-sig";
/// Request: the last ids that the client of a hold got, see
/// [`Channel::from_grip_last`](crate::hold::Channel::from_grip_last).
pub const GRIP_LAST: &str = "grip-last";
/// Request: the features that the host supports, comma-separated.
pub const GRIP_FEATURE: &str = "grip-feature";
/// The feature of hosts that deliver what a channel has published after an item, or its newest items:
/// `prev_id` and `recover` of [`ControlMessage::Subscribe`](crate::ControlMessage::Subscribe).
pub const FEATURE_RECOVER: &str = "subscribe:recover";
/// The feature of hosts that know the members of channels:
/// [`ControlMessage::Presence`](crate::ControlMessage::Presence).
pub const FEATURE_PRESENCE: &str = "presence";
/// The feature of hosts that know the users of sessions:
/// [`ControlMessage::User`](crate::ControlMessage::User).
pub const FEATURE_USER: &str = "user";
/// The feature of hosts that answer messages without asking the component:
/// [`ControlMessage::AutoResponse`](crate::ControlMessage::AutoResponse).
pub const FEATURE_AUTO_RESPONSE: &str = "auto-response";
/// Request: the user whose time is over. The response binds the connection again, or it is closed. See
/// [`ControlMessage::User`](crate::ControlMessage::User).
pub const GRIP_USER_EXPIRED: &str = "grip-user-expired";
/// Requests with events, and the response to OPEN: offers and enables GRIP, see [`Extension`](crate::Extension).
pub const SEC_WEBSOCKET_EXTENSIONS: &str = "sec-websocket-extensions";
/// Response: the idle time in seconds after which the host sends an empty request.
pub const KEEP_ALIVE_INTERVAL: &str = "keep-alive-interval";
/// Response: the number of content bytes that the component accepted.
pub const CONTENT_BYTES_ACCEPTED: &str = "content-bytes-accepted";
/// Request: the number of content bytes that were sent before.
pub const CONTENT_BYTES_REPLAYED: &str = "content-bytes-replayed";
/// Request: the prefix of headers with stored metadata.
pub const META_PREFIX: &str = "meta-";
/// Response: the prefix of headers that store metadata.
pub const SET_META_PREFIX: &str = "set-meta-";
/// The prefix of headers that are private to host and component.
pub const GRIP_PREFIX: &str = "grip-";

/// Whether a `Content-Type` is that of events. Parameters are ignored.
pub fn is_websocket_events(content_type: &str) -> bool {
    has_essence(content_type, WEBSOCKET_EVENTS)
}

/// Whether a `Content-Type` is that of instructions. Parameters are ignored.
pub fn is_grip_instruct(content_type: &str) -> bool {
    has_essence(content_type, GRIP_INSTRUCT)
}

/// Whether a value of [`GRIP_FEATURE`] lists a feature.
pub fn has_feature(features: &str, feature: &str) -> bool {
    features.split(',').any(|listed| listed.trim() == feature)
}

/// Whether a header starts with `Grip-`. Case does not matter.
pub fn is_grip(name: &str) -> bool {
    let prefix = name.as_bytes().get(..GRIP_PREFIX.len());
    prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case(GRIP_PREFIX.as_bytes()))
}

fn has_essence(content_type: &str, expected: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_a_list() {
        let features = "status, link:next,subscribe:recover";
        assert!(has_feature(features, FEATURE_RECOVER) && has_feature(features, "status"));
        assert!(!has_feature(features, "subscribe") && !has_feature("", "status"));
        assert!(!has_feature("subscribe:recover2", FEATURE_RECOVER));
    }

    #[test]
    fn content_type_parameters_and_case_are_ignored() {
        for matching in [
            "application/websocket-events",
            "Application/WebSocket-Events; x=1",
            " application/websocket-events ",
        ] {
            assert!(is_websocket_events(matching), "{matching}");
        }
        for other in [
            "",
            ";",
            "application/json",
            "application/websocket-events2",
            "x application/websocket-events",
        ] {
            assert!(!is_websocket_events(other), "{other}");
        }
    }
}
