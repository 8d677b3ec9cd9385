//! Tunnels: upgraded connections whose bytes go to an upstream and back as they are.

use std::{io, sync::Arc, time::Duration};

use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
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
    http::{
        error_response::{answer, failure},
        headers::tokens,
    },
    metrics::{
        backend::metered,
        gauge_guard::GaugeGuard,
        registry::{Dropped, Metrics},
    },
    net::connection::ConnectionHandle,
    upstream::Upstream,
};

/// How long one end of a tunnel may go on when the other has said all it has to say.
const HALF_CLOSED: Duration = Duration::from_secs(60);

/// How long both ends of a tunnel may take to hear that it is closed.
const FAREWELL: Duration = Duration::from_secs(1);

/// The open tunnels of a host.
pub(crate) struct Tunnels {
    room: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
    metrics: Arc<Metrics>,
}

impl Tunnels {
    /// No tunnels, at most `most` at once, until `stop`.
    pub(crate) fn new(most: usize, stop: CancellationToken, metrics: Arc<Metrics>) -> Self {
        Self {
            room: Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))),
            tasks: TaskTracker::new(),
            stop,
            metrics,
        }
    }

    /// Passes on a request to switch to one of `protocols`, and then what is said in it. A refusal
    /// goes back as it is.
    pub(crate) async fn open(
        &self,
        upstream: &Upstream,
        mut request: Request<Body>,
        protocols: &HeaderValue,
    ) -> Response<Body> {
        let Ok(room) = self.room.clone().try_acquire_owned() else {
            self.metrics.dropped(Dropped::Full).inc();
            return answer(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many tunnels are open, try again later",
            );
        };
        let path = request.uri().path().to_owned();
        let client = hyper::upgrade::on(&mut request);
        let connection = ConnectionHandle::of(&request);
        let answer = upstream.upgrade(request, protocols);
        let mut response = match metered(answer, &self.metrics, upstream.name()).await {
            Ok(response) => response,
            Err(error) => {
                warn!(path, "{error}");
                return failure(&error);
            }
        };
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return response;
        }
        let server = hyper::upgrade::on(&mut response);
        let stop = self.stop.clone();
        let counted = GaugeGuard::new(&self.metrics.tunnels);
        self.tasks
            .spawn(ConnectionHandle::run_upgraded(connection, async move {
                let _held = (room, counted);
                match both(client, server).await {
                    Ok((client, server)) => carry(client, server, stop).await,
                    Err(error) => debug!(path, "a tunnel was not opened: {error}"),
                }
            }));
        response.map(|_| empty())
    }

    /// Waits for the end of all, after `stop`; no others must be opened then.
    pub(crate) async fn closed(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// The protocols to which a request asks to switch, without those in which requests would follow
/// that nobody here looks at: HTTP/2 without TLS, and HTTP itself within TLS.
pub(crate) fn protocols<B>(request: &Request<B>) -> Option<HeaderValue> {
    let headers = request.headers();
    if request.version() != Version::HTTP_11
        || !tokens(headers, &header::CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"))
    {
        return None;
    }
    let is_http = |protocol: &&str| {
        let name = protocol.split('/').next().unwrap_or_default();
        ["h2c", "h2", "http", "tls"]
            .iter()
            .any(|http| name.eq_ignore_ascii_case(http))
    };
    let asked: Vec<&str> = tokens(headers, &header::UPGRADE)
        .filter(|protocol| !is_http(protocol))
        .collect();
    match asked.is_empty() {
        true => None,
        // Parts of a header value.
        false => HeaderValue::from_str(&asked.join(", ")).ok(),
    }
}

async fn both(client: OnUpgrade, server: OnUpgrade) -> hyper::Result<(Upgraded, Upgraded)> {
    tokio::try_join!(client, server)
}

/// Carries bytes both ways. When one end has no more to say, the other is told so, and may go on
/// for a while.
async fn carry(client: Upgraded, server: Upgraded, stop: CancellationToken) {
    let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
    tokio::select! {
        carried = carry_both(&mut client, &mut server) => {
            if let Err(error) = carried {
                debug!("a tunnel was cut: {error}");
            }
        }
        () = stop.cancelled() => {
            let close = async { tokio::join!(client.shutdown(), server.shutdown()) };
            // Neither end needs to listen any more.
            let _ = timeout(FAREWELL, close).await;
        }
    }
}

/// # Errors
/// Those of either end, and when one goes on for too long alone.
async fn carry_both(
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
    let rest = tokio::select! {
        ended = &mut up => {
            ended?;
            timeout(HALF_CLOSED, down).await
        }
        ended = &mut down => {
            ended?;
            timeout(HALF_CLOSED, up).await
        }
    };
    rest.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, DuplexStream, duplex},
        time::{Instant, sleep},
    };

    use super::*;

    /// A tunnel that is open, with its two ends.
    fn tunnel() -> (DuplexStream, DuplexStream) {
        let (client, near) = duplex(64);
        let (far, server) = duplex(64);
        tokio::spawn(carry_both(near, far));
        (client, server)
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_alone_goes_on_for_a_while() {
        for client_ends in [true, false] {
            let (mut one, mut other) = tunnel();
            if !client_ends {
                std::mem::swap(&mut one, &mut other);
            }
            // As long as both are there, neither has to say anything.
            sleep(HALF_CLOSED * 10).await;
            one.write_all(b"the last word").await.expect("it writes");
            one.shutdown().await.expect("it closes");
            let since = Instant::now();
            let mut said = String::new();
            other.read_to_string(&mut said).await.expect("an end");
            assert_eq!(said, "the last word");

            sleep(HALF_CLOSED / 2).await;
            other.write_all(b"but").await.expect("it writes");
            let mut said = String::new();
            one.read_to_string(&mut said).await.expect("an end");
            assert_eq!(said, "but");
            assert_eq!(since.elapsed(), HALF_CLOSED);
        }
    }

    #[test]
    fn what_is_tunnelled() {
        let asked = |connection: &str, upgrade: &str| {
            let request = Request::get("/")
                .header("connection", connection)
                .header("upgrade", upgrade)
                .body(())
                .unwrap();
            protocols(&request).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(asked("Upgrade", "websocket").as_deref(), Some("websocket"));
        assert_eq!(
            asked("keep-alive, upgrade", "h2c, chat/1 ,WebSocket").as_deref(),
            Some("chat/1, WebSocket")
        );
        for (connection, upgrade) in [
            ("keep-alive", "websocket"),
            ("upgrade", ""),
            ("upgrade", "h2c"),
            ("upgrade", "H2C, TLS/1.2, HTTP/2.0"),
        ] {
            assert_eq!(asked(connection, upgrade), None, "{connection} {upgrade}");
        }
        let mut old = Request::get("/")
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .body(())
            .unwrap();
        *old.version_mut() = Version::HTTP_10;
        assert_eq!(protocols(&old), None);
    }
}
