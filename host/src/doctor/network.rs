//! Whether the servers that a host needs can be reached.

use std::{io, time::Duration};

use http::uri::Authority;
use redis::{Client, RedisResult};
use spin_runtime::{RuntimeConfig, runtime_config::KeyValueStore};
use tokio::{net::TcpStream, time::timeout};

use super::Finding;
use crate::{
    HostOptions, bus,
    config::{Limits, UpstreamUrl},
};

/// How long a server has to answer.
const TIMEOUT: Duration = Limits::DEFAULT.upstream_connect_timeout;

/// Examines the upstream, the bus, and key-value stores in Redis.
pub(super) async fn examine(options: &HostOptions, runtime_config: &RuntimeConfig) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(url) = &options.upstream {
        findings.push(upstream(url).await);
    }
    if let Some(url) = &options.bus {
        findings.push(match bus::check(url).await {
            Ok(address) => Finding::good("bus", format!("Redis at {address} works")),
            Err(error) => Finding::failure(
                "bus",
                format!("{error:#}"),
                "start Redis 7 or later, or correct --bus",
            ),
        });
    }
    for (label, store) in &runtime_config.key_value_stores {
        if let KeyValueStore::Redis { url } = store {
            findings.push(key_value_store(label, url).await);
        }
    }
    findings
}

async fn upstream(url: &UpstreamUrl) -> Finding {
    let subject = "upstream";
    let advice = "start the server, or correct --upstream";
    match timeout(TIMEOUT, connect(url)).await {
        Ok(Ok(_)) => Finding::good(subject, format!("{url} accepts connections")),
        Ok(Err(error)) => Finding::failure(subject, format!("{url}: {error}"), advice),
        Err(_) => Finding::failure(subject, format!("{url} does not respond"), advice),
    }
}

/// Opens a connection to an upstream.
async fn connect(url: &UpstreamUrl) -> io::Result<TcpStream> {
    let authority: Authority = url.authority().parse().map_err(io::Error::other)?;
    let port = authority.port_u16();
    let port = port.unwrap_or(url.scheme().default_port());
    let host = authority.host();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    TcpStream::connect((host, port)).await
}

async fn key_value_store(label: &str, url: &str) -> Finding {
    let subject = format!("key-value store {label}");
    let ping = async {
        let client = Client::open(url)?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let answer: RedisResult<String> = redis::cmd("PING").query_async(&mut connection).await;
        answer
    };
    let advice = "start Redis, or correct the URL in the runtime configuration";
    match timeout(TIMEOUT, ping).await {
        Ok(Ok(_)) => Finding::good(subject, "Redis works"),
        Ok(Err(error)) => Finding::failure(subject, format!("Redis: {error}"), advice),
        Err(_) => Finding::failure(subject, "Redis does not respond", advice),
    }
}
