//! WebSocket messages, and content in JSON, which is text or base64.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use bytestring::ByteString;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Event, event::MAX_CONTROL_PAYLOAD, json, mime_base64};

/// The problem of an object without content.
pub(crate) const MISSING_CONTENT: &str = "missing content or content-bin";

/// A message that can be sent to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A text message.
    Text(ByteString),
    /// A binary message.
    Binary(Bytes),
    /// A ping of at most [`MAX_CONTROL_PAYLOAD`] bytes.
    Ping(Bytes),
    /// An unsolicited pong of at most [`MAX_CONTROL_PAYLOAD`] bytes.
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
    /// Returns the content as bytes.
    pub fn content(&self) -> &Bytes {
        match self {
            Message::Text(text) => text.as_bytes(),
            Message::Binary(data) | Message::Ping(data) | Message::Pong(data) => data,
        }
    }

    /// Returns the JSON fields of the message, and its type where the fields do not imply it.
    pub(crate) fn to_fields(&self) -> (ContentFields, Option<Value>) {
        let kind = match self {
            Message::Text(_) | Message::Binary(_) => None,
            Message::Ping(_) => Some("ping".into()),
            Message::Pong(_) => Some("pong".into()),
        };
        let fields = match self {
            Message::Text(text) => ContentFields::text(text),
            Message::Binary(data) | Message::Ping(data) | Message::Pong(data) => {
                ContentFields::base64(data)
            }
        };
        (fields, kind)
    }

    /// Builds a message from its JSON fields. Returns `None` when there is no content.
    pub(crate) fn from_fields(
        fields: ContentFields,
        kind: Option<Value>,
        kind_field: &str,
    ) -> Result<Option<Message>, String> {
        let kind_path = format!(".{kind_field}");
        let kind = kind.map(json::string).transpose();
        let kind = kind.map_err(|problem| json::at(&kind_path, problem))?;
        let Some((path, content)) = fields.decode()? else {
            return Ok(None);
        };
        let message = match (kind.as_deref(), content) {
            (None | Some("text"), Content::Text(text)) => Message::Text(text),
            (Some("text"), Content::Binary(data)) => match ByteString::try_from(data) {
                Ok(text) => Message::Text(text),
                Err(_) => return Err(json::at(path, "expected UTF-8 in a text message")),
            },
            (None, Content::Binary(data)) => Message::Binary(data),
            (Some("binary"), content) => Message::Binary(content.into_bytes()),
            (Some("ping"), content) => Message::Ping(content.into_bytes()),
            (Some("pong"), content) => Message::Pong(content.into_bytes()),
            (Some(_), _) => {
                let problem = r#"expected "text", "binary", "ping" or "pong""#;
                return Err(json::at(&kind_path, problem));
            }
        };
        match &message {
            Message::Ping(data) | Message::Pong(data) if data.len() > MAX_CONTROL_PAYLOAD => {
                let problem =
                    format!("expected at most {MAX_CONTROL_PAYLOAD} bytes in a ping or pong");
                Err(json::at(path, problem))
            }
            _ => Ok(Some(message)),
        }
    }
}

/// Decoded content.
enum Content {
    Text(ByteString),
    Binary(Bytes),
}

impl Content {
    fn into_bytes(self) -> Bytes {
        match self {
            Content::Text(text) => text.into_bytes(),
            Content::Binary(data) => data,
        }
    }
}

/// The fields `content` and `content-bin`, to be flattened into a larger object.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct ContentFields {
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_bin: Option<Value>,
}

impl ContentFields {
    fn text(text: &str) -> ContentFields {
        ContentFields {
            content: Some(text.into()),
            content_bin: None,
        }
    }

    fn base64(data: &[u8]) -> ContentFields {
        ContentFields {
            content: None,
            content_bin: Some(BASE64_STANDARD.encode(data).into()),
        }
    }

    /// Writes `data` as text where it is UTF-8, and as base64 otherwise.
    pub(crate) fn text_or_base64(data: &[u8]) -> ContentFields {
        match std::str::from_utf8(data) {
            Ok(text) => ContentFields::text(text),
            Err(_) => ContentFields::base64(data),
        }
    }

    /// Returns the content and the path of the field that has it.
    fn decode(self) -> Result<Option<(&'static str, Content)>, String> {
        decode(
            (".content", self.content),
            (".content-bin", self.content_bin),
        )
    }

    /// Returns the content as bytes.
    pub(crate) fn decode_bytes(self) -> Result<Option<Bytes>, String> {
        let content = self.decode()?;
        Ok(content.map(|(_, content)| content.into_bytes()))
    }
}

/// The fields `body` and `body-bin`, to be flattened into a larger object.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct BodyFields {
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_bin: Option<Value>,
}

impl BodyFields {
    /// Writes `body` as text where it is UTF-8, and as base64 otherwise.
    pub(crate) fn new(body: &[u8]) -> BodyFields {
        let ContentFields {
            content,
            content_bin,
        } = ContentFields::text_or_base64(body);
        BodyFields {
            body: content,
            body_bin: content_bin,
        }
    }

    /// Returns the body as bytes.
    pub(crate) fn decode_bytes(self) -> Result<Option<Bytes>, String> {
        let content = decode((".body", self.body), (".body-bin", self.body_bin))?;
        Ok(content.map(|(_, content)| content.into_bytes()))
    }
}

/// Decodes two fields, of which the one in base64 takes precedence.
fn decode(
    (text_path, text): (&'static str, Option<Value>),
    (base64_path, base64): (&'static str, Option<Value>),
) -> Result<Option<(&'static str, Content)>, String> {
    let (path, content) = match (base64, text) {
        (Some(base64), _) => (base64_path, decode_base64(base64).map(Content::Binary)),
        (None, Some(text)) => {
            let text = json::string(text).map(|text| Content::Text(text.into()));
            (text_path, text)
        }
        (None, None) => return Ok(None),
    };
    match content {
        Ok(content) => Ok(Some((path, content))),
        Err(problem) => Err(json::at(path, problem)),
    }
}

fn decode_base64(encoded: Value) -> Result<Bytes, String> {
    match mime_base64::decode(&json::string(encoded)?) {
        Ok(data) => Ok(data.into()),
        Err(error) => Err(format!("invalid base64: {error}")),
    }
}
