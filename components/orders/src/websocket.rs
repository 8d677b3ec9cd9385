//! Handles WebSocket events, which the GRIP host sends as POST requests.

use std::borrow::Cow;

use bytes::Bytes;
use grip::{ByteString, CloseFrame, ControlMessage, Event, Extension, event, header};
use serde::Deserialize;
use serde_json::Value;
use spin_sdk::http::{HeaderMap, HeaderValue};

use crate::{
    event::{ORDERS_CHANNEL, RELOAD, error_json, order_error_json},
    history::UpdateError,
    order::Status,
    orders::Orders,
    publisher::Publisher,
    query::parameter,
    response::{self, Response},
    storage::Storage,
};

/// The ping as the page sends it. A host that answers it compares its bytes.
const PING: &str = r#"{"event":"ping"}"#;

const PONG: &str = r#"{"event":"pong"}"#;

const EXPECTED: &str =
    r#"expected {"event":"ping"} or {"event":"order-status","detail":{"id":ID,"status":STATUS}}"#;

const EXPECTED_DETAIL: &str = r#"order-status: expected "detail":{"id":ID,"status":STATUS}, STATUS one of "received", "fired", "fulfilled", "cancelled""#;

/// What the head of a request with events says about the WebSocket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SocketHead<'a> {
    /// The id of the last message that the client has, from the parameter `after` of the URL.
    after: Option<&'a str>,
    /// The host can resume after a message.
    can_resume: bool,
    /// The host can answer messages by itself.
    can_auto_respond: bool,
    /// The host could not resume, and the client has missed messages.
    has_missed: bool,
}

impl<'a> SocketHead<'a> {
    /// Reads the query of the WebSocket's URL and the headers of the request.
    pub(crate) fn parse(query: &'a str, headers: &HeaderMap) -> Result<Self, String> {
        let has_feature = |feature: &str| {
            let features = headers.get_all(header::GRIP_FEATURE).iter();
            let mut features = features.filter_map(|value| value.to_str().ok());
            features.any(|it| header::has_feature(it, feature))
        };
        Ok(Self {
            after: parameter(query, "after")?.filter(|after| !after.is_empty()),
            can_resume: has_feature(header::FEATURE_RECOVER),
            can_auto_respond: has_feature(header::FEATURE_AUTO_RESPONSE),
            has_missed: headers.contains_key(header::GRIP_LAST),
        })
    }

    /// Returns the events that subscribe the client.
    fn subscribe(&self) -> Vec<Event> {
        match self.after {
            Some(after) if self.can_resume => {
                vec![ControlMessage::subscribe_after(ORDERS_CHANNEL, after).into_event()]
            }
            // With another host, the client fetches what was published while it was away.
            Some(_) => vec![
                ControlMessage::subscribe(ORDERS_CHANNEL).into_event(),
                Event::text(RELOAD),
            ],
            None => vec![ControlMessage::subscribe(ORDERS_CHANNEL).into_event()],
        }
    }
}

/// Handles events in order and returns one response to all of them.
///
/// The response to an OPEN event enables GRIP with an empty message prefix. This is safe because
/// all messages are JSON objects, which never look like a control message, and it saves the host
/// from removing a prefix.
pub(crate) async fn respond<S: Storage, P: Publisher>(
    head: &SocketHead<'_>,
    events: Vec<Event>,
    orders: &Orders<S, P>,
) -> Response {
    let mut replies = Vec::with_capacity(events.len());
    let mut opened = false;
    if head.has_missed {
        replies.push(Event::text(RELOAD));
    }
    for event in events {
        match event {
            Event::Open => {
                opened = true;
                replies.push(Event::Open);
                if head.can_auto_respond {
                    replies.push(ControlMessage::auto_response(PING, PONG).into_event());
                }
                replies.extend(head.subscribe());
            }
            Event::Text(text) => {
                replies.extend(handle_message(&text, orders).await.map(Event::Text));
            }
            Event::Binary(_) => {
                let error = error_json(&format!("not text: {EXPECTED}"));
                replies.push(Event::text(error));
            }
            Event::Ping(data) => replies.push(Event::Pong(data)),
            Event::Pong(_) => {}
            Event::Close(frame) => {
                let frame = frame.map(|frame| CloseFrame::new(frame.code, ""));
                replies.push(Event::Close(frame));
                break;
            }
            Event::Disconnect => break,
        }
    }
    let body = if replies.is_empty() {
        Bytes::new()
    } else {
        event::encode_all(&replies)
    };
    let mut response = response::websocket_events(body);
    if opened {
        let grip = Extension {
            message_prefix: ByteString::new(),
        };
        if let Ok(value) = HeaderValue::from_str(&grip.header_value()) {
            let headers = response.headers_mut();
            headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, value);
        }
    }
    response
}

/// Handles a text message and returns the reply, if any.
async fn handle_message<S: Storage, P: Publisher>(
    text: &str,
    orders: &Orders<S, P>,
) -> Option<ByteString> {
    #[derive(Deserialize)]
    struct Message<'a> {
        #[serde(borrow)]
        event: Cow<'a, str>,
        #[serde(default)]
        detail: Value,
    }

    #[derive(Deserialize)]
    struct OrderStatus {
        id: u64,
        status: Status,
    }

    let error = |message: &str| Some(error_json(message).into());
    let message: Message = match serde_json::from_str(text) {
        // Serde would also accept an array of the fields.
        Ok(message) if text.trim_ascii_start().starts_with('{') => message,
        Err(source) if !source.is_data() => return error(&format!("not JSON: {EXPECTED}")),
        _ => return error(EXPECTED),
    };
    match &*message.event {
        "ping" => Some(ByteString::from_static(PONG)),
        "order-status" => {
            let detail = Some(message.detail).filter(Value::is_object);
            let detail = detail.and_then(|detail| serde_json::from_value(detail).ok());
            let Some(OrderStatus { id, status }) = detail else {
                return error(EXPECTED_DETAIL);
            };
            let error = |message: &str| Some(order_error_json(id, status, message).into());
            match orders.update(id, status).await {
                // The client gets the published event, like all other clients.
                Ok(_) => None,
                Err(UpdateError::History(source)) => {
                    eprintln!("failed to update order: order={id} error={source}");
                    error("the order could not be updated: try again")
                }
                Err(source) => error(&source.to_string()),
            }
        }
        _ => error(&format!("unknown event: {EXPECTED}")),
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use http_body_util::BodyExt;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{self, TestOrders};

    fn response_to(orders: &TestOrders, events: Vec<Event>) -> Response {
        testing::ready(respond(&SocketHead::default(), events, orders))
    }

    fn send(orders: &TestOrders, events: Vec<Event>) -> Vec<Event> {
        let body = response_to(orders, events).into_body().collect();
        let body = testing::ready(body).unwrap().to_bytes();
        event::decode_all(body, grip::Limits::default()).unwrap()
    }

    fn send_text(orders: &TestOrders, text: &str) -> Vec<Event> {
        send(orders, vec![Event::text(text)])
    }

    fn error(message: &str) -> Event {
        Event::text(error_json(message))
    }

    /// The error for a failed update of the first order to `status`.
    fn order_error(status: Status, message: &str) -> Event {
        Event::text(order_error_json(100, status, message))
    }

    #[test]
    fn open_enables_grip_and_subscribes_to_the_channel() {
        let orders = testing::empty_orders();
        let response = response_to(&orders, vec![Event::Open]);
        let extension = response.headers()[header::SEC_WEBSOCKET_EXTENSIONS].to_str();
        let extension = Extension::parse(extension.unwrap()).unwrap();
        assert_eq!(extension.message_prefix, "");
        assert_eq!(response.headers()["content-type"], header::WEBSOCKET_EVENTS);
        assert_eq!(
            send(&orders, vec![Event::Open]),
            [
                Event::Open,
                Event::text(r#"c:{"channel":"orders","type":"subscribe"}"#)
            ]
        );
        // Later responses do not enable GRIP again.
        let response = response_to(&orders, vec![Event::text("{}")]);
        assert!(
            !response
                .headers()
                .contains_key(header::SEC_WEBSOCKET_EXTENSIONS)
        );
    }

    /// Returns the events after the OPEN in the response to a host with these features.
    fn opened(query: &str, features: &'static str) -> Vec<Event> {
        let mut headers = HeaderMap::new();
        headers.insert(header::GRIP_FEATURE, HeaderValue::from_static(features));
        let head = SocketHead::parse(query, &headers).unwrap();
        let orders = testing::empty_orders();
        let response = respond(&head, vec![Event::Open], &orders);
        let body = testing::ready(response).into_body().collect();
        let body = testing::ready(body).unwrap().to_bytes();
        event::decode_all(body, grip::Limits::default()).unwrap()[1..].to_vec()
    }

    #[test]
    fn the_host_answers_pings_where_it_can() {
        let subscribe = Event::text(r#"c:{"channel":"orders","type":"subscribe"}"#);
        let auto_response = Event::text(
            r#"c:{"request":"{\"event\":\"ping\"}","response":"{\"event\":\"pong\"}","type":"auto-response"}"#,
        );
        assert_eq!(
            opened("", "status, auto-response"),
            [auto_response, subscribe.clone()]
        );
        assert_eq!(opened("", "status"), [subscribe]);
    }

    #[test]
    fn clients_resume_where_the_host_can() {
        let (subscribe, reload) = (
            Event::text(r#"c:{"channel":"orders","type":"subscribe"}"#),
            Event::text(RELOAD),
        );
        let after = "after=117-2026-01-02T03:04:05.678Z";
        assert_eq!(
            opened(after, "status, subscribe:recover"),
            [Event::text(
                r#"c:{"channel":"orders","prev-id":"117-2026-01-02T03:04:05.678Z","type":"subscribe"}"#
            )]
        );
        assert_eq!(opened(after, "status"), [subscribe.clone(), reload]);
        for query in ["after=", ""] {
            assert_eq!(opened(query, "subscribe:recover"), from_ref(&subscribe));
        }
        assert!(SocketHead::parse("after=1&after=2", &HeaderMap::new()).is_err());
    }

    #[test]
    fn clients_that_have_missed_messages_reload() {
        let mut headers = HeaderMap::new();
        headers.insert(header::GRIP_LAST, HeaderValue::from_static("orders"));
        let head = SocketHead::parse("after=1", &headers).unwrap();
        let orders = testing::empty_orders();
        let body = testing::ready(respond(&head, vec![], &orders)).into_body();
        let body = testing::ready(body.collect()).unwrap().to_bytes();
        assert_eq!(body, event::encode_all(&[Event::text(RELOAD)]));
    }

    #[test]
    fn events_are_handled_in_order() {
        let orders = testing::empty_orders();
        let events = vec![
            Event::text(PING),
            Event::text("nonsense"),
            Event::Ping("x".into()),
            Event::Pong("y".into()),
            Event::text(r#" { "detail": [1], "event": "p\u0069ng", "more": {} }"#),
            Event::close(1001, "going"),
            Event::text(PING),
        ];
        assert_eq!(
            send(&orders, events),
            [
                Event::text(PONG),
                error(&format!("not JSON: {EXPECTED}")),
                Event::Pong("x".into()),
                Event::text(PONG),
                Event::close(1001, ""),
            ]
        );
        assert_eq!(
            send(&orders, vec![Event::Close(None)]),
            [Event::Close(None)]
        );
        assert_eq!(send(&orders, vec![Event::Disconnect]), []);
        assert_eq!(send(&orders, vec![]), []);
    }

    #[test]
    fn invalid_messages_get_an_error() {
        let orders = testing::empty_orders();
        for (invalid, message) in [
            ("", format!("not JSON: {EXPECTED}")),
            ("{", format!("not JSON: {EXPECTED}")),
            (r#"{"event":"ping"}}"#, format!("not JSON: {EXPECTED}")),
            ("1", EXPECTED.into()),
            (r#"["ping",null]"#, EXPECTED.into()),
            (r#"{"event":1}"#, EXPECTED.into()),
            (r#"{"event":"ping","event":"ping"}"#, EXPECTED.into()),
            (r#"{"event":"PING"}"#, format!("unknown event: {EXPECTED}")),
            (r#"{"event":"order-status"}"#, EXPECTED_DETAIL.into()),
            (
                r#"{"event":"order-status","detail":[100,"fired"]}"#,
                EXPECTED_DETAIL.into(),
            ),
            (
                r#"{"event":"order-status","detail":{"id":-1,"status":"fired"}}"#,
                EXPECTED_DETAIL.into(),
            ),
            (
                r#"{"event":"order-status","detail":{"id":100,"status":"eaten"}}"#,
                EXPECTED_DETAIL.into(),
            ),
        ] {
            assert_eq!(send_text(&orders, invalid), [error(&message)], "{invalid}");
        }
        assert_eq!(
            send_text(
                &orders,
                r#"{"event":"order-status","detail":{"id":100,"status":"fired"}}"#
            ),
            [order_error(Status::Fired, "order 100 not found")]
        );
        let binary = send(&orders, vec![Event::Binary("{}".into())]);
        assert_eq!(binary, [error(&format!("not text: {EXPECTED}"))]);
    }

    #[test]
    fn status_updates_are_published() {
        let orders = testing::empty_orders();
        let order = testing::create(&orders);
        let status = |status: &str| {
            let id = order.id;
            send_text(
                &orders,
                &format!(
                    r#"{{"event":"order-status","detail":{{"id":{id},"status":"{status}"}}}}"#
                ),
            )
        };
        assert_eq!(
            status("fulfilled"),
            [order_error(
                Status::Fulfilled,
                "order 100 is received: it cannot become fulfilled"
            )]
        );
        assert_eq!(status("fired"), []);
        assert_eq!(
            status("fired"),
            [order_error(
                Status::Fired,
                "order 100 is fired: it cannot become fired"
            )]
        );
        assert_eq!(status("cancelled"), []);
        assert_eq!(
            status("received"),
            [order_error(
                Status::Received,
                "order 100 is cancelled: it cannot become received"
            )]
        );
        let published = orders.publisher.messages();
        let expected: Vec<String> = [Status::Fired, Status::Cancelled]
            .map(|status| {
                let order = serde_json::to_string(&crate::order::Order {
                    status,
                    ..order.clone()
                });
                format!(
                    r#"{{"event":"order-updated","detail":{{"order":{}}}}}"#,
                    order.unwrap()
                )
            })
            .into();
        assert_eq!(published[1..], expected);
    }

    #[test]
    fn storage_errors_are_not_revealed() {
        let orders = testing::empty_orders();
        let order = testing::create(&orders);
        orders.history.storage().fail();
        let fired = format!(
            r#"{{"event":"order-status","detail":{{"id":{},"status":"fired"}}}}"#,
            order.id
        );
        assert_eq!(
            send_text(&orders, &fired),
            [order_error(
                Status::Fired,
                "the order could not be updated: try again"
            )]
        );
    }

    proptest! {
        #[test]
        fn any_text_gets_one_reply(text in "\\PC{0,40}|[{\\[]\"event\":\"(ping|order-status)\".{0,9}[}\\]]?") {
            prop_assert_eq!(send_text(&testing::empty_orders(), &text).len(), 1);
        }
    }
}
