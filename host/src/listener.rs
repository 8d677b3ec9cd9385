//! A listener: accepts connections on one address and serves HTTP on them.

use std::{convert::Infallible, future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use prometheus_client::metrics::gauge::Gauge;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use runtime::backend::Body;

/// How long a client may take for the head of a request, also between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a connection is silent before the system asks whether the client is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// How long accepting rests when there are no more file descriptors.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// A bound address, not yet served. Connections made meanwhile wait.
pub struct Listener {
    tcp: TcpListener,
    address: SocketAddr,
}

/// Cuts a connection off: an extension of each of its requests.
#[derive(Clone, Debug)]
pub struct Cut(CancellationToken);

impl Cut {
    /// Drops the connection with all that is under way on it.
    pub fn cut(&self) {
        self.0.cancel();
    }
}

impl Listener {
    /// Binds `address`; `option` is what sets it, for the error.
    pub async fn bind(address: SocketAddr, option: &str) -> Result<Self> {
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
        let address = tcp.local_addr().context("the address of a listener")?;
        Ok(Self { tcp, address })
    }

    /// The address, with the port that the system chose where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`, then lets the requests under way finish. `connections` says how
    /// many are open, those included that became something else than HTTP.
    pub async fn serve<H, F>(self, handler: Arc<H>, connections: Gauge, stop: CancellationToken)
    where
        H: Fn(Request<Incoming>, SocketAddr) -> F + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(HEAD_TIMEOUT);
        let builder = Arc::new(builder);
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
            let (builder, handler, watcher) =
                (builder.clone(), handler.clone(), graceful.watcher());
            let counted = Counted::new(connections.clone());
            tokio::spawn(async move {
                let cut = Cut(CancellationToken::new());
                let is_cut = cut.0.clone();
                let service = service_fn(move |mut request: Request<Incoming>| {
                    request.extensions_mut().insert(cut.clone());
                    let answer = handler(request, client);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                let connection = builder.serve_connection_with_upgrades(plain(stream), service);
                let served = tokio::select! {
                    served = watcher.watch(connection) => served,
                    () = is_cut.cancelled() => return debug!(%client, "connection: cut off"),
                };
                if let Err(error) = served {
                    debug!(%client, "connection: {error}");
                }
                drop(counted);
            });
        }
        drop(self.tcp);
        graceful.shutdown().await;
    }
}

/// One of the open connections.
struct Counted(Gauge);

impl Counted {
    fn new(connections: Gauge) -> Self {
        connections.inc();
        Self(connections)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Small writes go out at once, and a client that is gone without a word is noticed in time.
fn plain(stream: TcpStream) -> TokioIo<TcpStream> {
    if let Err(error) = stream.set_nodelay(true) {
        debug!("TCP_NODELAY: {error}");
    }
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
    if let Err(error) = SockRef::from(&stream).set_tcp_keepalive(&keepalive) {
        debug!("SO_KEEPALIVE: {error}");
    }
    TokioIo::new(stream)
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
