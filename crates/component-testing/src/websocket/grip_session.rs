//! WebSocket-over-HTTP: sends what a client does to the component, and applies its responses.

use std::{future::pending, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use grip::{
    CloseFrame, ControlMessage, Event, Extension, event,
    extension::MessageKind,
    header::{
        CONNECTION_ID, CONTENT_BYTES_ACCEPTED, GRIP_LAST, KEEP_ALIVE_INTERVAL,
        SEC_WEBSOCKET_EXTENSIONS, SET_META_PREFIX, WEBSOCKET_EVENTS, is_grip, is_websocket_events,
    },
    hold::Channel,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use spin_runtime::backend::{Body, WaitsForCapacity, full};
use tokio::time::{Instant, sleep_until, timeout};

use super::{
    client::{Client, ClientAction, Closed, Message},
    metadata::Metadata,
    scheduled::Scheduled,
    subscriptions::Subscriptions,
};
use crate::{
    channels::Start,
    failure::{error_response, text_response},
    filter::Filters,
    host::Host,
    request::ClientRequest,
};

/// The shortest interval between empty requests.
const MIN_KEEP_ALIVE: Duration = Duration::from_secs(20);

/// How long the body of a response may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// The most bytes of events in a response: the default of the host.
const MAX_EVENTS_BYTES: usize = 1_000_000;

/// The code with which clients are closed whose component has failed.
const INTERNAL_ERROR: u16 = 1011;

/// A WebSocket that is open.
pub(crate) struct Session {
    connection: Connection,
    client: Client,
    subscriptions: Subscriptions,
    scheduled: Scheduled,
    /// Tells content from control messages. `None` if the component has not enabled GRIP.
    extension: Option<Extension>,
    /// The idle time after which the component gets an empty request.
    keep_alive_interval: Option<Duration>,
    /// When the component was last sent a request.
    last_request: Instant,
    state: State,
    /// The client has closed the WebSocket, or is gone.
    is_closed_by_client: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The component receives what the client does.
    Attached,
    /// The component has asked to be detached.
    DetachRequested,
    /// The component receives nothing. Publications still arrive.
    Detached,
    /// The client has been closed, or is gone.
    Closed,
}

/// What the requests of a WebSocket have in common.
struct Connection {
    host: Arc<Host>,
    head: ClientRequest,
    id: HeaderValue,
    metadata: Metadata,
    /// The channels whose items the component must send itself.
    grip_last: Vec<HeaderValue>,
}

/// A response that consists of events.
struct EventsResponse {
    headers: HeaderMap,
    events: Vec<Event>,
}

/// Why a request has not resulted in an [`EventsResponse`].
enum RequestError {
    /// The response consists of something else.
    Refused(Response<Body>),
    /// The component has failed, which is recorded.
    Failed(Response<Body>),
}

/// Opens a WebSocket. Returns the client's end and the headers of the handshake.
///
/// # Errors
/// Returns the response if the component does not accept the WebSocket.
pub(crate) async fn open(
    host: Arc<Host>,
    request: ClientRequest,
) -> Result<(Client, HeaderMap), Response<Body>> {
    if host.private.matches(request.uri.path()) {
        let mut response = Response::new(full(""));
        *response.status_mut() = StatusCode::NOT_FOUND;
        return Err(response);
    }
    let mut connection = Connection {
        id: host.connection_id(),
        host,
        head: request,
        metadata: Metadata::default(),
        grip_last: Vec::new(),
    };
    let mut response = match connection.send(&[Event::Open]).await {
        Ok(response) => response,
        Err(RequestError::Failed(response)) => return Err(response),
        Err(RequestError::Refused(response))
            if response.status().is_success()
                || response.status() == StatusCode::METHOD_NOT_ALLOWED =>
        {
            let text = "this route does not accept WebSockets";
            return Err(text_response(StatusCode::UPGRADE_REQUIRED, text));
        }
        Err(RequestError::Refused(response)) => return Err(response),
    };
    let accepts = match response.events.first() {
        Some(Event::Open) => {
            response.events.remove(0);
            true
        }
        Some(_) => false,
        None => response.keep_alive().flatten().is_some(),
    };
    if !accepts {
        connection.fail("invalid response to OPEN: the first event is not OPEN");
        let text = "WebSocket handshake failed";
        return Err(text_response(StatusCode::BAD_GATEWAY, text));
    }
    let headers = client_headers(&response.headers);
    let extensions = response.headers.get_all(SEC_WEBSOCKET_EXTENSIONS).iter();
    let mut extensions = extensions.filter_map(|value| value.to_str().ok());
    let client = Client::default();
    let mut session = Session {
        connection,
        subscriptions: Subscriptions::new(client.clone()),
        client: client.clone(),
        scheduled: Scheduled::default(),
        extension: extensions.find_map(Extension::parse),
        keep_alive_interval: None,
        last_request: Instant::now(),
        state: State::Attached,
        is_closed_by_client: false,
    };
    session.apply(response).await;
    tokio::spawn(session.run());
    Ok((client, headers))
}

/// Returns the headers that a client gets with its handshake.
fn client_headers(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    let private: Vec<_> = headers
        .keys()
        .filter(|name| {
            let name = name.as_str();
            is_grip(name)
                || name.starts_with(SET_META_PREFIX)
                || [
                    "content-type",
                    "content-length",
                    SEC_WEBSOCKET_EXTENSIONS,
                    KEEP_ALIVE_INTERVAL,
                    CONTENT_BYTES_ACCEPTED,
                ]
                .contains(&name)
        })
        .cloned()
        .collect();
    for name in private {
        headers.remove(name);
    }
    headers
}

impl Session {
    /// Serves the WebSocket until it is closed.
    async fn run(mut self) {
        loop {
            // A subscription could not begin where the component wanted.
            while self.state == State::Attached && !self.connection.grip_last.is_empty() {
                self.handle(Vec::new()).await;
            }
            if self.state == State::Closed {
                break;
            }
            // Dropped when the component has handled the events.
            let mut handled = Vec::new();
            let mut events = Vec::new();
            let mut is_due = false;
            tokio::select! {
                biased;
                actions = self.client.actions() => {
                    for action in actions {
                        events.push(to_event(action.action));
                        handled.push(action.handled);
                    }
                }
                () = self.subscriptions.changed() => {}
                () = sleep_until_some(self.next_time()) => is_due = true,
            }
            if self.subscriptions.take_sent() {
                self.scheduled.sent();
            }
            for message in self.scheduled.take_due() {
                self.send(message);
            }
            if let Some(closed) = self.client.closed() {
                // By a publication. The client confirms.
                self.confirm(closed).await;
                break;
            }
            let is_due = is_due && self.request_due().is_some_and(|due| due <= Instant::now());
            let refresh = self.subscriptions.take_refresh();
            if !events.is_empty() || is_due || refresh {
                self.handle(events).await;
            }
        }
        self.subscriptions.clear();
    }

    /// Returns when a message or an empty request is due.
    fn next_time(&self) -> Option<Instant> {
        let due = self.scheduled.due().into_iter();
        due.chain(self.request_due()).min()
    }

    /// Returns when an empty request is due.
    fn request_due(&self) -> Option<Instant> {
        let interval = self.keep_alive_interval?;
        (self.state == State::Attached).then(|| self.last_request + interval)
    }

    /// Sends events to the component and applies its response.
    async fn handle(&mut self, events: Vec<Event>) {
        let last = events.last().cloned();
        self.is_closed_by_client = matches!(last, Some(Event::Close(_) | Event::Disconnect));
        if self.state == State::Attached {
            self.last_request = Instant::now();
            match self.connection.send(&events).await {
                Ok(response) => self.apply(response).await,
                Err(RequestError::Failed(_)) => self.close_failed(),
                Err(RequestError::Refused(response)) => {
                    self.fail(&format!(
                        "expected status 200 with content type {WEBSOCKET_EVENTS}, got {}",
                        response.status()
                    ));
                }
            }
        }
        // What the client has done, unless the response has closed it.
        match last {
            Some(Event::Close(frame)) => self.close(closed(frame)),
            Some(Event::Disconnect) => self.close(Closed::Dropped),
            _ => {}
        }
    }

    async fn apply(&mut self, response: EventsResponse) {
        if let Some(interval) = response.keep_alive() {
            self.keep_alive_interval = interval;
        }
        self.connection.metadata.update(&response.headers);
        for event in response.events {
            match event {
                Event::Text(text) => self.handle_message(grip::Message::Text(text)),
                Event::Binary(data) => self.handle_message(grip::Message::Binary(data)),
                // A client answers a ping itself, and shows neither.
                Event::Ping(_) | Event::Pong(_) => self.scheduled.sent(),
                Event::Close(frame) => {
                    let invalid = frame.as_ref().map(|frame| frame.code);
                    let invalid = invalid.filter(|code| !event::is_close_code(*code) && *code != 0);
                    if let Some(code) = invalid {
                        return self.fail(&format!(
                            "CLOSE event with code {code}, which cannot be sent"
                        ));
                    }
                    let frame = frame.filter(|frame| frame.code != 0);
                    return self.confirm(closed(frame)).await;
                }
                Event::Disconnect => return self.close(Closed::Dropped),
                Event::Open => return self.fail("OPEN event for an open connection"),
            }
        }
        if self.state == State::DetachRequested {
            self.state = State::Detached;
            if !self.is_closed_by_client {
                // Its response does not affect the client.
                let _ = self.connection.send(&[Event::Close(None)]).await;
            }
        }
    }

    /// Closes the client, which confirms that with a close frame of its own.
    async fn confirm(&mut self, closed: Closed) {
        let must_confirm = self.state == State::Attached && !self.is_closed_by_client;
        self.close(closed.clone());
        if let (true, Closed::Frame { code, reason }) = (must_confirm, closed) {
            let frame = code.map(|code| CloseFrame::new(code, reason));
            // The WebSocket is closed, whatever the response is.
            let _ = self.connection.send(&[Event::Close(frame)]).await;
        }
    }

    fn close(&mut self, closed: Closed) {
        self.state = State::Closed;
        self.client.close(closed);
    }

    fn fail(&mut self, error: &str) {
        self.connection.fail(error);
        self.close_failed();
    }

    fn close_failed(&mut self) {
        self.close(Closed::Frame {
            code: Some(INTERNAL_ERROR),
            reason: "the backend failed".to_owned(),
        });
    }

    /// Sends a message to the client.
    fn send(&mut self, message: grip::Message) {
        match message {
            grip::Message::Text(text) => self.client.receive(Message::Text(text.to_string())),
            grip::Message::Binary(data) => self.client.receive(Message::Binary(data)),
            grip::Message::Ping(_) | grip::Message::Pong(_) => {}
        }
        self.scheduled.sent();
    }

    fn handle_message(&mut self, message: grip::Message) {
        let Some(extension) = &self.extension else {
            return self.send(message);
        };
        match extension.classify(message.content()) {
            MessageKind::Content(inner) => {
                let start = message.content().len() - inner.len();
                let message = match &message {
                    grip::Message::Text(text) => {
                        grip::Message::Text(text.slice_ref(&text[start..]))
                    }
                    message => grip::Message::Binary(message.content().slice(start..)),
                };
                self.send(message);
            }
            MessageKind::Unprefixed => {
                tracing::warn!(route = self.route(), "message without GRIP prefix dropped");
            }
            MessageKind::Control(json) => match ControlMessage::parse(json) {
                Ok(message) => self.handle_control(message),
                Err(error) => {
                    tracing::warn!(route = self.route(), %error, "invalid control message dropped");
                }
            },
        }
    }

    fn handle_control(&mut self, message: ControlMessage) {
        match message {
            ControlMessage::Subscribe {
                channel,
                filters,
                prev_id,
                recover,
                presence: _,
            } => self.subscribe(&channel, &filters, prev_id, recover),
            ControlMessage::Unsubscribe { channel } => self.subscriptions.remove(&channel),
            ControlMessage::Detach if self.state == State::Attached => {
                self.state = State::DetachRequested;
            }
            ControlMessage::Detach => {}
            ControlMessage::SetMeta { name, value } => self.subscriptions.set_meta(name, value),
            ControlMessage::KeepAlive {
                message: Some(message),
                timeout,
                mode,
            } => self.scheduled.start_keep_alive(message, mode, timeout),
            ControlMessage::KeepAlive { message: None, .. } => self.scheduled.stop_keep_alive(),
            ControlMessage::SendDelayed { message, timeout } => {
                if let Some(previous) = self.scheduled.delay(message, timeout) {
                    self.send(previous);
                }
            }
            ControlMessage::FlushDelayed => {
                if let Some(message) = self.scheduled.flush() {
                    self.send(message);
                }
            }
            ControlMessage::Presence { .. }
            | ControlMessage::User { .. }
            | ControlMessage::Session { .. } => {}
        }
    }

    fn subscribe(
        &mut self,
        channel: &str,
        filters: &[String],
        prev_id: Option<String>,
        recover: Option<u32>,
    ) {
        let filters = match Filters::parse(filters) {
            Ok(filters) => filters,
            Err(error) => {
                tracing::warn!(channel, %error, "subscription refused");
                return;
            }
        };
        let start = match (&prev_id, recover) {
            (Some(id), _) => Start::After(id),
            (None, Some(count)) => Start::Newest(count as usize),
            (None, None) => Start::Live,
        };
        let channels = &self.connection.host.channels;
        let is_complete = self.subscriptions.add(channels, channel, filters, start);
        if let Some(id) = prev_id
            && !is_complete
        {
            let value = Channel::new(channel).after(id).to_grip_last();
            let value = value.ok().flatten();
            let value = value.and_then(|value| HeaderValue::from_str(&value).ok());
            self.connection.grip_last.extend(value);
        }
    }

    fn route(&self) -> &str {
        self.connection.head.uri.path()
    }
}

impl Connection {
    /// Sends events to the component.
    async fn send(&mut self, events: &[Event]) -> Result<EventsResponse, RequestError> {
        let request = self.request(events);
        let response = self.host.call(request).await;
        let response = response.map_err(|error| RequestError::Failed(error_response(&error)))?;
        self.grip_last.clear();
        let content_type = response.headers().get(header::CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok());
        if response.status() != StatusCode::OK || !content_type.is_some_and(is_websocket_events) {
            return Err(RequestError::Refused(response));
        }
        let failed = |error: String| {
            self.fail(&error);
            let text = "invalid response with events";
            RequestError::Failed(text_response(StatusCode::BAD_GATEWAY, text))
        };
        let (parts, body) = response.into_parts();
        let body = timeout(BODY_TIMEOUT, read_body(body)).await;
        let body = body.unwrap_or_else(|_| Err(format!("took longer than {BODY_TIMEOUT:?}")));
        let body = body.map_err(|error| failed(format!("response: {error}")))?;
        let limits = event::Limits {
            content: MAX_EVENTS_BYTES,
            events: MAX_EVENTS_BYTES,
        };
        let events_of_response =
            event::decode_all(body, limits).map_err(|error| failed(error.to_string()))?;
        let offered: usize = events.iter().map(Event::content_len).sum();
        if let Some(accepted) = parts.headers.get(CONTENT_BYTES_ACCEPTED)
            && accepted.to_str().ok() != Some(offered.to_string().as_str())
        {
            return Err(failed(
                "Content-Bytes-Accepted of a part of the content is not simulated".to_owned(),
            ));
        }
        Ok(EventsResponse {
            headers: parts.headers,
            events: events_of_response,
        })
    }

    fn request(&self, events: &[Event]) -> Request<Body> {
        let body: Bytes = event::encode_all(events);
        let mut request = self.head.to_backend();
        let headers = request.headers_mut();
        self.host.sign(headers);
        let mut set = |name: &'static str, value: HeaderValue| {
            headers.insert(HeaderName::from_static(name), value);
        };
        set("content-type", HeaderValue::from_static(WEBSOCKET_EVENTS));
        set("accept", HeaderValue::from_static(WEBSOCKET_EVENTS));
        set("content-length", body.len().into());
        set(CONNECTION_ID, self.id.clone());
        set(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static("grip"));
        for value in &self.grip_last {
            headers.append(HeaderName::from_static(GRIP_LAST), value.clone());
        }
        self.metadata.add_to(headers);
        *request.method_mut() = Method::POST;
        if events.first() != Some(&Event::Open) {
            request.extensions_mut().insert(WaitsForCapacity);
        }
        request.map(|_| full(body))
    }

    fn fail(&self, error: &str) {
        self.host.fail(self.head.uri.path(), error);
    }
}

impl EventsResponse {
    /// Returns the keep-alive interval that the response sets. `None` leaves it unchanged, and
    /// `Some(None)` turns keep-alive off.
    fn keep_alive(&self) -> Option<Option<Duration>> {
        let value = self.headers.get(KEEP_ALIVE_INTERVAL)?.to_str();
        let seconds: u64 = value
            .ok()
            .and_then(|it| it.trim().parse().ok())
            .unwrap_or(0);
        Some((seconds > 0).then(|| Duration::from_secs(seconds).max(MIN_KEEP_ALIVE)))
    }
}

/// Reads the body of a response with events.
///
/// # Errors
/// Fails if the body ends early or is too large.
async fn read_body(mut body: Body) -> Result<Bytes, String> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| error.to_string())?;
        bytes.extend_from_slice(&frame.into_data().unwrap_or_default());
        if bytes.len() > MAX_EVENTS_BYTES {
            return Err(format!("more than {MAX_EVENTS_BYTES} bytes"));
        }
    }
    Ok(bytes.freeze())
}

fn to_event(action: ClientAction) -> Event {
    match action {
        ClientAction::Send(Message::Text(text)) => Event::text(text),
        ClientAction::Send(Message::Binary(data)) => Event::Binary(data),
        ClientAction::Close { code, reason } => Event::close(code, reason),
        ClientAction::Disconnect => Event::Disconnect,
    }
}

fn closed(frame: Option<CloseFrame>) -> Closed {
    Closed::Frame {
        code: frame.as_ref().map(|frame| frame.code),
        reason: frame.map_or_else(String::new, |frame| frame.reason.to_string()),
    }
}

/// Waits until a time, or forever.
async fn sleep_until_some(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}
