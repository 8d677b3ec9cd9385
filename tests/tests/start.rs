//! The start of the host: what it serves while it compiles, and the memory that it has afterwards.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tests::{
    Client, Server, app_with_manifest, burger_without_timer, eventually, free_address, host_binary,
    large_component, request, wasm,
};
use tokio_tungstenite::tungstenite::Message;

/// The metric that each run of a timer counts.
const TIMER_RUNS: &str = "socket_host_timer_runs_total{";

/// Writes an application with a small component, a large one, and a timer for the small one.
fn application() -> Result<TempDir> {
    let folder = app_with_manifest(&format!(
        r#"
spin_manifest_version = 2
application.name = "start"
[[application.tool.socket-host.timer]]
request = "POST /small/timer"
every = "10ms"
[[trigger.http]]
route = "/static"
static_response = {{ body = "static" }}
[[trigger.http]]
route = "/small/..."
component = "small"
[[trigger.http]]
route = "/large/..."
component = "large"
[component.small]
source = {:?}
[component.large]
source = "large.wasm"
"#,
        wasm("probe")
    ));
    let large = large_component(&wasm("typed"))?;
    std::fs::write(folder.path().join("large.wasm"), large)?;
    Ok(folder)
}

/// A host that may still compile. It is killed when it is dropped.
struct StartingHost {
    child: Child,
    address: SocketAddr,
    control: SocketAddr,
}

impl StartingHost {
    fn start(folder: &Path) -> Result<Self> {
        // Fixed ports, since the host prints its addresses only when all is compiled.
        let (address, control) = (free_address()?, free_address()?);
        let child = Command::new(host_binary())
            .args(["up", "--disable-cache", "--request-timeout", "10m"])
            .args(["--listen", &address.to_string()])
            .args(["--control", &control.to_string(), "--from"])
            .arg(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok(Self {
            child,
            address,
            control,
        })
    }

    /// Sends a GET request to the public port as soon as it is open.
    async fn get(&self, path: &str) -> Result<(u16, String)> {
        let response = eventually("the public port", async || {
            get(self.address, path).await.ok()
        });
        response.await
    }

    async fn readiness(&self) -> Result<(u16, String)> {
        get(self.control, "/readyz").await
    }
}

impl Drop for StartingHost {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let bytes = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let response = request(address, &bytes).await?;
    Ok((response.status, response.body))
}

#[tokio::test]
async fn what_is_ready_is_served_while_the_rest_is_compiled() -> Result<()> {
    let folder = application()?;
    let host = StartingHost::start(folder.path())?;
    ensure!(host.get("/static").await? == (200, "static".to_owned()));
    let (status, headers) = host.get("/small/headers").await?;
    ensure!(status == 200, "{status}: {headers}");
    let starting = (503, "starting\n".to_owned());
    ensure!(host.readiness().await? == starting);
    let (status, _) = host.get("/.well-known/spin/health").await?;
    ensure!(status == 503, "{status}");
    let (_, health) = get(host.control, "/healthz").await?;
    ensure!(health.contains(r#""status":"starting""#), "{health}");
    // Timers start when all is compiled.
    let (status, metrics) = get(host.control, "/metrics").await?;
    ensure!(status == 200 && !metrics.contains(TIMER_RUNS), "{metrics}");

    // A WebSocket waits for its component, and a request does. Neither is refused.
    let socket = Client::open(host.address, "/large/socket?welcome=hello", &[]);
    let request = host.get("/large/other");
    let (socket, request) = tokio::join!(socket, request);
    let response = request?;
    ensure!(
        response == (200, "GET /large/other".to_owned()),
        "{response:?}"
    );
    let mut socket = socket.map_err(|error| error.error)?;
    ensure!(socket.next().await? == Some(Message::text("hello")));
    eventually("readiness", async || {
        let readiness = host.readiness().await.ok()?;
        (readiness == (200, "ready\n".to_owned())).then_some(())
    })
    .await?;
    eventually("a run of the timer", async || {
        let (_, metrics) = get(host.control, "/metrics").await.ok()?;
        metrics.contains(TIMER_RUNS).then_some(())
    })
    .await
}

#[tokio::test]
async fn a_signal_ends_a_host_that_compiles() -> Result<()> {
    let folder = application()?;
    let mut host = StartingHost::start(folder.path())?;
    ensure!(host.get("/small/headers").await?.0 == 200);
    kill_process(Pid::from_child(&host.child), Signal::TERM)?;
    let exit = eventually("the exit", async || host.child.try_wait().ok().flatten());
    ensure!(exit.await?.code() == Some(0));
    Ok(())
}

#[tokio::test]
async fn a_component_that_cannot_be_compiled_ends_the_host() -> Result<()> {
    let folder = application()?;
    let large = folder.path().join("large.wasm");
    let mut code = std::fs::read(&large)?;
    code.truncate(code.len() - 1);
    std::fs::write(&large, code)?;
    let mut host = StartingHost::start(folder.path())?;
    let stderr = host.child.stderr.take().context("stderr")?;
    let error = std::io::read_to_string(stderr)?;
    let status = host.child.wait()?;
    ensure!(status.code() == Some(1), "{error}");
    let expected = "error: component large: ";
    ensure!(
        error.contains(expected) && error.contains("is not a valid component"),
        "{error}"
    );
    Ok(())
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_idle_host_takes_little_memory() -> Result<()> {
    /// Half of it was measured.
    const MAX_KIB: u64 = 40 << 10;
    let folder = burger_without_timer();
    let cache = TempDir::new()?;
    let start = || {
        let mut command = Command::new(host_binary());
        command.env("XDG_CACHE_HOME", cache.path());
        command.arg("up").arg("--from").arg(folder.path());
        Server::run(command, &[])
    };
    // Compiles the components. Afterwards, the compiler keeps memory for each processor.
    drop(start()?);
    let host = start()?;
    for _ in 0..20 {
        ensure!(host.get("/").await?.0 == 200);
        ensure!(host.get("/api/orders").await?.0 == 200);
    }
    // Memory that was freed goes back to the system within seconds.
    let mut kib = 0;
    let idle = eventually("the memory of an idle host", async || {
        kib = host.anonymous_kib().ok()?;
        (kib <= MAX_KIB).then_some(())
    });
    idle.await.with_context(|| format!("{kib} KiB"))
}
