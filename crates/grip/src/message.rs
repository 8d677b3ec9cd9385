//! One WebSocket message as content of a publish or a control message, and its JSON form.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use bytestring::ByteString;
use serde_json::{Map, Value};

use crate::{Event, event::MAX_CONTROL_PAYLOAD};

/// Something that can be sent to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A text message.
    Text(ByteString),
    /// A binary message.
    Binary(Bytes),
    /// A ping, of at most 125 bytes.
    Ping(Bytes),
    /// An unasked pong, of at most 125 bytes.
    Pong(Bytes),
}

impl From<Message> for Event {
    fn from(message: Message) -> Event {
        match message {
            Message::Text(text) => Event::Text(text),
            Message::Binary(data) => Event::Binary(data),
            Message::Ping(data) => Event::Ping(data),
            Message::Pong(data) => Event::Pong(data),
        }
    }
}

impl Message {
    /// The content, as bytes.
    pub fn content(&self) -> &Bytes {
        match self {
            Message::Text(text) => text.as_bytes(),
            Message::Binary(data) | Message::Ping(data) | Message::Pong(data) => data,
        }
    }

    /// Writes `content` or `content-bin`, and the type under `type_key` where it does
    /// not follow from them.
    pub(crate) fn write(&self, type_key: &str, object: &mut Map<String, Value>) {
        let name = match self {
            Message::Text(_) | Message::Binary(_) => None,
            Message::Ping(_) => Some("ping"),
            Message::Pong(_) => Some("pong"),
        };
        if let Some(name) = name {
            object.insert(type_key.into(), name.into());
        }
        match self {
            Message::Text(text) => object.insert("content".into(), Value::from(&**text)),
            Message::Binary(data) | Message::Ping(data) | Message::Pong(data) => {
                object.insert("content-bin".into(), BASE64_STANDARD.encode(data).into())
            }
        };
    }

    /// Takes `content` or `content-bin` and the type under `type_key` out of `object`.
    ///
    /// `None` when there is no content. The error names the key and what is wrong with it.
    pub(crate) fn read(
        type_key: &'static str,
        object: &mut Map<String, Value>,
    ) -> Result<Option<Message>, (&'static str, String)> {
        let kind = match object.get(type_key) {
            None | Some(Value::Null) => None,
            Some(Value::String(kind)) => Some(kind.clone()),
            Some(_) => return Err((type_key, "must be a string".into())),
        };
        let (key, content) = match read_content(object)? {
            Some(found) => found,
            None => return Ok(None),
        };
        let message = match (kind.as_deref(), content) {
            (None | Some("text"), Content::Text(text)) => Message::Text(text),
            (Some("text"), Content::Binary(data)) => match ByteString::try_from(data) {
                Ok(text) => Message::Text(text),
                Err(_) => return Err((key, "must be UTF-8 for a text message".into())),
            },
            (None, Content::Binary(data)) => Message::Binary(data),
            (Some("binary"), content) => Message::Binary(content.into_bytes()),
            (Some("ping"), content) => Message::Ping(content.into_bytes()),
            (Some("pong"), content) => Message::Pong(content.into_bytes()),
            (Some(_), _) => {
                return Err((
                    type_key,
                    "must be \"text\", \"binary\", \"ping\" or \"pong\"".into(),
                ));
            }
        };
        match &message {
            Message::Ping(data) | Message::Pong(data) if data.len() > MAX_CONTROL_PAYLOAD => Err((
                key,
                format!("must be at most {MAX_CONTROL_PAYLOAD} bytes in a ping or pong"),
            )),
            _ => Ok(Some(message)),
        }
    }
}

/// `content` as text, or `content-bin` decoded.
pub(crate) enum Content {
    Text(ByteString),
    Binary(Bytes),
}

impl Content {
    pub(crate) fn into_bytes(self) -> Bytes {
        match self {
            Content::Text(text) => text.into_bytes(),
            Content::Binary(data) => data,
        }
    }
}

/// Takes `content-bin`, or else `content`, and says which it was.
pub(crate) fn read_content(
    object: &mut Map<String, Value>,
) -> Result<Option<(&'static str, Content)>, (&'static str, String)> {
    read_text_or_base64(object, "content", "content-bin")
}

/// Takes the text under `text_key`, or what is in base64 under `binary_key`, which wins.
pub(crate) fn read_text_or_base64(
    object: &mut Map<String, Value>,
    text_key: &'static str,
    binary_key: &'static str,
) -> Result<Option<(&'static str, Content)>, (&'static str, String)> {
    match object.remove(binary_key) {
        None | Some(Value::Null) => {}
        Some(Value::String(text)) => {
            let data = BASE64_STANDARD
                .decode(text)
                .map_err(|error| (binary_key, format!("is not base64: {error}")))?;
            return Ok(Some((binary_key, Content::Binary(data.into()))));
        }
        Some(_) => return Err((binary_key, "must be a string in base64".into())),
    }
    match object.remove(text_key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some((text_key, Content::Text(text.into())))),
        Some(_) => Err((text_key, "must be a string".into())),
    }
}

/// Writes `data` as text where it is UTF-8, else in base64.
pub(crate) fn write_text_or_base64(
    object: &mut Map<String, Value>,
    text_key: &str,
    binary_key: &str,
    data: &Bytes,
) {
    match std::str::from_utf8(data) {
        Ok(text) => object.insert(text_key.into(), text.into()),
        Err(_) => object.insert(binary_key.into(), BASE64_STANDARD.encode(data).into()),
    };
}
