//! Tunnels: upgraded connections whose bytes are relayed to and from an upstream.

use std::{io, sync::Arc, time::Duration};

use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use spin_runtime::backend::{Body, empty};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy, split},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use crate::{
    config::Limits,
    http::{
        error_response::{backend_error_response, text_response},
        extended_connect::{WEBSOCKET, from_switching_protocols, is_extended_connect, to_upgrade},
        headers::list_items,
    },
    metrics::{
        backend::metered,
        gauge_guard::GaugeGuard,
        registry::{Dropped, Metrics},
    },
    net::{addresses::AddressGuard, connection::ConnectionHandle},
    state::stop_tokens::StopTokens,
    upstream::Upstream,
};

/// How long a tunnel stays open after one end has closed its sending side.
const HALF_CLOSE_TIMEOUT: Duration = Limits::DEFAULT.tunnel_half_closed_timeout;

/// The time limit for closing both ends of a tunnel when the host stops.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The open tunnels of a host.
pub(crate) struct Tunnels {
    permits: Arc<Semaphore>,
    tasks: TaskTracker,
    tokens: StopTokens,
    metrics: Arc<Metrics>,
}

impl Tunnels {
    /// Allows up to `max_tunnels` concurrent tunnels, which `stop` closes.
    pub(crate) fn new(max_tunnels: usize, stop: CancellationToken, metrics: Arc<Metrics>) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(max_tunnels.min(Semaphore::MAX_PERMITS))),
            tasks: TaskTracker::new(),
            tokens: StopTokens::new(stop),
            metrics,
        }
    }

    /// Sends an upgrade request for one of `protocols` to an upstream and opens the tunnel, which
    /// `address_guard` counts.
    ///
    /// If the upstream refuses, its response is returned unchanged. With 200, a WebSocket over HTTP/2
    /// would be open, so such a response becomes a 502.
    pub(crate) async fn open(
        &self,
        upstream: &Upstream,
        mut request: Request<Body>,
        protocols: &HeaderValue,
        address_guard: Option<AddressGuard>,
    ) -> Response<Body> {
        let Ok(permit) = self.permits.clone().try_acquire_owned() else {
            self.metrics.dropped(Dropped::Full).inc();
            return text_response(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many tunnels, try again later",
            );
        };
        let path = request.uri().path().to_owned();
        let client = hyper::upgrade::on(&mut request);
        let connection = ConnectionHandle::of(&request);
        let accept_key = is_extended_connect(&request).then(|| to_upgrade(&mut request));
        let upgrade = upstream.upgrade(request, protocols);
        let mut response = match metered(upgrade, &self.metrics, upstream.name()).await {
            Ok(response) => response,
            Err(error) => {
                warn!(route = path, upstream = %upstream.name(), %error, "upgrade failed");
                return backend_error_response(&error);
            }
        };
        let bad_gateway = |problem: &str| {
            warn!(route = path, upstream = %upstream.name(), "upgrade failed: {problem}");
            let text = format!("invalid WebSocket handshake from the upstream: {problem}");
            text_response(StatusCode::BAD_GATEWAY, &text)
        };
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return if accept_key.is_some() && response.status().is_success() {
                bad_gateway("it did not switch protocols")
            } else {
                response
            };
        }
        let server = hyper::upgrade::on(&mut response);
        if let Some(accept_key) = accept_key
            && !from_switching_protocols(&mut response, &accept_key)
        {
            return bad_gateway("wrong Sec-WebSocket-Accept");
        }
        let stop = self.tokens.register();
        let gauge = GaugeGuard::new(&self.metrics.tunnels);
        self.tasks
            .spawn(ConnectionHandle::run_upgraded(connection, async move {
                let _guards = (permit, gauge, address_guard);
                match tokio::try_join!(client, server) {
                    Ok((client, server)) => run(client, server, stop.token()).await,
                    Err(error) => debug!(route = path, %error, "failed to open a tunnel"),
                }
            }));
        response.map(|_| empty())
    }

    /// Closes all tunnels within `time`, one by one.
    pub(crate) async fn close_gradually(&self, time: Duration) {
        self.tokens.stop_gradually(time).await;
    }

    /// Waits until all tunnels are closed, after `stop`. No more tunnels may be opened.
    pub(crate) async fn closed(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Returns the protocols that a request wants to upgrade to.
///
/// HTTP itself is left out (`h2c`, and HTTP within TLS): its requests would bypass the gateway.
pub(crate) fn requested_protocols<B>(request: &Request<B>) -> Option<HeaderValue> {
    if is_extended_connect(request) {
        return Some(WEBSOCKET);
    }
    let headers = request.headers();
    if request.version() != Version::HTTP_11
        || !list_items(headers, &header::CONNECTION)
            .any(|token| token.eq_ignore_ascii_case("upgrade"))
    {
        return None;
    }
    let is_http = |protocol: &&str| {
        let name = protocol.split('/').next().unwrap_or_default();
        ["h2c", "h2", "http", "tls"]
            .iter()
            .any(|http| name.eq_ignore_ascii_case(http))
    };
    let protocols: Vec<&str> = list_items(headers, &header::UPGRADE)
        .filter(|protocol| !is_http(protocol))
        .collect();
    if protocols.is_empty() {
        return None;
    }
    HeaderValue::from_str(&protocols.join(", ")).ok()
}

/// Relays a tunnel until it ends or the host stops.
async fn run(client: Upgraded, server: Upgraded, stop: CancellationToken) {
    let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
    tokio::select! {
        result = relay(&mut client, &mut server) => {
            if let Err(error) = result {
                debug!(%error, "tunnel failed");
            }
        }
        () = stop.cancelled() => {
            let close = async { tokio::join!(client.shutdown(), server.shutdown()) };
            // Closing is best effort: the connections are dropped next.
            let _ = timeout(CLOSE_TIMEOUT, close).await;
        }
    }
}

/// Copies bytes both ways. When one end closes its sending side, the other may still send for
/// [`HALF_CLOSE_TIMEOUT`].
///
/// # Errors
/// Returns the errors of either end, and `TimedOut` after the half-close timeout.
async fn relay(
    client: impl AsyncRead + AsyncWrite + Unpin,
    server: impl AsyncRead + AsyncWrite + Unpin,
) -> io::Result<()> {
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (split(client), split(server));
    let up = async {
        copy(&mut from_client, &mut to_server).await?;
        to_server.shutdown().await
    };
    let down = async {
        copy(&mut from_server, &mut to_client).await?;
        to_client.shutdown().await
    };
    tokio::pin!(up, down);
    let remaining = tokio::select! {
        result = &mut up => {
            result?;
            timeout(HALF_CLOSE_TIMEOUT, down).await
        }
        result = &mut down => {
            result?;
            timeout(HALF_CLOSE_TIMEOUT, up).await
        }
    };
    remaining.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, DuplexStream, duplex},
        time::{Instant, sleep},
    };

    use super::*;

    /// Returns the two ends of an open tunnel.
    fn tunnel() -> (DuplexStream, DuplexStream) {
        let (client, tunnel_to_client) = duplex(64);
        let (tunnel_to_server, server) = duplex(64);
        tokio::spawn(relay(tunnel_to_client, tunnel_to_server));
        (client, server)
    }

    #[tokio::test(start_paused = true)]
    async fn half_closed_tunnel_is_closed_after_a_timeout() {
        for client_closes in [true, false] {
            let (mut closing, mut other) = tunnel();
            if !client_closes {
                std::mem::swap(&mut closing, &mut other);
            }
            // An idle tunnel stays open.
            sleep(HALF_CLOSE_TIMEOUT * 10).await;
            closing.write_all(b"last").await.expect("writes");
            closing.shutdown().await.expect("closes");
            let since = Instant::now();
            let mut received = String::new();
            other.read_to_string(&mut received).await.expect("reads");
            assert_eq!(received, "last");

            sleep(HALF_CLOSE_TIMEOUT / 2).await;
            other.write_all(b"reply").await.expect("writes");
            let mut received = String::new();
            closing.read_to_string(&mut received).await.expect("reads");
            assert_eq!(received, "reply");
            assert_eq!(since.elapsed(), HALF_CLOSE_TIMEOUT);
        }
    }

    #[test]
    fn only_upgrades_to_other_protocols_are_tunnelled() {
        let requested = |connection: &str, upgrade: &str| {
            let request = Request::get("/")
                .header("connection", connection)
                .header("upgrade", upgrade)
                .body(())
                .unwrap();
            requested_protocols(&request).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(
            requested("Upgrade", "websocket").as_deref(),
            Some("websocket")
        );
        assert_eq!(
            requested("keep-alive, upgrade", "h2c, chat/1 ,WebSocket").as_deref(),
            Some("chat/1, WebSocket")
        );
        for (connection, upgrade) in [
            ("keep-alive", "websocket"),
            ("upgrade", ""),
            ("upgrade", "h2c"),
            ("upgrade", "H2C, TLS/1.2, HTTP/2.0"),
        ] {
            assert_eq!(
                requested(connection, upgrade),
                None,
                "{connection} {upgrade}"
            );
        }
        let mut old = Request::get("/")
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .body(())
            .unwrap();
        *old.version_mut() = Version::HTTP_10;
        assert_eq!(requested_protocols(&old), None);
    }
}
