//! One WebSocket's events, and the answers to them.

use std::borrow::Cow;

use bytes::Bytes;
use grip::{ByteString, CloseFrame, ControlMessage, Event, Extension, event};
use serde::Deserialize;
use serde_json::Value;
use spin_sdk::http::HeaderValue;

use crate::{
    announce::{Announce, CHANNEL, error_json, order_error_json},
    history::UpdateError,
    kitchen::Kitchen,
    order::Status,
    reply::{self, Reply},
    storage::Storage,
};

const PONG: &str = r#"{"event":"pong"}"#;

const EXPECTED: &str =
    r#"expected {"event":"ping"} or {"event":"order-status","detail":{"id":ID,"status":STATUS}}"#;

const EXPECTED_DETAIL: &str = r#"order-status: expected "detail":{"id":ID,"status":STATUS}, STATUS one of "received", "fired", "fulfilled", "cancelled""#;

/// Answers events in order, in one response.
///
/// GRIP is turned on with an empty message prefix: all that is sent here is JSON, which
/// begins with `{` and so is never taken for a control message, and the host need not
/// cut a prefix off every message.
pub async fn answer<S: Storage, A: Announce>(events: Vec<Event>, kitchen: &Kitchen<S, A>) -> Reply {
    let mut answers = Vec::with_capacity(events.len());
    let mut opened = false;
    for event in events {
        match event {
            Event::Open => {
                opened = true;
                answers.push(Event::Open);
                answers.push(ControlMessage::subscribe(CHANNEL).into_event());
            }
            Event::Text(text) => answers.extend(message(&text, kitchen).await.map(Event::Text)),
            Event::Binary(_) => {
                let error = error_json(&format!("not text: {EXPECTED}"));
                answers.push(Event::text(error));
            }
            Event::Ping(data) => answers.push(Event::Pong(data)),
            Event::Pong(_) => {}
            Event::Close(frame) => {
                let frame = frame.map(|frame| CloseFrame::new(frame.code, ""));
                answers.push(Event::Close(frame));
                break;
            }
            Event::Disconnect => break,
        }
    }
    let body = match answers.is_empty() {
        true => Bytes::new(),
        false => event::encode_all(&answers),
    };
    let mut reply = reply::events(body);
    if opened {
        let grip = Extension {
            message_prefix: ByteString::new(),
        };
        if let Ok(value) = HeaderValue::from_str(&grip.header_value()) {
            let headers = reply.headers_mut();
            headers.insert(grip::header::SEC_WEBSOCKET_EXTENSIONS, value);
        }
    }
    reply
}

/// The answer to one text message, if any.
async fn message<S: Storage, A: Announce>(
    text: &str,
    kitchen: &Kitchen<S, A>,
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
        // A list with the same values would do for serde.
        Ok(message) if text.trim_ascii_start().starts_with('{') => message,
        Err(problem) if !problem.is_data() => return error(&format!("not JSON: {EXPECTED}")),
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
            match kitchen.update(id, status).await {
                // This client is told as all are, by what was published.
                Ok(_) => None,
                Err(UpdateError::History(problem)) => {
                    eprintln!("order not changed: order={id} error={problem}");
                    error("the order could not be changed: try again")
                }
                Err(problem) => error(&problem.to_string()),
            }
        }
        _ => error(&format!("unknown event: {EXPECTED}")),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use http_body_util::BodyExt;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{self, TestKitchen};

    /// Answers without ever waiting, as the store in memory does not.
    fn reply_to(kitchen: &TestKitchen, events: Vec<Event>) -> Reply {
        testing::now(answer(events, kitchen))
    }

    fn answers(kitchen: &TestKitchen, events: Vec<Event>) -> Vec<Event> {
        let body = reply_to(kitchen, events).into_body().collect();
        let body = body.now_or_never().unwrap().unwrap().to_bytes();
        event::decode_all(body, grip::Limits::default()).unwrap()
    }

    fn text(kitchen: &TestKitchen, text: &str) -> Vec<Event> {
        answers(kitchen, vec![Event::text(text)])
    }

    fn error(message: &str) -> Event {
        Event::text(error_json(message))
    }

    /// An error about the first order, which was to be changed to `status`.
    fn order_error(status: Status, message: &str) -> Event {
        Event::text(order_error_json(100, status, message))
    }

    #[test]
    fn opens_with_grip_and_the_channel() {
        let kitchen = testing::kitchen();
        let reply = reply_to(&kitchen, vec![Event::Open]);
        let extension = reply.headers()[grip::header::SEC_WEBSOCKET_EXTENSIONS].to_str();
        let extension = Extension::parse(extension.unwrap()).unwrap();
        assert_eq!(extension.message_prefix, "");
        assert_eq!(
            reply.headers()["content-type"],
            grip::header::WEBSOCKET_EVENTS
        );
        assert_eq!(
            answers(&kitchen, vec![Event::Open]),
            [
                Event::Open,
                Event::text(r#"c:{"channel":"orders","type":"subscribe"}"#)
            ]
        );
        // Only then: GRIP is turned on once.
        let reply = reply_to(&kitchen, vec![Event::text("{}")]);
        assert!(
            !reply
                .headers()
                .contains_key(grip::header::SEC_WEBSOCKET_EXTENSIONS)
        );
    }

    #[test]
    fn answers_in_order() {
        let kitchen = testing::kitchen();
        let events = vec![
            Event::text(r#"{"event":"ping"}"#),
            Event::text("nonsense"),
            Event::Ping("x".into()),
            Event::Pong("y".into()),
            Event::text(r#" { "detail": [1], "event": "p\u0069ng", "more": {} }"#),
            Event::close(1001, "going"),
            Event::text(r#"{"event":"ping"}"#),
        ];
        assert_eq!(
            answers(&kitchen, events),
            [
                Event::text(PONG),
                error(&format!("not JSON: {EXPECTED}")),
                Event::Pong("x".into()),
                Event::text(PONG),
                Event::close(1001, ""),
            ]
        );
        assert_eq!(
            answers(&kitchen, vec![Event::Close(None)]),
            [Event::Close(None)]
        );
        assert_eq!(answers(&kitchen, vec![Event::Disconnect]), []);
        assert_eq!(answers(&kitchen, vec![]), []);
    }

    #[test]
    fn nonsense_gets_an_error() {
        let kitchen = testing::kitchen();
        for (nonsense, message) in [
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
            assert_eq!(text(&kitchen, nonsense), [error(&message)], "{nonsense}");
        }
        assert_eq!(
            text(
                &kitchen,
                r#"{"event":"order-status","detail":{"id":100,"status":"fired"}}"#
            ),
            [order_error(Status::Fired, "there is no order 100")]
        );
        let binary = answers(&kitchen, vec![Event::Binary("{}".into())]);
        assert_eq!(binary, [error(&format!("not text: {EXPECTED}"))]);
    }

    #[test]
    fn an_order_changes_and_all_are_told() {
        let kitchen = testing::kitchen();
        let order = testing::make(&kitchen);
        let status = |status: &str| {
            let id = order.id;
            text(
                &kitchen,
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
        let told: Vec<String> = kitchen.announcer.texts();
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
        assert_eq!(told[1..], expected);
    }

    #[test]
    fn a_failing_store_is_an_error_that_says_no_more_than_it_should() {
        let kitchen = testing::kitchen();
        let order = testing::make(&kitchen);
        kitchen.history.storage().fail_from_now_on();
        let fired = format!(
            r#"{{"event":"order-status","detail":{{"id":{},"status":"fired"}}}}"#,
            order.id
        );
        assert_eq!(
            text(&kitchen, &fired),
            [order_error(
                Status::Fired,
                "the order could not be changed: try again"
            )]
        );
    }

    proptest! {
        #[test]
        fn any_text_gets_one_answer(nonsense in "\\PC{0,40}|[{\\[]\"event\":\"(ping|order-status)\".{0,9}[}\\]]?") {
            prop_assert_eq!(text(&testing::kitchen(), &nonsense).len(), 1);
        }
    }
}
