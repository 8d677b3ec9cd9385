//! The context of a running case, which acts as client, publisher and backend of the proxy.

use std::{
    fmt::Debug,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use grip::{Event, Key};
use http::HeaderMap;
use serde_json::{Value, json};
use tokio::{sync::OnceCell, task::JoinHandle};

use crate::{
    backend::{Backend, Reply, Request, Script},
    client::{self, HeldResponse, Response, Socket},
    proxy::{KEY, Kind, Proxies, Proxy},
};

/// The time after which a case gives up waiting. The longest regular wait is the shortest
/// keep-alive interval, 20 s.
pub const TIMEOUT: Duration = Duration::from_secs(40);

/// Ample time for a proxy to read what was sent to it over loopback.
const SETTLE_TIME: Duration = Duration::from_secs(1);

/// The pause between two polls of a proxy's metrics.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The future of a running case.
type CaseFuture<'a> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

/// An entry in a table of cases.
pub struct Entry {
    /// The name of its function.
    pub name: &'static str,
    /// The function.
    pub run: fn(&Case) -> CaseFuture<'_>,
    /// Whether the proxies behave differently.
    pub differs: bool,
}

/// Defines the table of a file's cases. Those in which the proxies differ follow `differs:`.
macro_rules! cases {
    ($($name:ident)* $(; differs: $($different:ident)*)?) => {
        pub const CASES: &[crate::case::Entry] = &[
            $(crate::case::Entry {
                name: stringify!($name),
                run: |case| Box::pin($name(case)),
                differs: false,
            },)*
            $($(crate::case::Entry {
                name: stringify!($different),
                run: |case| Box::pin($different(case)),
                differs: true,
            },)*)?
        ];
    };
}
pub(crate) use cases;

/// A running case.
pub struct Case {
    /// The backend's requests for this case.
    pub script: Script,
    /// Whether the result differs with a bus.
    pub differs_with_bus: bool,
    name: String,
    kind: Kind,
    proxies: Arc<Proxies>,
    /// A proxy used by this case only.
    own_proxy: OnceCell<Proxy>,
    differs: bool,
    checked_difference: AtomicBool,
    checked_bus: AtomicBool,
}

impl Case {
    /// Creates a case. Its name is also the first segment of its paths.
    pub fn new(
        name: &str,
        kind: Kind,
        entry: &Entry,
        proxies: Arc<Proxies>,
        backend: &Backend,
    ) -> Self {
        let name = name.replace("::", "-");
        Self {
            script: backend.script(&name),
            differs_with_bus: false,
            name,
            kind,
            proxies,
            own_proxy: OnceCell::new(),
            differs: entry.differs,
            checked_difference: AtomicBool::new(false),
            checked_bus: AtomicBool::new(false),
        }
    }

    /// Runs the case. Fails if a case under `differs:` never calls [`Case::differ`].
    pub async fn run(&self, entry: &Entry) -> Result<()> {
        (entry.run)(self).await?;
        ensure!(
            !self.differs || self.checked_difference.load(Ordering::Relaxed),
            "the case is listed under `differs:` but checks no difference"
        );
        ensure!(
            !self.differs_with_bus || self.checked_bus.load(Ordering::Relaxed),
            "the case is listed in `WITH_BUS` but checks no difference"
        );
        Ok(())
    }

    /// Returns the value for the proxy under test, where the two differ.
    pub fn differ<T>(&self, pushpin: T, socket_host: T) -> T {
        assert!(self.differs, "the case is not listed under `differs:`");
        self.checked_difference.store(true, Ordering::Relaxed);
        match self.kind {
            Kind::Pushpin => pushpin,
            Kind::SocketHost | Kind::SocketHostWithBus => socket_host,
        }
    }

    /// Returns the value for the proxy under test, where one with a bus differs from the others.
    pub fn differ_with_bus<T>(&self, without: T, with: T) -> T {
        assert!(
            self.differs_with_bus,
            "the case is not listed in `WITH_BUS`"
        );
        self.checked_bus.store(true, Ordering::Relaxed);
        if self.kind == Kind::SocketHostWithBus {
            with
        } else {
            without
        }
    }

    /// Returns the case's own channel.
    pub fn channel(&self) -> &str {
        &self.name
    }

    /// Returns the case's own path.
    pub fn path(&self) -> String {
        format!("/{}/", self.name)
    }

    /// Returns the proxy and starts it if necessary.
    pub async fn proxy(&self) -> Result<&Proxy> {
        match self.own_proxy.get() {
            Some(proxy) => Ok(proxy),
            None => self.proxies.get(self.kind).await,
        }
    }

    /// Switches to a proxy used by this case only, for [`Case::wait_for_metric`]. Pushpin stays
    /// shared: its metrics are not used.
    pub async fn use_own_proxy(&self) -> Result<()> {
        if self.kind != Kind::Pushpin {
            let proxy = self.proxies.start(self.kind).await?;
            ensure!(
                self.own_proxy.set(proxy).is_ok(),
                "the case already has its own proxy"
            );
        }
        Ok(())
    }

    /// Waits until the case's own proxy has this line in its metrics. With Pushpin, waits for a
    /// fixed time.
    pub async fn wait_for_metric(&self, line: &str) -> Result<()> {
        if self.kind == Kind::Pushpin {
            self.settle().await;
            return Ok(());
        }
        let proxy = self
            .own_proxy
            .get()
            .context("metrics require `use_own_proxy`")?;
        let deadline = tokio::time::Instant::now() + TIMEOUT;
        loop {
            let request = client::request("GET", "/metrics", &[], "")?;
            let metrics = client::send(proxy.control, request).await?.text();
            if metrics.lines().any(|metric| metric == line) {
                return Ok(());
            }
            ensure!(
                tokio::time::Instant::now() < deadline,
                "{line:?} is not in\n{metrics}"
            );
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Sends an HTTP request. The task completes once the case has replied as the backend.
    pub async fn request(
        &self,
        method: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<JoinHandle<Result<Response>>> {
        let request = client::request(method, &self.path(), headers, body)?;
        let address = self.proxy().await?.public;
        Ok(tokio::spawn(client::send(address, request)))
    }

    /// Sends a GET request, replies as the backend, and returns the response.
    pub async fn get(&self, reply: Reply) -> Result<Response> {
        let pending = self.request("GET", &[], "").await?;
        self.script.next().await?.reply(reply)?;
        pending.await?
    }

    /// Sends a GET request whose response is held, and replies as the backend.
    pub async fn hold(&self, reply: Reply) -> Result<HeldResponse> {
        let pending = self.start_hold().await?;
        self.script.next().await?.reply(reply)?;
        pending.await?
    }

    /// Like [`Case::hold`], but the task completes once the case has replied as the backend.
    pub async fn start_hold(&self) -> Result<JoinHandle<Result<HeldResponse>>> {
        let request = client::request("GET", &self.path(), &[], "")?;
        let address = self.proxy().await?.public;
        Ok(tokio::spawn(client::hold(address, request)))
    }

    /// Starts a proxy for this case only, in front of another backend.
    pub async fn start_proxy(&self, upstream: SocketAddr) -> Result<Proxy> {
        Proxy::start(self.kind, upstream).await
    }

    /// Requests a WebSocket. The task completes once the case has replied as the backend.
    pub async fn connect(
        &self,
        headers: &[(&'static str, &str)],
    ) -> Result<JoinHandle<Result<client::Handshake>>> {
        self.connect_to(self.proxy().await?.public, headers)
    }

    /// Like [`Case::connect`], but to another proxy.
    pub fn connect_to(
        &self,
        address: SocketAddr,
        headers: &[(&'static str, &str)],
    ) -> Result<JoinHandle<Result<client::Handshake>>> {
        let request = client::upgrade(address, &self.path(), headers)?;
        Ok(tokio::spawn(client::handshake(address, request)))
    }

    /// Opens a WebSocket.
    pub async fn open(&self, reply: Reply) -> Result<Socket> {
        let pending = self.connect(&[]).await?;
        let request = self.script.next().await?;
        request.expect(&[Event::Open])?;
        request.reply(reply)?;
        pending.await??.accepted()
    }

    /// Opens a WebSocket with GRIP that is subscribed to the case's channel.
    pub async fn subscribe(&self) -> Result<Socket> {
        let subscribe = subscribe(self.channel());
        let mut socket = self.open(Reply::open_grip(&[&subscribe])).await?;
        self.subscribed(&mut socket, self.channel()).await?;
        Ok(socket)
    }

    /// Waits until a subscription is active. See `open::subscribed_with_the_101`.
    pub async fn subscribed(&self, socket: &mut Socket, channel: &str) -> Result<()> {
        if self.kind != Kind::Pushpin {
            return Ok(());
        }
        let deadline = tokio::time::Instant::now() + TIMEOUT;
        for n in 0.. {
            let probe = format!("probe {n}");
            self.publish(ws_text(channel, &probe)).await?;
            let received = socket.text();
            match tokio::time::timeout(Duration::from_millis(100), received).await {
                Ok(text) => {
                    // Skips earlier probes, which may arrive late.
                    let mut text = text?;
                    while text != probe {
                        text = socket.text().await?;
                    }
                    return Ok(());
                }
                Err(_) => ensure!(
                    tokio::time::Instant::now() < deadline,
                    "not subscribed to {channel}"
                ),
            }
        }
        Ok(())
    }

    /// Makes the case's channel known to Pushpin, which requests holds on a new channel twice. See
    /// `response::on_a_new_channel`.
    pub async fn register_channel(&self) -> Result<()> {
        if self.kind != Kind::Pushpin {
            return Ok(());
        }
        let pending = self.request("GET", &[], "").await?;
        let hold = Reply::new(200)
            .header("grip-hold", "response")
            .header("grip-channel", self.channel());
        self.script.next().await?.reply(hold)?;
        self.script.next().await?.reply(Reply::new(200))?;
        pending.await??;
        Ok(())
    }

    /// Makes the case's channel join the bus, on a proxy that no other case uses. Metrics do not show
    /// whether the channel of a held response has joined.
    pub async fn join_bus(&self) -> Result<()> {
        if self.kind != Kind::SocketHostWithBus {
            return Ok(());
        }
        let hold = Reply::new(200).header("grip-hold", "stream");
        let stream = self.hold(hold.header("grip-channel", self.channel()));
        drop(stream.await?);
        self.wait_for_metric("socket_host_subscriptions 0").await
    }

    /// Publishes an item. Fails unless it is accepted.
    pub async fn publish(&self, item: Value) -> Result<()> {
        self.publish_all(json!([item])).await
    }

    /// Publishes items. Fails unless they are accepted.
    pub async fn publish_all(&self, items: Value) -> Result<()> {
        let response = self
            .post_publish(&json!({ "items": items }).to_string())
            .await?;
        ensure!(
            response.status == 200 && response.text().trim_end() == "Published",
            "publishing failed: {response:?}"
        );
        Ok(())
    }

    /// Posts a body to the publish endpoint, with a valid token.
    pub async fn post_publish(&self, body: &str) -> Result<Response> {
        let key = Key::parse(KEY)?;
        let token = grip::signature::sign(&key, "tests", SystemTime::now(), TIMEOUT * 2);
        let authorization = format!("Bearer {token}");
        self.post_publish_as(&[("authorization", &authorization)], body)
            .await
    }

    /// Posts a body to the publish endpoint, with these headers.
    pub async fn post_publish_as(&self, headers: &[(&str, &str)], body: &str) -> Result<Response> {
        let mut all = vec![("content-type", "application/json")];
        all.extend(headers);
        let request = client::request("POST", "/publish/", &all, body)?;
        client::send(self.proxy().await?.control, request).await
    }

    /// Receives the next request, which must have exactly these events, and replies. Returns the
    /// request's headers.
    pub async fn round_trip(&self, events: &[Event], reply: Reply) -> Result<HeaderMap> {
        let request = self.script.next().await?;
        request.expect(events)?;
        let headers = request.head.headers.clone();
        request.reply(reply)?;
        Ok(headers)
    }

    /// Sends `text` to the backend, which sends it back. Everything that was in progress before has
    /// then happened.
    pub async fn barrier(&self, socket: &mut Socket, text: &str) -> Result<()> {
        socket.send(text).await?;
        let request = self.script.next().await?;
        request.expect(&[Event::text(text)])?;
        request.reply(Reply::events(&[Event::text(format!("m:{text}"))]))?;
        socket.expect(text).await
    }

    /// Waits for a fixed time: for what must not happen, or for Pushpin's processes to synchronize.
    pub async fn settle(&self) {
        tokio::time::sleep(SETTLE_TIME).await;
    }

    /// Fails if the backend has received another request.
    pub async fn no_request(&self) -> Result<()> {
        match self.script.try_next().await {
            None => Ok(()),
            Some(Request { head, body, .. }) => {
                bail!("unexpected request: {} {body:?}", head.uri)
            }
        }
    }
}

/// Returns the control message that subscribes to a channel.
pub fn subscribe(channel: &str) -> String {
    control(json!({"type": "subscribe", "channel": channel}))
}

/// Formats a control message.
pub fn control(message: Value) -> String {
    format!("c:{message}")
}

/// Returns an item with a text for WebSockets.
pub fn ws_text(channel: &str, text: &str) -> Value {
    json!({"channel": channel, "formats": {"ws-message": {"content": text}}})
}

/// Returns an item with a text for streams.
pub fn stream_text(channel: &str, text: &str) -> Value {
    json!({"channel": channel, "formats": {"http-stream": {"content": text}}})
}

/// Fails unless both values are equal.
pub fn ensure_eq<A: PartialEq<B> + Debug, B: Debug>(
    what: &str,
    actual: A,
    expected: B,
) -> Result<()> {
    ensure!(
        actual == expected,
        "{what}: {actual:?}, expected {expected:?}"
    );
    Ok(())
}
