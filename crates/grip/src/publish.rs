//! Published items: the JSON body of `POST /publish/`, read with exact errors and written.

use std::collections::BTreeMap;

use bytes::Bytes;
use bytestring::ByteString;
use serde_json::{Map, Value};

use crate::{
    fields::{Fields, Invalid},
    message::{self, Message},
};

/// Something for all who are subscribed to a channel, in one form for each kind of hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Item {
    /// The channel's name, not empty.
    pub channel: String,
    /// The item's id on its channel; a second item with it is dropped.
    pub id: Option<String>,
    /// The id of the item that this one follows.
    pub prev_id: Option<String>,
    /// For WebSockets.
    pub ws_message: Option<Format<WsAction>>,
    /// For HTTP responses held open as a stream.
    pub http_stream: Option<Format<StreamAction>>,
    /// For HTTP responses held until there is something to answer.
    pub http_response: Option<Format<ResponseAction>>,
    /// What filters look at.
    pub meta: BTreeMap<String, String>,
    /// The size to count for the item, in bytes, where it is not that of its content.
    pub size: Option<u64>,
    /// Not to be held back until the item before it is there.
    pub no_seq: bool,
}

/// What is to be done with one kind of hold, and the filters that the content passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format<A> {
    /// What is to be done.
    pub action: A,
    /// Names of filters (`content-filters`).
    pub filters: Vec<String>,
}

/// What is to be done with WebSockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WsAction {
    /// Send a message.
    Send(Message),
    /// Close.
    Close {
        /// The close code; `None` leaves it to the host.
        code: Option<u16>,
        /// The reason.
        reason: Option<String>,
    },
    /// Have the host ask the component at once, with an empty request.
    Refresh,
    /// There is something new: whoever links to it may fetch it.
    Hint,
}

/// What is to be done with held streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamAction {
    /// Append this.
    Send(Bytes),
    /// End the stream.
    Close,
    /// There is something new: whoever links to it may fetch it.
    Hint,
}

/// What is to be done with held responses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResponseAction {
    /// Answer with this.
    Send(HttpResponse),
    /// There is something new: the request may be sent to the component again.
    Hint,
}

/// A whole HTTP response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpResponse {
    /// The status code, 100 to 999.
    pub code: u16,
    /// The reason phrase; `None` leaves it to the code.
    pub reason: Option<String>,
    /// The headers, in order. That names and values are valid is for HTTP to check.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

/// Why a body cannot be published: what is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct PublishError {
    /// The place in the body, as `items[0].formats.ws-message.content`; `body` for all of it.
    pub path: String,
    /// What is wrong there.
    pub problem: String,
}

impl From<Invalid> for PublishError {
    fn from(Invalid { path, problem }: Invalid) -> PublishError {
        PublishError { path, problem }
    }
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
    /// An item for a channel, with no format yet.
    pub fn new(channel: impl Into<String>) -> Item {
        Item {
            channel: channel.into(),
            ..Item::default()
        }
    }

    /// A text message for the WebSockets on a channel.
    pub fn ws_text(channel: impl Into<String>, text: impl Into<ByteString>) -> Item {
        Item {
            ws_message: Some(WsAction::Send(Message::Text(text.into())).into()),
            ..Item::new(channel)
        }
    }

    /// The same item, also for streams held on the channel.
    pub fn and_stream(self, content: impl Into<Bytes>) -> Item {
        Item {
            http_stream: Some(StreamAction::Send(content.into()).into()),
            ..self
        }
    }

    /// Bytes for the streams held on a channel.
    pub fn stream(channel: impl Into<String>, content: impl Into<Bytes>) -> Item {
        Item::new(channel).and_stream(content)
    }

    /// The end of the streams held on a channel.
    pub fn stream_end(channel: impl Into<String>) -> Item {
        Item {
            http_stream: Some(StreamAction::Close.into()),
            ..Item::new(channel)
        }
    }

    /// The answer to the requests held on a channel.
    pub fn response(channel: impl Into<String>, response: HttpResponse) -> Item {
        Item::new(channel).and_response(response)
    }

    /// The same item, also for requests held on the channel.
    pub fn and_response(self, response: HttpResponse) -> Item {
        Item {
            http_response: Some(ResponseAction::Send(response).into()),
            ..self
        }
    }

    /// The same item, with its id and that of the one it follows.
    pub fn with_id(self, id: impl Into<String>, prev_id: Option<String>) -> Item {
        Item {
            id: Some(id.into()),
            prev_id,
            ..self
        }
    }

    fn write(&self) -> Value {
        let mut formats = Map::new();
        if let Some(format) = &self.ws_message {
            formats.insert("ws-message".into(), format.write(WsAction::write));
        }
        if let Some(format) = &self.http_stream {
            formats.insert("http-stream".into(), format.write(StreamAction::write));
        }
        if let Some(format) = &self.http_response {
            formats.insert("http-response".into(), format.write(ResponseAction::write));
        }
        let mut item = Map::new();
        item.insert("channel".into(), self.channel.as_str().into());
        item.insert("formats".into(), formats.into());
        put_string(&mut item, "id", &self.id);
        put_string(&mut item, "prev-id", &self.prev_id);
        if !self.meta.is_empty() {
            let meta = self
                .meta
                .iter()
                .map(|(k, v)| (k.clone(), v.as_str().into()));
            item.insert("meta".into(), Value::Object(meta.collect()));
        }
        if let Some(size) = self.size {
            item.insert("size".into(), size.into());
        }
        if self.no_seq {
            item.insert("no-seq".into(), true.into());
        }
        item.into()
    }

    fn read(value: Value, index: usize) -> Result<Item, Invalid> {
        let mut item = Fields::new(value, format!("items[{index}]"))?;
        let channel = match item.string("channel")? {
            Some(channel) if !channel.is_empty() => channel,
            _ => return Err(item.error("channel", "must be there, and not empty")),
        };
        let (id, prev_id) = (item.string("id")?, item.string("prev-id")?);
        let mut formats = match item.take("formats") {
            Some(formats) => Fields::new(formats, format!("{}.formats", item.path))?,
            None => Fields {
                path: item.path.clone(),
                object: std::mem::take(&mut item.object),
            },
        };
        let read = Item {
            channel,
            id,
            prev_id,
            ws_message: Format::read(&mut formats, "ws-message", WsAction::read)?,
            http_stream: Format::read(&mut formats, "http-stream", StreamAction::read)?,
            http_response: Format::read(&mut formats, "http-response", ResponseAction::read)?,
            ..Item::default()
        };
        if read.ws_message.is_none() && read.http_stream.is_none() && read.http_response.is_none() {
            return Err(Invalid {
                path: formats.path,
                problem: "must have a format: ws-message, http-stream or http-response".into(),
            });
        }
        // Where the formats were on the item itself, so is the rest.
        let mut rest = match item.object.is_empty() {
            true => formats,
            false => item,
        };
        Ok(Item {
            meta: rest.meta()?,
            size: rest.size()?,
            no_seq: rest.flag("no-seq")?,
            ..read
        })
    }
}

/// The body that publishes `items`.
pub fn to_json(items: &[Item]) -> String {
    let items: Vec<Value> = items.iter().map(Item::write).collect();
    Value::Object(Map::from_iter([("items".into(), items.into())])).to_string()
}

/// The items of a body, in order. Keys that are not known are passed over.
pub fn parse(body: &[u8]) -> Result<Vec<Item>, PublishError> {
    let error = |problem: String| PublishError {
        path: "body".into(),
        problem,
    };
    let value = serde_json::from_slice(body).map_err(|e| error(format!("is not JSON: {e}")))?;
    let Value::Object(mut body) = value else {
        return Err(error("must be an object with \"items\"".into()));
    };
    match body.remove("items") {
        Some(Value::Array(items)) => {
            let items = items.into_iter().enumerate();
            let items: Result<_, _> = items.map(|(index, item)| Item::read(item, index)).collect();
            Ok(items?)
        }
        _ => Err(PublishError {
            path: "items".into(),
            problem: "must be a list".into(),
        }),
    }
}

impl<A> Format<A> {
    fn write(&self, write: impl Fn(&A, &mut Map<String, Value>)) -> Value {
        let mut object = Map::new();
        write(&self.action, &mut object);
        if !self.filters.is_empty() {
            object.insert("content-filters".into(), self.filters.clone().into());
        }
        object.into()
    }

    fn read(
        formats: &mut Fields,
        key: &str,
        read: impl Fn(&mut Fields) -> Result<A, Invalid>,
    ) -> Result<Option<Format<A>>, Invalid> {
        let Some(mut format) = formats.object(key)? else {
            return Ok(None);
        };
        Ok(Some(Format {
            action: read(&mut format)?,
            filters: format.strings("content-filters")?,
        }))
    }
}

impl WsAction {
    fn write(&self, object: &mut Map<String, Value>) {
        match self {
            WsAction::Send(message) => message.write("type", object),
            WsAction::Close { code, reason } => {
                put_action(object, "close");
                if let Some(code) = code {
                    object.insert("code".into(), (*code).into());
                }
                put_string(object, "reason", reason);
            }
            WsAction::Refresh => put_action(object, "refresh"),
            WsAction::Hint => put_action(object, "hint"),
        }
    }

    fn read(format: &mut Fields) -> Result<WsAction, Invalid> {
        match format.action()?.as_deref() {
            None | Some("send") => match Message::read("type", &mut format.object) {
                Ok(Some(message)) => Ok(WsAction::Send(message)),
                Ok(None) => Err(format.no_content()),
                Err((key, problem)) => Err(format.error(key, problem)),
            },
            Some("close") => Ok(WsAction::Close {
                code: format.code(1000..=4999)?,
                reason: format.string("reason")?,
            }),
            Some("refresh") => Ok(WsAction::Refresh),
            Some("hint") => Ok(WsAction::Hint),
            Some(_) => Err(format.error(
                "action",
                "must be \"send\", \"close\", \"refresh\" or \"hint\"",
            )),
        }
    }
}

impl StreamAction {
    fn write(&self, object: &mut Map<String, Value>) {
        match self {
            StreamAction::Send(data) => {
                message::write_text_or_base64(object, "content", "content-bin", data);
            }
            StreamAction::Close => put_action(object, "close"),
            StreamAction::Hint => put_action(object, "hint"),
        }
    }

    fn read(format: &mut Fields) -> Result<StreamAction, Invalid> {
        match format.action()?.as_deref() {
            None | Some("send") => match format.data("content", "content-bin")? {
                Some(data) => Ok(StreamAction::Send(data)),
                None => Err(format.no_content()),
            },
            Some("close") => Ok(StreamAction::Close),
            Some("hint") => Ok(StreamAction::Hint),
            Some(_) => Err(format.error("action", "must be \"send\", \"close\" or \"hint\"")),
        }
    }
}

impl ResponseAction {
    fn write(&self, object: &mut Map<String, Value>) {
        match self {
            ResponseAction::Send(response) => response.write(object),
            ResponseAction::Hint => put_action(object, "hint"),
        }
    }

    fn read(format: &mut Fields) -> Result<ResponseAction, Invalid> {
        match format.action()?.as_deref() {
            None | Some("send") => Ok(ResponseAction::Send(HttpResponse {
                code: format.code(100..=999)?.unwrap_or(200),
                reason: format.string("reason")?,
                headers: format.headers()?,
                body: match format.data("body", "body-bin")? {
                    Some(body) => body,
                    None if format.take("body-patch").is_some() => {
                        return Err(
                            format.error("body-patch", "is not known: publish all of the body")
                        );
                    }
                    None => return Err(format.error("body", "this or body-bin must be there")),
                },
            })),
            Some("hint") => Ok(ResponseAction::Hint),
            Some(_) => Err(format.error("action", "must be \"send\" or \"hint\"")),
        }
    }
}

impl HttpResponse {
    /// 200, with a body of this type.
    pub fn ok(content_type: impl Into<String>, body: impl Into<Bytes>) -> HttpResponse {
        HttpResponse {
            code: 200,
            reason: None,
            headers: vec![("Content-Type".into(), content_type.into())],
            body: body.into(),
        }
    }

    pub(crate) fn write(&self, object: &mut Map<String, Value>) {
        object.insert("code".into(), self.code.into());
        put_string(object, "reason", &self.reason);
        let headers = self.headers.iter();
        let headers = headers.map(|(name, value)| Value::from(vec![name.as_str(), value]));
        object.insert("headers".into(), headers.collect());
        message::write_text_or_base64(object, "body", "body-bin", &self.body);
    }
}

fn put_action(object: &mut Map<String, Value>, action: &str) {
    object.insert("action".into(), action.into());
}

fn put_string(object: &mut Map<String, Value>, key: &str, value: &Option<String>) {
    if let Some(value) = value {
        object.insert(key.into(), value.as_str().into());
    }
}

#[cfg(test)]
mod tests;
