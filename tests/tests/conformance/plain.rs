//! HTTP that nothing is held of.

use anyhow::{Context, Result};

use crate::{
    backend::Reply,
    case::{Case, cases, same},
    client,
};

cases! {
    get
    post
    query_and_encoded_path
    statuses
    headers_each_way
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
    let asked = case.request("GET", &[], "").await?;
    let request = case.script.next().await?;
    same("method", request.head.method.as_str(), "GET")?;
    same("path", request.head.uri.path(), &*case.path())?;
    same("host", request.header("host"), Some("localhost"))?;
    request.reply(
        Reply::new(200)
            .header("content-type", "text/x")
            .body("hello"),
    )?;
    let answer = asked.await??;
    same("status", answer.status, 200)?;
    same("type", answer.header("content-type"), Some("text/x"))?;
    same("body", &*answer.text(), "hello")
}

async fn post(case: &Case) -> Result<()> {
    let asked = case
        .request("POST", &[("content-type", "text/x")], "été")
        .await?;
    let request = case.script.next().await?;
    same("method", request.head.method.as_str(), "POST")?;
    same("type", request.header("content-type"), Some("text/x"))?;
    same("body", &*request.body, "été".as_bytes())?;
    request.reply(Reply::new(201).header("location", "/x"))?;
    let answer = asked.await??;
    same("status", answer.status, 201)?;
    same("location", answer.header("location"), Some("/x"))
}

async fn query_and_encoded_path(case: &Case) -> Result<()> {
    let path = format!("{}a%20b/%C3%A9?x=1&y=%2F&z", case.path());
    let request = client::request("GET", &path, &[], "")?;
    let asked = tokio::spawn(client::send(case.proxy().await?.public, request));
    let request = case.script.next().await?;
    let uri = request.head.uri.path_and_query().context("a path")?;
    same("path", uri.as_str(), &*path)?;
    request.reply(Reply::new(200))?;
    same("status", asked.await??.status, 200)
}

async fn statuses(case: &Case) -> Result<()> {
    for status in [204, 302, 304, 400, 401, 404, 500, 503] {
        let answer = case
            .get(Reply::new(status).header("x-n", &status.to_string()))
            .await?;
        same("status", answer.status, status)?;
        same("x-n", answer.header("x-n"), Some(&*status.to_string()))?;
    }
    Ok(())
}

async fn headers_each_way(case: &Case) -> Result<()> {
    let asked = case
        .request("GET", &[("x-a", "1"), ("x-a", "2"), ("accept", "x/y")], "")
        .await?;
    let request = case.script.next().await?;
    let values: Vec<_> = request.head.headers.get_all("x-a").iter().collect();
    same("x-a", values, ["1", "2"])?;
    same("accept", request.header("accept"), Some("x/y"))?;
    request.reply(Reply::new(200).header("x-b", "3").header("x-b", "4"))?;
    let answer = asked.await??;
    let values: Vec<_> = answer.headers.get_all("x-b").iter().collect();
    same("x-b", values, ["3", "4"])
}

async fn hop_by_hop(case: &Case) -> Result<()> {
    let headers = [
        ("te", "trailers"),
        ("keep-alive", "timeout=5"),
        ("x-kept", "1"),
    ];
    let asked = case.request("GET", &headers, "").await?;
    let request = case.script.next().await?;
    same("keep-alive", request.header("keep-alive"), None)?;
    same("x-kept", request.header("x-kept"), Some("1"))?;
    request.reply(Reply::new(200).header("keep-alive", "timeout=5"))?;
    same("keep-alive", asked.await??.header("keep-alive"), None)
}

async fn grip_headers_are_removed(case: &Case) -> Result<()> {
    let reply = Reply::new(200)
        .header("grip-keep-alive", "x")
        .header("grip-status", "201")
        .header("x-kept", "1");
    let answer = case.get(reply).await?;
    same("x-kept", answer.header("x-kept"), Some("1"))?;
    same("grip-keep-alive", answer.header("grip-keep-alive"), None)?;
    same("grip-status", answer.header("grip-status"), None)
}

async fn grip_feature(case: &Case) -> Result<()> {
    let asked = case.request("GET", &[], "").await?;
    let request = case.script.next().await?;
    let features = request.header("grip-feature").context("Grip-Feature")?;
    for feature in ["status", "link:next", "filter:skip-self"] {
        let has = features.split(',').any(|known| known.trim() == feature);
        same(feature, has, true)?;
    }
    request.reply(Reply::new(200))?;
    asked.await??;
    Ok(())
}

async fn large_bodies(case: &Case) -> Result<()> {
    let body = "0123456789abcdef".repeat(20_000);
    let asked = case.request("POST", &[], &body).await?;
    let request = case.script.next().await?;
    same("request", request.body.len(), body.len())?;
    request.reply(Reply::new(200).body(body.clone()))?;
    same("response", asked.await??.text() == body, true)
}

async fn head(case: &Case) -> Result<()> {
    let asked = case.request("HEAD", &[], "").await?;
    let request = case.script.next().await?;
    same("method", request.head.method.as_str(), "HEAD")?;
    request.reply(Reply::new(200).header("x-n", "1"))?;
    let answer = asked.await??;
    same("x-n", answer.header("x-n"), Some("1"))?;
    same("body", answer.body.len(), 0)
}

/// What only the proxy may say to the backend.
async fn forged_headers(case: &Case) -> Result<()> {
    let headers = [("connection-id", "x"), ("meta-user", "x")];
    let asked = case.request("GET", &headers, "").await?;
    let request = case.script.next().await?;
    for (name, _) in headers {
        same(name, request.header(name), case.differ(Some("x"), None))?;
    }
    request.reply(Reply::new(200))?;
    asked.await??;
    Ok(())
}

async fn forwarded_for(case: &Case) -> Result<()> {
    let asked = case.request("GET", &[], "").await?;
    let request = case.script.next().await?;
    let forwarded = request.header("x-forwarded-for");
    same(
        "x-forwarded-for",
        forwarded,
        case.differ(None, Some("127.0.0.1")),
    )?;
    let proto = request.header("x-forwarded-proto");
    same("x-forwarded-proto", proto, case.differ(None, Some("http")))?;
    request.reply(Reply::new(200))?;
    asked.await??;
    Ok(())
}
