//! A listening socket: accepts connections and serves HTTP on them.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::{rt::TokioIo, server::graceful::GracefulShutdown};
use prometheus_client::metrics::counter::Counter;
use socket2::{SockRef, TcpKeepalive};
use spin_runtime::{
    RateLimitedLog,
    backend::{Body, Client},
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, debug_span, warn};

use crate::{
    config::Limits,
    net::{
        connection,
        connections::Connections,
        stream::Stream,
        tls::{self, Tls},
    },
    shutdown::Shutdown,
};

/// Whether accepted sockets inherit the options of the listening socket.
const INHERITS_OPTIONS: bool = cfg!(target_os = "linux");

/// The time for the first byte of a connection that may be encrypted or not.
const HEAD_TIMEOUT: Duration = Limits::DEFAULT.request_head_timeout;

/// The time for a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Limits::DEFAULT.tls_handshake_timeout;

/// The pause after an accept that failed for lack of resources, such as file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound address. Connections wait until it is served.
pub(crate) struct Listener {
    tcp: TcpListener,
    address: SocketAddr,
    encryption: Encryption,
    abort: CancellationToken,
}

/// Counts the connections of a listener that are not served.
#[derive(Clone, Default)]
pub(crate) struct RefusalCounters {
    /// Those beyond the limit.
    pub(crate) full: Counter,
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
        if INHERITS_OPTIONS {
            set_options(&SockRef::from(&tcp));
        }
        let address = tcp.local_addr().context("cannot get the bound address")?;
        Ok(Self {
            tcp,
            address,
            encryption: Encryption::None,
            abort: shutdown.abort.clone(),
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

    /// Accepts connections until `drain`, and then waits for the requests in progress.
    ///
    /// `connections` bounds the open connections, including those that were upgraded. `refused`
    /// counts the further ones, which are closed, and those whose TLS handshake failed. An abort of
    /// the host closes all of them.
    pub(crate) async fn serve<H, F>(
        self,
        handler: Arc<H>,
        connections: Arc<Connections>,
        refused: RefusalCounters,
        drain: CancellationToken,
    ) where
        H: Fn(Request<Incoming>, Client) -> F + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let builder = Arc::new(connection::builder());
        let graceful = GracefulShutdown::new();
        let lines_per_second = spin_runtime::Limits::DEFAULT.log_lines_per_second;
        let refusals = RateLimitedLog::new(lines_per_second, |suppressed| {
            warn!(suppressed, "connection refused: too many open connections");
        });
        let accept_failures = RateLimitedLog::new(1, |suppressed| {
            warn!(suppressed, "cannot accept connections, trying again");
        });
        loop {
            let accepted = tokio::select! {
                accepted = self.tcp.accept() => accepted,
                () = drain.cancelled() => break,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if !is_client_error(&error) {
                        refused.accept.inc();
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
            let Some((handle, registration)) = connections.register(self.abort.child_token())
            else {
                refused.full.inc();
                refusals.log(
                    || warn!(client = %address, "connection refused: too many open connections"),
                );
                continue;
            };
            let (builder, handler) = (builder.clone(), handler.clone());
            let (encryption, watcher) = (self.encryption.clone(), graceful.watcher());
            let (failed_handshakes, drain) = (refused.tls_handshake.clone(), drain.clone());
            let serve = async move {
                let _registration = registration;
                // Boxed, since otherwise the connection would reserve space for it.
                let accepted = Box::pin(encryption.accept(stream, address));
                let (stream, client) = tokio::select! {
                    biased;
                    accepted = accepted => match accepted {
                        Ok(accepted) => accepted,
                        Err(error) => {
                            failed_handshakes.inc();
                            return debug!(%error, "TLS handshake failed");
                        }
                    },
                    () = handle.closed() => return,
                    () = drain.cancelled() => return,
                };
                let handler = |request| handler(request, client);
                let stream = TokioIo::new(stream);
                let ended = connection::serve(stream, &builder, watcher, handle, handler).await;
                debug!(reason = %ended, "connection ended");
            };
            tokio::spawn(serve.instrument(debug_span!("connection", client = %address)));
        }
        drop(self.tcp);
        graceful.shutdown().await;
    }
}

impl Encryption {
    /// Performs the TLS handshake, if any, and returns the stream and its client.
    async fn accept(&self, stream: TcpStream, address: SocketAddr) -> io::Result<(Stream, Client)> {
        let tls = match self {
            Self::None => None,
            Self::Tls(tls) => Some(tls),
            Self::TlsForRemote(tls) => {
                let is_plain = is_local(address, stream.local_addr()?)
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
            address,
            is_secure: tls.is_some(),
        };
        Ok((stream, client))
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
