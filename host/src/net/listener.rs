//! A listener: accepts connections on one address and serves HTTP on them.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::{rt::TokioIo, server::graceful::GracefulShutdown};
use prometheus_client::metrics::gauge::Gauge;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::net::connection::{self, ConnectionHandle};
use spin_runtime::backend::Body;

/// Whether the sockets of accepted connections begin with the options of the one that listens.
const INHERITED: bool = cfg!(target_os = "linux");

/// How long a connection is silent before the system asks whether the client is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// How long accepting rests when there are no more file descriptors.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// A bound address, not yet served. Connections made meanwhile wait.
pub(crate) struct Listener {
    tcp: TcpListener,
    address: SocketAddr,
    /// Cuts off all its connections.
    cut: CancellationToken,
}

impl Listener {
    /// Binds `address`; `option` is what sets it, for the error.
    pub(crate) async fn bind(address: SocketAddr, option: &str) -> Result<Self> {
        let tcp = match TcpListener::bind(address).await {
            Ok(tcp) => tcp,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(error).context(format!(
                    "{address} is in use: stop what listens there, or choose another address with {option}"
                ));
            }
            Err(error) => {
                return Err(error)
                    .context(format!("cannot listen on {address} (set with {option})"));
            }
        };
        if INHERITED {
            tune(&SockRef::from(&tcp));
        }
        let address = tcp.local_addr().context("the address of a listener")?;
        Ok(Self {
            tcp,
            address,
            cut: CancellationToken::new(),
        })
    }

    /// Has `cut` drop every connection with all that is under way on it, also when it has become
    /// something else than HTTP.
    pub(crate) fn cut_by(self, cut: CancellationToken) -> Self {
        Self { cut, ..self }
    }

    /// The address, with the port that the system chose where 0 was asked for.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`, then lets the requests under way finish. `connections` says how
    /// many are open, those included that became something else than HTTP.
    pub(crate) async fn serve<H, F>(
        self,
        handler: Arc<H>,
        connections: Gauge,
        stop: CancellationToken,
    ) where
        H: Fn(Request<Incoming>, SocketAddr) -> F + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let builder = Arc::new(connection::builder());
        let graceful = GracefulShutdown::new();
        loop {
            let (stream, client) = tokio::select! {
                accepted = self.tcp.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        rest(&error).await;
                        continue;
                    }
                },
                () = stop.cancelled() => break,
            };
            if !INHERITED {
                tune(&SockRef::from(&stream));
            }
            let (builder, handler, watcher) =
                (builder.clone(), handler.clone(), graceful.watcher());
            let cut = ConnectionHandle::new(&connections, self.cut.child_token());
            tokio::spawn(async move {
                let handler = |request| handler(request, client);
                let stream = TokioIo::new(stream);
                let ended = connection::serve(stream, &builder, watcher, cut, handler).await;
                debug!(%client, "connection: {ended}");
            });
        }
        drop(self.tcp);
        graceful.shutdown().await;
    }
}

/// Small writes go out at once, and a client that is gone without a word is noticed in time.
fn tune(socket: &SockRef<'_>) {
    if let Err(error) = socket.set_tcp_nodelay(true) {
        debug!("TCP_NODELAY: {error}");
    }
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
    if let Err(error) = socket.set_tcp_keepalive(&keepalive) {
        debug!("SO_KEEPALIVE: {error}");
    }
}

/// A failed accept is the client's affair, unless the process is out of something.
async fn rest(error: &io::Error) {
    let of_client = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    );
    if !of_client {
        warn!("cannot accept connections: {error}");
        tokio::time::sleep(EXHAUSTED_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn accepted_sockets_are_tuned() {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = Listener::bind(address, "--listen").await.expect("a port");
        let _client = TcpStream::connect(listener.address()).await;
        let (accepted, _) = listener.tcp.accept().await.expect("a client");
        let socket = SockRef::from(&accepted);
        if !INHERITED {
            tune(&socket);
        }
        assert!(socket.tcp_nodelay().expect("TCP_NODELAY"));
        assert!(socket.keepalive().expect("SO_KEEPALIVE"));
    }
}
