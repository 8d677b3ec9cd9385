//! Typed frames: the host calls functions with the frames of a WebSocket (SIP-016).
//!
//! Each call may be in another instance, and gets no more than a token. What a handler needs to know
//! about the connection is kept in the store, until the connection ends.

mod state;

use std::{
    cell::Cell,
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use grip::{CloseFrame, Event, Item, publish::WsAction};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use sha2::{Digest, Sha256};

use self::{
    bindings::{
        exports::fermyon::spin::inbound_websocket_receive::ReceivedFrame,
        fermyon::spin::{
            inbound_websocket_send::send_frame,
            websocket_types::{CloseCode, CloseFrame as TypedClose, Frame},
        },
        socket_host::websocket::channels,
        wasi::http::types::{
            Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
        },
    },
    state::State,
};
use crate::{
    Connection, Error, Handler, PublishError, Result, configuration,
    connection::{Effect, Head, Meta, Transport},
    events,
    frame::SUBPROTOCOL,
    room,
    serve::log_failure,
};

/// The longest chunk that a stream of WASI accepts at once.
const MAX_CHUNK_BYTES: usize = 4096;

/// The bindings of the interfaces.
#[allow(missing_docs, unsafe_code, reason = "generated")]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "socket-host:websocket/websocket-handler",
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_websocket_handler",
    });
}

thread_local! {
    /// Whether a handler of typed frames runs.
    static IS_CURRENT: Cell<bool> = const { Cell::new(false) };
}

/// Whether a handler of typed frames runs, which cannot wait for asynchronous functions.
pub(crate) fn is_current() -> bool {
    IS_CURRENT.get()
}

/// Handles an upgrade request. `name` is that of the component's package.
pub fn handle_new(
    name: &'static str,
    handler: &impl Handler,
    token: String,
    request: IncomingRequest,
    response_out: ResponseOutparam,
) {
    configuration::set_component(name);
    let (status, text, has_subprotocol) = match run(accept(handler, &token, &request)) {
        Ok(Answer::Accepted { has_subprotocol }) => (
            StatusCode::SWITCHING_PROTOCOLS,
            String::new(),
            has_subprotocol,
        ),
        Ok(Answer::Rejected(status, text)) => (status, format!("{text}\n"), false),
        Err(error) => {
            log_failure("open", &error);
            let text = "internal error: see the component's log\n";
            (StatusCode::INTERNAL_SERVER_ERROR, text.to_owned(), false)
        }
    };
    respond(response_out, status, &text, has_subprotocol);
}

/// Handles frames, of which a close frame is the last one.
pub fn handle_frames(
    name: &'static str,
    handler: &impl Handler,
    token: String,
    frames: Vec<ReceivedFrame>,
) {
    configuration::set_component(name);
    let events = frames
        .into_iter()
        .filter_map(|received| event_of(received.frame));
    if let Err(error) = run(handle(handler, &token, events.collect())) {
        log_failure("handle frames", &error);
        send_close(&token, Some(CloseFrame::new(1011, "internal error")));
    }
}

/// Publishes messages. Their ids, and their formats for streams and responses, are lost.
pub(crate) fn publish(items: Vec<Item>) -> Result<(), PublishError> {
    for item in items {
        let message = match item.ws_message.map(|format| format.action) {
            Some(WsAction::Send(grip::Message::Text(text))) => {
                channels::Message::Text(text.to_string())
            }
            Some(WsAction::Send(grip::Message::Binary(data))) => {
                channels::Message::Binary(data.into())
            }
            None => continue,
            Some(other) => {
                let problem = format!("not possible with typed frames: {other:?}");
                return Err(PublishError(problem));
            }
        };
        let published = channels::publish(&item.channel, &message);
        published.map_err(|error| PublishError(describe(error)))?;
    }
    Ok(())
}

/// Polls a future once: nothing that a handler may wait for is asynchronous.
fn run<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    IS_CURRENT.set(true);
    let poll = pin!(future).poll(&mut Context::from_waker(Waker::noop()));
    IS_CURRENT.set(false);
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(Error::msg(
            "the handler waits for an asynchronous function, which typed frames do not allow",
        )),
    }
}

/// The answer to an upgrade request.
enum Answer {
    Accepted { has_subprotocol: bool },
    Rejected(StatusCode, String),
}

async fn accept(handler: &impl Handler, token: &str, request: &IncomingRequest) -> Result<Answer> {
    let uri = request.path_with_query().unwrap_or_default();
    let headers = request.headers().entries().into_iter();
    let headers: HeaderMap = headers
        .filter_map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            Some((name, HeaderValue::from_bytes(&value).ok()?))
        })
        .collect();
    let head = Head {
        id: connection_id(token),
        uri: uri.parse::<Uri>()?,
        headers,
    };
    let mut connection = Connection::new(head, Transport::Typed, Meta::default(), true);
    if let Err(error) = events::open(handler, &mut connection).await {
        events::leave_all(&mut connection).await;
        return Err(error);
    }
    if let Some((status, text)) = connection.rejection.take() {
        events::leave_all(&mut connection).await;
        return Ok(Answer::Rejected(status, text));
    }
    if connection.is_closed() {
        events::leave_all(&mut connection).await;
    }
    let has_subprotocol = connection.has_subprotocol;
    State::of(&connection).save(connection.id()).await?;
    flush(token, &mut connection).await?;
    Ok(Answer::Accepted { has_subprotocol })
}

async fn handle(handler: &impl Handler, token: &str, events: Vec<Event>) -> Result {
    let id = connection_id(token);
    let Some(state) = State::load(&id).await? else {
        return Err(Error::msg(
            "the state of the connection is missing in the store",
        ));
    };
    let is_last = matches!(events.last(), Some(Event::Close(_) | Event::Disconnect));
    let mut connection = state.connection(id.clone())?;
    if let Err(error) = events::handle_all(handler, &mut connection, events).await {
        events::fail(&mut connection, &error).await;
    }
    flush(token, &mut connection).await?;
    if is_last {
        return Ok(State::delete(&id).await?);
    }
    if !connection.meta.changes().is_empty() {
        State::of(&connection).save(&id).await?;
    }
    Ok(())
}

/// Does what the handler has done to the connection.
async fn flush(token: &str, connection: &mut Connection) -> Result {
    let mut done = 0;
    let mut subscribed = Vec::new();
    while done < connection.effects.len() {
        for effect in &connection.effects[done..] {
            apply(token, effect, &mut subscribed)?;
        }
        done = connection.effects.len();
        // Something may have been published between the read of the room and the subscription.
        for channel in std::mem::take(&mut subscribed) {
            connection.fill_gap(&channel).await?;
        }
    }
    Ok(())
}

/// Applies an effect. Adds channels of rooms to `subscribed`.
fn apply(token: &str, effect: &Effect, subscribed: &mut Vec<String>) -> Result {
    match effect {
        Effect::Send(message) => {
            let data = || message.content().to_vec();
            let frame = match message {
                grip::Message::Text(text) => Frame::Text(text.to_string()),
                grip::Message::Binary(_) => Frame::Binary(data()),
                grip::Message::Ping(_) => Frame::Ping(data()),
                grip::Message::Pong(_) => Frame::Pong(data()),
            };
            send_frame(token, &frame);
        }
        Effect::SendItem { frame, .. } | Effect::SendFrame(frame) => {
            send_frame(token, &Frame::Text(frame.clone()));
        }
        Effect::Subscribe { channel, .. } => {
            match channels::subscribe(token, channel) {
                Ok(()) if room::parse_channel(channel).is_some() => {
                    subscribed.push(channel.clone());
                }
                // A client that is gone needs nothing.
                Ok(()) | Err(channels::Error::ConnectionLost) => {}
                Err(error) => {
                    let error = describe(error);
                    return Err(Error::msg(format!(
                        "cannot subscribe to {channel:?}: {error}"
                    )));
                }
            }
        }
        Effect::Unsubscribe(channel) => {
            // Without the connection, there is no subscription.
            let _ = channels::unsubscribe(token, channel);
        }
        // For GRIP hosts only.
        Effect::Control(_) => {}
        Effect::Close(frame) => send_close(token, frame.clone()),
    }
    Ok(())
}

fn describe(error: channels::Error) -> String {
    match error {
        channels::Error::ConnectionLost => "the connection is lost".into(),
        channels::Error::TooManySubscriptions => "too many subscriptions".into(),
        channels::Error::Other(message) => message,
    }
}

fn send_close(token: &str, frame: Option<CloseFrame>) {
    let frame = frame.map(|frame| TypedClose {
        code: typed_code(frame.code),
        reason: Some(frame.reason.to_string()),
    });
    send_frame(token, &Frame::Close(frame));
}

/// Returns the event of a frame that is not up to the host.
fn event_of(frame: Frame) -> Option<Event> {
    match frame {
        Frame::Text(text) => Some(Event::text(text)),
        Frame::Binary(data) => Some(Event::Binary(Bytes::from(data))),
        Frame::Ping(_) | Frame::Pong(_) => None,
        Frame::Close(Some(TypedClose {
            code: CloseCode::Abnormal,
            ..
        })) => Some(Event::Disconnect),
        Frame::Close(close) => Some(Event::Close(close.map(|close| {
            let reason = close.reason.unwrap_or_default();
            CloseFrame::new(code(close.code), reason)
        }))),
    }
}

fn code(code: CloseCode) -> u16 {
    match code {
        CloseCode::Normal => 1000,
        CloseCode::Protocol => 1002,
        CloseCode::Unsupported => 1003,
        CloseCode::Status => 1005,
        CloseCode::Abnormal => 1006,
        CloseCode::Invalid => 1007,
        CloseCode::Policy => 1008,
        CloseCode::Size => 1009,
        CloseCode::Extension => 1010,
        CloseCode::Error => 1011,
        CloseCode::Restart => 1012,
        CloseCode::Again => 1013,
    }
}

/// Returns a code of the interface. It lacks those of applications, which become 1008.
fn typed_code(code: u16) -> CloseCode {
    match code {
        1000 | 1001 => CloseCode::Normal,
        1002 => CloseCode::Protocol,
        1003 => CloseCode::Unsupported,
        1007 => CloseCode::Invalid,
        1009 => CloseCode::Size,
        1010 => CloseCode::Extension,
        1011 => CloseCode::Error,
        1012 => CloseCode::Restart,
        1013 => CloseCode::Again,
        _ => CloseCode::Policy,
    }
}

/// Returns the id of the connection with this token. The token itself is a secret.
fn connection_id(token: &str) -> String {
    let digest = Sha256::digest(token);
    let digits = digest.iter().take(16).map(|byte| format!("{byte:02x}"));
    digits.collect()
}

fn respond(response_out: ResponseOutparam, status: StatusCode, text: &str, has_subprotocol: bool) {
    let headers = Fields::new();
    if has_subprotocol {
        // The name and the value are valid.
        let _ = headers.append("sec-websocket-protocol", SUBPROTOCOL.as_bytes());
    }
    let response = OutgoingResponse::new(headers);
    let _ = response.set_status_code(status.as_u16());
    let body = response.body();
    ResponseOutparam::set(response_out, Ok(response));
    let Ok(body) = body else { return };
    if let Ok(stream) = body.write() {
        for chunk in text.as_bytes().chunks(MAX_CHUNK_BYTES) {
            // A client that is gone needs no text.
            let _ = stream.blocking_write_and_flush(chunk);
        }
    }
    let _ = OutgoingBody::finish(body, None);
}
