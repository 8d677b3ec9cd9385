//! The dashboard for Grafana, whose queries a real Prometheus answers.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::{app_with_manifest, eventually, wasm, workspace};

use crate::{
    collector::Collector,
    prometheus::{JOB, Prometheus},
};

/// What a host has only with a bus.
const NEEDS_BUS: &str = "socket_host_bus";

/// Returns the title of each panel of the dashboard, with its queries.
fn panels() -> Result<Vec<(String, Vec<String>)>> {
    let text = std::fs::read_to_string(workspace().join("docs/grafana.json"))?;
    let dashboard: Value = serde_json::from_str(&text)?;
    let panels = dashboard["panels"].as_array().context("panels")?;
    let panels = panels.iter().filter(|panel| panel["type"] != "row");
    let panels = panels.map(|panel| {
        let targets = panel["targets"].as_array().context("targets")?;
        let queries = targets.iter().map(|target| {
            let query = target["expr"].as_str().context("expr")?;
            Ok(query.to_owned())
        });
        let title = panel["title"].as_str().context("title")?;
        Ok((title.to_owned(), queries.collect::<Result<_>>()?))
    });
    panels.collect()
}

#[tokio::test]
async fn every_query_of_the_dashboard_returns_data() -> Result<()> {
    let collector = Collector::start().await?;
    let folder = app_with_manifest(&format!(
        "spin_manifest_version = 2\napplication.name = \"dashboard\"\n\
         trigger.http = [\n\
         {{ route = \"/...\", component = \"probe\" }},\n\
         {{ route = \"/subscriber\", component = \"typed\" }},\n]\n\
         [component.probe]\nsource = {:?}\n\
         [component.typed]\nsource = {:?}\n\
         [[application.tool.socket-host.timer]]\nrequest = \"POST /echo\"\nevery = \"100ms\"\n",
        wasm("probe"),
        wasm("typed")
    ));
    let from = folder.path().to_str().context("a path")?;
    let host = collector.host(&[], &["--from", from, "--access-log"])?;
    let prometheus = Prometheus::start(host.control).await?;

    let mut socket = host.socket("/websocket-echo").await?;
    let mut subscriber = host.socket("/subscriber?channel=a").await?;
    let item = r#"{"items":[{"channel":"a","formats":{"ws-message":{"content":"x"}}}]}"#;
    // Rates need several scrapes.
    for (title, queries) in panels()? {
        for query in queries {
            if query.contains(NEEDS_BUS) {
                continue;
            }
            let query = query
                .replace("$job", JOB)
                .replace("$instance", ".*")
                .replace("$__rate_interval", "5s");
            eventually(&format!("data of {title:?}: {query}"), async || {
                host.get("/").await.ok()?;
                host.get("/trap").await.ok()?;
                socket.send("hello").await.ok()?;
                socket.next().await.ok()?;
                host.publish("", item).await.ok()?;
                // What was published, and what its component answers.
                subscriber.send("hello").await.ok()?;
                subscriber.next().await.ok()?;
                subscriber.next().await.ok()?;
                let result = prometheus.query(&query).await.ok()?;
                let is_number = |sample: &Value| {
                    let value = sample["value"][1].as_str();
                    value.is_some_and(|value| value.parse::<f64>().is_ok_and(f64::is_finite))
                };
                (!result.is_empty() && result.iter().all(is_number)).then_some(())
            })
            .await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn every_metric_is_on_the_dashboard() -> Result<()> {
    let collector = Collector::start().await?;
    let folder = tests::probe("");
    let from = folder.path().to_str().context("a path")?;
    let host = collector.host(&[], &["--from", from])?;
    let metrics = host.metrics().await?;
    let names = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "));
    let names: BTreeSet<_> = names.filter_map(|line| line.split(' ').next()).collect();
    ensure!(names.len() > 20, "{metrics}");
    let panels = panels()?;
    let queries: Vec<_> = panels.iter().flat_map(|(_, queries)| queries).collect();
    for name in names {
        let is_shown = queries.iter().any(|query| query.contains(name));
        ensure!(is_shown, "no panel shows {name}");
    }
    Ok(())
}
