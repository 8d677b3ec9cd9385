//! The platform behind each proxy, configured as in `docs/deploying.md`.

use std::{
    net::SocketAddr,
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Result, ensure};
use grip::{Key, signature};
use tests::{
    Server, burger, code_block, free_address, host_binary,
    pushpin::{Processes, Pushpin},
    request,
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    burger::{check, private_route},
    server::Platform,
};

/// The key that the proxy and the components share.
const KEY: &str = "secret";

/// The number of attempts with Pushpin, whose processes occasionally lose a message under load.
const PUSHPIN_ATTEMPTS: usize = 3;

/// The pause between two orders.
const PAUSE: Duration = Duration::from_millis(100);

/// Starts the platform behind a proxy with this control port.
async fn platform(control: SocketAddr) -> Result<Platform> {
    let url = format!("http://{control}");
    Platform::start(&[("grip_url", &url), ("grip_key", KEY)]).await
}

#[tokio::test]
async fn components_work_behind_the_host() -> Result<()> {
    let control = free_address()?;
    let platform = platform(control).await?;
    // With the timer and the private route of its manifest.
    let folder = burger("100ms");
    let mut command = Command::new(host_binary());
    command
        .args(["up", "--upstream", &format!("http://{}", platform.address)])
        .args(["--grip-key", KEY])
        .arg("--from")
        .arg(folder.path());
    let host = Server::run(command, &["--control", &control.to_string()])?;
    check(host.address).await?;
    ensure!(private_route(host.address).await? == 404);
    ensure!(platform.order_services() == 1);
    Ok(())
}

#[tokio::test]
async fn components_work_behind_pushpin() -> Result<()> {
    for attempt in 1..PUSHPIN_ATTEMPTS {
        match behind_pushpin().await {
            Ok(()) => return Ok(()),
            Err(error) => eprintln!("attempt {attempt}: {error:#}"),
        }
    }
    behind_pushpin().await
}

async fn behind_pushpin() -> Result<()> {
    let (public, control) = (free_address()?, free_address()?);
    let platform = platform(control).await?;
    let routes = code_block("deploying.md", "text", ",over_http")?;
    ensure!(routes.contains("10.0.0.7:8080"), "{routes}");
    let routes = routes.replace("10.0.0.7:8080", &platform.address.to_string());
    let mut pushpin = Processes::start(&Pushpin {
        public,
        control,
        routes: &(routes + "\n"),
        key: KEY,
        client_buffer: 200_000,
        connections: 100,
        log_level: 2,
    })?;
    let _timer = AbortOnDropHandle::new(tokio::spawn(make_orders(platform.address)));
    if let Err(error) = check(public).await {
        pushpin.ensure_running()?;
        return Err(error.context(pushpin.log()));
    }
    ensure!(private_route(public).await? == 502);
    ensure!(platform.order_services() == 1);
    Ok(())
}

/// Calls the order service as the timer of a platform does.
async fn make_orders(platform: SocketAddr) -> Result<()> {
    let (key, minute) = (Key::parse(KEY)?, Duration::from_secs(60));
    loop {
        let token = signature::sign(&key, "timer", SystemTime::now(), minute);
        let head = format!(
            "POST /internal/orders HTTP/1.1\r\nHost: {platform}\r\nGrip-Sig: {token}\r\n\
             Content-Length: 0\r\n\r\n"
        );
        let response = request(platform, &head).await?;
        ensure!(response.status == 201, "{response:?}");
        tokio::time::sleep(PAUSE).await;
    }
}
