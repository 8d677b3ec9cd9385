//! Tests of connections, with clients of the simulated host.

use super::*;
use crate::{Connection, IntoMessage, Json, Result, Room, StatusCode, channel};

/// Does what messages say.
struct Robot;

impl Handler for Robot {
    async fn open(&self, connection: &mut Connection) -> Result {
        if connection.path() == "/private" {
            connection.reject(StatusCode::FORBIDDEN, "private");
        }
        if connection.path() == "/broken" {
            return Err(crate::Error::msg("broken"));
        }
        if let Some(channel) = connection.parameter("channel") {
            match connection.parameter("after") {
                Some(after) => connection.subscribe_after(channel, after),
                None => connection.subscribe(channel),
            }
        }
        if let Some(name) = connection.parameter("name") {
            connection.set_meta("Name", &name)?;
            connection.send(format!("hello {name}"))?;
        }
        connection.auto_respond("ping", "pong");
        Ok(())
    }

    async fn text(&self, connection: &mut Connection, text: &str) -> Result {
        let (command, argument) = text.split_once(' ').unwrap_or((text, ""));
        match command {
            "who" => connection.send(connection.meta("name").unwrap_or("nobody").to_owned()),
            "close" => {
                connection.close(4000, argument);
                connection.send("after the close")
            }
            "fail" => Err(crate::Error::msg("broken")),
            "leave" => {
                connection.unsubscribe(argument);
                Ok(())
            }
            "all" => channel("all").publish(argument).await,
            "json" => connection.send(Json(argument)),
            _ => connection.send(text),
        }
    }

    async fn missed(&self, connection: &mut Connection, channel: &str) -> Result {
        connection.send(format!("missed {channel}"))
    }

    async fn close(
        &self,
        connection: &mut Connection,
        close: Option<&crate::CloseFrame>,
    ) -> Result {
        let name = connection.meta("name").unwrap_or("nobody");
        let text = format!("{name} left: {:?}", close.map(|close| close.code));
        channel("all").publish(text).await
    }
}

#[test]
fn messages_are_answered() {
    let mut client = connect(&Robot, "/?name=Ada%20L%C3%A9");
    assert_eq!(client.texts(), ["hello Ada L\u{e9}"]);
    client.send("who");
    client.send("json \"x\"");
    client.send("ping");
    assert_eq!(client.texts(), ["Ada L\u{e9}", r#""\"x\"""#, "pong"]);
    // Other clients are not affected.
    let mut other = connect(&Robot, "/");
    other.send("who");
    assert_eq!(other.texts(), ["nobody"]);
    assert_ne!(client.id(), other.id());
}

#[test]
fn connections_are_refused() {
    let refuse = |path: &str| {
        let request = Request::get(path).body(()).unwrap();
        try_connect(&Robot, request).unwrap_err().0
    };
    let response = refuse("/private");
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert_eq!(response.body(), "private\n");
    // The error is in the log only.
    let response = refuse("/broken");
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(response.body(), "internal error: see the component's log\n");
}

#[test]
fn handlers_close_connections() {
    let mut client = connect(&Robot, "/");
    client.send("close enough");
    assert_eq!(
        client.closed(),
        Some(crate::CloseFrame::new(4000, "enough"))
    );
    assert_eq!(client.texts(), Vec::<String>::new());
    let mut client = connect(&Robot, "/");
    client.send("fail");
    assert_eq!(client.closed().unwrap().code, 1011);
    // This handler has no method for binary messages.
    let mut client = connect(&Robot, "/");
    client.send_binary("x");
    assert_eq!(client.closed().unwrap().code, 1003);
}

#[test]
fn publications_reach_subscribers() {
    let mut one = connect(&Robot, "/?channel=all");
    let mut two = connect(&Robot, "/?channel=all&name=Bob");
    let mut other = connect(&Robot, "/?channel=other");
    two.take_messages();
    other.send("all hello");
    assert_eq!(one.texts(), ["hello"]);
    assert_eq!(two.texts(), ["hello"]);
    two.close(1001, "bye");
    assert_eq!(one.texts(), ["Bob left: Some(1001)"]);
    other.disconnect();
    assert_eq!(one.texts(), ["nobody left: None"]);
    assert_eq!(one.subscriptions(), ["all"]);
    one.send("leave all");
    assert_eq!(one.subscriptions(), Vec::<String>::new());
}

#[test]
fn publications_have_all_formats() {
    block_on(channel("news").publish("one\ntwo")).unwrap();
    block_on(channel("news").publish(Json([1]))).unwrap();
    block_on(channel("news").publish([1, 2])).unwrap();
    let items = grip::publish::to_json(&take_published());
    let items: serde_json::Value = serde_json::from_str(&items).unwrap();
    let format = |index: usize, name: &str| items["items"][index]["formats"][name].clone();
    assert_eq!(format(0, "ws-message")["content"], "one\ntwo");
    assert_eq!(
        format(0, "http-stream")["content"],
        "data: one\ndata: two\n\n"
    );
    assert_eq!(format(0, "http-response")["body"], "one\ntwo");
    let headers = serde_json::json!([["Content-Type", "application/json"]]);
    assert_eq!(format(1, "http-response")["headers"], headers);
    assert_eq!(format(1, "ws-message")["content"], "[1]");
    assert_eq!(format(2, "ws-message")["content-bin"], "AQI=");
    assert_eq!(format(2, "http-stream"), serde_json::Value::Null);
}

#[test]
fn publishing_fails() {
    set_publishing_fails(true);
    let error = block_on(channel("all").publish("x")).unwrap_err();
    assert!(error.downcast_ref::<PublishError>().is_some());
    let mut client = connect(&Robot, "/");
    client.send("all x");
    assert_eq!(client.closed().unwrap().code, 1011);
    reset();
    block_on(channel("all").publish("x")).unwrap();
}

#[test]
fn clients_resume_after_an_id() {
    let item = |id: u32| Item::ws_text("all", format!("item {id}")).with_id(id.to_string(), None);
    publish(vec![item(1), item(2), item(3)]).unwrap();
    let mut client = connect(&Robot, "/?channel=all&after=1");
    assert_eq!(client.texts(), ["item 2", "item 3"]);
    let mut client = connect(&Robot, "/?channel=all&after=0");
    assert_eq!(client.texts(), ["missed all"]);
}

/// A chat with rooms, as in the documentation of the crate.
struct Chat;

impl Chat {
    fn room(connection: &Connection) -> Room {
        let name = connection.parameter("room");
        Room::new(name.as_deref().unwrap_or("lobby"))
            .keep(3)
            .counted()
    }
}

impl Handler for Chat {
    async fn open(&self, connection: &mut Connection) -> Result {
        connection.join(&Chat::room(connection)).await
    }

    async fn text(&self, connection: &mut Connection, text: &str) -> Result {
        match text {
            "leave" => connection.leave(&Chat::room(connection)).await,
            "join" => connection.join(&Chat::room(connection)).await,
            _ => Chat::room(connection).send(text).await,
        }
    }
}

/// Connects a client that speaks the subprotocol.
fn resume(url: &str) -> Client<'static, Chat> {
    let request = Request::get(url).header("sec-websocket-protocol", "other, rooms.v1");
    let client = try_connect(&Chat, request.body(()).unwrap()).unwrap();
    assert_eq!(client.headers()["sec-websocket-protocol"], "rooms.v1");
    client
}

fn item(id: u64, text: &str) -> String {
    format!(r#"{{"$":"item","channel":"room:lobby","id":{id},"data":"{text}"}}"#)
}

fn count(count: u64, version: u64) -> String {
    format!(r#"{{"$":"count","channel":"room:lobby","count":{count},"version":{version}}}"#)
}

const RESET: &str = r#"{"$":"reset","channel":"room:lobby"}"#;

#[test]
fn rooms_have_a_history_and_a_count() {
    let mut ada = connect(&Chat, "/");
    ada.send("one");
    ada.send("two");
    assert_eq!(ada.texts(), [count(1, 1), item(1, "one"), item(2, "two")]);
    // Frames for clients without the subprotocol are the same, but there is no first frame.
    let mut bob = connect(&Chat, "/");
    assert_eq!(bob.texts(), [item(1, "one"), item(2, "two"), count(2, 2)]);
    assert_eq!(ada.texts(), [count(2, 2)]);
    let mut other = connect(&Chat, "/?room=tea");
    assert_eq!(other.count(), Some(1));
    bob.disconnect();
    assert_eq!(ada.texts(), [count(1, 3)]);
    ada.close(1000, "");
    assert_eq!(block_on(Room::new("lobby").count()).unwrap(), 0);
}

#[test]
fn clients_resume_rooms() {
    let mut ada = resume("/");
    assert_eq!(ada.texts(), [r#"{"$":"open"}"#.to_owned(), count(1, 1)]);
    for text in ["a", "b", "c", "d"] {
        ada.send(text);
    }
    assert_eq!(ada.items::<String>(), ["a", "b", "c", "d"]);
    let opened = |recovered: bool| format!(r#"{{"$":"open","recovered":{recovered}}}"#);
    let mut up_to_date = resume("/?resume=4,room:lobby");
    assert_eq!(up_to_date.texts()[..1], [opened(true)]);
    let mut behind = resume("/?resume=2,room%3Alobby");
    let expected = [opened(true), item(3, "c"), item(4, "d")];
    assert_eq!(behind.texts()[..3], expected);
    // The room has forgotten the items after the first one, or never had that item.
    for position in ["0,room:lobby", "5,room:lobby"] {
        let mut client = resume(&format!("/?resume={position}"));
        let kept = [item(2, "b"), item(3, "c"), item(4, "d")];
        let expected = [&[opened(false), RESET.to_owned()][..], &kept].concat();
        assert_eq!(client.texts()[..5], expected);
    }
    for other in ["4,room:other", "nonsense"] {
        let mut client = resume(&format!("/?resume=4,room:lobby&resume={other}"));
        assert_eq!(client.texts()[..1], [opened(false)]);
    }
}

#[test]
fn clients_ask_for_missed_items() {
    let mut ada = resume("/");
    for text in ["a", "b", "c", "d"] {
        ada.send(text);
    }
    ada.take_messages();
    ada.send(r#"{"$":"resume","channel":"room:lobby","id":2}"#);
    assert_eq!(ada.texts(), [item(3, "c"), item(4, "d")]);
    ada.send(r#"{"$":"resume","channel":"room:lobby","id":0}"#);
    let kept = [item(2, "b"), item(3, "c"), item(4, "d")];
    assert_eq!(ada.texts(), [&[RESET.to_owned()][..], &kept].concat());
    // Not of other rooms.
    ada.send(r#"{"$":"resume","channel":"room:tea","id":0}"#);
    ada.send(r#"{"$":"later"}"#);
    ada.send(r#"{"$":"ping"}"#);
    assert_eq!(ada.texts(), [r#"{"$":"pong"}"#]);
    // Without the subprotocol, frames are messages of the application.
    let mut bob = connect(&Chat, "/");
    bob.take_messages();
    bob.send(r#"{"$":"ping"}"#);
    assert_eq!(bob.items::<String>(), [r#"{"$":"ping"}"#]);
}

/// Sends an item, and enters the room once more, before the host has subscribed the client.
struct Late {
    /// Whether the host has lost its history in the meantime.
    has_lost_history: bool,
}

impl Handler for Late {
    async fn open(&self, connection: &mut Connection) -> Result {
        let room = Room::new("lobby").counted();
        connection.join(&room).await?;
        room.send("late").await?;
        room.enter().await?;
        if self.has_lost_history {
            HOST.with_borrow_mut(|host| host.published.clear());
            let other = |channel: &str| Item::ws_text(channel, "").with_id("9", None);
            publish(vec![other("room:lobby"), other("count:lobby")])?;
        }
        Ok(())
    }
}

#[test]
fn what_is_published_while_a_client_joins_is_delivered() {
    for has_lost_history in [false, true] {
        reset();
        let late = Late { has_lost_history };
        let mut client = connect(&late, "/");
        let (item, before) = (item(1, "late"), count(1, 1));
        let expected = if has_lost_history {
            [before, item, count(2, 2)]
        } else {
            [item, before, count(2, 2)]
        };
        assert_eq!(client.texts(), expected, "{has_lost_history}");
    }
}

#[test]
fn connections_leave_rooms_once() {
    let mut ada = connect(&Chat, "/");
    let mut bob = connect(&Chat, "/");
    assert_eq!(bob.count(), Some(2));
    bob.send("join");
    assert_eq!(ada.count(), Some(2));
    bob.send("leave");
    bob.send("leave");
    assert_eq!(ada.count(), Some(1));
    assert_eq!(bob.subscriptions(), Vec::<String>::new());
    bob.send("join");
    assert_eq!(ada.count(), Some(2));
    bob.close(1000, "");
    assert_eq!(ada.texts().last(), Some(&count(1, 5)));
}

#[test]
fn values_become_messages() {
    let content = |message: Result<crate::Message>| message.unwrap().content;
    assert_eq!(content("a".into_message()), grip::Message::Text("a".into()));
    assert_eq!(
        content([1, 2].into_message()),
        grip::Message::Binary(Bytes::from_static(&[1, 2]))
    );
    let keys = std::collections::BTreeMap::from([((1, 2), 3)]);
    let error = Json(keys).into_message().unwrap_err();
    assert!(error.downcast_ref::<serde_json::Error>().is_some());
}
