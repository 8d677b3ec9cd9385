//! `Grip-Hold: response`: HTTP responses held until an item is published.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::{
    backend::Reply,
    case::{Case, cases, ensure_eq},
};

cases! {
    body
    status_headers_and_body
    headers_as_pairs
    binary
    prev_id_matches
    prev_id_differs
    several_clients
    first_item_is_used
    hint
    timeout
    instruct
    ;
    differs:
    on_a_new_channel
    body_patch
}

/// The minimum hold timeout.
const TIMEOUT_MIN: Duration = Duration::from_secs(5);

/// The default hold timeout.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(55);

/// The metric of a proxy that holds one response.
const HELD: &str = "socket_host_subscriptions 1";

fn hold(case: &Case) -> Reply {
    Reply::new(200)
        .header("grip-hold", "response")
        .header("grip-channel", case.channel())
        .header("grip-timeout", "30")
        .body("nothing new")
}

fn item(case: &Case, response: Value) -> Value {
    json!({"channel": case.channel(), "formats": {"http-response": response}})
}

/// Publishes until a held response ends: the client does not see when the hold starts.
async fn publish_until<T>(
    case: &Case,
    item: Value,
    pending: tokio::task::JoinHandle<Result<T>>,
) -> Result<T> {
    let mut pending = pending;
    for _ in 0..100 {
        case.publish(item.clone()).await?;
        if let Ok(response) = tokio::time::timeout(Duration::from_millis(100), &mut pending).await {
            return response?;
        }
    }
    anyhow::bail!("no item has ended the hold")
}

async fn body(case: &Case) -> Result<()> {
    let pending = case.request("GET", &[], "").await?;
    case.script.next().await?.reply(hold(case))?;
    let response = publish_until(case, item(case, json!({"body": "news"})), pending).await?;
    ensure_eq("status", response.status, 200)?;
    ensure_eq("body", &*response.text(), "news")?;
    for name in response.headers.keys() {
        ensure!(
            !name.as_str().starts_with("grip-"),
            "the client sees {name}"
        );
    }
    Ok(())
}

async fn status_headers_and_body(case: &Case) -> Result<()> {
    let pending = case.request("GET", &[], "").await?;
    case.script.next().await?.reply(hold(case))?;
    let response = json!({
        "code": 203,
        "reason": "Hearsay",
        "headers": {"Content-Type": "text/x", "X-Mine": "1"},
        "body": "news",
    });
    let response = publish_until(case, item(case, response), pending).await?;
    ensure_eq("status", response.status, 203)?;
    ensure_eq("type", response.header("content-type"), Some("text/x"))?;
    ensure_eq("x-mine", response.header("x-mine"), Some("1"))?;
    ensure_eq("length", response.header("content-length"), Some("4"))?;
    ensure_eq("body", &*response.text(), "news")
}

async fn headers_as_pairs(case: &Case) -> Result<()> {
    let pending = case.request("GET", &[], "").await?;
    case.script.next().await?.reply(hold(case))?;
    let response = json!({"headers": [["X-A", "1"], ["X-A", "2"]], "body": ""});
    let response = publish_until(case, item(case, response), pending).await?;
    let values: Vec<_> = response.headers.get_all("x-a").iter().collect();
    ensure_eq("x-a", values, ["1", "2"])
}

async fn binary(case: &Case) -> Result<()> {
    let pending = case.request("GET", &[], "").await?;
    case.script.next().await?.reply(hold(case))?;
    let response = json!({"body-bin": BASE64_STANDARD.encode([0, 255])});
    let response = publish_until(case, item(case, response), pending).await?;
    ensure_eq("body", &*response.body, [0, 255])
}

/// Pushpin requests again, as items may have been published before all its processes knew the
/// channel.
async fn on_a_new_channel(case: &Case) -> Result<()> {
    let pending = case.request("GET", &[], "").await?;
    case.script.next().await?.reply(hold(case))?;
    if case.differ(true, false) {
        let request = case.script.next().await?;
        ensure_eq("path", request.head.uri.path(), &*case.path())?;
        request.reply(hold(case))?;
    } else {
        // Longer than Pushpin takes.
        tokio::time::sleep(Duration::from_secs(3)).await;
        case.no_request().await?;
    }
    let response = publish_until(case, item(case, json!({"body": "news"})), pending).await?;
    ensure_eq("body", &*response.text(), "news")?;
    case.no_request().await
}

/// A patch of the backend's response.
async fn body_patch(case: &Case) -> Result<()> {
    let patch = json!([{"op": "replace", "path": "/n", "value": 2}]);
    let item = item(case, json!({"body-patch": patch}));
    if case.differ(false, true) {
        let body = json!({"items": [item]}).to_string();
        return ensure_eq("status", case.post_publish(&body).await?.status, 400);
    }
    case.register_channel().await?;
    let pending = case.request("GET", &[], "").await?;
    let reply = hold(case).body(json!({"n": 1}).to_string());
    case.script.next().await?.reply(reply)?;
    let response = publish_until(case, item, pending).await?;
    ensure_eq("body", &*response.text(), r#"{"n":2}"#)
}

async fn timeout(case: &Case) -> Result<()> {
    case.register_channel().await?;
    let reply = Reply::new(404)
        .header("grip-hold", "response")
        .header("grip-channel", case.channel())
        .header("grip-timeout", "2")
        .header("grip-status", "203")
        .header("x-mine", "1")
        .body("nothing new");
    let pending = case.request("GET", &[], "").await?;
    let request = case.script.next().await?;
    let since = Instant::now();
    request.reply(reply)?;
    let response = pending.await??;
    let waited = since.elapsed();
    ensure!(
        (TIMEOUT_MIN..TIMEOUT_DEFAULT).contains(&waited),
        "{waited:?}"
    );
    ensure_eq("status", response.status, 203)?;
    ensure_eq("x-mine", response.header("x-mine"), Some("1"))?;
    ensure_eq("body", &*response.text(), "nothing new")
}

async fn instruct(case: &Case) -> Result<()> {
    case.register_channel().await?;
    let instruct = json!({
        "hold": {"mode": "response", "channels": [{"name": case.channel()}], "timeout": 2},
        "response": {"code": 203, "body": "nothing new"},
    });
    let reply = Reply::new(200)
        .header("content-type", "application/grip-instruct")
        .body(instruct.to_string());
    let pending = case.request("GET", &[], "").await?;
    case.script.next().await?.reply(reply)?;
    let response = pending.await??;
    ensure_eq("status", response.status, 203)?;
    ensure_eq("body", &*response.text(), "nothing new")
}

fn with_id(case: &Case, id: &str, previous: Option<&str>) -> Value {
    let mut item = item(case, json!({"body": format!("<{id}>")}));
    item["id"] = id.into();
    if let Some(previous) = previous {
        item["prev-id"] = previous.into();
    }
    item
}

fn hold_after(case: &Case, id: &str) -> Reply {
    Reply::new(200)
        .header("grip-hold", "response")
        .header("grip-channel", &format!("{}; prev-id={id}", case.channel()))
        .body(format!("nothing after {id}"))
}

async fn prev_id_matches(case: &Case) -> Result<()> {
    case.use_own_proxy().await?;
    case.register_channel().await?;
    case.join_bus().await?;
    let pending = case.request("GET", &[], "").await?;
    case.script.next().await?.reply(hold(case))?;
    case.wait_for_metric(HELD).await?;
    case.publish(with_id(case, "1", None)).await?;
    ensure_eq("body", &*pending.await??.text(), "<1>")?;
    let pending = case.request("GET", &[], "").await?;
    case.script.next().await?.reply(hold_after(case, "1"))?;
    case.wait_for_metric(HELD).await?;
    case.publish(with_id(case, "2", Some("1"))).await?;
    ensure_eq("body", &*pending.await??.text(), "<2>")
}

async fn prev_id_differs(case: &Case) -> Result<()> {
    case.use_own_proxy().await?;
    case.register_channel().await?;
    case.join_bus().await?;
    let pending = case.request("GET", &[], "").await?;
    case.script.next().await?.reply(hold(case))?;
    case.wait_for_metric(HELD).await?;
    case.publish(with_id(case, "1", None)).await?;
    ensure_eq("body", &*pending.await??.text(), "<1>")?;
    let pending = case.request("GET", &[], "").await?;
    case.script.next().await?.reply(hold_after(case, "0"))?;
    // The proxy requests again at once, with the id that the backend has sent.
    let request = case.script.next().await?;
    let last = format!("{}; last-id=0", case.channel());
    ensure_eq("last", request.header("grip-last"), Some(&*last))?;
    request.reply(Reply::new(200).body("up to 1"))?;
    ensure_eq("body", &*pending.await??.text(), "up to 1")
}

async fn several_clients(case: &Case) -> Result<()> {
    case.use_own_proxy().await?;
    case.register_channel().await?;
    case.join_bus().await?;
    let mut pending = Vec::new();
    for _ in 0..5 {
        pending.push(case.request("GET", &[], "").await?);
        case.script.next().await?.reply(hold(case))?;
    }
    case.wait_for_metric("socket_host_subscriptions 5").await?;
    case.publish(item(case, json!({"body": "news"}))).await?;
    for pending in pending {
        ensure_eq("body", &*pending.await??.text(), "news")?;
    }
    Ok(())
}

async fn first_item_is_used(case: &Case) -> Result<()> {
    case.use_own_proxy().await?;
    case.register_channel().await?;
    case.join_bus().await?;
    let pending = case.request("GET", &[], "").await?;
    case.script.next().await?.reply(hold(case))?;
    case.wait_for_metric(HELD).await?;
    let items = ["1", "2"].map(|text| item(case, json!({"body": text})));
    case.publish_all(json!(items)).await?;
    ensure_eq("body", &*pending.await??.text(), "1")
}

/// A hint sends the request to the backend again.
async fn hint(case: &Case) -> Result<()> {
    case.use_own_proxy().await?;
    case.register_channel().await?;
    case.join_bus().await?;
    let pending = case.request("GET", &[], "").await?;
    case.script.next().await?.reply(hold(case))?;
    case.wait_for_metric(HELD).await?;
    case.publish(item(case, json!({"action": "hint"}))).await?;
    let request = case.script.next().await?;
    ensure_eq("path", request.head.uri.path(), &*case.path())?;
    request.reply(Reply::new(200).body("news"))?;
    ensure_eq("body", &*pending.await??.text(), "news")
}
