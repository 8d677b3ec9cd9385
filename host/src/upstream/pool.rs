//! The connections to one upstream: opened when they are needed, kept for the next request.
//!
//! It says of every request that fails whether the upstream can have had it, for which it hands an
//! unsent request back. An HTTP/1.1 connection serves one request at a time, an HTTP/2 connection
//! as many as the upstream allows.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;

use crate::config::{UpstreamScheme, UpstreamUrl};
use anyhow::{Context, Result, anyhow};
use http::{Request, Response, Uri, header};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::{
    client::legacy::connect::{Connection as _, HttpConnector},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use spin_runtime::backend::Body;
use tokio::{
    net::TcpStream,
    sync::{Notify, Semaphore},
    time::{Instant, timeout},
};
use tower_service::Service;
use tracing::debug;

/// How long a connection may take, with the look-up of its name and TLS.
const CONNECT: Duration = Duration::from_secs(5);

/// How long an HTTP/1.1 connection is kept without a request. Servers close idle connections
/// themselves, some after 5 seconds, and a request that meets that moment is lost.
const IDLE: Duration = Duration::from_secs(4);

/// How long an HTTP/2 connection is kept without a request. Its end is announced, and so meets none.
const SHARED_IDLE: Duration = Duration::from_secs(60);

/// The most HTTP/1.1 connections that are kept without a request.
const MAX_IDLE: usize = 1024;

/// The most connections that are being opened at once; other requests wait for one of these or for
/// one that becomes free.
const MAX_CONNECTING: usize = 128;

/// The most requests on one HTTP/2 connection.
const MAX_SHARING: usize = 128;

/// What an answer on an HTTP/2 connection may be ahead of its reader, in bytes. The connection has
/// room for all of them, so that slow readers do not hold up the others.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MAX_SHARING as u32;

/// How often a quiet HTTP/2 connection with requests on it is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// How often kept connections are looked through.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How long a TCP connection is silent before the system asks whether it is still there.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);

type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;

/// See the module's words.
pub(crate) struct Pool {
    /// Where to.
    target: Uri,
    scheme: UpstreamScheme,
    /// For requests: TLS offers HTTP/2 and HTTP/1.1.
    any: HttpsConnector<HttpConnector>,
    /// For upgrades: TLS offers HTTP/1.1 alone.
    one: HttpsConnector<HttpConnector>,
    /// HTTP/1.1 connections without a request; the last was used last.
    idle: Mutex<VecDeque<Idle>>,
    /// HTTP/2 connections.
    shared: Mutex<Vec<Arc<Shared>>>,
    connecting: Semaphore,
    /// A connection has become free.
    freed: Notify,
    /// The last failure to connect, for those who have waited for a connection since before it.
    failure: Mutex<Option<(Instant, String)>>,
}

struct Idle {
    sender: http1::SendRequest<Body>,
    since: Instant,
}

struct Shared {
    sender: http2::SendRequest<Body>,
    /// How many requests the upstream takes at once.
    room: Arc<AtomicUsize>,
    requests: AtomicUsize,
    /// When the last request came to its end.
    since: Mutex<Instant>,
}

/// A connection for one request.
pub(crate) struct Connection {
    inner: Inner,
    pool: Arc<Pool>,
    reused: bool,
}

enum Inner {
    One(http1::SendRequest<Body>),
    Shared(Lease),
}

/// A request's place on an HTTP/2 connection, to be kept until its answer has ended.
pub(crate) struct Lease {
    shared: Arc<Shared>,
    pool: Weak<Pool>,
}

/// A request that was not answered.
pub(crate) struct Unanswered {
    /// Why.
    pub(crate) error: hyper::Error,
    /// The request, when the upstream has certainly not had it.
    pub(crate) request: Option<Box<Request<Body>>>,
}

impl Pool {
    /// A pool without connections, for the server of `url`. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// For `https`, when the system has no certificates to trust.
    pub(crate) fn new(url: &UpstreamUrl) -> Result<Arc<Self>> {
        let scheme = match url.scheme() {
            UpstreamScheme::Https => "https",
            UpstreamScheme::Http | UpstreamScheme::H2c => "http",
        };
        let target = Uri::builder()
            .scheme(scheme)
            .authority(url.authority())
            .path_and_query("/")
            .build()
            .with_context(|| format!("upstream {url}"))?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT));
        tcp.set_keepalive(Some(TCP_KEEPALIVE));
        let roots = || match url.scheme() {
            UpstreamScheme::Https => HttpsConnectorBuilder::new().with_native_roots().context(
                "an https upstream is checked against the system's certificates: install them \
                 (package ca-certificates), or name a file of them in SSL_CERT_FILE",
            ),
            // Never used: reading the system's certificates takes a while.
            UpstreamScheme::Http | UpstreamScheme::H2c => {
                Ok(HttpsConnectorBuilder::new().with_webpki_roots())
            }
        };
        let any = roots()?.https_or_http().enable_all_versions();
        let one = roots()?.https_or_http().enable_http1();
        let multiplexed = url.scheme() == UpstreamScheme::H2c;
        let pool = Arc::new(Self {
            target,
            scheme: url.scheme(),
            any: any.wrap_connector(tcp.clone()),
            one: one.wrap_connector(tcp),
            idle: Mutex::default(),
            shared: Mutex::default(),
            // One is enough where others can use it too.
            connecting: Semaphore::new(if multiplexed { 1 } else { MAX_CONNECTING }),
            freed: Notify::new(),
            failure: Mutex::default(),
        });
        tokio::spawn(sweep(Arc::downgrade(&pool)));
        Ok(pool)
    }

    /// A connection that is there, or a new one.
    ///
    /// # Errors
    /// Why none could be opened.
    pub(crate) async fn take(self: &Arc<Self>) -> Result<Connection> {
        let arrived = Instant::now();
        loop {
            let freed = self.freed.notified();
            if let Some(connection) = self.kept() {
                return Ok(connection);
            }
            let _permit = tokio::select! {
                biased;
                permit = self.connecting.acquire() => permit.context("the pool is closed")?,
                () = freed => continue,
            };
            // What has happened while this one waited.
            if let Some(connection) = self.kept() {
                return Ok(connection);
            }
            if let Some((at, error)) = &*self.failure.lock()
                && *at > arrived
            {
                return Err(anyhow!("{error}"));
            }
            let opened = self.open().await;
            if let Err(error) = &opened {
                *self.failure.lock() = Some((Instant::now(), format!("{error:#}")));
            }
            return opened;
        }
    }

    /// A new connection.
    ///
    /// # Errors
    /// Why it could not be opened.
    pub(crate) async fn open(self: &Arc<Self>) -> Result<Connection> {
        let stream = self.connect(self.any.clone()).await?;
        let multiplexed =
            self.scheme == UpstreamScheme::H2c || stream.connected().is_negotiated_h2();
        let inner = if multiplexed {
            let (sender, mut connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .keep_alive_interval(PING_INTERVAL)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .handshake(stream)
                .await
                .context("HTTP/2")?;
            let room = Arc::new(AtomicUsize::new(connection.current_max_send_streams()));
            let shared = Arc::new(Shared {
                sender,
                room: room.clone(),
                requests: AtomicUsize::new(0),
                since: Mutex::new(Instant::now()),
            });
            drive(poll_fn(move |cx| {
                let end = Pin::new(&mut connection).poll(cx);
                room.store(connection.current_max_send_streams(), Ordering::Relaxed);
                end
            }));
            let lease = self.lease(&shared);
            self.shared.lock().push(shared);
            // Whoever waits to open one may find a place on this.
            self.freed.notify_waiters();
            Inner::Shared(lease)
        } else {
            let (sender, connection) = http1::handshake(stream).await.context("HTTP/1.1")?;
            drive(connection);
            Inner::One(sender)
        };
        Ok(Connection {
            inner,
            pool: self.clone(),
            reused: false,
        })
    }

    /// A new HTTP/1.1 connection that can become another protocol's. One that does not, as the
    /// upstream refuses, is used again.
    ///
    /// # Errors
    /// Why it could not be opened.
    pub(crate) async fn open_for_upgrade(self: &Arc<Self>) -> Result<Connection> {
        let stream = self.connect(self.one.clone()).await?;
        let (sender, connection) = http1::handshake(stream).await.context("HTTP/1.1")?;
        drive(connection.with_upgrades());
        Ok(Connection {
            inner: Inner::One(sender),
            pool: self.clone(),
            reused: false,
        })
    }

    async fn connect(&self, mut connector: HttpsConnector<HttpConnector>) -> Result<Stream> {
        // This connector is always ready.
        let connecting = connector.call(self.target.clone());
        match timeout(CONNECT, connecting).await {
            Ok(connected) => connected.map_err(|error| anyhow!(error)),
            Err(_) => Err(anyhow!("no connection within {CONNECT:?}")),
        }
    }

    /// A connection that is there and has room.
    fn kept(self: &Arc<Self>) -> Option<Connection> {
        let connection = |inner| Connection {
            inner,
            pool: self.clone(),
            reused: true,
        };
        let mut shared = self.shared.lock();
        shared.retain(|shared| !shared.sender.is_closed());
        for shared in shared.iter() {
            let room = shared.room.load(Ordering::Relaxed).min(MAX_SHARING);
            if shared.requests.load(Ordering::Relaxed) < room {
                return Some(connection(Inner::Shared(self.lease(shared))));
            }
        }
        drop(shared);
        let mut idle = self.idle.lock();
        while let Some(last) = idle.pop_back() {
            if last.sender.is_ready() && last.since.elapsed() < IDLE {
                return Some(connection(Inner::One(last.sender)));
            }
        }
        None
    }

    fn lease(self: &Arc<Self>, shared: &Arc<Shared>) -> Lease {
        shared.requests.fetch_add(1, Ordering::Relaxed);
        Lease {
            shared: shared.clone(),
            pool: Arc::downgrade(self),
        }
    }

    /// Takes an HTTP/1.1 connection back, once the answer on it has ended.
    fn put(&self, sender: http1::SendRequest<Body>) {
        let mut idle = self.idle.lock();
        if idle.len() == MAX_IDLE {
            idle.pop_front();
        }
        idle.push_back(Idle {
            sender,
            since: Instant::now(),
        });
        drop(idle);
        self.freed.notify_one();
    }

    fn drop_idle(&self) {
        self.idle
            .lock()
            .retain(|idle| !idle.sender.is_closed() && idle.since.elapsed() < IDLE);
        self.shared.lock().retain(|shared| {
            let busy = shared.requests.load(Ordering::Relaxed) > 0;
            !shared.sender.is_closed() && (busy || shared.since.lock().elapsed() < SHARED_IDLE)
        });
    }
}

impl Connection {
    /// Whether it was there before: the upstream may have closed it unnoticed.
    pub(crate) fn is_reused(&self) -> bool {
        self.reused
    }

    /// Sends a request whose URI is in origin form and whose `Host` is set. The lease, if there is
    /// one, is to be kept until the answer's body has ended.
    ///
    /// # Errors
    /// There is no answer; with the request when it was certainly not sent.
    pub(crate) async fn send(
        self,
        mut request: Request<Body>,
    ) -> Result<(Response<Incoming>, Option<Lease>), Unanswered> {
        match self.inner {
            Inner::One(mut sender) => {
                if request.headers().contains_key(header::TE) {
                    let te = http::HeaderValue::from_static("te");
                    request.headers_mut().append(header::CONNECTION, te);
                }
                let answer = sender.try_send_request(request).await;
                let response = answer.map_err(|error| unanswered(error, |_| {}))?;
                if sender.is_ready() {
                    self.pool.put(sender);
                } else {
                    let pool = Arc::downgrade(&self.pool);
                    tokio::spawn(async move {
                        if sender.ready().await.is_ok()
                            && let Some(pool) = pool.upgrade()
                        {
                            pool.put(sender);
                        }
                    });
                }
                Ok((response, None))
            }
            Inner::Shared(lease) => {
                let origin = name_in_uri(&mut request, &self.pool.target);
                let mut sender = lease.shared.sender.clone();
                let answer = sender.try_send_request(request).await;
                let response =
                    answer.map_err(|error| unanswered(error, |request| origin.restore(request)))?;
                Ok((response, Some(lease)))
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        *self.shared.since.lock() = Instant::now();
        self.shared.requests.fetch_sub(1, Ordering::Relaxed);
        if let Some(pool) = self.pool.upgrade() {
            pool.freed.notify_one();
        }
    }
}

/// What [`name_in_uri`] has changed.
struct Origin {
    uri: Uri,
    host: Option<http::HeaderValue>,
}

impl Origin {
    fn restore(self, request: &mut Request<Body>) {
        *request.uri_mut() = self.uri;
        if let Some(host) = self.host {
            request.headers_mut().insert(header::HOST, host);
        }
    }
}

/// Puts the name of the host where HTTP/2 has it: into the URI, and not into a header.
fn name_in_uri(request: &mut Request<Body>, target: &Uri) -> Origin {
    let host = request.headers_mut().remove(header::HOST);
    let named = host
        .as_ref()
        .and_then(|host| host.to_str().ok()?.parse().ok());
    let uri = request.uri().clone();
    let mut parts = uri.clone().into_parts();
    parts.scheme = target.scheme().cloned();
    parts.authority = named.or_else(|| target.authority().cloned());
    if let Ok(absolute) = Uri::from_parts(parts) {
        *request.uri_mut() = absolute;
    }
    Origin { uri, host }
}

fn unanswered(
    mut error: TrySendError<Request<Body>>,
    restore: impl FnOnce(&mut Request<Body>),
) -> Unanswered {
    let mut request = error.take_message().map(Box::new);
    if let Some(request) = &mut request {
        restore(request);
    }
    Unanswered {
        error: error.into_error(),
        request,
    }
}

/// Runs a connection until its end, of which those who use it are told as well.
fn drive(connection: impl Future<Output = hyper::Result<()>> + Send + 'static) {
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            debug!("connection to an upstream: {error}");
        }
    });
}

/// Closes what is no longer needed, until the pool is gone.
async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        let Some(pool) = pool.upgrade() else { return };
        pool.drop_idle();
    }
}
