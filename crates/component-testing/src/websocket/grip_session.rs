//! A GRIP session: sends what a client does to the component, and applies its responses.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use grip::{
    CloseFrame, ControlMessage, Event, Extension, event,
    extension::MessageKind,
    header::{SEC_WEBSOCKET_EXTENSIONS, WEBSOCKET_EVENTS},
    hold::Channel,
};
use http::{HeaderValue, Response, StatusCode};
use spin_runtime::backend::Body;
use tokio::time::Instant;

use super::{
    client::{Client, ClientAction, Closed, Message},
    handshake::{Opened, accepted_headers},
    scheduled::Scheduled,
    subscriptions::Subscriptions,
    ws_over_http::{Connection, EventsResponse, RequestError},
};
use crate::{
    channels::Start, failure::text_response, filter::Filters, host::Host, request::ClientRequest,
    runtime::sleep_until_some,
};

/// A WebSocket that is open.
struct Session {
    connection: Connection,
    client: Client,
    subscriptions: Subscriptions,
    scheduled: Scheduled,
    /// The client's messages that the host answers, with the answers.
    auto_responses: BTreeMap<String, String>,
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

/// Opens a WebSocket whose component handles requests.
///
/// # Errors
/// Returns the response if the component does not accept the WebSocket.
pub(super) async fn open(
    host: Arc<Host>,
    request: ClientRequest,
) -> Result<Opened, Response<Body>> {
    let mut connection = Connection::new(host, request);
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
    let headers = accepted_headers(&response.headers);
    let extensions = response.headers.get_all(SEC_WEBSOCKET_EXTENSIONS).iter();
    let mut extensions = extensions.filter_map(|value| value.to_str().ok());
    let client = Client::default();
    let mut session = Session {
        connection,
        subscriptions: Subscriptions::new(client.clone()),
        client: client.clone(),
        scheduled: Scheduled::default(),
        auto_responses: BTreeMap::new(),
        extension: extensions.find_map(Extension::parse),
        keep_alive_interval: None,
        last_request: Instant::now(),
        state: State::Attached,
        is_closed_by_client: false,
    };
    session.apply(response).await;
    tokio::spawn(session.run());
    Ok(Opened { client, headers })
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
                        let event = to_event(action.action);
                        if !self.auto_respond(&event) {
                            events.push(event);
                        }
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

    /// Answers a message, if the component has left that to the host. Returns whether it has.
    fn auto_respond(&mut self, event: &Event) -> bool {
        let Event::Text(text) = event else {
            return false;
        };
        let Some(response) = self.auto_responses.get(&**text) else {
            return false;
        };
        self.send(grip::Message::Text(response.as_str().into()));
        true
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
        self.close(Closed::failed());
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
            ControlMessage::AutoResponse { request, response } => {
                self.auto_responses.remove(&request);
                if let Some(response) = response.filter(|response| !response.is_empty()) {
                    self.auto_responses.insert(request, response);
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

fn to_event(action: ClientAction) -> Event {
    match action {
        ClientAction::Send(Message::Text(text)) => Event::text(text),
        ClientAction::Send(Message::Binary(data)) => Event::Binary(data),
        ClientAction::Pong(payload) => Event::Pong(payload),
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
