//! A client of the simulated host.

use std::{
    cell::{Ref, RefCell},
    collections::{BTreeMap, BTreeSet},
    fmt, mem,
    rc::Rc,
};

use bytes::Bytes;
use grip::{
    CloseFrame, ControlMessage, Event, Extension, Item, Limits, Message, event,
    extension::MessageKind, header, publish::WsAction,
};
use http::{HeaderMap, HeaderName, Request, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{published_after, register};
use crate::Handler;

/// The features of the host.
const FEATURES: &str = "subscribe:recover, auto-response";

/// The close code of a client whose component has failed.
const INTERNAL_ERROR: u16 = 1011;

/// A client with a WebSocket. Dropping it ends the connection without a close frame.
pub struct Client<'h, H: Handler> {
    handler: &'h H,
    /// The request of the handshake.
    head: Request<()>,
    /// The response to the handshake.
    headers: HeaderMap,
    id: String,
    state: Rc<RefCell<State>>,
}

/// A handshake that did not succeed: the handler has refused the connection, or failed.
#[derive(Debug, thiserror::Error)]
#[error("the connection was refused: status={} body={:?}", .0.status(), String::from_utf8_lossy(.0.body()))]
pub struct Refused(pub Box<Response<Bytes>>);

/// What the host knows about a client.
#[derive(Debug, Default)]
pub(super) struct State {
    received: Vec<Message>,
    subscriptions: BTreeSet<String>,
    auto_responses: BTreeMap<String, String>,
    meta: HeaderMap,
    closed: Option<CloseFrame>,
    /// Channels whose items the host cannot deliver.
    missed: Vec<String>,
    /// The end of the connection was reported to the component.
    is_ended: bool,
}

impl<'h, H: Handler> Client<'h, H> {
    pub(super) fn open(handler: &'h H, head: Request<()>) -> Result<Self, Refused> {
        let state = Rc::default();
        let mut client = Client {
            handler,
            head,
            headers: HeaderMap::new(),
            id: register(&state),
            state,
        };
        let response = client.request(&[Event::Open]);
        let events = decode(&response).filter(|events| events.first() == Some(&Event::Open));
        let Some(events) = events else {
            client.state.borrow_mut().is_ended = true;
            return Err(Refused(Box::new(response)));
        };
        client.headers = response.headers().clone();
        client.apply(&response, events);
        client.report_missed();
        Ok(client)
    }

    /// Returns the id of the connection.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the headers of the response to the handshake.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Sends a text message, and waits until the handler has handled it.
    ///
    /// # Panics
    /// Panics if the connection is closed. The other methods that send do so, too.
    pub fn send(&mut self, text: &str) {
        let response = self.state.borrow().auto_responses.get(text).cloned();
        match response {
            Some(response) => {
                let message = Message::Text(response.into());
                self.state.borrow_mut().received.push(message);
            }
            None => self.act(Event::text(text)),
        }
    }

    /// Sends a binary message, and waits until the handler has handled it.
    pub fn send_binary(&mut self, data: impl Into<Bytes>) {
        self.act(Event::Binary(data.into()));
    }

    /// Closes the connection with a code and a reason.
    pub fn close(&mut self, code: u16, reason: &str) {
        self.act(Event::close(code, reason));
        self.state.borrow_mut().is_ended = true;
    }

    /// Ends the connection without a close frame.
    pub fn disconnect(self) {}

    /// Returns the texts that the client has received since the last call.
    ///
    /// # Panics
    /// Panics if it has received a binary message.
    pub fn texts(&mut self) -> Vec<String> {
        let messages = self.take_messages().into_iter();
        messages
            .map(|message| match message {
                Message::Text(text) => text.to_string(),
                other => panic!("expected a text, got {other:?}"),
            })
            .collect()
    }

    /// Returns the items of rooms that the client has received since the last call, and drops what
    /// else it has received.
    ///
    /// # Panics
    /// Panics if an item is of another type.
    pub fn items<T: DeserializeOwned>(&mut self) -> Vec<T> {
        let frames = self.frames("item").into_iter();
        frames
            .map(|frame| {
                let data = frame["data"].clone();
                serde_json::from_value(data)
                    .unwrap_or_else(|error| panic!("unexpected item {frame}: {error}"))
            })
            .collect()
    }

    /// Returns the newest count of a room that the client has received since the last call, and drops
    /// what else it has received.
    pub fn count(&mut self) -> Option<u64> {
        let frames = self.frames("count");
        frames.last().and_then(|frame| frame["count"].as_u64())
    }

    /// Returns the messages that the client has received since the last call.
    pub fn take_messages(&mut self) -> Vec<Message> {
        mem::take(&mut self.state.borrow_mut().received)
    }

    /// Returns the close frame that the client has received.
    pub fn closed(&self) -> Option<CloseFrame> {
        self.state.borrow().closed.clone()
    }

    /// Returns the channels that the client is subscribed to.
    pub fn subscriptions(&self) -> Vec<String> {
        self.state().subscriptions.iter().cloned().collect()
    }

    fn state(&self) -> Ref<'_, State> {
        self.state.borrow()
    }

    /// Takes the frames of this kind.
    fn frames(&mut self, kind: &str) -> Vec<Value> {
        let messages = self.take_messages().into_iter();
        let frames = messages.filter_map(|message| {
            let frame: Value = serde_json::from_slice(message.content()).ok()?;
            (frame["$"] == kind).then_some(frame)
        });
        frames.collect()
    }

    fn act(&mut self, event: Event) {
        if let Some(closed) = &self.state().closed {
            panic!("the connection is closed: {closed:?}");
        }
        self.exchange(&[event], &[]);
        self.report_missed();
    }

    /// Sends requests about missed items until there are none.
    fn report_missed(&mut self) {
        loop {
            let missed = mem::take(&mut self.state.borrow_mut().missed);
            if missed.is_empty() {
                return;
            }
            self.exchange(&[], &missed);
        }
    }

    fn exchange(&mut self, events: &[Event], missed: &[String]) {
        let response = self.request_with(events, missed);
        match decode(&response) {
            Some(events) => self.apply(&response, events),
            None => {
                let frame = CloseFrame::new(INTERNAL_ERROR, "the backend failed");
                self.state.borrow_mut().closed = Some(frame);
            }
        }
    }

    fn request(&self, events: &[Event]) -> Response<Bytes> {
        self.request_with(events, &[])
    }

    fn request_with(&self, events: &[Event], missed: &[String]) -> Response<Bytes> {
        let mut request = Request::post(self.head.uri())
            .header("content-type", header::WEBSOCKET_EVENTS)
            .header(header::CONNECTION_ID, &self.id)
            .header(header::GRIP_FEATURE, FEATURES);
        for (name, value) in self.head.headers() {
            request = request.header(name, value);
        }
        for (name, value) in &self.state().meta {
            request = request.header(name, value);
        }
        for channel in missed {
            request = request.header(header::GRIP_LAST, channel);
        }
        let request = request.body(event::encode_all(events));
        let request = request.unwrap_or_else(|error| panic!("invalid request: {error}"));
        super::request(self.handler, request)
    }

    fn apply(&mut self, response: &Response<Bytes>, events: Vec<Event>) {
        let mut state = self.state.borrow_mut();
        for (name, value) in response.headers() {
            if let Some(name) = name.as_str().strip_prefix(header::SET_META_PREFIX)
                && let Ok(name) = format!("{}{name}", header::META_PREFIX).parse::<HeaderName>()
            {
                state.meta.insert(name, value.clone());
            }
        }
        for event in events {
            if state.closed.is_some() {
                return;
            }
            state.apply(event);
        }
    }
}

impl State {
    /// Delivers an item, if the client is subscribed to its channel.
    pub(super) fn deliver(&mut self, item: &Item) {
        if !self.subscriptions.contains(&item.channel) || self.closed.is_some() {
            return;
        }
        match item.ws_message.as_ref().map(|format| &format.action) {
            Some(WsAction::Send(message)) => self.received.push(message.clone()),
            Some(WsAction::Close { code, reason }) => {
                let reason = reason.clone().unwrap_or_default();
                self.closed = Some(CloseFrame::new(code.unwrap_or(1000), reason));
            }
            _ => {}
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Text(text) => match Extension::default().classify(text.as_bytes()) {
                MessageKind::Control(json) => {
                    let message = ControlMessage::parse(json);
                    self.control(message.unwrap_or_else(|error| panic!("{error}")));
                }
                MessageKind::Content(content) => {
                    let text = String::from_utf8_lossy(content).into_owned();
                    self.received.push(Message::Text(text.into()));
                }
                MessageKind::Unprefixed => panic!("a message without a prefix: {text:?}"),
            },
            Event::Binary(data) => match Extension::default().classify(&data) {
                MessageKind::Content(content) => {
                    self.received.push(Message::Binary(data.slice_ref(content)));
                }
                _ => panic!("a message without a prefix: {data:?}"),
            },
            Event::Close(frame) => {
                self.closed = Some(frame.unwrap_or(CloseFrame::new(1005, "")));
            }
            Event::Open | Event::Ping(_) | Event::Pong(_) | Event::Disconnect => {}
        }
    }

    fn control(&mut self, message: ControlMessage) {
        match message {
            ControlMessage::Subscribe {
                channel, prev_id, ..
            } => {
                let is_new = self.subscriptions.insert(channel.clone());
                let Some(prev_id) = prev_id.filter(|_| is_new) else {
                    return;
                };
                match published_after(&channel, &prev_id) {
                    Some(items) => items.iter().for_each(|item| self.deliver(item)),
                    None => self.missed.push(channel),
                }
            }
            ControlMessage::Unsubscribe { channel } => {
                self.subscriptions.remove(&channel);
            }
            ControlMessage::AutoResponse { request, response } => {
                let response = response.unwrap_or_default();
                self.auto_responses.insert(request, response);
            }
            // Filters are not simulated.
            _ => {}
        }
    }
}

impl<H: Handler> Drop for Client<'_, H> {
    fn drop(&mut self) {
        if !mem::replace(&mut self.state.borrow_mut().is_ended, true) && !std::thread::panicking() {
            self.request(&[Event::Disconnect]);
        }
    }
}

impl<H: Handler> fmt::Debug for Client<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("id", &self.id)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// Decodes the events of a response. Returns `None` if it has none.
fn decode(response: &Response<Bytes>) -> Option<Vec<Event>> {
    let content_type = response.headers().get("content-type");
    let is_events = response.status() == StatusCode::OK
        && content_type.is_some_and(|value| value == header::WEBSOCKET_EVENTS);
    if !is_events {
        return None;
    }
    let events = event::decode_all(response.body().clone(), Limits::default());
    Some(events.unwrap_or_else(|error| panic!("invalid events: {error}")))
}
