//! A case at work: what it says to the proxy as a client, as a publisher, and as the backend.

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
    client::{self, Answer, Held, Socket},
    proxy::{KEY, Kind, Proxies, Proxy},
};

/// Nothing that a case waits for takes this long, unless it never comes: the longest is the
/// shortest keep-alive interval, 20 s.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// A proxy has read what is on the loopback long before that.
const SETTLED: Duration = Duration::from_secs(1);

/// Between two looks at what a proxy counts.
const LOOK: Duration = Duration::from_millis(10);

/// A case under way.
type Running<'a> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

/// An entry of the table of cases.
pub struct Registered {
    /// Its function's name.
    pub name: &'static str,
    /// Its function.
    pub run: fn(&Case) -> Running<'_>,
    /// Whether the two proxies differ.
    pub differs: bool,
}

/// The table of a file's cases; those where the proxies differ come after `differs:`.
macro_rules! cases {
    ($($name:ident)* $(; differs: $($different:ident)*)?) => {
        pub const CASES: &[crate::case::Registered] = &[
            $(crate::case::Registered {
                name: stringify!($name),
                run: |case| Box::pin($name(case)),
                differs: false,
            },)*
            $($(crate::case::Registered {
                name: stringify!($different),
                run: |case| Box::pin($different(case)),
                differs: true,
            },)*)?
        ];
    };
}
pub(crate) use cases;

/// A case at work.
pub struct Case {
    /// Its own part of the backend.
    pub script: Script,
    name: String,
    kind: Kind,
    proxies: Arc<Proxies>,
    /// One for this case alone.
    own: OnceCell<Proxy>,
    differs: bool,
    told: AtomicBool,
}

impl Case {
    /// Makes a case of that name, which is also the first segment of its paths.
    pub fn new(
        name: &str,
        kind: Kind,
        registered: &Registered,
        proxies: Arc<Proxies>,
        backend: &Backend,
    ) -> Self {
        let name = name.replace("::", "-");
        Self {
            script: backend.script(&name),
            name,
            kind,
            proxies,
            own: OnceCell::new(),
            differs: registered.differs,
            told: AtomicBool::new(false),
        }
    }

    /// Runs it; fails also when it was to tell a difference and did not.
    pub async fn run(&self, registered: &Registered) -> Result<()> {
        (registered.run)(self).await?;
        ensure!(
            !self.differs || self.told.load(Ordering::Relaxed),
            "this case is said to tell a difference and tells none"
        );
        Ok(())
    }

    /// What this proxy does, where the two differ.
    pub fn differ<T>(&self, pushpin: T, socket_host: T) -> T {
        assert!(self.differs, "this case is not said to tell a difference");
        self.told.store(true, Ordering::Relaxed);
        match self.kind {
            Kind::Pushpin => pushpin,
            Kind::SocketHost => socket_host,
        }
    }

    /// A channel of its own.
    pub fn channel(&self) -> &str {
        &self.name
    }

    /// A path of its own.
    pub fn path(&self) -> String {
        format!("/{}/", self.name)
    }

    /// The proxy, started if it is not yet.
    pub async fn proxy(&self) -> Result<&Proxy> {
        match self.own.get() {
            Some(own) => Ok(own),
            None => self.proxies.get(self.kind).await,
        }
    }

    /// Has a proxy of its own from here on, so that [`Case::until`] can wait for what it counts.
    /// Pushpin is shared: it does not tell what it has read.
    pub async fn alone(&self) -> Result<()> {
        if self.kind == Kind::SocketHost {
            let own = self.proxies.another(self.kind).await?;
            ensure!(self.own.set(own).is_ok(), "it has one already");
        }
        Ok(())
    }

    /// Waits until the proxy, which is for this case alone, has this line in its metrics.
    /// Pushpin is given time.
    pub async fn until(&self, line: &str) -> Result<()> {
        if self.kind == Kind::Pushpin {
            self.settle().await;
            return Ok(());
        }
        let own = self.own.get().context("what others do is counted too")?;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let request = client::request("GET", "/metrics", &[], "")?;
            let metrics = client::send(own.control, request).await?.text();
            if metrics.lines().any(|told| told == line) {
                return Ok(());
            }
            ensure!(
                tokio::time::Instant::now() < deadline,
                "{line:?} is not in\n{metrics}"
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Sends an HTTP request; the answer comes when the backend's part has been played.
    pub async fn request(
        &self,
        method: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<JoinHandle<Result<Answer>>> {
        let request = client::request(method, &self.path(), headers, body)?;
        let address = self.proxy().await?.public;
        Ok(tokio::spawn(client::send(address, request)))
    }

    /// Sends a GET and plays the backend's part: the request that came, and the answer.
    pub async fn get(&self, reply: Reply) -> Result<Answer> {
        let asked = self.request("GET", &[], "").await?;
        self.script.next().await?.reply(reply)?;
        asked.await?
    }

    /// Sends a GET whose answer is held, and plays the backend's part.
    pub async fn hold(&self, reply: Reply) -> Result<Held> {
        let asked = self.hold_later().await?;
        self.script.next().await?.reply(reply)?;
        asked.await?
    }

    /// The same; the head comes when the backend's part has been played.
    pub async fn hold_later(&self) -> Result<JoinHandle<Result<Held>>> {
        let request = client::request("GET", &self.path(), &[], "")?;
        let address = self.proxy().await?.public;
        Ok(tokio::spawn(client::hold(address, request)))
    }

    /// A proxy for this case alone, in front of another backend.
    pub async fn own_proxy(&self, upstream: SocketAddr) -> Result<Proxy> {
        Proxy::start(self.kind, upstream).await
    }

    /// Asks for a WebSocket; the answer comes when the backend's part has been played.
    pub async fn connect(
        &self,
        headers: &[(&'static str, &str)],
    ) -> Result<JoinHandle<Result<client::Handshake>>> {
        self.connect_to(self.proxy().await?.public, headers)
    }

    /// The same, to a proxy of the case's own.
    pub fn connect_to(
        &self,
        address: SocketAddr,
        headers: &[(&'static str, &str)],
    ) -> Result<JoinHandle<Result<client::Handshake>>> {
        let request = client::upgrade(address, &self.path(), headers)?;
        Ok(tokio::spawn(client::shake(address, request)))
    }

    /// Opens a WebSocket.
    pub async fn open(&self, reply: Reply) -> Result<Socket> {
        let asked = self.connect(&[]).await?;
        let request = self.script.next().await?;
        request.expect(&[Event::Open])?;
        request.reply(reply)?;
        asked.await??.accepted()
    }

    /// Opens a WebSocket with GRIP on that listens to the case's channel.
    pub async fn subscribe(&self) -> Result<Socket> {
        let subscribe = subscribe(self.channel());
        let mut socket = self.open(Reply::open_grip(&[&subscribe])).await?;
        self.subscribed(&mut socket, self.channel()).await?;
        Ok(socket)
    }

    /// Waits until a subscription is in force: see `open::subscribed_with_the_101`.
    pub async fn subscribed(&self, socket: &mut Socket, channel: &str) -> Result<()> {
        if self.kind == Kind::SocketHost {
            return Ok(());
        }
        let deadline = tokio::time::Instant::now() + PATIENCE;
        for n in 0.. {
            let probe = format!("probe {n}");
            self.publish(ws_text(channel, &probe)).await?;
            let arrived = socket.text();
            match tokio::time::timeout(Duration::from_millis(100), arrived).await {
                Ok(text) => {
                    // Earlier ones were sent before, so this is the last.
                    let mut text = text?;
                    while text != probe {
                        text = socket.text().await?;
                    }
                    return Ok(());
                }
                Err(_) => ensure!(
                    tokio::time::Instant::now() < deadline,
                    "{channel}: never subscribed"
                ),
            }
        }
        Ok(())
    }

    /// Has the case's channel known for long. What is held on one that was new a second ago is
    /// asked for again by Pushpin: see `response::on_a_new_channel`.
    pub async fn known(&self) -> Result<()> {
        if self.kind == Kind::SocketHost {
            return Ok(());
        }
        let asked = self.request("GET", &[], "").await?;
        let hold = Reply::new(200)
            .header("grip-hold", "response")
            .header("grip-channel", self.channel());
        self.script.next().await?.reply(hold)?;
        self.script.next().await?.reply(Reply::new(200))?;
        asked.await??;
        Ok(())
    }

    /// Publishes an item, which must succeed.
    pub async fn publish(&self, item: Value) -> Result<()> {
        self.publish_all(json!([item])).await
    }

    /// Publishes items, which must succeed.
    pub async fn publish_all(&self, items: Value) -> Result<()> {
        let answer = self
            .post_publish(&json!({ "items": items }).to_string())
            .await?;
        ensure!(
            answer.status == 200 && answer.text().trim_end() == "Published",
            "publishing: {answer:?}"
        );
        Ok(())
    }

    /// Posts a body to the publish address, with a good token.
    pub async fn post_publish(&self, body: &str) -> Result<Answer> {
        let key = Key::parse(KEY)?;
        let token = grip::signature::sign(&key, "tests", SystemTime::now(), PATIENCE * 2);
        let authorization = format!("Bearer {token}");
        self.post_publish_as(&[("authorization", &authorization)], body)
            .await
    }

    /// Posts a body to the publish address, with these headers.
    pub async fn post_publish_as(&self, headers: &[(&str, &str)], body: &str) -> Result<Answer> {
        let mut all = vec![("content-type", "application/json")];
        all.extend(headers);
        let request = client::request("POST", "/publish/", &all, body)?;
        client::send(self.proxy().await?.control, request).await
    }

    /// Takes the next request, which must have exactly these events, and answers it.
    pub async fn exchange(&self, events: &[Event], reply: Reply) -> Result<HeaderMap> {
        let request = self.script.next().await?;
        request.expect(events)?;
        let headers = request.head.headers.clone();
        request.reply(reply)?;
        Ok(headers)
    }

    /// Has the client say `say`, and the backend answer it with a message that comes back:
    /// whatever was to happen before that has happened.
    pub async fn barrier(&self, socket: &mut Socket, say: &str) -> Result<()> {
        socket.send(say).await?;
        let request = self.script.next().await?;
        request.expect(&[Event::text(say)])?;
        request.reply(Reply::events(&[Event::text(format!("m:{say}"))]))?;
        socket.expect(say).await
    }

    /// Time for what must not happen, and for Pushpin to do what nothing tells it has done.
    pub async fn settle(&self) {
        tokio::time::sleep(SETTLED).await;
    }

    /// Fails if there is a request that was not expected.
    pub async fn no_request(&self) -> Result<()> {
        match self.script.waiting().await {
            None => Ok(()),
            Some(Request { head, body, .. }) => {
                bail!("there is a request too many: {} {body:?}", head.uri)
            }
        }
    }
}

/// The control message that subscribes to a channel.
pub fn subscribe(channel: &str) -> String {
    control(json!({"type": "subscribe", "channel": channel}))
}

/// A control message.
pub fn control(message: Value) -> String {
    format!("c:{message}")
}

/// A text for the WebSockets on a channel.
pub fn ws_text(channel: &str, text: &str) -> Value {
    json!({"channel": channel, "formats": {"ws-message": {"content": text}}})
}

/// A text for the streams on a channel.
pub fn stream_text(channel: &str, text: &str) -> Value {
    json!({"channel": channel, "formats": {"http-stream": {"content": text}}})
}

/// Fails unless the two are equal.
pub fn same<A: PartialEq<B> + Debug, B: Debug>(what: &str, actual: A, expected: B) -> Result<()> {
    ensure!(actual == expected, "{what}: {actual:?}, not {expected:?}");
    Ok(())
}
