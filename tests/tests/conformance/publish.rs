//! Publishing to WebSockets: formats, actions and invalid items.

use anyhow::{Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use grip::Event;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    backend::Reply,
    case::{Case, cases, ensure_eq, ws_text},
};

cases! {
    text
    binary
    kinds
    keys_on_the_item
    several_items
    to_all_subscribers
    no_subscribers
    other_formats_only
    empty_text
    hint
    malformed_bodies
    malformed_items
    bad_request_publishes_nothing
    wrong_method
    ;
    differs:
    refresh
    malformed_base64
    no_body
    without_a_token
    with_a_bad_token
}

async fn text(case: &Case) -> Result<()> {
    let mut socket = case.subscribe().await?;
    for text in ["hello", "été 🍔", "m:unchanged", "c:{}"] {
        case.publish(ws_text(case.channel(), text)).await?;
        socket.expect(text).await?;
    }
    Ok(())
}

async fn empty_text(case: &Case) -> Result<()> {
    let mut socket = case.subscribe().await?;
    case.publish(ws_text(case.channel(), "")).await?;
    socket.expect("").await
}

async fn binary(case: &Case) -> Result<()> {
    let mut socket = case.subscribe().await?;
    let content = BASE64_STANDARD.encode([0, 1, 254, 255]);
    let formats = json!({"ws-message": {"content-bin": content}});
    case.publish(json!({"channel": case.channel(), "formats": formats}))
        .await?;
    ensure_eq(
        "message",
        socket.next().await?,
        Some(Message::binary(vec![0, 1, 254, 255])),
    )
}

async fn kinds(case: &Case) -> Result<()> {
    let mut socket = case.subscribe().await?;
    for (kind, message) in [
        ("text", Message::text("x")),
        ("binary", Message::binary("x")),
        ("ping", Message::Ping("x".into())),
        ("pong", Message::Pong("x".into())),
    ] {
        let formats = json!({"ws-message": {"type": kind, "content": "x"}});
        case.publish(json!({"channel": case.channel(), "formats": formats}))
            .await?;
        ensure_eq("message", socket.next().await?, Some(message))?;
    }
    Ok(())
}

async fn keys_on_the_item(case: &Case) -> Result<()> {
    let mut socket = case.subscribe().await?;
    let item = json!({"channel": case.channel(), "ws-message": {"content": "direct"}});
    case.publish(item).await?;
    socket.expect("direct").await
}

async fn several_items(case: &Case) -> Result<()> {
    let mut socket = case.subscribe().await?;
    let items = ["1", "2", "3"].map(|text| ws_text(case.channel(), text));
    case.publish_all(json!(items)).await?;
    for text in ["1", "2", "3"] {
        socket.expect(text).await?;
    }
    Ok(())
}

async fn to_all_subscribers(case: &Case) -> Result<()> {
    let mut sockets = Vec::new();
    for _ in 0..5 {
        let subscribe = crate::case::subscribe(case.channel());
        sockets.push(case.open(Reply::open_grip(&[&subscribe])).await?);
    }
    // Each socket may still receive the probes of others.
    for socket in &mut sockets {
        case.subscribed(socket, case.channel()).await?;
    }
    case.publish(ws_text(case.channel(), "all")).await?;
    for socket in &mut sockets {
        while socket.text().await? != "all" {}
    }
    Ok(())
}

async fn no_subscribers(case: &Case) -> Result<()> {
    case.publish(ws_text(case.channel(), "no subscribers"))
        .await
}

async fn other_formats_only(case: &Case) -> Result<()> {
    let mut socket = case.subscribe().await?;
    let formats = json!({"http-stream": {"content": "not for sockets"}});
    case.publish(json!({"channel": case.channel(), "formats": formats}))
        .await?;
    case.publish(ws_text(case.channel(), "for sockets")).await?;
    socket.expect("for sockets").await
}

/// A hint does not apply to WebSockets.
async fn hint(case: &Case) -> Result<()> {
    let mut socket = case.subscribe().await?;
    let formats = json!({"ws-message": {"action": "hint"}});
    case.publish(json!({"channel": case.channel(), "formats": formats}))
        .await?;
    case.publish(ws_text(case.channel(), "after")).await?;
    socket.expect("after").await?;
    case.no_request().await
}

async fn refresh(case: &Case) -> Result<()> {
    let mut socket = case.subscribe().await?;
    let formats = json!({"ws-message": {"action": "refresh"}});
    let body = json!({"items": [{"channel": case.channel(), "formats": formats}]});
    let response = case.post_publish(&body.to_string()).await?;
    ensure_eq("status", response.status, case.differ(400, 200))?;
    if response.status == 400 {
        return Ok(());
    }
    case.round_trip(&[], Reply::events(&[Event::text("m:fresh")]))
        .await?;
    socket.expect("fresh").await
}

async fn malformed_bodies(case: &Case) -> Result<()> {
    for body in ["{", "[]", "{}", r#"{"items":{}}"#, r#"{"items":[1]}"#] {
        let response = case.post_publish(body).await?;
        ensure_eq(body, response.status, 400)?;
        ensure!(!response.body.is_empty(), "{body}: no reason");
    }
    Ok(())
}

async fn malformed_items(case: &Case) -> Result<()> {
    let channel = case.channel();
    for item in [
        json!({}),
        json!({"channel": channel}),
        json!({"formats": {"ws-message": {"content": "x"}}}),
        json!({"channel": 1, "formats": {"ws-message": {"content": "x"}}}),
        json!({"channel": channel, "formats": {}}),
        json!({"channel": channel, "formats": {"ws-message": {}}}),
        json!({"channel": channel, "formats": {"ws-message": {"content": 1}}}),
        json!({"channel": channel, "formats": {"ws-message": {"content": "x", "type": "dance"}}}),
        json!({"channel": channel, "formats": {"ws-message": {"action": "dance"}}}),
        json!({"channel": channel, "formats": {"http-stream": {}}}),
        json!({"channel": channel, "formats": {"http-response": {"code": 204}}}),
    ] {
        let body = json!({"items": [item]}).to_string();
        let response = case.post_publish(&body).await?;
        ensure_eq(&body, response.status, 400)?;
        ensure!(!response.body.is_empty(), "{body}: no reason");
    }
    Ok(())
}

async fn malformed_base64(case: &Case) -> Result<()> {
    let formats = json!({"ws-message": {"content-bin": "*"}});
    let item = json!({"channel": case.channel(), "formats": formats});
    let response = case
        .post_publish(&json!({"items": [item]}).to_string())
        .await?;
    ensure_eq("status", response.status, case.differ(200, 400))
}

async fn no_body(case: &Case) -> Result<()> {
    ensure_eq(
        "status",
        case.post_publish("").await?.status,
        case.differ(411, 400),
    )
}

async fn bad_request_publishes_nothing(case: &Case) -> Result<()> {
    let mut socket = case.subscribe().await?;
    let items = json!([ws_text(case.channel(), "good"), {"channel": case.channel()}]);
    let response = case
        .post_publish(&json!({"items": items}).to_string())
        .await?;
    ensure_eq("status", response.status, 400)?;
    case.publish(ws_text(case.channel(), "after")).await?;
    socket.expect("after").await
}

async fn without_a_token(case: &Case) -> Result<()> {
    let body = json!({"items": [ws_text(case.channel(), "x")]}).to_string();
    let response = case.post_publish_as(&[], &body).await?;
    ensure_eq("status", response.status, case.differ(200, 401))
}

async fn with_a_bad_token(case: &Case) -> Result<()> {
    let body = json!({"items": [ws_text(case.channel(), "x")]}).to_string();
    let response = case
        .post_publish_as(&[("authorization", "Bearer a.b.c")], &body)
        .await?;
    ensure_eq("status", response.status, case.differ(200, 401))
}

async fn wrong_method(case: &Case) -> Result<()> {
    let request = crate::client::request("GET", "/publish/", &[], "")?;
    let response = crate::client::send(case.proxy().await?.control, request).await?;
    ensure_eq("status", response.status, 405)
}
