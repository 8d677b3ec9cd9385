//! WebSockets over HTTP: a GRIP host sends their events in requests.

use bytes::{BufMut, Bytes, BytesMut};
use grip::{
    CloseFrame, Event, Extension, Limits, Message, control, event,
    extension::DEFAULT_MESSAGE_PREFIX, header, hold,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, request::Parts};

use crate::{
    Connection, Error, Handler, Result,
    connection::{Effect, Head, Meta, Transport},
    frame::SUBPROTOCOL,
    serve::{failure, log_failure, text_response},
};

/// The largest message of a client, and the largest body of a request with events.
pub(crate) const MAX_EVENTS_BYTES: usize = 16 << 20;

/// The close code after an error of the handler (RFC 6455).
const INTERNAL_ERROR: u16 = 1011;

/// Handles the events of a request, and responds to all of them.
pub(crate) async fn respond(handler: &impl Handler, head: &Parts, body: Bytes) -> Response<Bytes> {
    let limits = Limits {
        content: MAX_EVENTS_BYTES,
        ..Limits::default()
    };
    let events = match event::decode_all(body, limits) {
        Ok(events) => events,
        Err(error) => return text_response(StatusCode::BAD_REQUEST, &format!("body: {error}")),
    };
    let transport = Transport::Grip {
        can_recover: has_feature(&head.headers, header::FEATURE_RECOVER),
        can_auto_respond: has_feature(&head.headers, header::FEATURE_AUTO_RESPONSE),
    };
    let is_opening = events.first() == Some(&Event::Open);
    let mut connection = Connection::new(
        Head::of(head),
        transport,
        Meta::from_headers(&head.headers),
        is_opening,
    );
    if is_opening {
        if let Err(error) = open(handler, &mut connection).await {
            leave_all(&mut connection).await;
            return failure("open", &error);
        }
        if let Some((status, text)) = connection.rejection.take() {
            leave_all(&mut connection).await;
            return text_response(status, &text);
        }
    }
    if let Err(error) = handle(handler, &mut connection, head, events).await {
        fail(&mut connection, &error).await;
    }
    encode(&connection, is_opening)
}

/// Opens a connection, and lets the handler make up for what the host cannot deliver.
pub(crate) async fn open(handler: &impl Handler, connection: &mut Connection) -> Result {
    handler.open(connection).await?;
    for channel in std::mem::take(&mut connection.missed) {
        // Clients of rooms notice a gap by the ids of the items.
        handler.missed(connection, &channel).await?;
    }
    connection.finish_opening();
    Ok(())
}

async fn handle(
    handler: &impl Handler,
    connection: &mut Connection,
    head: &Parts,
    events: Vec<Event>,
) -> Result {
    let grip_last = head.headers.get_all(header::GRIP_LAST).iter();
    for channel in hold::Channel::from_grip_last(grip_last.map(HeaderValue::as_bytes))? {
        if !connection.fill_gap(&channel.name).await? {
            handler.missed(connection, &channel.name).await?;
        }
    }
    handle_all(handler, connection, events).await
}

/// Handles events in order.
pub(crate) async fn handle_all(
    handler: &impl Handler,
    connection: &mut Connection,
    events: Vec<Event>,
) -> Result {
    for event in events {
        if connection.is_closed() && !matches!(event, Event::Close(_) | Event::Disconnect) {
            continue;
        }
        match event {
            Event::Open => {}
            Event::Text(text) => {
                if !connection.handle_frame(&text).await? {
                    handler.text(connection, &text).await?;
                }
            }
            Event::Binary(data) => handler.binary(connection, &data).await?,
            Event::Ping(data) => connection.effects.push(Effect::Send(Message::Pong(data))),
            Event::Pong(_) => {}
            Event::Close(frame) => {
                // The client's own close is answered with its code.
                let answer = frame.as_ref();
                let answer = answer.map(|frame| CloseFrame::new(frame.code, ""));
                connection.end(answer);
                connection.leave_all().await?;
                return handler.close(connection, frame.as_ref()).await;
            }
            Event::Disconnect => {
                connection.leave_all().await?;
                return handler.close(connection, None).await;
            }
        }
    }
    if connection.is_closed() {
        connection.leave_all().await?;
    }
    Ok(())
}

/// Closes a connection whose handler has failed.
pub(crate) async fn fail(connection: &mut Connection, error: &Error) {
    log_failure("handle an event", error);
    connection.end(Some(CloseFrame::new(INTERNAL_ERROR, "internal error")));
    leave_all(connection).await;
}

/// Leaves the rooms of a connection that has failed.
pub(crate) async fn leave_all(connection: &mut Connection) {
    if let Err(error) = connection.leave_all().await {
        log_failure("leave rooms", &error);
    }
}

/// Encodes what the handler has done.
fn encode(connection: &Connection, is_opening: bool) -> Response<Bytes> {
    let mut body = BytesMut::new();
    if is_opening {
        Event::Open.encode(&mut body);
    }
    for effect in &connection.effects {
        event_of(effect).encode(&mut body);
    }
    let mut response = Response::new(body.freeze());
    let length = response.body().len();
    let headers = response.headers_mut();
    let mut set = |name: &str, value: &str| {
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            headers.insert(name, value);
        }
    };
    set("content-type", header::WEBSOCKET_EVENTS);
    set("content-length", &length.to_string());
    if is_opening {
        let extension = Extension::default().header_value();
        set(header::SEC_WEBSOCKET_EXTENSIONS, &extension);
        if connection.has_subprotocol {
            set("sec-websocket-protocol", SUBPROTOCOL);
        }
    }
    for (name, value) in connection.meta.changes() {
        set(&name, &value);
    }
    response
}

fn event_of(effect: &Effect) -> Event {
    use grip::ControlMessage;

    match effect.clone() {
        Effect::Send(Message::Text(text)) => control::content(text),
        Effect::Send(Message::Binary(data)) => {
            let mut content = BytesMut::with_capacity(DEFAULT_MESSAGE_PREFIX.len() + data.len());
            content.put(DEFAULT_MESSAGE_PREFIX.as_bytes());
            content.put(data);
            Event::Binary(content.freeze())
        }
        Effect::Send(message) => message.into(),
        Effect::SendItem { frame, .. } | Effect::SendFrame(frame) => control::content(frame),
        Effect::Subscribe {
            channel,
            prev_id: None,
        } => ControlMessage::subscribe(channel).into_event(),
        Effect::Subscribe {
            channel,
            prev_id: Some(id),
        } => ControlMessage::subscribe_after(channel, id).into_event(),
        Effect::Unsubscribe(channel) => ControlMessage::unsubscribe(channel).into_event(),
        Effect::Control(message) => message.into_event(),
        Effect::Close(frame) => Event::Close(frame),
    }
}

/// Whether the host lists a feature.
fn has_feature(headers: &HeaderMap, feature: &str) -> bool {
    let features = headers.get_all(header::GRIP_FEATURE).iter();
    let mut features = features.filter_map(|value| value.to_str().ok());
    features.any(|features| header::has_feature(features, feature))
}

#[cfg(test)]
mod tests;
