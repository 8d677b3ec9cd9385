//! Events in both directions on an open WebSocket.

use anyhow::{Result, bail};
use grip::Event;
use tokio_tungstenite::tungstenite::{Message, protocol::frame::coding::Data};

use crate::{
    backend::Reply,
    case::{Case, cases, ensure_eq},
};

cases! {
    kinds_from_the_client
    kinds_from_the_backend
    empty_text
    fragmented
    batching
    one_request_at_a_time
    order_of_a_batch
    disconnect_from_the_backend
    client_gone
    client_gone_during_a_request
    large_messages
    grip_off
    grip_on
    message_prefix
    empty_message_prefix
    ;
    differs:
    pings
    error_status
    wrong_type
    malformed
    second_open
    truncated
    unknown_type
}

async fn kinds_from_the_client(case: &Case) -> Result<()> {
    let mut socket = case.open(Reply::open()).await?;
    socket.send("text, été").await?;
    case.round_trip(&[Event::text("text, été")], Reply::nothing())
        .await?;
    socket
        .message(Message::binary(vec![0, 255, 13, 10]))
        .await?;
    let binary = Event::Binary(vec![0, 255, 13, 10].into());
    case.round_trip(&[binary], Reply::nothing()).await?;
    socket.message(Message::Pong("pong".into())).await?;
    case.round_trip(&[Event::Pong("pong".into())], Reply::nothing())
        .await?;
    socket.send("after").await?;
    case.round_trip(&[Event::text("after")], Reply::nothing())
        .await?;
    Ok(())
}

async fn pings(case: &Case) -> Result<()> {
    let mut socket = case.open(Reply::open()).await?;
    socket.message(Message::Ping("ping".into())).await?;
    let reply = Reply::events(&[Event::Pong("the backend's".into())]);
    case.round_trip(&[Event::Ping("ping".into())], reply)
        .await?;
    if case.differ(false, true) {
        // The host replies itself: liveness does not depend on the backend.
        ensure_eq(
            "pong",
            socket.next().await?,
            Some(Message::Pong("ping".into())),
        )?;
    }
    let pong = Message::Pong("the backend's".into());
    ensure_eq("pong", socket.next().await?, Some(pong))
}

async fn kinds_from_the_backend(case: &Case) -> Result<()> {
    let mut socket = case.open(Reply::open()).await?;
    socket.send("go").await?;
    let reply = Reply::events(&[
        Event::text("text, été"),
        Event::Binary(vec![0, 255, 13, 10].into()),
        Event::Ping("ping".into()),
        Event::Pong("pong".into()),
        Event::text("end"),
    ]);
    case.round_trip(&[Event::text("go")], reply).await?;
    socket.expect("text, été").await?;
    for message in [
        Message::binary(vec![0, 255, 13, 10]),
        Message::Ping("ping".into()),
        Message::Pong("pong".into()),
    ] {
        ensure_eq("message", socket.next().await?, Some(message))?;
    }
    socket.expect("end").await
}

async fn empty_text(case: &Case) -> Result<()> {
    let mut socket = case.open(Reply::open()).await?;
    socket.send("").await?;
    let request = case.script.next().await?;
    // With a length of 0 or without a length: the protocol allows both.
    ensure_eq("events", request.events()?, [Event::text("")])?;
    request.reply(Reply::events(&[Event::text("")]))?;
    socket.expect("").await
}

async fn fragmented(case: &Case) -> Result<()> {
    let mut socket = case.open(Reply::open()).await?;
    socket.frame(Data::Text, false, b"one, ").await?;
    socket.frame(Data::Continue, false, b"two, ").await?;
    socket.frame(Data::Continue, true, b"three").await?;
    socket.send("four").await?;
    let mut texts = Vec::new();
    while texts.len() < 2 {
        let request = case.script.next().await?;
        for event in request.events()? {
            match event {
                Event::Text(text) => texts.push(text.to_string()),
                other => bail!("{other:?}"),
            }
        }
        request.reply(Reply::nothing())?;
    }
    ensure_eq("texts", texts, ["one, two, three", "four"])
}

async fn batching(case: &Case) -> Result<()> {
    case.use_own_proxy().await?;
    let mut socket = case.open(Reply::open()).await?;
    socket.send("first").await?;
    let request = case.script.next().await?;
    request.expect(&[Event::text("first")])?;
    for text in ["second", "third", "fourth"] {
        socket.send(text).await?;
    }
    case.wait_for_metric("socket_host_received_messages_total 4")
        .await?;
    // Time for a second request, which must not be sent.
    case.settle().await;
    case.no_request().await?;
    request.reply(Reply::nothing())?;
    let batch = ["second", "third", "fourth"].map(Event::text);
    case.round_trip(&batch, Reply::nothing()).await?;
    Ok(())
}

async fn one_request_at_a_time(case: &Case) -> Result<()> {
    let mut socket = case.open(Reply::open()).await?;
    let mut seen = 0;
    for n in 0..100 {
        socket.send(&n.to_string()).await?;
    }
    while seen < 100 {
        let request = case.script.next().await?;
        for event in request.events()? {
            ensure_eq("event", event, Event::text(seen.to_string()))?;
            seen += 1;
        }
        // Other requests would arrive meanwhile.
        tokio::task::yield_now().await;
        case.no_request().await?;
        request.reply(Reply::nothing())?;
    }
    Ok(())
}

async fn order_of_a_batch(case: &Case) -> Result<()> {
    let mut socket = case.open(Reply::open()).await?;
    for round in 0..3 {
        socket.send("go").await?;
        let texts: Vec<String> = (0..200).map(|n| format!("{round} {n}")).collect();
        let events: Vec<Event> = texts
            .iter()
            .map(|text| Event::text(text.as_str()))
            .collect();
        case.round_trip(&[Event::text("go")], Reply::events(&events))
            .await?;
        for text in texts {
            socket.expect(&text).await?;
        }
    }
    Ok(())
}

async fn disconnect_from_the_backend(case: &Case) -> Result<()> {
    let mut socket = case.open(Reply::open()).await?;
    socket.send("x").await?;
    case.round_trip(&[Event::text("x")], Reply::events(&[Event::Disconnect]))
        .await?;
    socket.disconnected().await
}

async fn client_gone(case: &Case) -> Result<()> {
    let socket = case.open(Reply::open()).await?;
    drop(socket);
    case.round_trip(&[Event::Disconnect], Reply::nothing())
        .await?;
    Ok(())
}

async fn client_gone_during_a_request(case: &Case) -> Result<()> {
    let mut socket = case.open(Reply::open()).await?;
    socket.send("x").await?;
    let request = case.script.next().await?;
    request.expect(&[Event::text("x")])?;
    drop(socket);
    case.settle().await;
    case.no_request().await?;
    request.reply(Reply::events(&[Event::text("too late")]))?;
    case.round_trip(&[Event::Disconnect], Reply::nothing())
        .await?;
    Ok(())
}

/// Sends an invalid reply to a message and returns the next message of the socket.
async fn end(case: &Case, reply: Reply) -> Result<Option<Message>> {
    let mut socket = case.open(Reply::open()).await?;
    socket.send("x").await?;
    case.round_trip(&[Event::text("x")], reply).await?;
    socket.next().await
}

/// Fails unless the socket ends as on a backend failure: Pushpin disconnects it, socket-host closes
/// it with 1011.
async fn fails(case: &Case, reply: Reply) -> Result<()> {
    let code = match end(case, reply).await? {
        Some(Message::Close(Some(frame))) => Some(u16::from(frame.code)),
        None => None,
        other => bail!("the client received {other:?}"),
    };
    ensure_eq("close code", code, case.differ(None, Some(1011)))
}

async fn error_status(case: &Case) -> Result<()> {
    fails(case, Reply::new(500).body("oops")).await
}

async fn wrong_type(case: &Case) -> Result<()> {
    fails(case, Reply::new(200).header("content-type", "text/plain")).await
}

async fn malformed(case: &Case) -> Result<()> {
    fails(case, Reply::nothing().body("TEXT 5")).await?;
    fails(case, Reply::nothing().body("TEXT x\r\nhello\r\n")).await
}

async fn second_open(case: &Case) -> Result<()> {
    fails(case, Reply::open()).await
}

async fn truncated(case: &Case) -> Result<()> {
    let reply = Reply::nothing().body("TEXT 50\r\nhello\r\n");
    if case.differ(false, true) {
        return fails(case, reply).await;
    }
    ensure_eq(
        "end",
        end(case, reply).await?,
        Some(Message::text("hello\r\n")),
    )
}

async fn unknown_type(case: &Case) -> Result<()> {
    let reply = Reply::nothing().body("DANCE\r\nTEXT 5\r\nhello\r\n");
    if case.differ(false, true) {
        return fails(case, reply).await;
    }
    ensure_eq("end", end(case, reply).await?, Some(Message::text("hello")))
}

async fn large_messages(case: &Case) -> Result<()> {
    let mut socket = case.open(Reply::open()).await?;
    let large = "0123456789abcdef".repeat(3_000);
    socket.send(&large).await?;
    case.round_trip(
        &[Event::text(&*large)],
        Reply::events(&[Event::text(&*large)]),
    )
    .await?;
    socket.expect(&large).await
}

async fn grip_off(case: &Case) -> Result<()> {
    let mut socket = case.open(Reply::open()).await?;
    socket.send("x").await?;
    let reply = Reply::events(&[
        Event::text("m:with a prefix"),
        Event::text(r#"c:{"type":"detach"}"#),
        Event::text("without"),
    ]);
    case.round_trip(&[Event::text("x")], reply).await?;
    socket.expect("m:with a prefix").await?;
    socket.expect(r#"c:{"type":"detach"}"#).await?;
    socket.expect("without").await
}

async fn grip_on(case: &Case) -> Result<()> {
    let mut socket = case.open(Reply::open_grip(&[])).await?;
    socket.send("x").await?;
    let reply = Reply::events(&[
        Event::text("dropped"),
        Event::text("m:kept"),
        Event::Binary("m:binary".into()),
        Event::Binary("dropped".into()),
        Event::text("m:m:"),
    ]);
    case.round_trip(&[Event::text("x")], reply).await?;
    socket.expect("kept").await?;
    ensure_eq(
        "binary",
        socket.next().await?,
        Some(Message::binary("binary")),
    )?;
    socket.expect("m:").await
}

async fn message_prefix(case: &Case) -> Result<()> {
    let reply = Reply::open().header("sec-websocket-extensions", "grip; message-prefix=\"out \"");
    let mut socket = case.open(reply).await?;
    socket.send("x").await?;
    let reply = Reply::events(&[Event::text("m:dropped"), Event::text("out kept")]);
    case.round_trip(&[Event::text("x")], reply).await?;
    socket.expect("kept").await
}

async fn empty_message_prefix(case: &Case) -> Result<()> {
    let reply = Reply::open().header("sec-websocket-extensions", "grip; message-prefix=\"\"");
    let mut socket = case.open(reply).await?;
    socket.send("x").await?;
    let reply = Reply::events(&[
        Event::text(r#"c:{"type":"unsubscribe","channel":"none"}"#),
        Event::text("unchanged"),
        Event::text("m:also"),
    ]);
    case.round_trip(&[Event::text("x")], reply).await?;
    socket.expect("unchanged").await?;
    socket.expect("m:also").await
}
