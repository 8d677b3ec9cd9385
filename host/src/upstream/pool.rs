//! The connection pool of one upstream.
//!
//! Connections are opened on demand and reused. An HTTP/1.1 connection serves one request at a
//! time, an HTTP/2 connection as many as the upstream allows. A request that fails before it was
//! sent is returned with the error, so that it can be sent again.

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

use anyhow::{Context, Result, anyhow};
use http::{Request, Response, Uri, header};
use hyper::{
    body::{Body as _, Incoming},
    client::conn::{TrySendError, http1, http2},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::{
    client::legacy::connect::{Connection as _, HttpConnector},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use parking_lot::Mutex;
use spin_runtime::backend::Body;
use tokio::{
    net::TcpStream,
    sync::{Notify, Semaphore},
    time::{Instant, timeout},
};
use tower_service::Service;
use tracing::debug;

use crate::{
    config::{Limits, UpstreamScheme, UpstreamUrl},
    telemetry::panics,
    upstream::early_response::EarlyResponse,
};

/// The time limit for opening a connection, including DNS and TLS.
const CONNECT_TIMEOUT: Duration = Limits::DEFAULT.upstream_connect_timeout;

/// How long an idle HTTP/1.1 connection is kept. Servers close idle connections too, some after
/// 5 seconds, and a request that is sent at that moment fails.
const HTTP1_IDLE_TIMEOUT: Duration = Limits::DEFAULT.upstream_idle_timeout;

/// How long an idle HTTP/2 connection is kept. Servers announce that they close one, so this can
/// be longer.
const HTTP2_IDLE_TIMEOUT: Duration = Limits::DEFAULT.upstream_h2_idle_timeout;

/// The most idle HTTP/1.1 connections that are kept.
const MAX_IDLE: usize = Limits::DEFAULT.upstream_idle_connections;

/// The most connections that are opened concurrently. Further requests wait until one of them is
/// open or another connection becomes available.
const MAX_CONNECTING: usize = Limits::DEFAULT.upstream_connecting;

/// The most concurrent requests on one HTTP/2 connection.
const MAX_STREAMS: usize = Limits::DEFAULT.upstream_h2_requests;

/// The receive window of an HTTP/2 stream, in bytes. The connection's window covers all streams,
/// so that slow readers do not block the others.
const STREAM_WINDOW: u32 = Limits::DEFAULT.upstream_h2_window_bytes;
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MAX_STREAMS as u32;

/// How often a silent HTTP/2 connection with requests is pinged.
const PING_INTERVAL: Duration = Limits::DEFAULT.upstream_ping_interval;

/// How often idle and closed connections are removed from the pool.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How long a TCP connection is silent before the system sends keep-alive probes.
const TCP_KEEPALIVE: Duration = Limits::DEFAULT.tcp_keepalive;

type Stream = EarlyResponse<MaybeHttpsStream<TokioIo<TcpStream>>>;

/// The connections to one upstream.
pub(crate) struct Pool {
    target: Uri,
    scheme: UpstreamScheme,
    /// For requests. TLS negotiates HTTP/2 or HTTP/1.1.
    connector: HttpsConnector<HttpConnector>,
    /// For upgrades. TLS negotiates HTTP/1.1 only.
    http1_connector: HttpsConnector<HttpConnector>,
    /// Idle HTTP/1.1 connections, the most recently used last.
    http1: Mutex<VecDeque<Http1>>,
    /// HTTP/2 connections, idle or not.
    http2: Mutex<Vec<Arc<Http2>>>,
    /// Limits how many connections are opened concurrently.
    connecting: Semaphore,
    /// Notified when a request can be sent on an existing connection.
    available: Notify,
    /// When and why opening a connection last failed. Requests that were waiting then fail too.
    failure: Mutex<Option<(Instant, String)>>,
}

struct Http1 {
    sender: http1::SendRequest<Body>,
    idle_since: Instant,
}

struct Http2 {
    sender: http2::SendRequest<Body>,
    /// How many concurrent requests the upstream allows.
    max_streams: Arc<AtomicUsize>,
    requests: AtomicUsize,
    /// When the last request ended.
    idle_since: Mutex<Instant>,
}

/// A connection that was acquired for one request.
pub(crate) struct Connection {
    protocol: Protocol,
    pool: Arc<Pool>,
    is_reused: bool,
}

enum Protocol {
    Http1(http1::SendRequest<Body>),
    Http2(Lease),
}

/// A stream of an HTTP/2 connection. It has to be kept until the response's body has ended.
pub(crate) struct Lease {
    connection: Arc<Http2>,
    pool: Weak<Pool>,
}

/// A failure to send a request or to receive the head of its response.
pub(crate) struct SendError {
    pub(crate) source: hyper::Error,
    /// The request, if it was certainly not sent.
    pub(crate) request: Option<Box<Request<Body>>>,
}

impl Pool {
    /// Creates a pool without connections. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// Returns an error for an `https` URL if the system has no root certificates.
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
            .with_context(|| format!("invalid upstream {url}"))?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_keepalive(Some(TCP_KEEPALIVE));
        let builder = || match url.scheme() {
            UpstreamScheme::Https => HttpsConnectorBuilder::new().with_native_roots().context(
                "no root certificates for an https upstream: install the package \
                 ca-certificates, or set SSL_CERT_FILE",
            ),
            // The roots are never used, and reading those of the system takes a while.
            UpstreamScheme::Http | UpstreamScheme::H2c => {
                Ok(HttpsConnectorBuilder::new().with_webpki_roots())
            }
        };
        let connector = builder()?.https_or_http().enable_all_versions();
        let http1_connector = builder()?.https_or_http().enable_http1();
        // An h2c upstream needs only one connection, which the other requests share.
        let max_connecting = match url.scheme() {
            UpstreamScheme::H2c => 1,
            UpstreamScheme::Http | UpstreamScheme::Https => MAX_CONNECTING,
        };
        let pool = Arc::new(Self {
            target,
            scheme: url.scheme(),
            connector: connector.wrap_connector(tcp.clone()),
            http1_connector: http1_connector.wrap_connector(tcp),
            http1: Mutex::default(),
            http2: Mutex::default(),
            connecting: Semaphore::new(max_connecting),
            available: Notify::new(),
            failure: Mutex::default(),
        });
        panics::spawn_critical("sweeper of upstreams", sweep(Arc::downgrade(&pool)));
        Ok(pool)
    }

    /// Returns an existing connection, or a new one.
    ///
    /// # Errors
    /// Returns an error if no connection can be opened.
    pub(crate) async fn acquire(self: &Arc<Self>) -> Result<Connection> {
        let started = Instant::now();
        loop {
            let available = self.available.notified();
            if let Some(connection) = self.reuse() {
                return Ok(connection);
            }
            let _permit = tokio::select! {
                biased;
                permit = self.connecting.acquire() => permit.context("pool is closed")?,
                () = available => continue,
            };
            // Another request may have opened a connection, or failed to, in the meantime.
            if let Some(connection) = self.reuse() {
                return Ok(connection);
            }
            if let Some((at, error)) = &*self.failure.lock()
                && *at > started
            {
                return Err(anyhow!("{error}"));
            }
            let result = self.open().await;
            if let Err(error) = &result {
                *self.failure.lock() = Some((Instant::now(), format!("{error:#}")));
            }
            return result;
        }
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// Returns an error if the connection cannot be opened.
    pub(crate) async fn open(self: &Arc<Self>) -> Result<Connection> {
        let stream = self.connect(self.connector.clone()).await?;
        let is_http2 = self.scheme == UpstreamScheme::H2c || stream.connected().is_negotiated_h2();
        let protocol = if is_http2 {
            let (sender, mut connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .keep_alive_interval(PING_INTERVAL)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .handshake(stream)
                .await
                .context("HTTP/2 handshake failed")?;
            let max_streams = Arc::new(AtomicUsize::new(connection.current_max_send_streams()));
            let http2 = Arc::new(Http2 {
                sender,
                max_streams: max_streams.clone(),
                requests: AtomicUsize::new(0),
                idle_since: Mutex::new(Instant::now()),
            });
            spawn_connection(poll_fn(move |cx| {
                let polled = Pin::new(&mut connection).poll(cx);
                max_streams.store(connection.current_max_send_streams(), Ordering::Relaxed);
                polled
            }));
            let lease = self.lease(&http2);
            self.http2.lock().push(http2);
            // Requests that wait to open a connection can use this one.
            self.available.notify_waiters();
            Protocol::Http2(lease)
        } else {
            let (sender, connection) = http1::handshake(stream)
                .await
                .context("HTTP/1.1 handshake failed")?;
            spawn_connection(connection);
            Protocol::Http1(sender)
        };
        Ok(Connection {
            protocol,
            pool: self.clone(),
            is_reused: false,
        })
    }

    /// Opens an HTTP/1.1 connection that can be upgraded.
    ///
    /// If the upstream refuses the upgrade, the connection is returned to the pool.
    ///
    /// # Errors
    /// Returns an error if the connection cannot be opened.
    pub(crate) async fn open_for_upgrade(self: &Arc<Self>) -> Result<Connection> {
        let stream = self.connect(self.http1_connector.clone()).await?;
        let (sender, connection) = http1::handshake(stream)
            .await
            .context("HTTP/1.1 handshake failed")?;
        spawn_connection(connection.with_upgrades());
        Ok(Connection {
            protocol: Protocol::Http1(sender),
            pool: self.clone(),
            is_reused: false,
        })
    }

    async fn connect(&self, mut connector: HttpsConnector<HttpConnector>) -> Result<Stream> {
        // The connector is always ready, so `poll_ready` can be skipped.
        let connecting = connector.call(self.target.clone());
        match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => connected
                .map(EarlyResponse::new)
                .map_err(|error| anyhow!(error)),
            Err(_) => Err(anyhow!("no connection within {CONNECT_TIMEOUT:?}")),
        }
    }

    /// Returns an existing connection that can take a request.
    fn reuse(self: &Arc<Self>) -> Option<Connection> {
        let connection = |protocol| Connection {
            protocol,
            pool: self.clone(),
            is_reused: true,
        };
        let mut http2 = self.http2.lock();
        http2.retain(|http2| !http2.sender.is_closed());
        for http2 in http2.iter() {
            let max_streams = http2.max_streams.load(Ordering::Relaxed).min(MAX_STREAMS);
            if http2.requests.load(Ordering::Relaxed) < max_streams {
                return Some(connection(Protocol::Http2(self.lease(http2))));
            }
        }
        drop(http2);
        let mut http1 = self.http1.lock();
        while let Some(Http1 { sender, idle_since }) = http1.pop_back() {
            if sender.is_ready() && idle_since.elapsed() < HTTP1_IDLE_TIMEOUT {
                return Some(connection(Protocol::Http1(sender)));
            }
        }
        None
    }

    fn lease(self: &Arc<Self>, connection: &Arc<Http2>) -> Lease {
        connection.requests.fetch_add(1, Ordering::Relaxed);
        Lease {
            connection: connection.clone(),
            pool: Arc::downgrade(self),
        }
    }

    /// Returns an HTTP/1.1 connection to the pool.
    fn release(&self, sender: http1::SendRequest<Body>) {
        let mut http1 = self.http1.lock();
        if http1.len() == MAX_IDLE {
            http1.pop_front();
        }
        http1.push_back(Http1 {
            sender,
            idle_since: Instant::now(),
        });
        drop(http1);
        self.available.notify_one();
    }

    fn remove_expired(&self) {
        self.http1.lock().retain(|http1| {
            !http1.sender.is_closed() && http1.idle_since.elapsed() < HTTP1_IDLE_TIMEOUT
        });
        self.http2.lock().retain(|http2| {
            let is_busy = http2.requests.load(Ordering::Relaxed) > 0;
            !http2.sender.is_closed()
                && (is_busy || http2.idle_since.lock().elapsed() < HTTP2_IDLE_TIMEOUT)
        });
    }
}

impl Connection {
    /// Returns whether the connection is not new. The upstream may be closing it just now.
    pub(crate) fn is_reused(&self) -> bool {
        self.is_reused
    }

    /// Sends a request, whose URI is in origin form and whose `Host` is set.
    ///
    /// The lease, if any, has to be kept until the response's body has ended.
    ///
    /// # Errors
    /// Returns an error if there is no response, with the request if it was certainly not sent.
    pub(crate) async fn send(
        self,
        mut request: Request<Body>,
    ) -> Result<(Response<Incoming>, Option<Lease>), SendError> {
        match self.protocol {
            Protocol::Http1(mut sender) => {
                if request.body().size_hint().exact().is_none()
                    && !request.headers().contains_key(header::CONTENT_LENGTH)
                {
                    // Otherwise hyper drops the body of a GET.
                    let chunked = http::HeaderValue::from_static("chunked");
                    request
                        .headers_mut()
                        .insert(header::TRANSFER_ENCODING, chunked);
                }
                if request.headers().contains_key(header::TE) {
                    let te = http::HeaderValue::from_static("te");
                    request.headers_mut().append(header::CONNECTION, te);
                }
                let result = sender.try_send_request(request).await;
                let response = result.map_err(|error| send_error(error, |_| {}))?;
                if sender.is_ready() {
                    self.pool.release(sender);
                } else {
                    let pool = Arc::downgrade(&self.pool);
                    tokio::spawn(async move {
                        if sender.ready().await.is_ok()
                            && let Some(pool) = pool.upgrade()
                        {
                            pool.release(sender);
                        }
                    });
                }
                Ok((response, None))
            }
            Protocol::Http2(lease) => {
                let original = move_host_to_uri(&mut request, &self.pool.target);
                let mut sender = lease.connection.sender.clone();
                let result = sender.try_send_request(request).await;
                let response = result
                    .map_err(|error| send_error(error, |request| original.restore(request)))?;
                Ok((response, Some(lease)))
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        *self.connection.idle_since.lock() = Instant::now();
        self.connection.requests.fetch_sub(1, Ordering::Relaxed);
        if let Some(pool) = self.pool.upgrade() {
            pool.available.notify_one();
        }
    }
}

/// The parts of a request that [`move_host_to_uri`] has changed.
struct OriginForm {
    uri: Uri,
    host: Option<http::HeaderValue>,
}

impl OriginForm {
    fn restore(self, request: &mut Request<Body>) {
        *request.uri_mut() = self.uri;
        if let Some(host) = self.host {
            request.headers_mut().insert(header::HOST, host);
        }
    }
}

/// Moves the host from the `Host` header to the URI, where HTTP/2 expects it.
fn move_host_to_uri(request: &mut Request<Body>, target: &Uri) -> OriginForm {
    let host = request.headers_mut().remove(header::HOST);
    let authority = host
        .as_ref()
        .and_then(|host| host.to_str().ok()?.parse().ok());
    let uri = request.uri().clone();
    let mut parts = uri.clone().into_parts();
    parts.scheme = target.scheme().cloned();
    parts.authority = authority.or_else(|| target.authority().cloned());
    if let Ok(absolute) = Uri::from_parts(parts) {
        *request.uri_mut() = absolute;
    }
    OriginForm { uri, host }
}

fn send_error(
    mut error: TrySendError<Request<Body>>,
    restore: impl FnOnce(&mut Request<Body>),
) -> SendError {
    let mut request = error.take_message().map(Box::new);
    if let Some(request) = &mut request {
        restore(request);
    }
    SendError {
        source: error.into_error(),
        request,
    }
}

/// Runs a connection in the background. Its requests receive errors as well.
fn spawn_connection(connection: impl Future<Output = hyper::Result<()>> + Send + 'static) {
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            debug!(%error, "upstream connection failed");
        }
    });
}

/// Removes expired connections regularly, until the pool is dropped.
async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        let Some(pool) = pool.upgrade() else { return };
        pool.remove_expired();
    }
}
