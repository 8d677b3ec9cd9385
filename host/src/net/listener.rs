//! A listening socket: accepts connections and serves HTTP on them.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr, TcpListener as StdTcpListener},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::{rt::TokioIo, server::conn::auto};
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use socket2::{SockRef, TcpKeepalive};
use spin_runtime::{
    RateLimitedLog,
    backend::{Body, Client},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument as _, debug, debug_span, warn};

use crate::{
    config::Limits,
    http::error_response::{RETRY_AFTER, Refused, overload_response},
    net::{
        addresses::{Addresses, AtLimit},
        connection::{self, ConnectionHandle},
        connections::Connections,
        draining::Draining,
        probe::{Probe, Probes, probe},
        proxy_protocol,
        response_body::StreamExecutor,
        stream::Stream,
        tls::{self, Tls},
        trusted_proxies::TrustedProxies,
    },
    shutdown::Shutdown,
};

/// Whether accepted sockets inherit the options of the listening socket.
const INHERITS_OPTIONS: bool = cfg!(target_os = "linux");

/// The time for the first byte of a connection that may be encrypted or not.
const HEAD_TIMEOUT: Duration = Limits::DEFAULT.request_head_timeout;

/// The time for a header of the PROXY protocol, and for a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Limits::DEFAULT.tls_handshake_timeout;

/// The time for a client to send a request and to read that it is refused.
const REFUSAL_TIMEOUT: Duration = Limits::DEFAULT.close_timeout;

/// The connections that are refused with a response at the same time. Further ones are closed.
const MAX_REFUSALS: usize = 32;

/// The pause after an accept that failed for lack of resources, such as file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound address. Connections wait until it is served.
pub(crate) struct Listener {
    tcp: TcpListener,
    address: SocketAddr,
    encryption: Encryption,
    proxies: Proxies,
    abort: CancellationToken,
    probe: Probe,
    probes: Probes,
}

/// The proxies in front of a listener.
#[derive(Clone, Default)]
pub(crate) struct Proxies {
    /// Where they are.
    pub(crate) trusted: TrustedProxies,
    /// Each of their connections starts with a header of the PROXY protocol.
    pub(crate) send_header: bool,
}

/// What a listener admits.
pub(crate) struct Admission {
    /// The open connections.
    pub(crate) connections: Arc<Connections>,
    /// What clients have open by address. `None` if there are no limits by address.
    pub(crate) addresses: Option<Arc<Addresses>>,
    /// Counts connections that are not served.
    pub(crate) refused: RefusalCounters,
}

impl Admission {
    /// Admits this many connections, from any address.
    pub(crate) fn up_to(max_connections: usize) -> Self {
        Self {
            connections: Connections::new(Gauge::default(), max_connections),
            addresses: None,
            refused: RefusalCounters::default(),
        }
    }
}

/// Counts the connections of a listener that are not served.
#[derive(Clone, Default)]
pub(crate) struct RefusalCounters {
    /// Those beyond the limit of all connections.
    pub(crate) full: Counter,
    /// Those beyond the limit of an address.
    pub(crate) address: Counter,
    /// Those without a valid header of the PROXY protocol.
    pub(crate) proxy_header: Counter,
    /// Those whose TLS handshake failed.
    pub(crate) tls_handshake: Counter,
    /// Attempts to accept one that failed, such as for lack of file descriptors.
    pub(crate) accept: Counter,
}

/// Which connections of a listener are encrypted.
#[derive(Clone, Default)]
pub(crate) enum Encryption {
    #[default]
    None,
    /// All of them.
    Tls(Arc<Tls>),
    /// Those of other machines. Clients on this machine may use TLS or plain HTTP.
    TlsForRemote(Arc<Tls>),
}

impl Listener {
    /// Uses a socket that was passed to this process, or else binds `address`.
    ///
    /// # Errors
    /// Fails if the address cannot be bound, or if the socket cannot be used.
    pub(crate) async fn open(
        passed: Option<&StdTcpListener>,
        address: SocketAddr,
        option: &str,
        shutdown: &Shutdown,
    ) -> Result<Self> {
        let Some(passed) = passed else {
            return Self::bind(address, option, shutdown).await;
        };
        let open = || {
            let socket = passed.try_clone()?;
            socket.set_nonblocking(true)?;
            TcpListener::from_std(socket)
        };
        let context = || format!("cannot use the socket that was passed instead of {option}");
        Self::new(open().with_context(context)?, shutdown)
    }

    /// Binds `address`. Errors name `option`, which sets the address.
    ///
    /// # Errors
    /// Fails if the address cannot be bound.
    pub(crate) async fn bind(
        address: SocketAddr,
        option: &str,
        shutdown: &Shutdown,
    ) -> Result<Self> {
        let tcp = TcpListener::bind(address).await.map_err(|error| {
            let context = if error.kind() == io::ErrorKind::AddrInUse {
                format!(
                    "{address} is in use: stop the process that listens there, or choose another address with {option}"
                )
            } else {
                format!("cannot listen on {address} (set with {option})")
            };
            anyhow::Error::new(error).context(context)
        })?;
        Self::new(tcp, shutdown)
    }

    fn new(tcp: TcpListener, shutdown: &Shutdown) -> Result<Self> {
        if INHERITS_OPTIONS {
            set_options(&SockRef::from(&tcp));
        }
        let (probe, probes) = probe();
        let address = tcp.local_addr().context("cannot get the bound address")?;
        Ok(Self {
            tcp,
            address,
            encryption: Encryption::None,
            proxies: Proxies::default(),
            abort: shutdown.abort.clone(),
            probe,
            probes,
        })
    }

    /// Sets which connections are encrypted.
    pub(crate) fn with_encryption(mut self, encryption: Encryption) -> Self {
        self.encryption = encryption;
        self
    }

    /// Returns the address, with the port that the system chose if 0 was requested.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns what asks whether the socket is served.
    pub(crate) fn probe(&self) -> Probe {
        self.probe.clone()
    }

    /// Sets the proxies whose clients connect.
    pub(crate) fn behind(mut self, proxies: Proxies) -> Self {
        self.proxies = proxies;
        self
    }

    /// Accepts connections until `draining` says so, and then waits for the requests in progress.
    ///
    /// `admission` bounds the open connections, including those that were upgraded. Some of the
    /// further ones get a response with 429 or 503, and the others are closed. An abort of the host
    /// closes all of them.
    pub(crate) async fn serve<H, F>(
        mut self,
        handler: Arc<H>,
        admission: Admission,
        draining: Draining,
    ) where
        H: Fn(Request<Incoming>, Client) -> F + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let builder = connection::builder();
        let tasks = TaskTracker::new();
        let lines_per_second = spin_runtime::Limits::DEFAULT.log_lines_per_second;
        let log = RateLimitedLog::new(lines_per_second, |suppressed| {
            warn!(suppressed, "connection refused");
        });
        let connections = admission.connections.clone();
        let acceptor = Arc::new(Acceptor {
            builder,
            encryption: self.encryption.clone(),
            proxies: self.proxies.clone(),
            admission,
            refusals: Arc::new(Semaphore::new(MAX_REFUSALS)),
            log,
            draining: draining.clone(),
        });
        let accept_failures = RateLimitedLog::new(1, |suppressed| {
            warn!(suppressed, "cannot accept connections, trying again");
        });
        loop {
            let accepted = tokio::select! {
                accepted = self.tcp.accept() => accepted,
                () = self.probes.answer() => continue,
                () = draining.drain.cancelled() => break,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if !is_client_error(&error) {
                        acceptor.admission.refused.accept.inc();
                        accept_failures
                            .log(|| warn!(%error, "cannot accept connections, trying again"));
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                    continue;
                }
            };
            if !INHERITS_OPTIONS {
                set_options(&SockRef::from(&stream));
            }
            let address = canonical(address);
            let (acceptor, abort) = (acceptor.clone(), self.abort.child_token());
            let span = debug_span!("connection", client = %address);
            if let Some((handle, registration)) = connections.register(abort.clone()) {
                let handler = handler.clone();
                let serve = async move {
                    let _registration = registration;
                    acceptor.serve(stream, address, handle, handler).await;
                };
                tasks.spawn(serve.instrument(span));
                continue;
            }
            acceptor.admission.refused.full.inc();
            acceptor
                .log
                .log(|| warn!(client = %address, "connection refused: too many open connections"));
            if let Ok(permit) = acceptor.refusals.clone().try_acquire_owned() {
                let refuse = async move {
                    let _permit = permit;
                    // Not counted as open.
                    let handle = ConnectionHandle::new(&Gauge::default(), abort);
                    acceptor.refuse_full(stream, address, handle).await;
                };
                tasks.spawn(refuse.instrument(span));
            }
        }
        drop(self);
        tasks.close();
        tasks.wait().await;
    }
}

/// Turns accepted TCP connections into HTTP connections.
struct Acceptor {
    builder: auto::Builder<StreamExecutor>,
    encryption: Encryption,
    proxies: Proxies,
    admission: Admission,
    /// Permits for connections that are refused with a response.
    refusals: Arc<Semaphore>,
    /// Logs connections that are refused.
    log: RateLimitedLog,
    draining: Draining,
}

impl Acceptor {
    /// Serves a connection, unless its client has too many.
    async fn serve<H, F>(
        &self,
        mut stream: TcpStream,
        address: SocketAddr,
        handle: ConnectionHandle,
        handler: Arc<H>,
    ) where
        H: Fn(Request<Incoming>, Client) -> F,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let refused = &self.admission.refused;
        let client = if self.proxies.send_header {
            // Boxed, since otherwise the connection would reserve space for it.
            let identified = Box::pin(self.proxies.identify(&mut stream, address));
            match self.run(&handle, identified).await {
                Some(Ok(client)) => client,
                Some(Err(error)) => {
                    refused.proxy_header.inc();
                    self.log
                        .log(|| warn!(client = %address, %error, "connection refused"));
                    return;
                }
                None => return,
            }
        } else {
            self.proxies.client(address)
        };
        let addresses = self.admission.addresses.as_ref();
        let admitted = addresses.map(|addresses| addresses.connect(client.limited_address));
        let _guard = match admitted.unwrap_or(Ok(None)) {
            Ok(guard) => guard,
            Err(AtLimit) => {
                refused.address.inc();
                self.log.log(|| {
                    warn!(client = %client.address, "connection refused: too many of one address");
                });
                if let Ok(_permit) = self.refusals.try_acquire() {
                    let status = StatusCode::TOO_MANY_REQUESTS;
                    let text = "too many connections of one address, try again later";
                    Box::pin(self.refuse(stream, client, handle, status, text)).await;
                }
                return;
            }
        };
        let Some((stream, client)) = self.encrypt(stream, client, &handle).await else {
            return;
        };
        let handler = |request| handler(request, client);
        let ended = connection::serve(stream, &self.builder, &self.draining, handle, handler);
        let ended = ended.await;
        debug!(reason = %ended, "connection ended");
    }

    /// Refuses a connection because there are too many.
    async fn refuse_full(
        &self,
        mut stream: TcpStream,
        address: SocketAddr,
        handle: ConnectionHandle,
    ) {
        if self.proxies.send_header {
            let identified = self.proxies.identify(&mut stream, address);
            if !matches!(self.run(&handle, identified).await, Some(Ok(_))) {
                return;
            }
        }
        let client = Client::plain(address);
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let text = "too many open connections, try again later";
        self.refuse(stream, client, handle, status, text).await;
    }

    /// Responds to a request with this status, and closes the connection.
    async fn refuse(
        &self,
        stream: TcpStream,
        client: Client,
        handle: ConnectionHandle,
        status: StatusCode,
        text: &'static str,
    ) {
        let handler = |_| async move {
            let mut response = overload_response(status, text, RETRY_AFTER);
            response.extensions_mut().insert(Refused);
            response
        };
        let refused = async {
            if let Some((stream, _)) = self.encrypt(stream, client, &handle).await {
                connection::serve(stream, &self.builder, &self.draining, handle, handler).await;
            }
        };
        // On HTTP/2, the client closes the connection, or it is dropped.
        let _ = timeout(REFUSAL_TIMEOUT, refused).await;
    }

    /// Performs the TLS handshake, if any. `None` if it fails, or if the connection is closed.
    async fn encrypt(
        &self,
        stream: TcpStream,
        client: Client,
        handle: &ConnectionHandle,
    ) -> Option<(TokioIo<Stream>, Client)> {
        // Boxed, since otherwise the connection would reserve space for it.
        let encrypted = Box::pin(self.encryption.accept(stream, client));
        match self.run(handle, encrypted).await? {
            Ok((stream, client)) => Some((TokioIo::new(stream), client)),
            Err(error) => {
                self.admission.refused.tls_handshake.inc();
                debug!(%error, "TLS handshake failed");
                None
            }
        }
    }

    /// Runs a future until the connection is closed or the host drains.
    async fn run<F: Future>(&self, handle: &ConnectionHandle, future: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = handle.closed() => None,
            () = self.draining.handshake_ends() => None,
        }
    }
}

impl Proxies {
    /// Returns the client that the header of the PROXY protocol names, of a connection that comes
    /// from `address`.
    async fn identify(&self, stream: &mut TcpStream, address: SocketAddr) -> io::Result<Client> {
        if !self.trusted.contains(address.ip()) {
            return Err(io::Error::other(
                "the address is not in --trusted-proxies, so its header of the PROXY protocol cannot be trusted",
            ));
        }
        let header = timeout(HANDSHAKE_TIMEOUT, proxy_protocol::read_header(stream));
        let header = header.await.map_err(|_| {
            io::Error::other(format!(
                "no header of the PROXY protocol within {HANDSHAKE_TIMEOUT:?}"
            ))
        })??;
        Ok(Client {
            is_secure: header.is_secure,
            ..self.client(header.address.unwrap_or(address))
        })
    }

    /// Returns the client at an address, whose connection is not encrypted.
    fn client(&self, address: SocketAddr) -> Client {
        let is_trusted_proxy = self.trusted.contains(address.ip());
        let ip = address.ip().to_canonical();
        Client {
            is_trusted_proxy,
            limited_address: (!is_trusted_proxy).then_some(ip),
            ..Client::plain(address)
        }
    }
}

impl Encryption {
    /// Performs the TLS handshake, if any, and returns the stream and its client.
    async fn accept(&self, stream: TcpStream, client: Client) -> io::Result<(Stream, Client)> {
        let tls = match self {
            Self::None => None,
            Self::Tls(tls) => Some(tls),
            Self::TlsForRemote(tls) => {
                let is_plain = is_local(client.address, stream.local_addr()?)
                    && !timeout(HEAD_TIMEOUT, is_tls(&stream))
                        .await
                        .map_err(|_| io::Error::other("nothing received"))??;
                (!is_plain).then_some(tls)
            }
        };
        let stream = match tls {
            None => Stream::Plain(stream),
            Some(tls) => {
                let accepted = timeout(
                    HANDSHAKE_TIMEOUT,
                    tls.acceptor().accept_with(stream, |connection| {
                        connection.set_buffer_limit(Some(tls::BUFFER_BYTES));
                    }),
                );
                let accepted = accepted.await;
                Stream::Tls(Box::new(
                    accepted.map_err(|_| io::Error::other("not complete in time"))??,
                ))
            }
        };
        let client = Client {
            // A proxy may have terminated TLS.
            is_secure: client.is_secure || tls.is_some(),
            ..client
        };
        Ok((stream, client))
    }
}

/// Returns an IPv4 address as such, even if the socket is IPv6 and accepts both.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::from((ip, address.port())),
        IpAddr::V6(_) => address,
    }
}

/// Returns whether a client runs on this machine. Its address is then loopback, or the one that it has
/// connected to.
fn is_local(client: SocketAddr, connected_to: SocketAddr) -> bool {
    let client = client.ip().to_canonical();
    client.is_loopback() || client == connected_to.ip().to_canonical()
}

/// Returns whether a client begins with a TLS handshake. Waits for its first byte.
async fn is_tls(stream: &TcpStream) -> io::Result<bool> {
    /// The type of a TLS record that contains a handshake (RFC 8446, section 5.1).
    const HANDSHAKE: u8 = 22;

    let mut first = [0];
    Ok(stream.peek(&mut first).await? == 1 && first[0] == HANDSHAKE)
}

/// Sends small writes at once, and detects clients that disappeared.
fn set_options(socket: &SockRef<'_>) {
    if let Err(error) = socket.set_tcp_nodelay(true) {
        debug!(%error, "cannot set TCP_NODELAY");
    }
    let keepalive = TcpKeepalive::new().with_time(Limits::DEFAULT.tcp_keepalive);
    if let Err(error) = socket.set_tcp_keepalive(&keepalive) {
        debug!(%error, "cannot set SO_KEEPALIVE");
    }
}

/// Returns whether an error to accept a connection concerns its client rather than this process.
fn is_client_error(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_of_this_machine_are_local() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        for (client, connected_to, expected) in [
            ("127.0.0.1:1", "127.0.0.1:2", true),
            ("[::ffff:127.0.0.1]:1", "[::ffff:127.0.0.1]:2", true),
            ("[::1]:1", "[::1]:2", true),
            ("10.0.0.5:1", "10.0.0.5:2", true),
            ("[::ffff:10.0.0.5]:1", "10.0.0.5:2", true),
            ("10.0.0.6:1", "10.0.0.5:2", false),
            ("[fd00::6]:1", "[fd00::5]:2", false),
        ] {
            let is_local = is_local(address(client), address(connected_to));
            assert_eq!(is_local, expected, "{client} to {connected_to}");
        }
    }

    #[test]
    fn addresses_of_ipv4_clients_are_ipv4() {
        for (address, expected) in [
            ("[::ffff:10.0.0.5]:1", "10.0.0.5:1"),
            ("10.0.0.5:1", "10.0.0.5:1"),
            ("[fd00::6]:1", "[fd00::6]:1"),
        ] {
            let address = address.parse().expect("an address");
            assert_eq!(canonical(address).to_string(), expected);
        }
    }

    #[tokio::test]
    async fn accepted_sockets_have_the_options() {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let shutdown = Shutdown::default();
        let listener = Listener::bind(address, "--listen", &shutdown).await;
        let listener = listener.expect("free port");
        let _client = TcpStream::connect(listener.address()).await;
        let (accepted, _) = listener.tcp.accept().await.expect("client");
        let socket = SockRef::from(&accepted);
        if !INHERITS_OPTIONS {
            set_options(&socket);
        }
        assert!(socket.tcp_nodelay().expect("TCP_NODELAY"));
        assert!(socket.keepalive().expect("SO_KEEPALIVE"));
    }
}
