//! Traces: the spans of requests, WebSockets, timers and publish requests.

use anyhow::{Context as _, Result, ensure};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};
use tests::{Client, Response, Server, app_with_manifest, probe, request, wasm};

use crate::{
    collector::{Collector, attribute},
    upstream::{Upstream, ids},
};

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

async fn get(host: &Server, path: &str, headers: &str) -> Result<Response> {
    let address = host.address;
    let bytes = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n");
    request(address, &bytes).await
}

fn find<'a>(spans: &'a [Span], kind: SpanKind, trace: &[u8]) -> Option<&'a Span> {
    let mut spans = spans.iter();
    spans.find(|span| span.kind() == kind && span.trace_id == trace)
}

/// Returns the spans of a request and of its call, which are in the client's trace.
async fn request_and_call(collector: &Collector) -> Result<(Span, Span)> {
    let (trace, client) = ids(TRACEPARENT)?;
    let (server, call) = collector
        .wait_for_spans("the spans of a request", |spans| {
            let server = find(spans, SpanKind::Server, &trace)?.clone();
            Some((server, find(spans, SpanKind::Client, &trace)?.clone()))
        })
        .await?;
    ensure!(server.parent_span_id == client, "{server:#?}");
    ensure!(call.parent_span_id == server.span_id, "{call:#?}");
    ensure!(server.trace_state == "vendor=1", "{server:#?}");
    ensure!(server.start_time_unix_nano <= call.start_time_unix_nano);
    ensure!(call.end_time_unix_nano <= server.end_time_unix_nano);
    for (span, name, value) in [
        (&server, "http.request.method", "GET"),
        (&server, "http.response.status_code", "200"),
        (&server, "client.address", "127.0.0.1"),
        (&call, "http.response.status_code", "200"),
    ] {
        let found = attribute(span, name);
        ensure!(found.as_deref() == Some(value), "{name}: {found:?}");
    }
    Ok((server, call))
}

#[tokio::test]
async fn a_trace_goes_from_the_client_to_the_component_and_its_upstream() -> Result<()> {
    let (collector, upstream) = (Collector::start().await?, Upstream::start().await?);
    let folder = probe(&format!(
        "allowed_outbound_hosts = [\"http://{}\"]",
        upstream.address
    ));
    let from = folder.path().to_str().context("a path")?;
    let host = collector.host(&[("OTEL_SERVICE_NAME", "kitchen")], &["--from", from])?;

    let path = format!("/fetch?url=http://{}/x", upstream.address);
    let headers = format!("traceparent: {TRACEPARENT}\r\ntracestate: vendor=1\r\n");
    let response = get(&host, &path, &headers).await?;
    ensure!(response.body == "ok", "{response:?}");
    let (_, call) = request_and_call(&collector).await?;
    ensure!(call.name == "GET probe", "{}", call.name);
    let (trace, parent) = upstream.traceparent().await?;
    ensure!(trace == call.trace_id && parent == call.span_id);
    ensure!(upstream.header("tracestate").as_deref() == Some("vendor=1"));
    let resource = collector.resource();
    ensure!(resource["service.name"] == "kitchen", "{resource:?}");
    ensure!(resource.contains_key("service.instance.id"), "{resource:?}");

    // The component gets the same span, and may pass on what it wants.
    let seen = host.get_json("/headers").await?;
    let (trace, parent) = ids(seen["traceparent"].as_str().context("traceparent")?)?;
    collector
        .wait_for_spans("the span of the call", |spans| {
            let call = find(spans, SpanKind::Client, &trace)?;
            (call.span_id == parent).then_some(())
        })
        .await?;
    let own = "00-00000000000000000000000000000001-0000000000000002-01";
    let path = format!("/forward?url=http://{}/x", upstream.address);
    let response = get(&host, &path, &format!("traceparent: {own}\r\n")).await?;
    ensure!(response.body == "ok", "{response:?}");
    let (trace, parent) = upstream.traceparent().await?;
    ensure!(trace == ids(own)?.0 && parent != ids(own)?.1);
    Ok(())
}

#[tokio::test]
async fn a_trace_goes_from_the_client_to_the_upstream_over_grpc() -> Result<()> {
    let (collector, upstream) = (Collector::start().await?, Upstream::start().await?);
    let url = format!("http://{}", upstream.address);
    let variables = [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-token=a%20b"),
    ];
    let host = collector.host(&variables, &["--upstream", &url])?;
    let headers = format!("traceparent: {TRACEPARENT}\r\ntracestate: vendor=1\r\n");
    let response = get(&host, "/x", &headers).await?;
    ensure!(response.body == "ok", "{response:?}");
    let (_, call) = request_and_call(&collector).await?;
    let (trace, parent) = upstream.traceparent().await?;
    ensure!(trace == call.trace_id && parent == call.span_id);
    ensure!(upstream.header("tracestate").as_deref() == Some("vendor=1"));
    ensure!(collector.headers()["x-token"] == "a b");
    Ok(())
}

#[tokio::test]
async fn contexts_are_passed_on_without_a_collector() -> Result<()> {
    let upstream = Upstream::start().await?;
    let host = Server::in_front_of(&format!("http://{}", upstream.address), &[])?;
    let headers = format!("traceparent: {TRACEPARENT}\r\ntracestate: vendor=1\r\n");
    get(&host, "/x", &headers).await?;
    ensure!(upstream.header("traceparent").as_deref() == Some(TRACEPARENT));
    ensure!(upstream.header("tracestate").as_deref() == Some("vendor=1"));
    let invalid = headers.replace("00-0af", "00-0AF");
    get(&host, "/x", &invalid).await?;
    ensure!(upstream.header("traceparent").is_none());
    ensure!(upstream.header("tracestate").is_none());
    Ok(())
}

#[tokio::test]
async fn unsampled_traces_are_passed_on_and_not_exported() -> Result<()> {
    let (collector, upstream) = (Collector::start().await?, Upstream::start().await?);
    let url = format!("http://{}", upstream.address);
    let host = collector.host(&[], &["--upstream", &url])?;
    let unsampled = TRACEPARENT.replace("-01", "-00");
    get(&host, "/x", &format!("traceparent: {unsampled}\r\n")).await?;
    let parent = upstream.header("traceparent").context("traceparent")?;
    ensure!(parent.ends_with("-00") && parent != unsampled, "{parent}");
    // A trace of the host is exported later, so the first one would have been.
    get(&host, "/x", "").await?;
    let exported = |spans: &[Span]| (!spans.is_empty()).then(|| spans.to_vec());
    let spans = collector.wait_for_spans("a span", exported).await?;
    let trace = ids(TRACEPARENT)?.0;
    ensure!(
        spans.iter().all(|span| span.trace_id != trace),
        "{spans:#?}"
    );
    Ok(())
}

#[tokio::test]
async fn events_of_a_websocket_have_traces_of_their_own() -> Result<()> {
    let collector = Collector::start().await?;
    let folder = probe("");
    let from = folder.path().to_str().context("a path")?;
    let host = collector.host(&[], &["--from", from])?;
    let headers = [("traceparent", TRACEPARENT)];
    let socket = Client::open(host.address, "/websocket-echo", &headers).await;
    let mut socket = socket.map_err(|failed| failed.error)?;
    socket.send("hello").await?;
    socket.next().await?.context("an echo")?;
    let (trace, _) = ids(TRACEPARENT)?;
    collector
        .wait_for_spans("the spans of an event", |spans| {
            let handshake = find(spans, SpanKind::Server, &trace)?;
            let open = find(spans, SpanKind::Client, &trace)?;
            let events = spans.iter().find(|span| {
                let link = span.links.first();
                link.is_some_and(|link| link.span_id == handshake.span_id)
            })?;
            let call = find(spans, SpanKind::Client, &events.trace_id)?;
            (open.parent_span_id == handshake.span_id
                && attribute(handshake, "http.response.status_code")? == "101"
                && events.trace_id != trace
                && events.parent_span_id.is_empty()
                && call.parent_span_id == events.span_id)
                .then_some(())
        })
        .await
}

#[tokio::test]
async fn timers_and_publish_requests_have_spans() -> Result<()> {
    let collector = Collector::start().await?;
    let folder = app_with_manifest(&format!(
        "spin_manifest_version = 2\napplication.name = \"timer\"\n\
         trigger.http = [{{ route = \"/...\", component = \"probe\" }}]\n\
         [component.probe]\nsource = {:?}\n\
         [[application.tool.socket-host.timer]]\nrequest = \"POST /echo\"\nevery = \"1h\"\n",
        wasm("probe")
    ));
    let from = folder.path().to_str().context("a path")?;
    let host = collector.host(&[], &["--from", from])?;
    collector
        .wait_for_spans("the spans of a timer", |spans| {
            let timer = spans.iter().find(|span| span.name == "timer /echo")?;
            let call = find(spans, SpanKind::Client, &timer.trace_id)?;
            (call.parent_span_id == timer.span_id).then_some(())
        })
        .await?;
    let headers = format!("traceparent: {TRACEPARENT}\r\n");
    let response = host.publish(
        &headers,
        r#"{"items":[{"channel":"a","formats":{"ws-message":{"content":"x"}}}]}"#,
    );
    ensure!(response.await?.status == 200);
    let (trace, publisher) = ids(TRACEPARENT)?;
    collector
        .wait_for_spans("the span of a publish request", |spans| {
            let publish = find(spans, SpanKind::Server, &trace)?;
            (publish.parent_span_id == publisher && attribute(publish, "items")? == "1")
                .then_some(())
        })
        .await
}
