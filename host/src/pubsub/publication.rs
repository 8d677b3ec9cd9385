//! A publication: an item in each of its forms, encoded once for all subscribers.

use std::collections::BTreeMap;

use bytes::Bytes;
use grip::{
    ByteString, Item, Message,
    publish::{Format, HttpResponse, ResponseAction, StreamAction, WsAction},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::time::Instant;

use crate::{
    http::headers::{is_framing_header, is_private_header},
    net::frame,
    pubsub::{
        frames::Frames,
        sequencer::{Id, Position},
    },
};

/// The effect of a publication on one WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// Send these frames.
    Frames(Frames),
    /// Close the WebSocket with this close frame.
    Close(Bytes),
    /// Send the backend a request for the connection.
    Refresh,
    /// The WebSocket has missed items: send the backend a request with this value of `Grip-Last`. It
    /// is `None` if the channel's name cannot be in a header.
    Missed(Option<HeaderValue>),
}

/// A published item.
#[derive(Debug)]
pub(crate) struct Publication {
    pub(crate) channel: String,
    pub(crate) id: Option<Id>,
    /// The id of the publication that this one follows.
    pub(crate) prev_id: Option<Id>,
    /// Do not wait for the publication that this one follows.
    no_seq: bool,
    /// When this host has received it.
    pub(super) received: Instant,
    /// Metadata for filters.
    pub(crate) meta: BTreeMap<String, String>,
    /// The form for WebSockets.
    pub(super) socket: Option<SocketForm>,
    /// The form for held streams.
    pub(crate) stream: Option<Format<StreamAction>>,
    /// The form for held responses.
    pub(crate) response: Option<ResponseForm>,
}

/// The form of a publication for WebSockets.
#[derive(Debug)]
pub(super) struct SocketForm {
    /// The delivery for clients whose filters do not rewrite content.
    pub(super) delivery: Delivery,
    /// The rewriting filters that a subscription must have (`content-filters`).
    pub(super) content_filters: Vec<String>,
}

/// The form of a publication for held responses.
#[derive(Debug)]
pub(crate) struct ResponseForm {
    /// The response. `None` is a hint: the request should be sent to the backend again.
    pub(crate) response: Option<PublishedResponse>,
    /// The rewriting filters that a subscription must have (`content-filters`).
    pub(crate) content_filters: Vec<String>,
}

/// An HTTP response that answers held requests.
#[derive(Clone, Debug)]
pub(crate) struct PublishedResponse {
    pub(crate) status: StatusCode,
    /// The reason phrase, if it is not the usual one.
    pub(crate) reason: Option<String>,
    /// The headers, without framing headers and headers private to the host and its backends.
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// The error for an item that cannot be encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid item for channel {channel:?}: http-response.{problem}")]
pub(crate) struct InvalidItem {
    channel: String,
    problem: String,
}

impl Publication {
    /// Encodes an item.
    ///
    /// # Errors
    /// Fails if the response for held requests is not valid HTTP.
    pub(crate) fn new(item: Item) -> Result<Self, InvalidItem> {
        let response = match item.http_response.map(ResponseForm::new).transpose() {
            Ok(response) => response,
            Err(problem) => {
                return Err(InvalidItem {
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
            received: Instant::now(),
            meta: item.meta,
            socket: item.ws_message.and_then(SocketForm::new),
            stream: item.http_stream,
            response,
        })
    }

    /// Creates a publication without content.
    pub(crate) fn empty(channel: &str) -> Self {
        Self {
            channel: channel.to_owned(),
            id: None,
            prev_id: None,
            no_seq: false,
            received: Instant::now(),
            meta: BTreeMap::new(),
            socket: None,
            stream: None,
            response: None,
        }
    }

    /// Creates a publication that lets held requests be sent to the backend again.
    pub(super) fn hint(channel: &str) -> Self {
        let response = ResponseForm {
            response: None,
            content_filters: Vec::new(),
        };
        Self {
            stream: Some(StreamAction::Hint.into()),
            response: Some(response),
            ..Self::empty(channel)
        }
    }

    /// Returns the item that this was created from, as far as this host uses it.
    pub(crate) fn item(&self) -> Item {
        let text = |id: &Id| id.to_string();
        Item {
            channel: self.channel.clone(),
            id: self.id.as_ref().map(text),
            prev_id: self.prev_id.as_ref().map(text),
            no_seq: self.no_seq,
            meta: self.meta.clone(),
            ws_message: self.socket.as_ref().and_then(SocketForm::format),
            http_stream: self.stream.clone(),
            http_response: self.response.as_ref().map(ResponseForm::format),
            size: None,
        }
    }

    /// Returns whether there is nothing for any subscriber.
    pub(crate) fn is_empty(&self) -> bool {
        self.socket.is_none() && self.stream.is_none() && self.response.is_none()
    }

    /// Returns a copy that has only the channel and the position.
    pub(super) fn without_content(&self) -> Self {
        Self {
            id: self.id.clone(),
            prev_id: self.prev_id.clone(),
            no_seq: self.no_seq,
            received: self.received,
            ..Self::empty(&self.channel)
        }
    }

    /// Returns whether this sends WebSockets a message, rather than closing or refreshing them.
    pub(super) fn is_message(&self) -> bool {
        let form = self.socket.as_ref();
        form.is_some_and(|form| matches!(form.delivery, Delivery::Frames(_)))
    }

    /// Returns the position in the order of the channel.
    pub(super) fn position(&self) -> Position {
        Position {
            id: self.id.clone(),
            prev_id: self.prev_id.clone(),
            no_seq: self.no_seq,
            size: self.size(),
        }
    }

    /// Returns the approximate size in memory, in bytes.
    pub(crate) fn size(&self) -> usize {
        let socket = self.socket.as_ref().map_or(0, SocketForm::size);
        let stream = self.stream.as_ref().map_or(0, stream_bytes);
        let response = self.response.as_ref().map_or(0, ResponseForm::bytes);
        size_of::<Self>() + self.channel.len() + socket + stream + response
    }
}

impl SocketForm {
    fn new(format: Format<WsAction>) -> Option<Self> {
        let delivery = match format.action {
            WsAction::Send(message) => Delivery::Frames(Frames::single(message)),
            WsAction::Close { code, reason } => Delivery::Close(frame::close(
                code.unwrap_or(frame::NORMAL_CLOSURE),
                reason.as_deref().unwrap_or_default(),
            )),
            WsAction::Refresh => Delivery::Refresh,
            // A hint asks for a request to be repeated, and a WebSocket has none.
            WsAction::Hint => return None,
        };
        Some(Self {
            delivery,
            content_filters: format.filters,
        })
    }

    /// Returns what was published, unless it was not for clients.
    fn format(&self) -> Option<Format<WsAction>> {
        let action = match &self.delivery {
            Delivery::Frames(frames) => WsAction::Send(frames.message()?.clone()),
            Delivery::Close(frame) => {
                let (code, reason) = frame::parse_close(frame)?;
                let reason = (!reason.is_empty()).then_some(reason);
                WsAction::Close {
                    code: Some(code),
                    reason,
                }
            }
            Delivery::Refresh => WsAction::Refresh,
            Delivery::Missed(_) => return None,
        };
        Some(Format {
            action,
            filters: self.content_filters.clone(),
        })
    }

    /// Returns the delivery with its content rewritten by filters.
    pub(super) fn with_content<E>(
        &self,
        rewrite: impl FnOnce(Bytes) -> Result<Bytes, E>,
    ) -> Result<Delivery, E> {
        let Delivery::Frames(frames) = &self.delivery else {
            return Ok(self.delivery.clone());
        };
        let Some(message) = frames.message() else {
            return Ok(self.delivery.clone());
        };
        let original = message.content();
        let content = rewrite(original.clone())?;
        if content == *original {
            return Ok(self.delivery.clone());
        }
        let message = match message {
            Message::Text(_) => ByteString::try_from(content).map(Message::Text),
            Message::Binary(_) => Ok(Message::Binary(content)),
            Message::Ping(_) => Ok(Message::Ping(content)),
            Message::Pong(_) => Ok(Message::Pong(content)),
        };
        // Filters insert only text into text.
        let Ok(message) = message else {
            return Ok(self.delivery.clone());
        };
        Ok(Delivery::Frames(Frames::single(message)))
    }

    /// Returns the bytes that this occupies in a queue; never 0.
    pub(super) fn size(&self) -> usize {
        match &self.delivery {
            // The message, and its encoding.
            Delivery::Frames(frames) => 2 * frames.plain().len(),
            Delivery::Close(bytes) => bytes.len(),
            Delivery::Refresh | Delivery::Missed(_) => 1,
        }
    }

    /// Returns the bytes that each client receives.
    pub(super) fn bytes(&self) -> usize {
        match &self.delivery {
            Delivery::Frames(frames) => frames.plain().len(),
            Delivery::Close(bytes) => bytes.len(),
            Delivery::Refresh | Delivery::Missed(_) => 0,
        }
    }
}

/// Returns the bytes that each held stream receives.
pub(super) fn stream_bytes(format: &Format<StreamAction>) -> usize {
    match &format.action {
        StreamAction::Send(content) => content.len(),
        StreamAction::Close | StreamAction::Hint => 0,
    }
}

impl ResponseForm {
    /// Returns the bytes of the response's body.
    pub(super) fn bytes(&self) -> usize {
        let response = self.response.as_ref();
        response.map_or(0, |response| response.body.len())
    }

    /// Returns what was published.
    fn format(&self) -> Format<ResponseAction> {
        let action = match &self.response {
            Some(response) => ResponseAction::Send(response.to_http()),
            None => ResponseAction::Hint,
        };
        Format {
            action,
            filters: self.content_filters.clone(),
        }
    }

    fn new(format: Format<ResponseAction>) -> Result<Self, String> {
        let response = match format.action {
            ResponseAction::Send(response) => Some(PublishedResponse::new(response)?),
            ResponseAction::Hint => None,
        };
        Ok(Self {
            response,
            content_filters: format.filters,
        })
    }
}

impl PublishedResponse {
    /// Validates a response.
    ///
    /// # Errors
    /// Describes the part of the response that is not valid HTTP.
    pub(crate) fn new(response: HttpResponse) -> Result<Self, String> {
        let status = match response.code {
            // Statuses below 200 are interim responses.
            200..=999 => StatusCode::from_u16(response.code).ok(),
            _ => None,
        };
        let status =
            status.ok_or_else(|| format!("code: {} must be from 200 to 999", response.code))?;
        let mut headers = HeaderMap::with_capacity(response.headers.len());
        for (name, value) in &response.headers {
            let name = HeaderName::try_from(name.as_str())
                .map_err(|_| format!("headers: {name:?} is not a valid header name"))?;
            let value = HeaderValue::from_str(value)
                .map_err(|_| format!("headers.{name}: {value:?} is not a valid header value"))?;
            if !is_private_header(&name) && !is_framing_header(&name) {
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

impl PublishedResponse {
    /// Returns the response as it is published. Bytes of headers that are not text are replaced.
    fn to_http(&self) -> HttpResponse {
        let headers = self.headers.iter().map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            (name.to_string(), value.into_owned())
        });
        HttpResponse {
            code: self.status.as_u16(),
            reason: self.reason.clone(),
            headers: headers.collect(),
            body: self.body.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(code: u16, headers: &[(&str, &str)]) -> Result<Publication, InvalidItem> {
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
    fn a_response_must_be_valid_http() {
        let problem = |code, headers: &[_]| {
            response(code, headers)
                .expect_err("invalid HTTP")
                .to_string()
        };
        assert_eq!(
            problem(100, &[]),
            "invalid item for channel \"c\": http-response.code: 100 must be from 200 to 999"
        );
        assert_eq!(
            problem(200, &[("a b", "c")]),
            "invalid item for channel \"c\": http-response.headers: \"a b\" is not a valid header name"
        );
        assert_eq!(
            problem(200, &[("a", "\r\nb: c")]),
            "invalid item for channel \"c\": http-response.headers.a: \"\\r\\nb: c\" is not a valid header value"
        );
    }

    #[test]
    fn framing_and_private_headers_are_removed_from_a_response() {
        let headers = [
            ("Content-Length", "9"),
            ("Transfer-Encoding", "chunked"),
            ("Grip-Expose-Headers", "*"),
            ("X-Own", "1"),
            ("x-own", "2"),
        ];
        let publication = response(200, &headers).expect("a valid item");
        let response = publication
            .response
            .and_then(|form| form.response)
            .expect("a response");
        let values: Vec<_> = response.headers.iter().collect();
        assert_eq!(values.len(), 2);
        assert!(values.iter().all(|(name, _)| *name == "x-own"));
    }

    #[test]
    fn the_size_includes_all_forms() {
        let item = Item::ws_text("c", "x".repeat(1000)).and_stream("y".repeat(2000));
        let publication = Publication::new(item).expect("a valid item");
        assert!(publication.size() > 3000);
        assert!(publication.without_content().size() < 1000);
    }
}
