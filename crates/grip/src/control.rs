//! Control messages: JSON after `c:` with which a component asks the host to act on one WebSocket.
//!
//! The variants of [`ControlMessage`] are the protocol: serde reads and writes them. To add
//! a message, add a variant; a field that no other message has also needs a line in the
//! list of readers below it, so that errors can name the field.

use bytestring::ByteString;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use serde_json::{Map, Value};

use crate::{
    Event, Message,
    extension::{CONTROL_PREFIX, DEFAULT_MESSAGE_PREFIX},
    json::{self, is_default},
    message::{ContentFields, MISSING_CONTENT},
};

/// A request to the host about one connection. Timeouts are in seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ControlMessage {
    /// Subscribes the connection to a channel.
    ///
    /// `prev_id` and `recover` are extensions, which the host lists in
    /// [`Grip-Feature`](crate::header::GRIP_FEATURE). Without them, items that were published before
    /// the subscription are not received.
    Subscribe {
        /// The channel's name, not empty.
        #[serde(deserialize_with = "channel")]
        channel: String,
        /// The names of the filters that apply to published items.
        #[serde(
            default,
            deserialize_with = "filters",
            skip_serializing_if = "is_default"
        )]
        filters: Vec<String>,
        /// The id of the last item that the connection has. It receives all later ones, in order. If
        /// the host does not know them all, it delivers none of them, and sends the component a
        /// request with [`Grip-Last`](crate::header::GRIP_LAST).
        #[serde(
            rename = "prev-id",
            default,
            deserialize_with = "prev_id",
            skip_serializing_if = "is_default"
        )]
        prev_id: Option<String>,
        /// The number of items to receive first, the newest that the host knows. Ignored with
        /// `prev_id`.
        #[serde(
            default,
            deserialize_with = "recover",
            skip_serializing_if = "is_default"
        )]
        recover: Option<u32>,
        /// Makes the connection a member of the channel, as [`Self::Presence`] does.
        #[serde(
            default,
            deserialize_with = "presence",
            skip_serializing_if = "is_default"
        )]
        presence: Option<Presence>,
    },
    /// Makes the connection a member of a channel until it is closed or unsubscribes. Members are
    /// listed at the control port. An extension, see [`FEATURE_PRESENCE`](crate::header::FEATURE_PRESENCE).
    Presence {
        /// The channel's name, not empty.
        #[serde(deserialize_with = "channel")]
        channel: String,
        /// How the member is shown.
        #[serde(flatten)]
        presence: Presence,
    },
    /// Binds the connection to a user. Its sessions can be listed and closed at the control port. An
    /// extension, see [`FEATURE_USER`](crate::header::FEATURE_USER).
    User {
        /// The user's id, not empty.
        #[serde(deserialize_with = "id")]
        id: String,
        /// The time in seconds after which the component is asked to bind the connection again. `None`
        /// means never.
        #[serde(
            default,
            deserialize_with = "expires",
            skip_serializing_if = "is_default"
        )]
        expires: Option<u32>,
    },
    /// Unsubscribes the connection from a channel, of which it is no longer a member.
    Unsubscribe {
        /// The channel's name, not empty.
        #[serde(deserialize_with = "channel")]
        channel: String,
    },
    /// Stops requests for this connection, which stays open for published items.
    Detach,
    /// Names the session that the connection belongs to.
    Session {
        /// The session's id, not empty.
        #[serde(deserialize_with = "id")]
        id: String,
    },
    /// Sets metadata that filters use.
    SetMeta {
        /// The name, not empty.
        #[serde(deserialize_with = "name")]
        name: String,
        /// The value. `None` and the empty string remove the name.
        #[serde(
            default,
            deserialize_with = "value",
            skip_serializing_if = "is_default"
        )]
        value: Option<String>,
    },
    /// Sends a message to the client whenever the connection is idle.
    KeepAlive {
        /// The message. `None` turns keep-alives off.
        #[serde(flatten, with = "optional_message")]
        message: Option<Message>,
        /// The time between messages. `None` means the host's default.
        #[serde(
            default,
            deserialize_with = "timeout",
            skip_serializing_if = "is_default"
        )]
        timeout: Option<u32>,
        /// What the timeout counts from.
        #[serde(default, deserialize_with = "mode", skip_serializing_if = "is_default")]
        mode: KeepAliveMode,
    },
    /// Sends a message to the client later, or when it is flushed.
    SendDelayed {
        /// The message.
        #[serde(flatten, with = "message")]
        message: Message,
        /// The delay. `None` means the host's default.
        #[serde(
            default,
            deserialize_with = "timeout",
            skip_serializing_if = "is_default"
        )]
        timeout: Option<u32>,
    },
    /// Sends the delayed message now.
    FlushDelayed,
    /// Lets the host answer a text message of the client, such as a ping, without a request to the
    /// component. An extension, see
    /// [`FEATURE_AUTO_RESPONSE`](crate::header::FEATURE_AUTO_RESPONSE).
    AutoResponse {
        /// The client's message, not empty.
        #[serde(deserialize_with = "request")]
        request: String,
        /// The answer. `None` and the empty string end the automatic answers to this message.
        #[serde(
            default,
            deserialize_with = "response",
            skip_serializing_if = "is_default"
        )]
        response: Option<String>,
    },
}

json::field_readers! {
    required channel: String = json::non_empty_string;
    required id: String = json::non_empty_string;
    required name: String = json::non_empty_string;
    or_default filters: Vec<String> = json::strings;
    optional prev_id: Option<String> = json::non_empty_string;
    optional recover: Option<u32> = json::count;
    optional presence: Option<Presence> = json::object;
    optional expires: Option<u32> = json::seconds;
    or_default info: Map<String, Value> = json::map;
    or_default events: bool = json::boolean;
    optional value: Option<String> = json::string;
    optional timeout: Option<u32> = json::seconds;
    or_default mode: KeepAliveMode = json::variant;
    required request: String = json::non_empty_string;
    optional response: Option<String> = json::string;
}

/// How a member of a channel is shown. The connections of one user are one member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// What other members are to know.
    #[serde(default, deserialize_with = "info", skip_serializing_if = "is_default")]
    pub info: Map<String, Value>,
    /// Whether the channel gets an item when the member joins, and when it has left.
    #[serde(
        default,
        deserialize_with = "events",
        skip_serializing_if = "is_default"
    )]
    pub events: bool,
}

/// When a keep-alive is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeepAliveMode {
    /// When nothing was sent for the timeout.
    #[default]
    Idle,
    /// Each time the timeout has passed.
    Interval,
}

/// The reason why a control message is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// The text after `c:` is not JSON.
    #[error("control message: invalid JSON: {0}")]
    Json(String),
    /// The JSON is not an object with a `type`.
    #[error("control message: expected an object with a string \"type\"")]
    MissingType,
    /// The type is unknown. Newer components may send it, so callers can ignore this error.
    #[error("control message: unknown type {0:?}")]
    UnknownType(String),
    /// A field is missing or invalid.
    #[error("control message {path}: {problem}")]
    Field {
        /// The type of the message and the field, such as `subscribe.channel`.
        path: String,
        /// What is wrong there.
        problem: String,
    },
}

impl ControlMessage {
    /// Subscribes to a channel, without filters.
    pub fn subscribe(channel: impl Into<String>) -> ControlMessage {
        ControlMessage::subscribe_from(channel.into(), None, None)
    }

    /// Subscribes to a channel from the item after `prev_id` on.
    pub fn subscribe_after(
        channel: impl Into<String>,
        prev_id: impl Into<String>,
    ) -> ControlMessage {
        ControlMessage::subscribe_from(channel.into(), Some(prev_id.into()), None)
    }

    /// Subscribes to a channel from the `newest` items on.
    pub fn subscribe_recent(channel: impl Into<String>, newest: u32) -> ControlMessage {
        ControlMessage::subscribe_from(channel.into(), None, Some(newest))
    }

    fn subscribe_from(
        channel: String,
        prev_id: Option<String>,
        recover: Option<u32>,
    ) -> ControlMessage {
        ControlMessage::Subscribe {
            channel,
            filters: Vec::new(),
            prev_id,
            recover,
            presence: None,
        }
    }

    /// Makes the connection a member of a channel, with what other members are to know.
    pub fn presence(channel: impl Into<String>, info: Map<String, Value>) -> ControlMessage {
        let presence = Presence {
            info,
            events: false,
        };
        ControlMessage::Presence {
            channel: channel.into(),
            presence,
        }
    }

    /// Binds the connection to a user, for `expires` seconds or until it is closed.
    pub fn user(id: impl Into<String>, expires: Option<u32>) -> ControlMessage {
        ControlMessage::User {
            id: id.into(),
            expires,
        }
    }

    /// Unsubscribes from a channel.
    pub fn unsubscribe(channel: impl Into<String>) -> ControlMessage {
        ControlMessage::Unsubscribe {
            channel: channel.into(),
        }
    }

    /// Sends `message` whenever the connection was idle for `timeout` seconds.
    pub fn keep_alive(message: Message, timeout: u32) -> ControlMessage {
        ControlMessage::KeepAlive {
            message: Some(message),
            timeout: Some(timeout),
            mode: KeepAliveMode::Idle,
        }
    }

    /// Lets the host answer `request` with `response`.
    pub fn auto_response(
        request: impl Into<String>,
        response: impl Into<String>,
    ) -> ControlMessage {
        ControlMessage::AutoResponse {
            request: request.into(),
            response: Some(response.into()),
        }
    }

    /// Returns the event that carries the message to the host.
    pub fn into_event(self) -> Event {
        Event::text(format!("{CONTROL_PREFIX}{}", self.to_json()))
    }

    /// Returns the message as JSON, without the prefix.
    pub fn to_json(&self) -> String {
        serde_json::json!(self).to_string()
    }

    /// Parses the JSON after the prefix. Unknown fields are ignored.
    pub fn parse(json: &[u8]) -> Result<ControlMessage, ControlError> {
        let value: Value =
            serde_json::from_slice(json).map_err(|error| ControlError::Json(error.to_string()))?;
        let kind = value.get("type").and_then(Value::as_str);
        let kind = kind.ok_or(ControlError::MissingType)?;
        ControlMessage::deserialize(&value).map_err(|error| {
            let error = error.to_string();
            if json::is_unknown_variant(&error) {
                return ControlError::UnknownType(kind.into());
            }
            let error = json::at(&format!(".{kind}"), error);
            let (path, problem) = json::split_path(&error);
            ControlError::Field {
                path: path.unwrap_or(kind).into(),
                problem: problem.into(),
            }
        })
    }
}

/// Returns content with the default message prefix, for components that chose no other.
pub fn content(text: impl AsRef<str>) -> Event {
    let text = text.as_ref();
    let mut prefixed = String::with_capacity(DEFAULT_MESSAGE_PREFIX.len() + text.len());
    prefixed.push_str(DEFAULT_MESSAGE_PREFIX);
    prefixed.push_str(text);
    Event::Text(ByteString::from(prefixed))
}

/// The fields of a message that `keep-alive` and `send-delayed` have.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct MessageFields {
    #[serde(flatten)]
    content: ContentFields,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_type: Option<Value>,
}

impl From<&Message> for MessageFields {
    fn from(message: &Message) -> MessageFields {
        let (content, message_type) = message.to_fields();
        MessageFields {
            content,
            message_type,
        }
    }
}

impl MessageFields {
    fn into_message(self) -> Result<Option<Message>, String> {
        Message::from_fields(self.content, self.message_type, "message-type")
    }
}

/// Reads and writes the fields of a message, for `#[serde(flatten)]`.
mod message {
    use super::*;

    pub(super) fn serialize<S: Serializer>(
        message: &Message,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        MessageFields::from(message).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Message, D::Error> {
        optional_message::deserialize(deserializer)?
            .ok_or_else(|| D::Error::custom(MISSING_CONTENT))
    }
}

/// Reads and writes the fields of a message that may be absent.
mod optional_message {
    use super::*;

    pub(super) fn serialize<S: Serializer>(
        message: &Option<Message>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let fields = message.as_ref().map(MessageFields::from);
        fields.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Message>, D::Error> {
        let fields = MessageFields::deserialize(deserializer)?;
        fields.into_message().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests;
