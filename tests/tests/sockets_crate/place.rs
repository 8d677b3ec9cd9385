//! Where the chat runs.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{
    Client, Server, TIMEOUT, Upstream, app_with_manifest, free_address,
    pushpin::{Processes, Pushpin},
    request, wasm, workspace,
};

use crate::member::Member;

/// The key of hosts whose component runs elsewhere.
const KEY: &str = "a-key-of-the-tests";

/// The pause between two attempts to connect.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The time after which a probe is taken for lost.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);

/// A kind of place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In socket-host, with events over HTTP.
    Embedded,
    /// In socket-host, with typed frames.
    Typed,
    /// In Spin behind socket-host. The component could also handle typed frames.
    Upstream,
    /// In Spin behind Debian's Pushpin.
    Pushpin,
}

impl Kind {
    /// The kinds that socket-host is part of.
    pub const WITH_HOST: [Kind; 3] = [Kind::Embedded, Kind::Typed, Kind::Upstream];

    fn component(self) -> &'static str {
        match self {
            Kind::Embedded | Kind::Pushpin => "chat",
            Kind::Typed | Kind::Upstream => "chat_typed",
        }
    }
}

/// A running chat. Stopped on drop.
pub struct Place {
    /// The address for clients.
    pub address: SocketAddr,
    pub host: Option<Server>,
    pushpin: Option<(Processes, SocketAddr)>,
    _upstream: Option<Upstream>,
    pub folder: TempDir,
}

impl Place {
    /// Starts the chat and waits until it serves.
    pub async fn start(kind: Kind) -> Result<Self> {
        let folder = app(kind.component())?;
        match kind {
            Kind::Embedded | Kind::Typed => {
                let host = Server::start(folder.path(), &[])?;
                Ok(Self {
                    address: host.address,
                    host: Some(host),
                    pushpin: None,
                    _upstream: None,
                    folder,
                })
            }
            Kind::Upstream => {
                let control = free_address()?.to_string();
                let upstream = upstream(&folder, &control)?;
                let url = format!("http://{}", upstream.address);
                let options = ["--control", &control, "--grip-key", KEY];
                let host = Server::in_front_of(&url, &options)?;
                Ok(Self {
                    address: host.address,
                    host: Some(host),
                    pushpin: None,
                    _upstream: Some(upstream),
                    folder,
                })
            }
            Kind::Pushpin => {
                let (public, control) = (free_address()?, free_address()?);
                let upstream = upstream(&folder, &control.to_string())?;
                let pushpin = Processes::start(&Pushpin {
                    public,
                    control,
                    routes: &format!("* {},over_http\n", upstream.address),
                    key: KEY,
                    client_buffer: 200_000,
                    connections: 100,
                    log_level: 2,
                })?;
                let mut place = Self {
                    address: public,
                    host: None,
                    pushpin: Some((pushpin, control)),
                    _upstream: Some(upstream),
                    folder,
                };
                place.wait_for_pushpin().await?;
                Ok(place)
            }
        }
    }

    /// Joins a room, and waits until the subscription is active. Behind Pushpin, that is some time
    /// after the handshake.
    pub async fn join(&self, room: &str) -> Result<(Member, Value)> {
        let (mut member, open) = Member::join(self.address, room).await?;
        let probe = async || {
            member.receive().await?;
            Ok(member.probe)
        };
        self.subscribed(room, probe).await?;
        Ok((member, open))
    }

    /// Comes back to a room as [`Member::resume`] does, and waits as [`Self::join`] does.
    pub async fn resume(&self, room: &str, last: u64) -> Result<(Member, Value)> {
        let (mut member, open) = Member::resume(self.address, room, last).await?;
        let probe = async || {
            member.receive().await?;
            Ok(member.probe)
        };
        self.subscribed(room, probe).await?;
        Ok((member, open))
    }

    /// Waits until a subscription to a room is active. `receive` receives the next frame, and returns
    /// the `number` of the last probe.
    pub async fn subscribed(
        &self,
        room: &str,
        mut receive: impl AsyncFnMut() -> Result<Option<u64>>,
    ) -> Result<()> {
        let Some((_, control)) = self.pushpin else {
            return Ok(());
        };
        let deadline = Instant::now() + TIMEOUT;
        for number in 0.. {
            let probe = json!({"$": "probe", "number": number}).to_string();
            let item = json!({"channel": format!("room:{room}"), "ws-message": {"content": probe}});
            let body = json!({"items": [item]}).to_string();
            let length = body.len();
            let published = format!(
                "POST /publish/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"
            );
            let published = request(control, &published).await?;
            ensure!(published.status == 200, "{published:?}");
            // Skips earlier probes, which may arrive late.
            let received = async {
                while receive().await? != Some(number) {}
                Ok(())
            };
            match tokio::time::timeout(PROBE_INTERVAL, received).await {
                Ok(received) => return received,
                Err(_) => ensure!(Instant::now() < deadline, "not subscribed to {room}"),
            }
        }
        Ok(())
    }

    /// Waits until Pushpin's processes have found each other.
    async fn wait_for_pushpin(&mut self) -> Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            if Client::open(self.address, "/?room=ready", &[])
                .await
                .is_ok()
            {
                return Ok(());
            }
            let (pushpin, _) = self.pushpin.as_mut().context("Pushpin")?;
            pushpin.ensure_running()?;
            ensure!(Instant::now() < deadline, "Pushpin does not serve");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

/// Writes the manifest of the example, for a compiled component.
pub fn app(component: &str) -> Result<TempDir> {
    let folder = workspace().join("examples/chat");
    let manifest = std::fs::read_to_string(folder.join("spin.toml"))?;
    let compiled = wasm(component).display().to_string();
    let changed = manifest.replace("../../target/wasm32-wasip2/component/chat.wasm", &compiled);
    ensure!(changed != manifest, "the manifest has another source");
    let app = app_with_manifest(&changed);
    std::fs::copy(folder.join("index.html"), app.path().join("index.html"))?;
    Ok(app)
}

/// Starts Spin, with a GRIP host that has this control port.
fn upstream(folder: &TempDir, control: &str) -> Result<Upstream> {
    let url = format!("grip_url=http://{control}");
    let key = format!("grip_key={KEY}");
    Upstream::start(folder.path(), &["--variable", &url, "--variable", &key])
}
