//! A backend that forwards requests to another HTTP server.
//!
//! Bodies stream both ways. The client's `Host` is kept, its address is added in the headers of
//! [`forwarded`], and hop-by-hop headers are removed ([`headers`](crate::http::headers)).
//!
//! - [`Upstream`] prepares requests, sends them with retries, and converts the responses.
//! - [`pool`] opens and reuses the connections of one upstream.
//! - [`early_response`] reads responses of upstreams that do not read the whole request.
//! - [`progress`] tracks uploads, which postpone the timeout of the response.
//! - [`passthrough`] finds the routes whose upgrades are tunneled.
//! - [`tunnel`] relays the bytes of upgraded connections.

mod early_response;
pub(crate) mod passthrough;
mod pool;
mod progress;
pub(crate) mod tunnel;

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow};
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version, header, uri::PathAndQuery,
};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use spin_runtime::{
    RateLimitedLog,
    backend::{
        Backend, BackendError, Body, Busy, Caller, RequestBodyError, ResponseFuture,
        WaitsForCapacity, empty,
    },
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};
use tracing::warn;

use crate::{
    config::{Limits, UpstreamUrl},
    http::{
        forwarded,
        headers::{has_unsupported_transfer_coding, list_items, remove_hop_headers},
    },
    upstream::{
        pool::{Connection, Lease, Pool, SendError},
        progress::Progress,
    },
};

/// How often a request is sent if its connection turns out to be closed.
const MAX_ATTEMPTS: usize = Limits::DEFAULT.upstream_attempts;

/// The requests to an upstream at the same time.
const MAX_REQUESTS: usize = Limits::DEFAULT.upstream_requests;

/// The name of this host in `Via`.
const PSEUDONYM: &str = "socket-host";

/// How often a request may pass this host. A request that passes more often is in a loop.
const MAX_PASSES: usize = Limits::DEFAULT.max_passes;

/// A server that requests are forwarded to.
pub(crate) struct Upstream {
    url: UpstreamUrl,
    name: Arc<str>,
    pool: Arc<Pool>,
    /// One permit for each request whose response has not ended.
    requests: Arc<Semaphore>,
    busy: RateLimitedLog,
    failures: RateLimitedLog,
    /// The time limit for the head of a response, counted from the last chunk of the request.
    response_timeout: Duration,
}

impl Upstream {
    /// Creates an upstream without connections. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// Returns an error for an `https` URL if the system has no root certificates.
    pub(crate) fn new(url: UpstreamUrl, response_timeout: Duration) -> anyhow::Result<Self> {
        let pool = Pool::new(&url)?;
        let name: Arc<str> = url.to_string().into();
        let upstream = name.clone();
        let failures = RateLimitedLog::new(
            spin_runtime::Limits::DEFAULT.log_lines_per_second,
            move |suppressed| warn!(%upstream, suppressed, "upstream request failed"),
        );
        let upstream = name.clone();
        // Under overload, the number of refused requests says more than each of them.
        let busy = RateLimitedLog::new(
            1,
            move |suppressed| warn!(%upstream, suppressed, "request refused: too many requests"),
        );
        Ok(Self {
            requests: Arc::new(Semaphore::new(MAX_REQUESTS)),
            busy,
            name,
            failures,
            url,
            pool,
            response_timeout,
        })
    }

    /// Returns the URL, which names the upstream in logs and metrics.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Sends an upgrade request for one of `protocols` on a new HTTP/1.1 connection.
    ///
    /// If the response is 101, it names one of the protocols, and the connection can be taken from
    /// it. Any other response means that the upstream refused.
    ///
    /// # Errors
    /// Fails like [`Backend::call`].
    pub(crate) async fn upgrade(
        &self,
        mut request: Request<Body>,
        protocols: &HeaderValue,
    ) -> Result<Response<Body>, BackendError> {
        self.prepare(&mut request)?;
        let headers = request.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocols.clone());
        let connection = self.connect(self.pool.open_for_upgrade(), self.response_timeout);
        let (response, _) = self
            .send(connection.await?, request)
            .await?
            .map_err(|error| self.send_error(error))?;
        self.check_transfer_coding(response.headers())?;
        let mut response = response.map(|body| body.map_err(Into::into).boxed_unsync());
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let protocol = response.headers().get(header::UPGRADE).cloned();
            let protocol = protocol.filter(|protocol| contains_protocol(protocols, protocol));
            let protocol = protocol
                .ok_or_else(|| self.broken(anyhow!("switched to a protocol not requested")))?;
            remove_hop_headers(response.headers_mut());
            let headers = response.headers_mut();
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, protocol);
        } else {
            remove_hop_headers(response.headers_mut());
        }
        *response.version_mut() = Version::HTTP_11;
        Ok(response)
    }

    async fn forward(&self, mut request: Request<Body>) -> Result<Response<Body>, BackendError> {
        let permit = self.acquire_permit(waits_for_capacity(&request)).await?;
        self.prepare(&mut request)?;
        let started = Instant::now();
        let mut attempt = 0;
        loop {
            attempt += 1;
            let time_left = self.response_timeout.saturating_sub(started.elapsed());
            let can_retry = attempt < MAX_ATTEMPTS;
            let connection = if can_retry {
                self.connect(self.pool.acquire(), time_left).await?
            } else {
                self.connect(self.pool.open(), time_left).await?
            };
            // The upstream may close a connection just when a request is sent on it. A request
            // without a body can then be sent again if it is idempotent (RFC 9112, 9.3.1), or if
            // the upstream did not process it.
            let copy =
                (can_retry && request.body().is_end_stream()).then(|| copy_without_body(&request));
            let is_idempotent = connection.is_reused() && request.method().is_idempotent();
            let error = match self.send(connection, request).await? {
                Ok((response, lease)) => return self.convert_response(response, lease, permit),
                Err(error) => error,
            };
            request = match (error.request, copy) {
                (Some(unsent), _) if can_retry => *unsent,
                (None, Some(copy))
                    if is_unprocessed(&error.source)
                        || (is_idempotent && is_connection_closed(&error.source)) =>
                {
                    copy
                }
                (request, _) => {
                    let source = error.source;
                    return Err(self.send_error(SendError { source, request }));
                }
            };
        }
    }

    /// Waits until the upstream may have another request. Without `waits`, fails at once.
    async fn acquire_permit(&self, waits: bool) -> Result<OwnedSemaphorePermit, BackendError> {
        let permit = if waits {
            let permit = self.requests.clone().acquire_owned();
            tokio::time::timeout(self.response_timeout, permit)
                .await
                .ok()
                .and_then(Result::ok)
        } else {
            self.requests.clone().try_acquire_owned().ok()
        };
        permit.ok_or_else(|| BackendError::Busy {
            component: self.name.to_string(),
            cause: Busy::Requests,
        })
    }

    /// Turns a client's request into the one for the upstream.
    fn prepare(&self, request: &mut Request<Body>) -> Result<(), BackendError> {
        let path = request
            .uri()
            .path_and_query()
            .map_or("/", PathAndQuery::as_str);
        let path = match path {
            "*" => PathAndQuery::from_static("*"),
            path => PathAndQuery::try_from(format!("{}{path}", self.url.base()))
                .context("invalid path after the upstream's base path")
                .map_err(|error| self.unreachable(error))?,
        };
        // HTTP/2 requests name the host in the URI.
        if !request.headers().contains_key(header::HOST) {
            let host = request
                .uri()
                .authority()
                .map_or(self.url.authority(), |authority| authority.as_str());
            if let Ok(host) = HeaderValue::from_str(host) {
                request.headers_mut().insert(header::HOST, host);
            }
        }
        *request.uri_mut() = Uri::from(path);
        let client_version = request.version();
        *request.version_mut() = Version::HTTP_11;
        let caller = request.extensions_mut().remove::<Caller>();
        request.extensions_mut().clear();

        let headers = request.headers_mut();
        remove_hop_headers(headers);
        // This host has already sent 100 Continue.
        headers.remove(header::EXPECT);
        match caller {
            Some(Caller::Client(client)) => forwarded::set_forwarding_headers(headers, client),
            Some(Caller::Host) | None => forwarded::remove_forwarding_headers(headers),
        }
        let passes = list_items(headers, &header::VIA)
            .filter(|via| via.split_whitespace().nth(1) == Some(PSEUDONYM));
        if passes.count() >= MAX_PASSES {
            return Err(self.unreachable(anyhow!(
                "request loop detected: the upstream leads back to this host"
            )));
        }
        headers.append(header::VIA, via(client_version));
        Ok(())
    }

    async fn connect(
        &self,
        connecting: impl Future<Output = anyhow::Result<Connection>>,
        time_limit: Duration,
    ) -> Result<Connection, BackendError> {
        match tokio::time::timeout(time_limit, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(anyhow!("no connection within {time_limit:?}")),
        }
        .map_err(|error| self.unreachable(error))
    }

    /// Sends a request and waits for the head of the response.
    ///
    /// The outer error is a timeout, which is never retried.
    async fn send(
        &self,
        connection: Connection,
        request: Request<Body>,
    ) -> Result<Result<(Response<Incoming>, Option<Lease>), SendError>, BackendError> {
        let progress = Progress::default();
        let request = request.map(|body| progress.track(body));
        let mut response = std::pin::pin!(connection.send(request));
        let limit = self.response_timeout;
        let mut deadline = Instant::now() + limit;
        loop {
            if let Ok(result) = timeout_at(deadline, &mut response).await {
                return Ok(result);
            }
            // An upload that makes progress does not time out.
            match progress.last() {
                Some(last) if last + limit > deadline => deadline = last + limit,
                _ => {
                    return Err(BackendError::Deadline {
                        component: self.name.to_string(),
                        limit,
                    });
                }
            }
        }
    }

    /// Turns the upstream's response into the one for the client.
    fn convert_response(
        &self,
        mut response: Response<Incoming>,
        lease: Option<Lease>,
        permit: OwnedSemaphorePermit,
    ) -> Result<Response<Body>, BackendError> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.broken(anyhow!("switched to a protocol not requested")));
        }
        self.check_transfer_coding(response.headers())?;
        remove_hop_headers(response.headers_mut());
        *response.version_mut() = Version::HTTP_11;
        Ok(response.map(|body| {
            body.map_err(move |error| {
                // Owned by the closure, so that they are released with the body.
                let _owned = (&lease, &permit);
                error.into()
            })
            .boxed_unsync()
        }))
    }

    fn check_transfer_coding(&self, headers: &HeaderMap) -> Result<(), BackendError> {
        if has_unsupported_transfer_coding(headers) {
            return Err(self.broken(anyhow!(
                "unsupported Transfer-Encoding {:?}: expected chunked",
                headers.get_all(header::TRANSFER_ENCODING)
            )));
        }
        Ok(())
    }

    fn send_error(&self, error: SendError) -> BackendError {
        if let Some(error) = find_source::<RequestBodyError>(&error.source) {
            return BackendError::RequestBody(*error);
        }
        let is_unsent = error.request.is_some() || is_unprocessed(&error.source);
        let source = anyhow::Error::new(error.source);
        if is_unsent {
            self.unreachable(source)
        } else {
            self.broken(source)
        }
    }

    fn unreachable(&self, source: anyhow::Error) -> BackendError {
        BackendError::Unreachable {
            upstream: self.name.to_string(),
            source,
        }
    }

    fn broken(&self, source: anyhow::Error) -> BackendError {
        BackendError::Broken {
            upstream: self.name.to_string(),
            source,
        }
    }
}

impl Backend for Upstream {
    fn call(&self, request: Request<Body>) -> ResponseFuture<'_> {
        let path = request.uri().path().to_owned();
        Box::pin(async move {
            let result = self.forward(request).await;
            match &result {
                Ok(_) | Err(BackendError::RequestBody(_)) => {}
                Err(BackendError::Busy { .. }) => self.busy.log(|| {
                    warn!(route = path, upstream = %self.name, "request refused: too many requests");
                }),
                Err(error) => self.failures.log(|| {
                    warn!(route = path, upstream = %self.name, %error, "upstream request failed");
                }),
            }
            result
        })
    }
}

/// Returns whether a request waits while the upstream has too many.
fn waits_for_capacity(request: &Request<Body>) -> bool {
    let extensions = request.extensions();
    extensions.get() == Some(&Caller::Host) || extensions.get::<WaitsForCapacity>().is_some()
}

/// Returns a copy of a request without a body.
fn copy_without_body(request: &Request<Body>) -> Request<Body> {
    let mut copy = Request::new(empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// Returns whether a connection was closed before any of the response arrived.
fn is_connection_closed(error: &hyper::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    error.is_incomplete_message()
        || find_source::<std::io::Error>(error).is_some_and(|source| {
            matches!(
                source.kind(),
                ConnectionReset | ConnectionAborted | BrokenPipe
            )
        })
}

/// Returns whether an HTTP/2 server has certainly not processed a request.
///
/// It either refused the stream (RFC 9113, 8.7), or sent GOAWAY with an earlier last stream (6.8).
fn is_unprocessed(error: &hyper::Error) -> bool {
    find_source::<h2::Error>(error).is_some_and(|error| {
        error.reason() == Some(h2::Reason::REFUSED_STREAM)
            || (error.is_go_away() && error.is_remote())
    })
}

/// Returns the source of an error that has the given type.
fn find_source<E: std::error::Error + 'static>(error: &hyper::Error) -> Option<&E> {
    std::iter::successors(std::error::Error::source(error), |cause| cause.source())
        .find_map(|cause| cause.downcast_ref())
}

/// Returns this host's entry in `Via` (RFC 9110, 7.6.3).
fn via(version: Version) -> HeaderValue {
    HeaderValue::from_static(match version {
        Version::HTTP_10 => "1.0 socket-host",
        Version::HTTP_2 => "2.0 socket-host",
        _ => "1.1 socket-host",
    })
}

/// Returns whether an `Upgrade` list contains a protocol.
fn contains_protocol(protocols: &HeaderValue, protocol: &HeaderValue) -> bool {
    let (Ok(protocols), Ok(protocol)) = (protocols.to_str(), protocol.to_str()) else {
        return false;
    };
    protocols
        .split(',')
        .any(|candidate| candidate.trim().eq_ignore_ascii_case(protocol.trim()))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_beyond_the_bound_fail_or_wait() {
        let url = "http://127.0.0.1:9".parse().expect("a URL");
        let mut upstream = Upstream::new(url, Duration::from_secs(5)).expect("no roots needed");
        upstream.requests = Arc::new(Semaphore::new(1));
        let first = upstream.acquire_permit(false).await.expect("room");
        let refused = upstream.acquire_permit(false).now_or_never();
        let error = refused.expect("no wait").expect_err("no room");
        assert!(matches!(error, BackendError::Busy { .. }), "{error}");
        let error = upstream.acquire_permit(true).await.expect_err("no room");
        assert!(matches!(error, BackendError::Busy { .. }), "{error}");
        let mut waiting = std::pin::pin!(upstream.acquire_permit(true));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(first);
        assert!(waiting.await.is_ok());
        assert!(upstream.acquire_permit(false).await.is_ok());
    }

    #[test]
    fn events_and_timers_wait_for_capacity() {
        let mut request = Request::new(empty());
        assert!(!waits_for_capacity(&request));
        request.extensions_mut().insert(Caller::Host);
        assert!(waits_for_capacity(&request));
        let mut request = Request::new(empty());
        request.extensions_mut().insert(WaitsForCapacity);
        assert!(waits_for_capacity(&request));
    }
}
