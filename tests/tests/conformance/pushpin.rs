//! Debian's Pushpin as child processes.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::{free_address, pushpin::Processes};

use crate::{backend::READINESS, client, proxy::KEY};

/// The time for Pushpin to start. It usually takes less than a second.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// The timeout of a readiness check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// The pause between two checks whether Pushpin serves.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A running Pushpin.
pub struct Pushpin {
    /// The address for clients.
    pub public: SocketAddr,
    /// The address for publishers.
    pub control: SocketAddr,
    processes: Processes,
}

impl Pushpin {
    /// Starts Pushpin in front of `upstream` and waits until it serves.
    pub async fn start(upstream: SocketAddr) -> Result<Self> {
        // Another process may take one of its ports before it starts.
        let mut last = None;
        for _ in 0..3 {
            match Self::start_once(upstream).await {
                Ok(pushpin) => return Ok(pushpin),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no attempt")?)
    }

    async fn start_once(upstream: SocketAddr) -> Result<Self> {
        let (public, control) = (free_address()?, free_address()?);
        let processes = Processes::start(&tests::pushpin::Pushpin {
            public,
            control,
            routes: &format!("* {upstream},over_http\n"),
            key: KEY,
            client_buffer: 200_000,
            connections: 5000,
            log_level: 2,
        })?;
        let mut pushpin = Self {
            public,
            control,
            processes,
        };
        let deadline = Instant::now() + START_TIMEOUT;
        while !pushpin.is_ready().await {
            pushpin.processes.ensure_running()?;
            ensure!(
                Instant::now() < deadline,
                "it does not become ready; {}",
                pushpin.processes.log()
            );
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(pushpin)
    }

    /// Checks whether the processes have found each other. Before that, requests are lost or get a
    /// 500.
    async fn is_ready(&self) -> bool {
        let check = async {
            let next = client::request("GET", READINESS, &[], "")?;
            let mut stream = client::hold(self.public, next).await?;
            // The backend is not running.
            if stream.status() == 502 {
                return self.publish_check().await;
            }
            stream.expect("linked,held,").await?;
            let upgrade = client::upgrade(self.public, READINESS, &[])?;
            let mut socket = client::handshake(self.public, upgrade).await?.accepted()?;
            self.publish_check().await?;
            stream.expect("published").await?;
            socket.expect("published").await
        };
        matches!(tokio::time::timeout(CHECK_TIMEOUT, check).await, Ok(Ok(())))
    }

    /// Publishes to the sockets and streams of the readiness check.
    async fn publish_check(&self) -> Result<()> {
        let published = json!({"content": "published"});
        let formats = json!({"ws-message": published, "http-stream": published});
        let items = json!({"items": [{"channel": READINESS, "formats": formats}]});
        let publish = client::request("POST", "/publish/", &[], &items.to_string())?;
        let response = client::send(self.control, publish).await?;
        ensure!(response.status == 200, "{response:?}");
        Ok(())
    }
}
