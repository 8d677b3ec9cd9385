//! Published items: the JSON body of `POST /publish/`.
//!
//! Serde reads and writes the types in this file. Each field has a reader in the lists
//! below its type, so that errors can name the field, such as
//! `items[0].formats.ws-message.content`.

use std::{collections::BTreeMap, ops::RangeInclusive};

use bytes::Bytes;
use bytestring::ByteString;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, Error as _, IgnoredAny},
    ser::Error as _,
};
use serde_json::{Map, Value, json};

use crate::{
    event::is_close_code,
    json::{self, is_default},
    message::{BodyFields, ContentFields, MISSING_CONTENT, Message},
};

/// The status codes that an item can carry.
const STATUS_CODES: RangeInclusive<u16> = 100..=999;

/// Something to send to all subscribers of a channel, with one format for each kind of subscriber.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "ItemFields")]
pub struct Item {
    /// The channel's name, not empty.
    pub channel: String,
    /// The item's id on its channel. A second item with the same id is dropped.
    pub id: Option<String>,
    /// The id of the item before this one.
    pub prev_id: Option<String>,
    /// The format for WebSockets.
    pub ws_message: Option<Format<WsAction>>,
    /// The format for held streams.
    pub http_stream: Option<Format<StreamAction>>,
    /// The format for held responses.
    pub http_response: Option<Format<ResponseAction>>,
    /// Metadata for filters.
    pub meta: BTreeMap<String, String>,
    /// The size that Pushpin counts for the item. The host accepts it and counts the content.
    pub size: Option<u64>,
    /// Whether the item is delivered without waiting for the one before it.
    pub no_seq: bool,
}

/// An action on one kind of subscriber, and the filters that apply to its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound(serialize = "A: Serialize", deserialize = "A: DeserializeOwned"))]
pub struct Format<A> {
    /// The action.
    #[serde(flatten, with = "action")]
    pub action: A,
    /// The names of the filters.
    #[serde(
        rename = "content-filters",
        default,
        deserialize_with = "content_filters",
        skip_serializing_if = "is_default"
    )]
    pub filters: Vec<String>,
}

json::field_readers! {
    or_default content_filters: Vec<String> = json::strings;
}

/// An action on WebSockets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum WsAction {
    /// Sends a message.
    Send(#[serde(with = "ws_content")] Message),
    /// Closes the connection.
    Close {
        /// The close code. `None` means the host's default.
        #[serde(
            default,
            deserialize_with = "close_code",
            skip_serializing_if = "is_default"
        )]
        code: Option<u16>,
        /// The reason.
        #[serde(
            default,
            deserialize_with = "reason",
            skip_serializing_if = "is_default"
        )]
        reason: Option<String>,
    },
    /// Makes the host send the component an empty request now.
    Refresh,
    /// Announces new data to holds, which can fetch it.
    Hint,
}

/// An action on held streams.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum StreamAction {
    /// Appends bytes to the stream.
    Send(#[serde(with = "stream_content")] Bytes),
    /// Ends the stream.
    Close,
    /// Announces new data to streams that can fetch it.
    Hint,
}

/// An action on held responses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum ResponseAction {
    /// Sends the response.
    Send(HttpResponse),
    /// Announces new data, so that the host may send the request to the component again.
    Hint,
}

/// A complete HTTP response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "ResponseFields")]
pub struct HttpResponse {
    /// The status code, 100 to 999.
    pub code: u16,
    /// The reason phrase. `None` means the usual one for the code.
    #[serde(skip_serializing_if = "is_default")]
    pub reason: Option<String>,
    /// The headers, in order. Names and values are not validated here.
    pub headers: Vec<(String, String)>,
    /// The body.
    #[serde(flatten, serialize_with = "serialize_body")]
    pub body: Bytes,
}

/// The reason why a body cannot be published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct PublishError {
    /// The place in the body, such as `items[0].formats.ws-message.content`, or `body`.
    pub path: String,
    /// What is wrong there.
    pub problem: String,
}

impl<A> From<A> for Format<A> {
    fn from(action: A) -> Format<A> {
        Format {
            action,
            filters: Vec::new(),
        }
    }
}

impl Item {
    /// Creates an item without formats.
    pub fn new(channel: impl Into<String>) -> Item {
        Item {
            channel: channel.into(),
            ..Item::default()
        }
    }

    /// Creates an item with a text message for WebSockets.
    pub fn ws_text(channel: impl Into<String>, text: impl Into<ByteString>) -> Item {
        Item::ws_message(channel, Message::Text(text.into()))
    }

    /// Creates an item with a message for WebSockets.
    pub fn ws_message(channel: impl Into<String>, message: Message) -> Item {
        Item {
            ws_message: Some(WsAction::Send(message).into()),
            ..Item::new(channel)
        }
    }

    /// Adds bytes for held streams.
    pub fn and_stream(self, content: impl Into<Bytes>) -> Item {
        Item {
            http_stream: Some(StreamAction::Send(content.into()).into()),
            ..self
        }
    }

    /// Creates an item with bytes for held streams.
    pub fn stream(channel: impl Into<String>, content: impl Into<Bytes>) -> Item {
        Item::new(channel).and_stream(content)
    }

    /// Creates an item that ends held streams.
    pub fn stream_end(channel: impl Into<String>) -> Item {
        Item {
            http_stream: Some(StreamAction::Close.into()),
            ..Item::new(channel)
        }
    }

    /// Creates an item with a response for held requests.
    pub fn response(channel: impl Into<String>, response: HttpResponse) -> Item {
        Item::new(channel).and_response(response)
    }

    /// Adds a response for held requests.
    pub fn and_response(self, response: HttpResponse) -> Item {
        Item {
            http_response: Some(ResponseAction::Send(response).into()),
            ..self
        }
    }

    /// Sets the item's id and that of the item before it.
    pub fn with_id(self, id: impl Into<String>, prev_id: Option<String>) -> Item {
        Item {
            id: Some(id.into()),
            prev_id,
            ..self
        }
    }
}

impl HttpResponse {
    /// Creates a response with status 200.
    pub fn ok(content_type: impl Into<String>, body: impl Into<Bytes>) -> HttpResponse {
        HttpResponse {
            code: 200,
            reason: None,
            headers: vec![("Content-Type".into(), content_type.into())],
            body: body.into(),
        }
    }
}

/// Writes the body of a request that publishes `items`.
pub fn to_json(items: &[Item]) -> String {
    json!({ "items": items }).to_string()
}

/// Parses the body of a publish request. Unknown fields are ignored.
pub fn parse(body: &[u8]) -> Result<Vec<Item>, PublishError> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(deserialize_with = "items")]
        items: Vec<Item>,
    }

    json::field_readers! {
        required items: Vec<Item> = json::objects;
    }

    let body = serde_json::from_slice(body).map_err(|error| format!("invalid JSON: {error}"));
    match body.and_then(json::object) {
        Ok(Body { items }) => Ok(items),
        Err(error) => {
            let (path, problem) = json::split_path(&error);
            Err(PublishError {
                path: path.unwrap_or("body").into(),
                problem: problem.into(),
            })
        }
    }
}

/// The JSON fields of an item whose formats are nested.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ItemFields {
    #[serde(deserialize_with = "channel")]
    channel: String,
    #[serde(default, deserialize_with = "id", skip_serializing_if = "is_default")]
    id: Option<String>,
    #[serde(
        default,
        deserialize_with = "prev_id",
        skip_serializing_if = "is_default"
    )]
    prev_id: Option<String>,
    #[serde(default, deserialize_with = "formats")]
    formats: Option<Formats>,
    #[serde(default, deserialize_with = "meta", skip_serializing_if = "is_default")]
    meta: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "size", skip_serializing_if = "is_default")]
    size: Option<u64>,
    #[serde(
        default,
        deserialize_with = "no_seq",
        skip_serializing_if = "is_default"
    )]
    no_seq: bool,
}

json::field_readers! {
    required channel: String = json::non_empty_string;
    optional id: Option<String> = json::string;
    optional prev_id: Option<String> = json::string;
    optional formats: Option<Formats> = json::object;
    or_default meta: BTreeMap<String, String> = json::string_map;
    optional size: Option<u64> = json::size;
    or_default no_seq: bool = json::boolean;
}

/// The formats of an item.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Formats {
    #[serde(
        default,
        deserialize_with = "ws_message",
        skip_serializing_if = "Option::is_none"
    )]
    ws_message: Option<Format<WsAction>>,
    #[serde(
        default,
        deserialize_with = "http_stream",
        skip_serializing_if = "Option::is_none"
    )]
    http_stream: Option<Format<StreamAction>>,
    #[serde(
        default,
        deserialize_with = "http_response",
        skip_serializing_if = "Option::is_none"
    )]
    http_response: Option<Format<ResponseAction>>,
}

json::field_readers! {
    optional ws_message: Option<Format<WsAction>> = json::object;
    optional http_stream: Option<Format<StreamAction>> = json::object;
    optional http_response: Option<Format<ResponseAction>> = json::object;
}

impl TryFrom<Value> for Item {
    type Error = String;

    fn try_from(item: Value) -> Result<Item, String> {
        let read = |error: serde_json::Error| error.to_string();
        let fields = ItemFields::deserialize(&item).map_err(read)?;
        let is_nested = fields.formats.is_some();
        let Formats {
            ws_message,
            http_stream,
            http_response,
        } = match fields.formats {
            Some(formats) => formats,
            // Without `formats`, they are fields of the item itself.
            None => Formats::deserialize(&item).map_err(read)?,
        };
        if ws_message.is_none() && http_stream.is_none() && http_response.is_none() {
            let problem = "missing a format: ws-message, http-stream or http-response";
            return Err(if is_nested {
                json::at(".formats", problem)
            } else {
                problem.into()
            });
        }
        Ok(Item {
            channel: fields.channel,
            id: fields.id,
            prev_id: fields.prev_id,
            ws_message,
            http_stream,
            http_response,
            meta: fields.meta,
            size: fields.size,
            no_seq: fields.no_seq,
        })
    }
}

impl From<Item> for ItemFields {
    fn from(item: Item) -> ItemFields {
        ItemFields {
            channel: item.channel,
            id: item.id,
            prev_id: item.prev_id,
            formats: Some(Formats {
                ws_message: item.ws_message,
                http_stream: item.http_stream,
                http_response: item.http_response,
            }),
            meta: item.meta,
            size: item.size,
            no_seq: item.no_seq,
        }
    }
}

/// The JSON fields of a response.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ResponseFields {
    #[serde(default, deserialize_with = "status_code")]
    code: Option<u16>,
    #[serde(default, deserialize_with = "reason")]
    reason: Option<String>,
    #[serde(default, deserialize_with = "headers")]
    headers: Vec<(String, String)>,
    #[serde(flatten)]
    body: BodyFields,
    body_patch: Option<IgnoredAny>,
}

json::field_readers! {
    optional reason: Option<String> = json::string;
    or_default headers: Vec<(String, String)> = json::headers;
}

impl TryFrom<ResponseFields> for HttpResponse {
    type Error = String;

    fn try_from(fields: ResponseFields) -> Result<HttpResponse, String> {
        let body = match fields.body.decode_bytes()? {
            Some(body) => body,
            None if fields.body_patch.is_some() => {
                let problem = "unsupported: publish the whole body";
                return Err(json::at(".body-patch", problem));
            }
            None => return Err("missing body or body-bin".into()),
        };
        Ok(HttpResponse {
            code: fields.code.unwrap_or(200),
            reason: fields.reason,
            headers: fields.headers,
            body,
        })
    }
}

fn status_code<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    json::optional(deserializer, "code", json::code(STATUS_CODES))
}

fn close_code<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    json::optional(deserializer, "code", |value| {
        let code = json::code(0..=u16::MAX)(value).ok();
        code.filter(|code| is_close_code(*code)).ok_or_else(|| {
            "expected a code that can be sent: 1000 to 1003, 1007 to 1014, or 3000 to 4999"
                .to_owned()
        })
    })
}

fn serialize_body<S: Serializer>(body: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    BodyFields::new(body).serialize(serializer)
}

/// Reads and writes the action of a format, which is `send` when the field is absent.
mod action {
    use super::*;

    pub(super) fn serialize<A: Serialize, S: Serializer>(
        action: &A,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let mut fields = serde_json::to_value(action).map_err(S::Error::custom)?;
        if let Value::Object(fields) = &mut fields
            && fields.get("action").is_some_and(|action| action == "send")
        {
            fields.remove("action");
        }
        fields.serialize(serializer)
    }

    pub(super) fn deserialize<'de, A: DeserializeOwned, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<A, D::Error> {
        let mut fields = Map::deserialize(deserializer)?;
        let error = |problem: &str| D::Error::custom(json::at(".action", problem));
        match fields.get("action") {
            None | Some(Value::Null) => drop(fields.insert("action".into(), "send".into())),
            Some(Value::String(_)) => {}
            Some(_) => return Err(error("expected a string")),
        }
        A::deserialize(Value::Object(fields)).map_err(|problem| {
            let problem = problem.to_string();
            if json::is_unknown_variant(&problem) {
                error(&problem)
            } else {
                D::Error::custom(problem)
            }
        })
    }
}

/// Reads and writes a message with its type.
mod ws_content {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Fields {
        #[serde(flatten)]
        content: ContentFields,
        #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
        kind: Option<Value>,
    }

    pub(super) fn serialize<S: Serializer>(
        message: &Message,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let (content, kind) = message.to_fields();
        Fields { content, kind }.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Message, D::Error> {
        let Fields { content, kind } = Fields::deserialize(deserializer)?;
        let message = Message::from_fields(content, kind, "type").map_err(D::Error::custom)?;
        message.ok_or_else(|| D::Error::custom(MISSING_CONTENT))
    }
}

/// Reads and writes bytes.
mod stream_content {
    use super::*;

    pub(super) fn serialize<S: Serializer>(
        content: &Bytes,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        ContentFields::text_or_base64(content).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Bytes, D::Error> {
        let content = ContentFields::deserialize(deserializer)?.decode_bytes();
        let content = content.map_err(D::Error::custom)?;
        content.ok_or_else(|| D::Error::custom(MISSING_CONTENT))
    }
}

#[cfg(test)]
mod tests;
