//! Tunnels: upgraded connections whose bytes go to an upstream and back as they are.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use runtime::backend::{Body, empty};
use tokio::{
    io::{AsyncWriteExt, copy_bidirectional_with_sizes},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use crate::{
    answer::{answer, failure},
    hop::tokens,
    upstream::Upstream,
};

/// What is under way in each direction of a tunnel, in bytes.
const BUFFER: usize = 8 * 1024;

/// How long both ends of a tunnel may take to hear that it is closed.
const FAREWELL: Duration = Duration::from_secs(1);

/// The open tunnels of a host.
pub struct Tunnels {
    room: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Tunnels {
    /// No tunnels, at most `most` at once, until `stop`.
    pub fn new(most: usize, stop: CancellationToken) -> Self {
        Self {
            room: Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))),
            tasks: TaskTracker::new(),
            stop,
        }
    }

    /// Passes on a request to switch to one of `protocols`, and then what is said in it. A refusal
    /// goes back as it is.
    pub async fn open(
        &self,
        upstream: &Upstream,
        mut request: Request<Body>,
        protocols: &HeaderValue,
    ) -> Response<Body> {
        let Ok(room) = self.room.clone().try_acquire_owned() else {
            return answer(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many tunnels are open, try again later",
            );
        };
        let path = request.uri().path().to_owned();
        let client = hyper::upgrade::on(&mut request);
        let mut response = match upstream.upgrade(request, protocols).await {
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
        self.tasks.spawn(async move {
            let _room = room;
            match both(client, server).await {
                Ok((client, server)) => carry(client, server, stop).await,
                Err(error) => debug!(path, "a tunnel was not opened: {error}"),
            }
        });
        response.map(|_| empty())
    }

    /// Waits for the end of all, after `stop`; no others must be opened then.
    pub async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// The protocols to which a request asks to switch, without those in which requests would follow
/// that nobody here looks at: HTTP/2 without TLS, and HTTP itself within TLS.
pub fn protocols<B>(request: &Request<B>) -> Option<HeaderValue> {
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

/// Carries bytes both ways. When one end has no more to say, the other is told so, and may go on.
async fn carry(client: Upgraded, server: Upgraded, stop: CancellationToken) {
    let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
    tokio::select! {
        carried = copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER) => {
            if let Err(error) = carried {
                debug!("a tunnel was cut: {error}");
            }
        }
        () = stop.cancelled() => {
            let close = async { tokio::join!(client.shutdown(), server.shutdown()) };
            // Neither end needs to listen any more.
            let _ = tokio::time::timeout(FAREWELL, close).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
