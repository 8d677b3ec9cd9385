//! HTTP responses held until there is something to answer: `Grip-Hold: response`.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::{
    backend::Reply,
    case::{Case, cases, same},
};

cases! {
    answered
    answered_in_full
    headers_as_pairs
    binary
    prev_id_matches
    prev_id_differs
    several_clients
    first_one_counts
    hint
    timeout
    instruct
    ;
    differs:
    on_a_new_channel
    body_patch
}

/// The shortest time for which a response is held.
const LEAST: Duration = Duration::from_secs(5);

/// How long a response is held when nothing is said.
const DEFAULT: Duration = Duration::from_secs(55);

/// That one response is held, in the metrics of a proxy that holds no others.
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

/// Publishes until somebody has been answered: nothing tells when a response is held.
async fn publish_until<T>(
    case: &Case,
    item: Value,
    asked: tokio::task::JoinHandle<Result<T>>,
) -> Result<T> {
    let mut asked = asked;
    for _ in 0..100 {
        case.publish(item.clone()).await?;
        if let Ok(answer) = tokio::time::timeout(Duration::from_millis(100), &mut asked).await {
            return answer?;
        }
    }
    anyhow::bail!("no item ends the hold")
}

async fn answered(case: &Case) -> Result<()> {
    let asked = case.request("GET", &[], "").await?;
    case.script.next().await?.reply(hold(case))?;
    let answer = publish_until(case, item(case, json!({"body": "news"})), asked).await?;
    same("status", answer.status, 200)?;
    same("body", &*answer.text(), "news")?;
    for name in answer.headers.keys() {
        ensure!(
            !name.as_str().starts_with("grip-"),
            "the client sees {name}"
        );
    }
    Ok(())
}

async fn answered_in_full(case: &Case) -> Result<()> {
    let asked = case.request("GET", &[], "").await?;
    case.script.next().await?.reply(hold(case))?;
    let response = json!({
        "code": 203,
        "reason": "Hearsay",
        "headers": {"Content-Type": "text/x", "X-Mine": "1"},
        "body": "news",
    });
    let answer = publish_until(case, item(case, response), asked).await?;
    same("status", answer.status, 203)?;
    same("type", answer.header("content-type"), Some("text/x"))?;
    same("x-mine", answer.header("x-mine"), Some("1"))?;
    same("length", answer.header("content-length"), Some("4"))?;
    same("body", &*answer.text(), "news")
}

async fn headers_as_pairs(case: &Case) -> Result<()> {
    let asked = case.request("GET", &[], "").await?;
    case.script.next().await?.reply(hold(case))?;
    let response = json!({"headers": [["X-A", "1"], ["X-A", "2"]], "body": ""});
    let answer = publish_until(case, item(case, response), asked).await?;
    let values: Vec<_> = answer.headers.get_all("x-a").iter().collect();
    same("x-a", values, ["1", "2"])
}

async fn binary(case: &Case) -> Result<()> {
    let asked = case.request("GET", &[], "").await?;
    case.script.next().await?.reply(hold(case))?;
    let response = json!({"body-bin": BASE64_STANDARD.encode([0, 255])});
    let answer = publish_until(case, item(case, response), asked).await?;
    same("body", &*answer.body, [0, 255])
}

/// In Pushpin something may have been published before all of its processes knew of the channel.
async fn on_a_new_channel(case: &Case) -> Result<()> {
    let asked = case.request("GET", &[], "").await?;
    case.script.next().await?.reply(hold(case))?;
    if case.differ(true, false) {
        let request = case.script.next().await?;
        same("path", request.head.uri.path(), &*case.path())?;
        request.reply(hold(case))?;
    } else {
        // Longer than that takes.
        tokio::time::sleep(Duration::from_secs(3)).await;
        case.no_request().await?;
    }
    let answer = publish_until(case, item(case, json!({"body": "news"})), asked).await?;
    same("body", &*answer.text(), "news")?;
    case.no_request().await
}

/// A change of the backend's own answer.
async fn body_patch(case: &Case) -> Result<()> {
    let patch = json!([{"op": "replace", "path": "/n", "value": 2}]);
    let item = item(case, json!({"body-patch": patch}));
    if case.differ(false, true) {
        let body = json!({"items": [item]}).to_string();
        return same("status", case.post_publish(&body).await?.status, 400);
    }
    case.known().await?;
    let asked = case.request("GET", &[], "").await?;
    let reply = hold(case).body(json!({"n": 1}).to_string());
    case.script.next().await?.reply(reply)?;
    let answer = publish_until(case, item, asked).await?;
    same("body", &*answer.text(), r#"{"n":2}"#)
}

async fn timeout(case: &Case) -> Result<()> {
    case.known().await?;
    let reply = Reply::new(404)
        .header("grip-hold", "response")
        .header("grip-channel", case.channel())
        .header("grip-timeout", "2")
        .header("grip-status", "203")
        .header("x-mine", "1")
        .body("nothing new");
    let asked = case.request("GET", &[], "").await?;
    let request = case.script.next().await?;
    let since = Instant::now();
    request.reply(reply)?;
    let answer = asked.await??;
    let waited = since.elapsed();
    ensure!((LEAST..DEFAULT).contains(&waited), "{waited:?}");
    same("status", answer.status, 203)?;
    same("x-mine", answer.header("x-mine"), Some("1"))?;
    same("body", &*answer.text(), "nothing new")
}

async fn instruct(case: &Case) -> Result<()> {
    case.known().await?;
    let instruct = json!({
        "hold": {"mode": "response", "channels": [{"name": case.channel()}], "timeout": 2},
        "response": {"code": 203, "body": "nothing new"},
    });
    let reply = Reply::new(200)
        .header("content-type", "application/grip-instruct")
        .body(instruct.to_string());
    let asked = case.request("GET", &[], "").await?;
    case.script.next().await?.reply(reply)?;
    let answer = asked.await??;
    same("status", answer.status, 203)?;
    same("body", &*answer.text(), "nothing new")
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
    case.alone().await?;
    case.known().await?;
    let asked = case.request("GET", &[], "").await?;
    case.script.next().await?.reply(hold(case))?;
    case.until(HELD).await?;
    case.publish(with_id(case, "1", None)).await?;
    same("body", &*asked.await??.text(), "<1>")?;
    let asked = case.request("GET", &[], "").await?;
    case.script.next().await?.reply(hold_after(case, "1"))?;
    case.until(HELD).await?;
    case.publish(with_id(case, "2", Some("1"))).await?;
    same("body", &*asked.await??.text(), "<2>")
}

async fn prev_id_differs(case: &Case) -> Result<()> {
    case.alone().await?;
    case.known().await?;
    let asked = case.request("GET", &[], "").await?;
    case.script.next().await?.reply(hold(case))?;
    case.until(HELD).await?;
    case.publish(with_id(case, "1", None)).await?;
    same("body", &*asked.await??.text(), "<1>")?;
    let asked = case.request("GET", &[], "").await?;
    case.script.next().await?.reply(hold_after(case, "0"))?;
    // It asks again at once, and says what the backend has said.
    let request = case.script.next().await?;
    let last = format!("{}; last-id=0", case.channel());
    same("last", request.header("grip-last"), Some(&*last))?;
    request.reply(Reply::new(200).body("up to 1"))?;
    same("body", &*asked.await??.text(), "up to 1")
}

async fn several_clients(case: &Case) -> Result<()> {
    case.alone().await?;
    case.known().await?;
    let mut asked = Vec::new();
    for _ in 0..5 {
        asked.push(case.request("GET", &[], "").await?);
        case.script.next().await?.reply(hold(case))?;
    }
    case.until("socket_host_subscriptions 5").await?;
    case.publish(item(case, json!({"body": "news"}))).await?;
    for asked in asked {
        same("body", &*asked.await??.text(), "news")?;
    }
    Ok(())
}

async fn first_one_counts(case: &Case) -> Result<()> {
    case.alone().await?;
    case.known().await?;
    let asked = case.request("GET", &[], "").await?;
    case.script.next().await?.reply(hold(case))?;
    case.until(HELD).await?;
    let items = ["1", "2"].map(|text| item(case, json!({"body": text})));
    case.publish_all(json!(items)).await?;
    same("body", &*asked.await??.text(), "1")
}

/// That there is something new: the request goes to the backend once more.
async fn hint(case: &Case) -> Result<()> {
    case.alone().await?;
    case.known().await?;
    let asked = case.request("GET", &[], "").await?;
    case.script.next().await?.reply(hold(case))?;
    case.until(HELD).await?;
    case.publish(item(case, json!({"action": "hint"}))).await?;
    let request = case.script.next().await?;
    same("path", request.head.uri.path(), &*case.path())?;
    request.reply(Reply::new(200).body("news"))?;
    same("body", &*asked.await??.text(), "news")
}
