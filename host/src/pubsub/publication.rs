//! A publication: one item in the forms in which it goes out, encoded once for everybody.

use std::collections::BTreeMap;

use bytes::Bytes;
use grip::{
    Item, Message,
    publish::{Format, HttpResponse, ResponseAction, StreamAction, WsAction},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::{
    http::headers::is_private_header,
    net::frame,
    pubsub::sequencer::{Id, Position},
};

/// The close code for a publish that closes without naming one.
const NORMAL: u16 = 1000;

/// What a publication does to one WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// WebSocket frames, complete and unmasked: the same bytes for everyone.
    Frames {
        /// The bytes that go on the wire.
        bytes: Bytes,
        /// How many messages they are.
        messages: usize,
    },
    /// The socket is closed with this close frame.
    Close(Bytes),
    /// The backend is asked to look after the connection now.
    Refresh,
}

/// See the module's words.
#[derive(Debug)]
pub(crate) struct Publication {
    /// The channel's name.
    pub(crate) channel: String,
    /// Its id on the channel.
    pub(crate) id: Option<Id>,
    /// The id of the publication that it follows.
    pub(crate) prev_id: Option<Id>,
    /// It does not wait for the one before it.
    pub(crate) no_seq: bool,
    /// What filters look at.
    pub(crate) meta: BTreeMap<String, String>,
    /// For WebSockets.
    pub(crate) socket: Option<ForSockets>,
    /// For held streams.
    pub(crate) stream: Option<Format<StreamAction>>,
    /// For held responses.
    pub(crate) response: Option<ForResponses>,
}

/// A publication's form for WebSockets.
#[derive(Debug)]
pub(crate) struct ForSockets {
    /// What is delivered to those without filters that change content.
    pub(crate) delivery: Delivery,
    /// What the frames were made of, for those with such filters.
    message: Option<Message>,
    /// The filters that its content counts on.
    pub(crate) counted_on: Vec<String>,
}

/// A publication's form for held responses.
#[derive(Debug)]
pub(crate) struct ForResponses {
    /// The answer; `None` is a hint: the request should be sent to the backend again.
    pub(crate) answer: Option<Answer>,
    /// The filters that its content counts on.
    pub(crate) counted_on: Vec<String>,
}

/// What held responses are answered with.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: StatusCode,
    /// Its reason phrase, where it is not the usual one.
    pub(crate) reason: Option<String>,
    /// The headers, without those between the host and its backends.
    pub(crate) headers: HeaderMap,
    /// The content.
    pub(crate) body: Bytes,
}

/// Why an item cannot go out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the item for channel {channel:?}: http-response.{problem}")]
pub(crate) struct Unsendable {
    channel: String,
    problem: String,
}

impl Publication {
    /// Encodes an item.
    ///
    /// # Errors
    /// What is no HTTP in the answer for held responses.
    pub(crate) fn new(item: Item) -> Result<Self, Unsendable> {
        let response = match item.http_response.map(ForResponses::new).transpose() {
            Ok(response) => response,
            Err(problem) => {
                return Err(Unsendable {
                    channel: item.channel,
                    problem,
                });
            }
        };
        Ok(Self {
            channel: item.channel,
            id: item.id.map(Id::from),
            prev_id: item.prev_id.map(Id::from),
            no_seq: item.no_seq,
            meta: item.meta,
            socket: item.ws_message.and_then(ForSockets::new),
            stream: item.http_stream,
            response,
        })
    }

    /// Its place in the order of its channel and nothing else.
    pub(crate) fn without_content(&self) -> Self {
        Self {
            channel: self.channel.clone(),
            id: self.id.clone(),
            prev_id: self.prev_id.clone(),
            no_seq: self.no_seq,
            meta: BTreeMap::new(),
            socket: None,
            stream: None,
            response: None,
        }
    }

    /// Where it says it belongs on its channel.
    pub(crate) fn place(&self) -> Position {
        Position {
            id: self.id.clone(),
            prev_id: self.prev_id.clone(),
            no_seq: self.no_seq,
            size: self.size(),
        }
    }

    /// Roughly the bytes that it occupies.
    pub(crate) fn size(&self) -> usize {
        let socket = self.socket.as_ref().map_or(0, ForSockets::size);
        let stream = self.stream.as_ref().map_or(0, stream_bytes);
        let response = self.response.as_ref().map_or(0, ForResponses::bytes);
        size_of::<Self>() + self.channel.len() + socket + stream + response
    }
}

impl ForSockets {
    fn new(format: Format<WsAction>) -> Option<Self> {
        let delivery = match &format.action {
            WsAction::Send(message) => frames(message),
            WsAction::Close { code, reason } => Delivery::Close(frame::close(
                code.unwrap_or(NORMAL),
                reason.as_deref().unwrap_or_default(),
            )),
            WsAction::Refresh => Delivery::Refresh,
            // A WebSocket has nothing to fetch anew.
            WsAction::Hint => return None,
        };
        Some(Self {
            delivery,
            message: match format.action {
                WsAction::Send(message) => Some(message),
                _ => None,
            },
            counted_on: format.filters,
        })
    }

    /// The delivery with another content, as a filter has written it.
    pub(crate) fn with_content<E>(
        &self,
        write: impl FnOnce(Bytes) -> Result<Bytes, E>,
    ) -> Result<Delivery, E> {
        let Some(message) = &self.message else {
            return Ok(self.delivery.clone());
        };
        let before = message.content();
        let content = write(before.clone())?;
        if content == *before {
            return Ok(self.delivery.clone());
        }
        Ok(sent(match message {
            // Filters write text into text.
            Message::Text(_) => frame::text(content),
            Message::Binary(_) => frame::binary(content),
            Message::Ping(_) => frame::ping(content),
            Message::Pong(_) => frame::pong(content),
        }))
    }

    /// Bytes that it counts for in a queue; never 0.
    pub(crate) fn size(&self) -> usize {
        self.bytes() + 1
    }

    /// Bytes that each client gets.
    pub(crate) fn bytes(&self) -> usize {
        match &self.delivery {
            Delivery::Frames { bytes, .. } | Delivery::Close(bytes) => bytes.len(),
            Delivery::Refresh => 0,
        }
    }
}

/// Bytes that each held stream gets.
pub(crate) fn stream_bytes(format: &Format<StreamAction>) -> usize {
    match &format.action {
        StreamAction::Send(content) => content.len(),
        StreamAction::Close | StreamAction::Hint => 0,
    }
}

impl ForResponses {
    /// Bytes of the answer's body.
    pub(crate) fn bytes(&self) -> usize {
        self.answer.as_ref().map_or(0, |answer| answer.body.len())
    }

    fn new(format: Format<ResponseAction>) -> Result<Self, String> {
        let answer = match format.action {
            ResponseAction::Send(response) => Some(Answer::new(response)?),
            ResponseAction::Hint => None,
        };
        Ok(Self {
            answer,
            counted_on: format.filters,
        })
    }
}

impl Answer {
    /// Checks a response.
    ///
    /// # Errors
    /// What in it is no HTTP.
    pub(crate) fn new(response: HttpResponse) -> Result<Self, String> {
        let status = match response.code {
            // Of an answer that ends there is no interim one.
            200..=999 => StatusCode::from_u16(response.code).ok(),
            _ => None,
        };
        let status =
            status.ok_or_else(|| format!("code: {} must be from 200 to 999", response.code))?;
        let mut headers = HeaderMap::with_capacity(response.headers.len());
        for (name, value) in &response.headers {
            let name = HeaderName::try_from(name.as_str())
                .map_err(|_| format!("headers: {name:?} cannot be the name of a header"))?;
            let value = HeaderValue::from_str(value).map_err(|_| {
                format!("headers.{name}: {value:?} cannot be the value of a header")
            })?;
            if !is_private_header(&name) && !is_of_the_wire(&name) {
                headers.append(name, value);
            }
        }
        Ok(Self {
            status,
            reason: response.reason,
            headers,
            body: response.body,
        })
    }
}

/// Headers that the connection to the client decides.
pub(crate) fn is_of_the_wire(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::CONNECTION | header::CONTENT_LENGTH | header::TRANSFER_ENCODING | header::UPGRADE
    ) || name.as_str() == "keep-alive"
}

fn frames(message: &Message) -> Delivery {
    sent(match message {
        Message::Text(text) => frame::text(text.as_bytes().clone()),
        Message::Binary(data) => frame::binary(data.clone()),
        Message::Ping(data) => frame::ping(data.clone()),
        Message::Pong(data) => frame::pong(data.clone()),
    })
}

fn sent(bytes: Bytes) -> Delivery {
    Delivery::Frames { bytes, messages: 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(code: u16, headers: &[(&str, &str)]) -> Result<Publication, Unsendable> {
        let headers = headers.iter();
        let response = HttpResponse {
            code,
            reason: None,
            headers: headers
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect(),
            body: Bytes::from_static(b"body"),
        };
        Publication::new(Item::response("c", response))
    }

    #[test]
    fn an_answer_must_be_http() {
        let problem = |code, headers: &[_]| response(code, headers).expect_err("wrong").to_string();
        assert_eq!(
            problem(100, &[]),
            "the item for channel \"c\": http-response.code: 100 must be from 200 to 999"
        );
        assert_eq!(
            problem(200, &[("a b", "c")]),
            "the item for channel \"c\": http-response.headers: \"a b\" cannot be the name of a header"
        );
        assert_eq!(
            problem(200, &[("a", "\r\nb: c")]),
            "the item for channel \"c\": http-response.headers.a: \"\\r\\nb: c\" cannot be the value of a header"
        );
    }

    #[test]
    fn an_answer_says_nothing_of_the_connection_or_to_the_host() {
        let headers = [
            ("Content-Length", "9"),
            ("Transfer-Encoding", "chunked"),
            ("Grip-Expose-Headers", "*"),
            ("X-Own", "1"),
            ("x-own", "2"),
        ];
        let publication = response(200, &headers).expect("HTTP");
        let answer = publication
            .response
            .and_then(|form| form.answer)
            .expect("an answer");
        let values: Vec<_> = answer.headers.iter().collect();
        assert_eq!(values.len(), 2);
        assert!(values.iter().all(|(name, _)| *name == "x-own"));
    }

    #[test]
    fn a_publication_is_as_large_as_its_forms() {
        let item = Item::ws_text("c", "x".repeat(1000)).and_stream("y".repeat(2000));
        let publication = Publication::new(item).expect("to be sent");
        assert!(publication.size() > 3000);
        assert!(publication.without_content().size() < 1000);
    }
}
