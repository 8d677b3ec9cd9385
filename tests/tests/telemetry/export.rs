//! Metrics over OTLP, and collectors that fail.

use std::{net::TcpListener, process::Command, sync::Arc, time::Instant};

use anyhow::{Context as _, Result, ensure};
use opentelemetry_proto::tonic::metrics::v1::{metric::Data, number_data_point::Value};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustix::process::Signal;
use tests::{Server, eventually, host_binary, probe};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, pem::PemObject as _},
    },
};

use crate::collector::Collector;

#[tokio::test]
async fn the_metrics_of_the_control_port_are_exported() -> Result<()> {
    let collector = Collector::start().await?;
    let folder = probe("");
    let from = folder.path().to_str().context("a path")?;
    let host = collector.host(&[], &["--from", from])?;
    for _ in 0..3 {
        ensure!(host.get("/").await?.0 == 200);
    }
    collector
        .wait_for_metric("socket_host_backend_requests", |metric| {
            let Some(Data::Sum(sum)) = &metric.data else {
                return None;
            };
            let point = sum.data_points.first()?;
            let starts = point.start_time_unix_nano < point.time_unix_nano;
            (starts && point.value == Some(Value::AsInt(3))).then_some(())
        })
        .await?;
    collector
        .wait_for_metric("socket_host_backend_seconds", |metric| match &metric.data {
            Some(Data::Histogram(histogram)) => {
                let point = histogram.data_points.first()?;
                (point.count == 3).then_some(())
            }
            _ => None,
        })
        .await?;
    // Also what Prometheus scrapes counts the exports.
    let line = "socket_host_otlp_exports_total{signal=\"traces\",outcome=\"success\"} ";
    eventually("an export", async || {
        let metrics = host.metrics().await.ok()?;
        metrics
            .lines()
            .any(|metric| metric.starts_with(line))
            .then_some(())
    })
    .await
}

#[tokio::test]
async fn what_is_not_sent_yet_is_sent_at_exit() -> Result<()> {
    let collector = Collector::start().await?;
    let folder = probe("");
    let from = folder.path().to_str().context("a path")?;
    // Nothing is due before the host stops.
    let variables = [
        ("OTEL_BSP_SCHEDULE_DELAY", "3600000"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "3600000"),
    ];
    let host = collector.host(&variables, &["--from", from])?;
    ensure!(host.get("/").await?.0 == 200);
    ensure!(collector.requests() == 0);
    host.signal(Signal::TERM)?;
    ensure!(host.wait().await? == Some(0));
    ensure!(collector.spans().len() == 2, "{:#?}", collector.spans());
    collector
        .wait_for_metric("socket_host_backend_requests", |_| Some(()))
        .await
}

#[tokio::test]
async fn a_collector_that_fails_is_logged_once_and_counted() -> Result<()> {
    let collector = Collector::start().await?;
    collector.fail_with(400);
    let folder = probe("");
    let from = folder.path().to_str().context("a path")?;
    let variables = [("OTEL_METRICS_EXPORTER", "none")];
    let host = collector.host(&variables, &["--from", from])?;
    for _ in 0..3 {
        let failed = collector.requests();
        ensure!(host.get("/").await?.0 == 200);
        eventually("an export", async || {
            (collector.requests() > failed).then_some(())
        })
        .await?;
    }
    let log = host
        .wait_for_log(&["OTLP export failed", "400", "signal=\"traces\""])
        .await?;
    ensure!(
        host.log_text().matches("OTLP export failed").count() == 1,
        "{log}"
    );
    // Each request has two spans.
    host.wait_for_metric("socket_host_dropped_total{reason=\"span\"} 6")
        .await?;
    collector.fail_with(0);
    ensure!(host.get("/").await?.0 == 200);
    host.wait_for_log(&["OTLP export works again"]).await?;
    collector
        .wait_for_spans("the spans", |spans| (spans.len() == 2).then_some(()))
        .await
}

#[tokio::test]
async fn spans_are_sent_again_to_a_collector_that_is_overloaded() -> Result<()> {
    let collector = Collector::start().await?;
    collector.fail_with(503);
    let folder = probe("");
    let from = folder.path().to_str().context("a path")?;
    let variables = [("OTEL_METRICS_EXPORTER", "none")];
    let host = collector.host(&variables, &["--from", from])?;
    ensure!(host.get("/").await?.0 == 200);
    host.wait_for_log(&["OTLP export failed", "503"]).await?;
    collector.fail_with(0);
    collector
        .wait_for_spans("the spans", |spans| (spans.len() == 2).then_some(()))
        .await
}

#[tokio::test]
async fn a_collector_that_does_not_answer_delays_nothing() -> Result<()> {
    // Accepts connections, and never reads from them.
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let folder = probe("");
    let mut command = Command::new(host_binary());
    command
        .args(["up", "--from"])
        .arg(folder.path())
        .env(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            format!("http://{}", silent.local_addr()?),
        )
        .env("OTEL_BSP_SCHEDULE_DELAY", "20")
        .env("OTEL_BSP_MAX_QUEUE_SIZE", "10")
        .env("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10");
    let host = Server::run(command, &[])?;
    for _ in 0..50 {
        ensure!(host.get("/").await?.0 == 200);
    }
    let metrics = host.metrics().await?;
    let dropped = metrics
        .lines()
        .find_map(|line| line.strip_prefix("socket_host_dropped_total{reason=\"span\"} "))
        .context("the metric")?;
    // 100 spans, of which at most 10 are sent, and 10 wait.
    let dropped: usize = dropped.parse()?;
    ensure!((80..100).contains(&dropped), "{dropped}");
    let stopping = Instant::now();
    let log = host.log();
    host.signal(Signal::TERM)?;
    ensure!(host.wait().await? == Some(0));
    ensure!(
        stopping.elapsed().as_secs() < 20,
        "{:?}",
        stopping.elapsed()
    );
    let text = log.text();
    ensure!(text.contains("OTLP export not complete at exit"), "{text}");
    Ok(())
}

#[tokio::test]
async fn collectors_may_use_tls() -> Result<()> {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()])?;
    let key = PrivateKeyDer::from_pem_slice(signing_key.serialize_pem().as_bytes())?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let tls = TlsAcceptor::from(Arc::new(config));
    let collector = Collector::start_with(Some(tls)).await?;
    let folder = probe("");
    let from = folder.path().to_str().context("a path")?;
    let file = folder.path().join("collector.pem");
    std::fs::write(&file, cert.pem())?;
    let endpoint = format!("https://localhost:{}", collector.address.port());
    for protocol in ["http/protobuf", "grpc"] {
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
            (
                "OTEL_EXPORTER_OTLP_CERTIFICATE",
                file.to_str().context("a path")?,
            ),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
        ];
        let before = collector.spans().len();
        let host = collector.host(&variables, &["--from", from])?;
        ensure!(host.get("/").await?.0 == 200);
        collector
            .wait_for_spans(protocol, |spans| (spans.len() == before + 2).then_some(()))
            .await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_unsupported_protocol_is_an_error_at_the_start() -> Result<()> {
    let collector = Collector::start().await?;
    let folder = probe("");
    let from = folder.path().to_str().context("a path")?;
    let variables = [("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")];
    let Err(error) = collector.host(&variables, &["--from", from]) else {
        anyhow::bail!("the host starts");
    };
    let error = format!("{error:#}");
    ensure!(error.contains("OTEL_EXPORTER_OTLP_PROTOCOL"), "{error}");
    ensure!(error.contains("set it to http/protobuf or grpc"), "{error}");
    Ok(())
}
