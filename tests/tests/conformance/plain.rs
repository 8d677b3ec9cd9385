//! Plain HTTP, without holds.

use anyhow::{Context, Result};

use crate::{
    backend::Reply,
    case::{Case, cases, ensure_eq},
    client,
};

cases! {
    get
    post
    query_and_encoded_path
    statuses
    headers_both_ways
    hop_by_hop
    grip_headers_are_removed
    grip_feature
    large_bodies
    head
    ;
    differs:
    forged_headers
    forwarded_for
}

async fn get(case: &Case) -> Result<()> {
    let pending = case.request("GET", &[], "").await?;
    let request = case.script.next().await?;
    ensure_eq("method", request.head.method.as_str(), "GET")?;
    ensure_eq("path", request.head.uri.path(), &*case.path())?;
    ensure_eq("host", request.header("host"), Some("localhost"))?;
    request.reply(
        Reply::new(200)
            .header("content-type", "text/x")
            .body("hello"),
    )?;
    let response = pending.await??;
    ensure_eq("status", response.status, 200)?;
    ensure_eq("type", response.header("content-type"), Some("text/x"))?;
    ensure_eq("body", &*response.text(), "hello")
}

async fn post(case: &Case) -> Result<()> {
    let pending = case
        .request("POST", &[("content-type", "text/x")], "été")
        .await?;
    let request = case.script.next().await?;
    ensure_eq("method", request.head.method.as_str(), "POST")?;
    ensure_eq("type", request.header("content-type"), Some("text/x"))?;
    ensure_eq("body", &*request.body, "été".as_bytes())?;
    request.reply(Reply::new(201).header("location", "/x"))?;
    let response = pending.await??;
    ensure_eq("status", response.status, 201)?;
    ensure_eq("location", response.header("location"), Some("/x"))
}

async fn query_and_encoded_path(case: &Case) -> Result<()> {
    let path = format!("{}a%20b/%C3%A9?x=1&y=%2F&z", case.path());
    let request = client::request("GET", &path, &[], "")?;
    let pending = tokio::spawn(client::send(case.proxy().await?.public, request));
    let request = case.script.next().await?;
    let uri = request.head.uri.path_and_query().context("a path")?;
    ensure_eq("path", uri.as_str(), &*path)?;
    request.reply(Reply::new(200))?;
    ensure_eq("status", pending.await??.status, 200)
}

async fn statuses(case: &Case) -> Result<()> {
    for status in [204, 302, 304, 400, 401, 404, 500, 503] {
        let response = case
            .get(Reply::new(status).header("x-n", &status.to_string()))
            .await?;
        ensure_eq("status", response.status, status)?;
        ensure_eq("x-n", response.header("x-n"), Some(&*status.to_string()))?;
    }
    Ok(())
}

async fn headers_both_ways(case: &Case) -> Result<()> {
    let pending = case
        .request("GET", &[("x-a", "1"), ("x-a", "2"), ("accept", "x/y")], "")
        .await?;
    let request = case.script.next().await?;
    let values: Vec<_> = request.head.headers.get_all("x-a").iter().collect();
    ensure_eq("x-a", values, ["1", "2"])?;
    ensure_eq("accept", request.header("accept"), Some("x/y"))?;
    request.reply(Reply::new(200).header("x-b", "3").header("x-b", "4"))?;
    let response = pending.await??;
    let values: Vec<_> = response.headers.get_all("x-b").iter().collect();
    ensure_eq("x-b", values, ["3", "4"])
}

async fn hop_by_hop(case: &Case) -> Result<()> {
    let headers = [
        ("te", "trailers"),
        ("keep-alive", "timeout=5"),
        ("x-kept", "1"),
    ];
    let pending = case.request("GET", &headers, "").await?;
    let request = case.script.next().await?;
    ensure_eq("keep-alive", request.header("keep-alive"), None)?;
    ensure_eq("x-kept", request.header("x-kept"), Some("1"))?;
    request.reply(Reply::new(200).header("keep-alive", "timeout=5"))?;
    ensure_eq("keep-alive", pending.await??.header("keep-alive"), None)
}

async fn grip_headers_are_removed(case: &Case) -> Result<()> {
    let reply = Reply::new(200)
        .header("grip-keep-alive", "x")
        .header("grip-status", "201")
        .header("x-kept", "1");
    let response = case.get(reply).await?;
    ensure_eq("x-kept", response.header("x-kept"), Some("1"))?;
    ensure_eq("grip-keep-alive", response.header("grip-keep-alive"), None)?;
    ensure_eq("grip-status", response.header("grip-status"), None)
}

async fn grip_feature(case: &Case) -> Result<()> {
    let pending = case.request("GET", &[], "").await?;
    let request = case.script.next().await?;
    let features = request.header("grip-feature").context("Grip-Feature")?;
    for feature in ["status", "link:next", "filter:skip-self"] {
        let has = features.split(',').any(|known| known.trim() == feature);
        ensure_eq(feature, has, true)?;
    }
    request.reply(Reply::new(200))?;
    pending.await??;
    Ok(())
}

async fn large_bodies(case: &Case) -> Result<()> {
    let body = "0123456789abcdef".repeat(20_000);
    let pending = case.request("POST", &[], &body).await?;
    let request = case.script.next().await?;
    ensure_eq("request", request.body.len(), body.len())?;
    request.reply(Reply::new(200).body(body.clone()))?;
    ensure_eq("response", pending.await??.text() == body, true)
}

async fn head(case: &Case) -> Result<()> {
    let pending = case.request("HEAD", &[], "").await?;
    let request = case.script.next().await?;
    ensure_eq("method", request.head.method.as_str(), "HEAD")?;
    request.reply(Reply::new(200).header("x-n", "1"))?;
    let response = pending.await??;
    ensure_eq("x-n", response.header("x-n"), Some("1"))?;
    ensure_eq("body", response.body.len(), 0)
}

/// Headers that only the proxy may send to the backend.
async fn forged_headers(case: &Case) -> Result<()> {
    let headers = [("connection-id", "x"), ("meta-user", "x")];
    let pending = case.request("GET", &headers, "").await?;
    let request = case.script.next().await?;
    for (name, _) in headers {
        ensure_eq(name, request.header(name), case.differ(Some("x"), None))?;
    }
    request.reply(Reply::new(200))?;
    pending.await??;
    Ok(())
}

async fn forwarded_for(case: &Case) -> Result<()> {
    let pending = case.request("GET", &[], "").await?;
    let request = case.script.next().await?;
    let forwarded = request.header("x-forwarded-for");
    ensure_eq(
        "x-forwarded-for",
        forwarded,
        case.differ(None, Some("127.0.0.1")),
    )?;
    let proto = request.header("x-forwarded-proto");
    ensure_eq("x-forwarded-proto", proto, case.differ(None, Some("http")))?;
    request.reply(Reply::new(200))?;
    pending.await??;
    Ok(())
}
