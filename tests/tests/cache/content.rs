//! What is stored, and which requests it answers.

use anyhow::{Context as _, Result, ensure};
use http::Request;
use spin_runtime::backend::empty;
use tests::{
    Server,
    backend::{send_h2, text},
    burger_without_timer,
};

use super::{HIT, IMMUTABLE, PASSED, STORED, asset, ensure_status, get, header, send, start};

#[tokio::test]
async fn a_component_is_called_once() -> Result<()> {
    let host = start("")?;
    let path = asset(&[IMMUTABLE, "content-type: text/css"]);
    let first = get(&host, &path).await?;
    ensure_status(&first, STORED)?;
    ensure!(header(&first, "age").is_none(), "{first:?}");
    let second = get(&host, &path).await?;
    ensure_status(&second, HIT)?;
    ensure!(
        second.body == first.body && second.body.len() == 16,
        "{second:?}"
    );
    ensure!(header(&second, "content-type") == Some("text/css"));
    ensure!(header(&second, "age").is_some_and(|age| age.parse::<u32>().is_ok()));
    ensure!(header(&second, "date").is_some());
    // A second connection, over HTTP/2.
    let uri = format!("http://a{path}");
    let response = send_h2(host.address, Request::get(uri).body(empty())?).await?;
    let age = response.headers().get("age").context("age")?;
    ensure!(age.to_str()?.parse::<u32>().is_ok(), "{age:?}");
    ensure!(text(response.into_body()).await? == first.body);
    for line in [
        "socket_host_cache_requests_total{result=\"hit\"} 2",
        "socket_host_cache_requests_total{result=\"miss\"} 1",
        "socket_host_cache_entries 1",
        "socket_host_backend_requests_total{component=\"probe\",status=\"200\"} 1",
    ] {
        host.wait_for_metric(line).await?;
    }
    // Another query and another host are other resources.
    let other = get(&host, &format!("{path}&x=1")).await?;
    ensure!(other.body != first.body);
    let bytes = format!("GET {path} HTTP/1.1\r\nHost: b\r\n\r\n");
    let other = tests::request(host.address, &bytes).await?;
    ensure_status(&other, STORED)?;
    ensure!(other.body != first.body);
    Ok(())
}

#[tokio::test]
async fn nothing_is_stored_without_the_table() -> Result<()> {
    let host = Server::start(tests::probe("").path(), &[])?;
    let path = asset(&[IMMUTABLE]);
    let first = get(&host, &path).await?;
    let second = get(&host, &path).await?;
    ensure!(first.body != second.body);
    ensure!(header(&second, "cache-status").is_none(), "{second:?}");
    Ok(())
}

#[tokio::test]
async fn other_responses_are_not_stored() -> Result<()> {
    let host = start("")?;
    for lines in [
        &["cache-control: max-age=1000, immutable"][..],
        &["cache-control: public, max-age=1000"],
        &["cache-control: public, max-age=0, immutable"],
        &[IMMUTABLE, "cache-control: private"],
        &[IMMUTABLE, "cache-control: no-store"],
        &[IMMUTABLE, "set-cookie: a=1"],
        &[IMMUTABLE, "vary: *"],
        // GRIP: without a hold, the response is for this client all the same.
        &[IMMUTABLE, "grip-channel: news"],
    ] {
        let path = asset(lines);
        let first = get(&host, &path).await?;
        let second = get(&host, &path).await?;
        ensure_status(&first, PASSED)?;
        ensure_status(&second, PASSED)?;
        ensure!(first.body != second.body, "{lines:?}");
    }
    let health = host.report("GET", "/cache/").await?;
    ensure!(health["entries"] == 0, "{health}");
    Ok(())
}

#[tokio::test]
async fn held_responses_are_not_stored() -> Result<()> {
    let host = start("")?;
    let path = asset(&[
        IMMUTABLE,
        "grip-hold: response",
        "grip-channel: news",
        "grip-timeout: 120",
    ]);
    let held = async || get(&host, &path).await;
    let publish = async || {
        // Both hold at the same time: none waits for the other one.
        host.wait_for_metric("socket_host_holds{mode=\"response\"} 2")
            .await?;
        let item = r#"{"items":[{"channel":"news","formats":{"http-response":{"body":"new"}}}]}"#;
        host.publish("", item).await
    };
    let (first, second, published) = tokio::join!(held(), held(), publish());
    ensure!(published?.status == 200);
    ensure!(first?.body == "new" && second?.body == "new");
    let report = host.report("GET", "/cache/").await?;
    ensure!(report["entries"] == 0, "{report}");
    Ok(())
}

#[tokio::test]
async fn encodings_are_stored_side_by_side() -> Result<()> {
    let host = start("")?;
    let path = asset(&[IMMUTABLE, "vary: Accept-Encoding"]);
    let accepting = async |encodings: &str| {
        let headers = format!("Accept-Encoding: {encodings}\r\n");
        send(&host, "GET", &path, &headers).await
    };
    let brotli = accepting("gzip, br").await?;
    ensure_status(&brotli, STORED)?;
    let gzip = accepting("gzip").await?;
    ensure_status(&gzip, "socket-host; fwd=vary-miss; stored")?;
    let none = get(&host, &path).await?;
    ensure_status(&none, "socket-host; fwd=vary-miss; stored")?;
    ensure!(brotli.body != gzip.body && gzip.body != none.body);
    for (encodings, expected) in [
        ("br;q=1.0,GZIP", &brotli),
        ("x-gzip", &gzip),
        ("gzip ; q=0.9", &gzip),
    ] {
        let response = accepting(encodings).await?;
        ensure_status(&response, HIT)?;
        ensure!(response.body == expected.body, "{encodings}");
    }
    Ok(())
}

#[tokio::test]
async fn conditions_and_ranges_are_evaluated() -> Result<()> {
    let host = start("")?;
    let path = asset(&[
        IMMUTABLE,
        "etag: \"v1\"",
        "last-modified: Sun, 06 Nov 1994 08:49:37 GMT",
    ]);
    let body = get(&host, &path).await?.body;
    let head = send(&host, "HEAD", &path, "").await?;
    ensure_status(&head, HIT)?;
    ensure!(head.status == 200 && header(&head, "content-length") == Some("16"));

    for condition in [
        "If-None-Match: \"v0\", W/\"v1\"\r\n",
        "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
    ] {
        for method in ["GET", "HEAD"] {
            let response = send(&host, method, &path, condition).await?;
            ensure!(response.status == 304, "{method} {condition}: {response:?}");
            ensure_status(&response, HIT)?;
            ensure!(header(&response, "etag") == Some("\"v1\""));
            ensure!(
                header(&response, "content-length").is_none(),
                "{response:?}"
            );
        }
    }
    let changed = send(&host, "GET", &path, "If-None-Match: \"v2\"\r\n").await?;
    ensure!(changed.status == 200 && changed.body == body);

    let part = send(&host, "GET", &path, "Range: bytes=2-4\r\n").await?;
    ensure!(part.status == 206 && part.body == body[2..=4], "{part:?}");
    ensure!(header(&part, "content-range") == Some("bytes 2-4/16"));
    let suffix = "Range: bytes=-3\r\nIf-Range: \"v1\"\r\n";
    let suffix = send(&host, "GET", &path, suffix).await?;
    ensure!(
        suffix.status == 206 && suffix.body == body[13..],
        "{suffix:?}"
    );
    let changed = "Range: bytes=-3\r\nIf-Range: \"v2\"\r\n";
    let changed = send(&host, "GET", &path, changed).await?;
    ensure!(changed.status == 200 && changed.body == body, "{changed:?}");
    let beyond = send(&host, "GET", &path, "Range: bytes=16-\r\n").await?;
    ensure!(beyond.status == 416, "{beyond:?}");
    ensure!(header(&beyond, "content-range") == Some("bytes */16"));
    Ok(())
}

#[tokio::test]
async fn a_range_of_what_is_not_stored_is_passed_on() -> Result<()> {
    let host = start("")?;
    let path = asset(&[IMMUTABLE]);
    let whole = send(&host, "GET", &path, "Range: bytes=2-4\r\n").await?;
    ensure_status(&whole, PASSED)?;
    // The component ignores ranges, but the response to such a request may lack content.
    ensure!(whole.status == 200, "{whole:?}");
    ensure_status(&get(&host, &path).await?, STORED)?;
    Ok(())
}

#[tokio::test]
async fn a_stale_response_is_fetched_again() -> Result<()> {
    let host = start("")?;
    let path = asset(&["cache-control: public, max-age=2, immutable"]);
    let first = get(&host, &path).await?;
    ensure_status(&get(&host, &path).await?, HIT)?;
    let renewed = tests::eventually("a new response", async || {
        let response = get(&host, &path).await.ok()?;
        (response.body != first.body).then_some(response)
    })
    .await?;
    ensure_status(&renewed, "socket-host; fwd=stale; stored")
}

#[tokio::test]
async fn a_change_removes_what_is_stored() -> Result<()> {
    let host = start("")?;
    let path = asset(&[IMMUTABLE]);
    let first = get(&host, &path).await?;
    ensure_status(&get(&host, &path).await?, HIT)?;
    let changed = send(&host, "POST", &path, "Content-Length: 0\r\n").await?;
    ensure!(changed.status == 200);
    ensure!(header(&changed, "cache-status").is_none(), "{changed:?}");
    let second = get(&host, &path).await?;
    ensure_status(&second, STORED)?;
    ensure!(first.body != second.body);
    Ok(())
}

#[tokio::test]
async fn the_assets_of_socket_burger_are_stored() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &[])?;
    let page = get(&host, "/").await?;
    ensure_status(&page, PASSED)?;
    let script = page.body.split("src=\"").nth(1).context("a script")?;
    let script = script.split('"').next().context("a script")?;
    let brotli = "Accept-Encoding: gzip, deflate, br, zstd\r\n";
    for headers in [brotli, ""] {
        let first = send(&host, "GET", script, headers).await?;
        let second = send(&host, "GET", script, headers).await?;
        ensure_status(&second, HIT)?;
        ensure!(first.body == second.body && !first.body.is_empty());
        for name in ["content-encoding", "content-type", "cache-control", "vary"] {
            ensure!(header(&first, name) == header(&second, name), "{name}");
        }
    }
    // Under its plain name, it may change.
    for _ in 0..2 {
        ensure_status(&get(&host, "/static/main.js").await?, PASSED)?;
    }
    Ok(())
}
