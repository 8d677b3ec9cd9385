//! Control messages: what a component asks of the host for one WebSocket, as JSON after `c:`.

use bytestring::ByteString;
use serde_json::{Map, Value};

use crate::{
    Event, Message,
    extension::{CONTROL_PREFIX, DEFAULT_MESSAGE_PREFIX},
    fields,
};

/// What a component asks. `timeout`s are in seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlMessage {
    /// Join a channel.
    Subscribe {
        /// The channel's name, not empty.
        channel: String,
        /// Names of the filters that published items pass through.
        filters: Vec<String>,
    },
    /// Leave a channel.
    Unsubscribe {
        /// The channel's name, not empty.
        channel: String,
    },
    /// Send no more requests for this connection; it stays open for publishes.
    Detach,
    /// Name the session that the connection belongs to.
    Session {
        /// The session's id, not empty.
        id: String,
    },
    /// Set metadata for the filters.
    SetMeta {
        /// The name, not empty.
        name: String,
        /// The value; `None` and the empty one forget the name.
        value: Option<String>,
    },
    /// Send a message to the client whenever the connection is idle.
    KeepAlive {
        /// The message; `None` turns it off.
        message: Option<Message>,
        /// After how long; `None` leaves it to the host.
        timeout: Option<u32>,
        /// What counts as idle.
        mode: KeepAliveMode,
    },
    /// Send a message to the client later, unless it is flushed first.
    SendDelayed {
        /// The message.
        message: Message,
        /// How much later; `None` leaves it to the host.
        timeout: Option<u32>,
    },
    /// Send the delayed message now.
    FlushDelayed,
}

/// When a keep-alive message is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeepAliveMode {
    /// After nothing was sent for the timeout.
    #[default]
    Idle,
    /// Each time the timeout has passed.
    Interval,
}

/// Why a control message cannot be acted on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// What follows `c:` is not JSON.
    #[error("control message: not JSON: {0}")]
    Json(String),
    /// It is JSON, but no object with a `type`.
    #[error("control message: must be an object with a string \"type\"")]
    NoType,
    /// A type that is not known here. A newer component may ask for it: a caller can pass over it.
    #[error("control message: unknown type {0:?}")]
    UnknownType(String),
    /// A field is missing or wrong.
    #[error("control message {kind}.{field}: {problem}")]
    Field {
        /// The message's type.
        kind: &'static str,
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl ControlMessage {
    /// To join a channel, without filters.
    pub fn subscribe(channel: impl Into<String>) -> ControlMessage {
        ControlMessage::Subscribe {
            channel: channel.into(),
            filters: Vec::new(),
        }
    }

    /// To leave a channel.
    pub fn unsubscribe(channel: impl Into<String>) -> ControlMessage {
        ControlMessage::Unsubscribe {
            channel: channel.into(),
        }
    }

    /// To send `message` whenever the connection was idle for `timeout` seconds.
    pub fn keep_alive(message: Message, timeout: u32) -> ControlMessage {
        ControlMessage::KeepAlive {
            message: Some(message),
            timeout: Some(timeout),
            mode: KeepAliveMode::Idle,
        }
    }

    /// The event that carries the message to the host.
    pub fn into_event(self) -> Event {
        Event::text(format!("{CONTROL_PREFIX}{}", self.to_json()))
    }

    /// The message in JSON, without the prefix.
    pub fn to_json(&self) -> String {
        let mut object = Map::new();
        let mut put = |key: &str, value: Value| drop(object.insert(key.into(), value));
        put("type", self.kind().into());
        match self {
            ControlMessage::Detach | ControlMessage::FlushDelayed => {}
            ControlMessage::Subscribe { channel, filters } => {
                put("channel", channel.as_str().into());
                if !filters.is_empty() {
                    put("filters", filters.clone().into());
                }
            }
            ControlMessage::Unsubscribe { channel } => put("channel", channel.as_str().into()),
            ControlMessage::Session { id } => put("id", id.as_str().into()),
            ControlMessage::SetMeta { name, value } => {
                put("name", name.as_str().into());
                if let Some(value) = value {
                    put("value", value.as_str().into());
                }
            }
            ControlMessage::KeepAlive {
                message,
                timeout,
                mode,
            } => {
                if let Some(timeout) = timeout {
                    put("timeout", (*timeout).into());
                }
                if *mode == KeepAliveMode::Interval {
                    put("mode", "interval".into());
                }
                if let Some(message) = message {
                    message.write("message-type", &mut object);
                }
            }
            ControlMessage::SendDelayed { message, timeout } => {
                if let Some(timeout) = timeout {
                    put("timeout", (*timeout).into());
                }
                message.write("message-type", &mut object);
            }
        }
        Value::Object(object).to_string()
    }

    /// Reads what follows the prefix. Fields that the type does not have are passed over.
    pub fn parse(json: &[u8]) -> Result<ControlMessage, ControlError> {
        let value: Value =
            serde_json::from_slice(json).map_err(|error| ControlError::Json(error.to_string()))?;
        let Value::Object(object) = value else {
            return Err(ControlError::NoType);
        };
        let Some(Value::String(kind)) = object.get("type") else {
            return Err(ControlError::NoType);
        };
        let Some(kind) = KINDS.into_iter().find(|known| known == kind) else {
            return Err(ControlError::UnknownType(kind.clone()));
        };
        let mut fields = Fields { kind, object };
        Ok(match kind {
            "subscribe" => ControlMessage::Subscribe {
                channel: fields.name("channel")?,
                filters: fields.strings("filters")?,
            },
            "unsubscribe" => ControlMessage::Unsubscribe {
                channel: fields.name("channel")?,
            },
            "detach" => ControlMessage::Detach,
            "session" => ControlMessage::Session {
                id: fields.name("id")?,
            },
            "set-meta" => ControlMessage::SetMeta {
                name: fields.name("name")?,
                value: fields.string("value")?,
            },
            "keep-alive" => ControlMessage::KeepAlive {
                message: fields.message()?,
                timeout: fields.seconds("timeout")?,
                mode: match fields.string("mode")?.as_deref() {
                    None | Some("idle") => KeepAliveMode::Idle,
                    Some("interval") => KeepAliveMode::Interval,
                    Some(_) => return Err(fields.error("mode", "must be \"idle\" or \"interval\"")),
                },
            },
            "send-delayed" => ControlMessage::SendDelayed {
                message: match fields.message()? {
                    Some(message) => message,
                    None => {
                        return Err(fields.error("content", "this or content-bin must be there"));
                    }
                },
                timeout: fields.seconds("timeout")?,
            },
            // What is left of KINDS.
            _ => ControlMessage::FlushDelayed,
        })
    }

    fn kind(&self) -> &'static str {
        match self {
            ControlMessage::Subscribe { .. } => "subscribe",
            ControlMessage::Unsubscribe { .. } => "unsubscribe",
            ControlMessage::Detach => "detach",
            ControlMessage::Session { .. } => "session",
            ControlMessage::SetMeta { .. } => "set-meta",
            ControlMessage::KeepAlive { .. } => "keep-alive",
            ControlMessage::SendDelayed { .. } => "send-delayed",
            ControlMessage::FlushDelayed => "flush-delayed",
        }
    }
}

const KINDS: [&str; 8] = [
    "subscribe",
    "unsubscribe",
    "detach",
    "session",
    "set-meta",
    "keep-alive",
    "send-delayed",
    "flush-delayed",
];

/// Content with the default message prefix, for a component that did not choose another.
pub fn content(text: impl AsRef<str>) -> Event {
    let text = text.as_ref();
    let mut prefixed = String::with_capacity(DEFAULT_MESSAGE_PREFIX.len() + text.len());
    prefixed.push_str(DEFAULT_MESSAGE_PREFIX);
    prefixed.push_str(text);
    Event::Text(ByteString::from(prefixed))
}

/// The fields of one message, and the errors about them.
struct Fields {
    kind: &'static str,
    object: Map<String, Value>,
}

impl Fields {
    fn error(&self, field: &'static str, problem: impl Into<String>) -> ControlError {
        ControlError::Field {
            kind: self.kind,
            field,
            problem: problem.into(),
        }
    }

    fn string(&mut self, field: &'static str) -> Result<Option<String>, ControlError> {
        match self.object.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.error(field, "must be a string")),
        }
    }

    fn name(&mut self, field: &'static str) -> Result<String, ControlError> {
        match self.string(field)? {
            Some(name) if !name.is_empty() => Ok(name),
            _ => Err(self.error(field, "must be there, and not empty")),
        }
    }

    fn strings(&mut self, field: &'static str) -> Result<Vec<String>, ControlError> {
        let values = match self.object.remove(field) {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(values)) => values,
            Some(_) => return Err(self.error(field, "must be a list of strings")),
        };
        let strings = values.into_iter().map(|value| match value {
            Value::String(text) => Ok(text),
            _ => Err(self.error(field, "must be a list of strings")),
        });
        strings.collect()
    }

    fn seconds(&mut self, field: &'static str) -> Result<Option<u32>, ControlError> {
        match self.object.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match fields::seconds(&value) {
                Some(seconds) => Ok(Some(seconds)),
                None => Err(self.error(field, "must be whole seconds, 0 to 4294967295")),
            },
        }
    }

    fn message(&mut self) -> Result<Option<Message>, ControlError> {
        Message::read("message-type", &mut self.object)
            .map_err(|(field, problem)| self.error(field, problem))
    }
}

#[cfg(test)]
mod tests;
