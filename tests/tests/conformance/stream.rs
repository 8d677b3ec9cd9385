//! `Grip-Hold: stream`: HTTP responses held as a stream.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::json;

use crate::{
    backend::Reply,
    case::{Case, cases, ensure_eq, stream_text},
    client,
};

cases! {
    held
    binary
    closed_by_a_publisher
    several_channels
    instruct
    instruct_status_and_headers
    status
    keep_alive_raw
    keep_alive_cstring
    keep_alive_base64
    keep_alive_interval
    other_formats_only
    expose_headers
    skip_self
    client_gone
    without_a_channel
    unknown_hold
    malformed_instruct
    ;
    differs:
    keep_alive_on_time
    of_a_backend_that_compresses
}

/// Returns the reply that holds a stream on the case's channel.
fn hold(case: &Case) -> Reply {
    Reply::new(200)
        .header("content-type", "text/event-stream")
        .header("grip-hold", "stream")
        .header("grip-channel", case.channel())
}

/// Items cannot be appended to a compressed body.
async fn of_a_backend_that_compresses(case: &Case) -> Result<()> {
    /// "first,", compressed with gzip.
    const GZIPPED: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\x4b\xcb\x2c\x2a\x2e\xd1\x01\x00\xd7\x36\x47\x15\x06\x00\x00\x00";
    let request = client::request("GET", &case.path(), &[("accept-encoding", "gzip")], "")?;
    let pending = tokio::spawn(client::hold(case.proxy().await?.public, request));
    let request = case.script.next().await?;
    let accepted = request.header("accept-encoding").unwrap_or_default();
    ensure!(accepted.contains("gzip"), "{accepted:?}");
    // Pushpin accepts more encodings than the client.
    ensure_eq("the client's", accepted == "gzip", case.differ(false, true))?;
    let compressed = hold(case).header("content-encoding", "gzip");
    request.reply(compressed.body(GZIPPED))?;
    if case.differ(false, true) {
        let request = case.script.next().await?;
        ensure_eq("again", request.header("accept-encoding"), Some("identity"))?;
        request.reply(hold(case).body("first,"))?;
    }
    let mut stream = pending.await??;
    ensure_eq("coding", stream.header("content-encoding"), None)?;
    stream.expect("first,").await?;
    case.publish(stream_text(case.channel(), "second")).await?;
    stream.expect("second").await
}

async fn held(case: &Case) -> Result<()> {
    let mut stream = case
        .hold(hold(case).header("x-kept", "1").body("first,"))
        .await?;
    ensure_eq("status", stream.status(), 200)?;
    ensure_eq(
        "type",
        stream.header("content-type"),
        Some("text/event-stream"),
    )?;
    ensure_eq("x-kept", stream.header("x-kept"), Some("1"))?;
    ensure_eq("length", stream.header("content-length"), None)?;
    for name in stream.headers().keys() {
        ensure!(
            !name.as_str().starts_with("grip-"),
            "the client sees {name}"
        );
    }
    stream.expect("first,").await?;
    case.publish(stream_text(case.channel(), "second,")).await?;
    stream.expect("second,").await?;
    case.publish(stream_text(case.channel(), "été\n\n")).await?;
    stream.expect("été\n\n").await
}

async fn binary(case: &Case) -> Result<()> {
    let mut stream = case.hold(hold(case)).await?;
    let content = BASE64_STANDARD.encode("\0\u{1}\n");
    let formats = json!({"http-stream": {"content-bin": content}});
    case.publish(json!({"channel": case.channel(), "formats": formats}))
        .await?;
    stream.expect("\0\u{1}\n").await
}

async fn closed_by_a_publisher(case: &Case) -> Result<()> {
    let mut stream = case.hold(hold(case)).await?;
    case.publish(stream_text(case.channel(), "last")).await?;
    let formats = json!({"http-stream": {"action": "close"}});
    case.publish(json!({"channel": case.channel(), "formats": formats}))
        .await?;
    stream.expect("last").await?;
    stream.ended().await
}

async fn several_channels(case: &Case) -> Result<()> {
    let (one, two) = (
        format!("{}-1", case.channel()),
        format!("{}-2", case.channel()),
    );
    let reply = Reply::new(200)
        .header("grip-hold", "stream")
        .header("grip-channel", &one)
        .header("grip-channel", &two);
    let mut stream = case.hold(reply).await?;
    for channel in [&one, &two, &one] {
        case.publish(stream_text(channel, channel)).await?;
        stream.expect(channel).await?;
    }
    Ok(())
}

async fn instruct(case: &Case) -> Result<()> {
    let instruct = json!({
        "hold": {"mode": "stream", "channels": [{"name": case.channel()}]},
        "response": {"body": "first,"},
    });
    let reply = Reply::new(200)
        .header("content-type", "application/grip-instruct")
        .body(instruct.to_string());
    let mut stream = case.hold(reply).await?;
    ensure_eq("status", stream.status(), 200)?;
    stream.expect("first,").await?;
    case.publish(stream_text(case.channel(), "second")).await?;
    stream.expect("second").await
}

async fn instruct_status_and_headers(case: &Case) -> Result<()> {
    let instruct = json!({
        "hold": {"mode": "stream", "channels": [{"name": case.channel()}]},
        "response": {
            "code": 203,
            "reason": "Hearsay",
            "headers": {"Content-Type": "text/x", "X-Mine": "1"},
            "body-bin": BASE64_STANDARD.encode("first,"),
        },
    });
    let reply = Reply::new(200)
        .header("content-type", "application/grip-instruct")
        .body(instruct.to_string());
    let mut stream = case.hold(reply).await?;
    ensure_eq("status", stream.status(), 203)?;
    ensure_eq("type", stream.header("content-type"), Some("text/x"))?;
    ensure_eq("x-mine", stream.header("x-mine"), Some("1"))?;
    stream.expect("first,").await
}

async fn status(case: &Case) -> Result<()> {
    let mut stream = case
        .hold(hold(case).header("grip-status", "203 Hearsay").body("x"))
        .await?;
    ensure_eq("status", stream.status(), 203)?;
    ensure_eq("reason", stream.reason(), Some("Hearsay"))?;
    stream.expect("x").await
}

async fn keep_alive(case: &Case, header: &str, expected: &str) -> Result<()> {
    let mut stream = case
        .hold(hold(case).header("grip-keep-alive", header))
        .await?;
    for _ in 0..3 {
        stream.expect(expected).await?;
    }
    Ok(())
}

/// Keep-alives are never early. Pushpin sends them up to a second early.
async fn keep_alive_on_time(case: &Case) -> Result<()> {
    let mut due = Instant::now();
    let reply = hold(case).header("grip-keep-alive", "idle; timeout=1");
    let mut stream = case.hold(reply).await?;
    if case.differ(true, false) {
        for _ in 0..20 {
            let since = Instant::now();
            stream.expect("idle").await?;
            if since.elapsed() < Duration::from_millis(900) {
                return Ok(());
            }
        }
        bail!("no keep-alive is early");
    }
    for _ in 0..3 {
        due += Duration::from_secs(1);
        stream.expect("idle").await?;
        ensure!(Instant::now() >= due, "a keep-alive is early");
    }
    Ok(())
}

async fn keep_alive_raw(case: &Case) -> Result<()> {
    keep_alive(case, r"\n; format=raw; timeout=1", r"\n").await
}

async fn keep_alive_cstring(case: &Case) -> Result<()> {
    keep_alive(case, r"a\n\r\\; format=cstring; timeout=1", "a\n\r\\").await
}

async fn keep_alive_base64(case: &Case) -> Result<()> {
    keep_alive(case, "Ogo=; format=base64; timeout=1", ":\n").await
}

async fn keep_alive_interval(case: &Case) -> Result<()> {
    let reply = hold(case).header("grip-keep-alive", "tick; timeout=2; mode=interval");
    let mut stream = case.hold(reply).await?;
    let mut others = 0;
    loop {
        case.publish(stream_text(case.channel(), "more")).await?;
        match stream.bytes(4).await?.as_slice() {
            b"more" => others += 1,
            b"tick" if others >= 3 => return Ok(()),
            // Early, which the other mode would allow on a slow machine.
            other => {
                ensure_eq("text", other, b"tick")?;
                others = 0;
            }
        }
        ensure!(others < 100, "no tick among 10 s of other messages");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn other_formats_only(case: &Case) -> Result<()> {
    let mut stream = case.hold(hold(case)).await?;
    case.publish(crate::case::ws_text(case.channel(), "not for streams"))
        .await?;
    case.publish(stream_text(case.channel(), "for streams"))
        .await?;
    stream.expect("for streams").await
}

async fn expose_headers(case: &Case) -> Result<()> {
    let reply = hold(case)
        .header("grip-expose-headers", "x-shown, grip-channel")
        .header("grip-expose-headers", "X-Also")
        .header("x-shown", "1")
        .header("x-also", "2")
        .header("x-hidden", "3")
        .body("x");
    let mut stream = case.hold(reply).await?;
    stream.expect("x").await?;
    for (name, value) in [
        ("x-shown", Some("1")),
        ("x-also", Some("2")),
        ("x-hidden", None),
        ("content-type", None),
        ("grip-channel", None),
    ] {
        ensure_eq(name, stream.header(name), value)?;
    }
    Ok(())
}

async fn skip_self(case: &Case) -> Result<()> {
    let reply = Reply::new(200)
        .header("grip-hold", "stream")
        .header(
            "grip-channel",
            &format!("{}; filter=skip-self", case.channel()),
        )
        .header("grip-set-meta", "user=\"ada\"");
    let mut stream = case.hold(reply).await?;
    for (sender, text) in [("ada", "mine"), ("bob", "bob's")] {
        let mut item = stream_text(case.channel(), text);
        item["meta"] = json!({"sender": sender});
        case.publish(item).await?;
    }
    stream.expect("bob's").await
}

/// A client that disconnects does not affect other clients.
async fn client_gone(case: &Case) -> Result<()> {
    let gone = case.hold(hold(case)).await?;
    let mut stays = case.hold(hold(case)).await?;
    drop(gone);
    for n in 0..20 {
        let text = format!("<{n}>");
        case.publish(stream_text(case.channel(), &text)).await?;
        stays.expect(&text).await?;
    }
    case.no_request().await
}

async fn without_a_channel(case: &Case) -> Result<()> {
    let mut stream = case
        .hold(Reply::new(200).header("grip-hold", "stream").body("x"))
        .await?;
    ensure_eq("status", stream.status(), 200)?;
    stream.expect("x").await
}

async fn unknown_hold(case: &Case) -> Result<()> {
    let reply = Reply::new(200)
        .header("grip-hold", "dance")
        .header("grip-channel", "x");
    ensure_eq("status", case.get(reply).await?.status, 502)
}

async fn malformed_instruct(case: &Case) -> Result<()> {
    for body in [
        "",
        "{",
        "[]",
        r#"{"hold":{"mode":"dance"}}"#,
        r#"{"hold":{"mode":"stream","channels":[{}]}}"#,
        r#"{"response":{"code":"x"}}"#,
    ] {
        let reply = Reply::new(200).header("content-type", "application/grip-instruct");
        ensure_eq(body, case.get(reply.body(body)).await?.status, 502)?;
    }
    Ok(())
}
