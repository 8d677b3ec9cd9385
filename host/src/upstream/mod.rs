//! A backend that forwards: requests go to a server elsewhere, and its answers back.
//!
//! Bodies stream both ways. The client's `Host` is kept; who the client is goes along in the
//! headers of [`forwarded`](crate::http::forwarded); what is about one connection stays behind
//! ([`hop`](crate::http::headers)).

pub(crate) mod passthrough;
mod pool;
mod progress;
pub(crate) mod tunnel;

use std::{sync::Arc, time::Duration};

use crate::config::UpstreamUrl;
use anyhow::{Context as _, anyhow};
use http::{HeaderValue, Request, Response, StatusCode, Uri, Version, header, uri::PathAndQuery};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use spin_runtime::backend::{Backend, BackendError, Body, Caller, ResponseFuture, empty};
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use crate::http::{
    forwarded,
    headers::{remove_hop_headers, tokens},
};
use crate::upstream::pool::{Connection, Pool, Unanswered};
use crate::upstream::progress::Progress;

/// How often a request is tried when the connection it was to go on turns out to be closed.
const ATTEMPTS: usize = 4;

/// The name of this host in `Via`.
const PSEUDONYM: &str = "socket-host";

/// How often a request may come through here. One that comes again and again goes in a circle.
const MAX_PASSES: usize = 8;

/// A server that requests are forwarded to.
pub(crate) struct Upstream {
    url: UpstreamUrl,
    name: Arc<str>,
    pool: Arc<Pool>,
    /// For the head of an answer, from the last piece of the request on.
    limit: Duration,
}

impl Upstream {
    /// An upstream without connections, whose answers begin within `limit`. Must be called within
    /// a Tokio runtime.
    ///
    /// # Errors
    /// For `https`, when the system has no certificates to trust.
    pub(crate) fn new(url: UpstreamUrl, limit: Duration) -> anyhow::Result<Self> {
        let pool = Pool::new(&url)?;
        Ok(Self {
            name: url.to_string().into(),
            url,
            pool,
            limit,
        })
    }

    /// Where it forwards to, as it is told in logs and metrics.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Asks to switch to one of `protocols`, over an HTTP/1.1 connection of its own. The answer
    /// is either 101 with one of them, and then the connection can be taken out of it, or a refusal.
    ///
    /// # Errors
    /// As the backend's.
    pub(crate) async fn upgrade(
        &self,
        mut request: Request<Body>,
        protocols: &HeaderValue,
    ) -> Result<Response<Body>, BackendError> {
        self.prepare(&mut request)?;
        let headers = request.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocols.clone());
        let connection = self.connection(self.pool.open_for_upgrade(), self.limit);
        let (response, _) = self
            .send(connection.await?, request)
            .await?
            .map_err(|lost| self.lost(lost))?;
        let mut response = response.map(|body| body.map_err(Into::into).boxed_unsync());
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let chosen = response.headers().get(header::UPGRADE).cloned();
            let chosen = chosen.filter(|chosen| offers(protocols, chosen));
            let chosen = chosen.ok_or_else(|| {
                self.broken(anyhow!("it switched to a protocol that was not asked for"))
            })?;
            remove_hop_headers(response.headers_mut());
            let headers = response.headers_mut();
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, chosen);
        } else {
            remove_hop_headers(response.headers_mut());
        }
        *response.version_mut() = Version::HTTP_11;
        Ok(response)
    }

    async fn forward(&self, mut request: Request<Body>) -> Result<Response<Body>, BackendError> {
        self.prepare(&mut request)?;
        let started = Instant::now();
        let mut attempt = 0;
        loop {
            attempt += 1;
            let left = self.limit.saturating_sub(started.elapsed());
            let connection = if attempt < ATTEMPTS {
                self.connection(self.pool.take(), left).await?
            } else {
                self.connection(self.pool.open(), left).await?
            };
            // A connection may end just when a request is sent on it. One that is here as a whole
            // is then sent again when it changes nothing (RFC 9112, 9.3.1), or was not looked at.
            let copy =
                (attempt < ATTEMPTS && request.body().is_end_stream()).then(|| copy(&request));
            let is_repeatable = connection.is_reused() && request.method().is_idempotent();
            let unanswered = match self.send(connection, request).await? {
                Ok((response, lease)) => return self.answer(response, lease),
                Err(unanswered) => unanswered,
            };
            request = match (unanswered, copy) {
                (
                    Unanswered {
                        request: Some(unsent),
                        ..
                    },
                    _,
                ) if attempt < ATTEMPTS => *unsent,
                (
                    Unanswered {
                        error,
                        request: None,
                    },
                    Some(copy),
                ) if is_unprocessed(&error) || (is_repeatable && is_end(&error)) => copy,
                (unanswered, _) => return Err(self.lost(unanswered)),
            };
        }
    }

    /// Makes of a request what the upstream gets.
    fn prepare(&self, request: &mut Request<Body>) -> Result<(), BackendError> {
        let path = request
            .uri()
            .path_and_query()
            .map_or("/", PathAndQuery::as_str);
        let path = match path {
            "*" => PathAndQuery::from_static("*"),
            path => PathAndQuery::try_from(format!("{}{path}", self.url.base()))
                .context("the path with the upstream's before it")
                .map_err(|error| self.unreachable(error))?,
        };
        // HTTP/2 has the host in the URI.
        if !request.headers().contains_key(header::HOST) {
            let named = request
                .uri()
                .authority()
                .map_or(self.url.authority(), |name| name.as_str());
            if let Ok(host) = HeaderValue::from_str(named) {
                request.headers_mut().insert(header::HOST, host);
            }
        }
        *request.uri_mut() = Uri::from(path);
        let came_by = request.version();
        *request.version_mut() = Version::HTTP_11;
        let caller = request.extensions_mut().remove::<Caller>();
        request.extensions_mut().clear();

        let headers = request.headers_mut();
        remove_hop_headers(headers);
        // Its answer, 100, has been given by this host.
        headers.remove(header::EXPECT);
        join_cookies(headers);
        match caller {
            Some(Caller::Client(client)) => forwarded::tell(headers, client),
            Some(Caller::Host) | None => forwarded::forget(headers),
        }
        let passes = tokens(headers, &header::VIA)
            .filter(|via| via.split_whitespace().nth(1) == Some(PSEUDONYM));
        if passes.count() >= MAX_PASSES {
            return Err(self.unreachable(anyhow!(
                "the request goes in a circle: this address leads back to this host"
            )));
        }
        headers.append(header::VIA, via(came_by));
        Ok(())
    }

    async fn connection(
        &self,
        connecting: impl Future<Output = anyhow::Result<Connection>>,
        limit: Duration,
    ) -> Result<Connection, BackendError> {
        match tokio::time::timeout(limit, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(anyhow!("no connection within {limit:?}")),
        }
        .map_err(|error| self.unreachable(error))
    }

    /// Sends a request and waits for the head of the answer as long as it may take.
    async fn send(
        &self,
        connection: Connection,
        request: Request<Body>,
    ) -> Result<Result<(Response<Incoming>, Option<pool::Lease>), Unanswered>, BackendError> {
        let progress = Progress::default();
        // A long upload is no late answer.
        let request = request.map(|body| progress.watch(body));
        let mut answer = std::pin::pin!(connection.send(request));
        let mut deadline = Instant::now() + self.limit;
        loop {
            if let Ok(answer) = timeout_at(deadline, &mut answer).await {
                return Ok(answer);
            }
            match progress.last() {
                Some(last) if last + self.limit > deadline => deadline = last + self.limit,
                _ => {
                    return Err(BackendError::Deadline {
                        component: self.name.to_string(),
                        limit: self.limit,
                    });
                }
            }
        }
    }

    /// What goes back of an answer.
    fn answer(
        &self,
        mut response: Response<Incoming>,
        lease: Option<pool::Lease>,
    ) -> Result<Response<Body>, BackendError> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.broken(anyhow!("it switched to a protocol that was not asked for")));
        }
        remove_hop_headers(response.headers_mut());
        *response.version_mut() = Version::HTTP_11;
        Ok(response.map(|body| {
            body.map_err(move |error| {
                let _until_the_end = &lease;
                error.into()
            })
            .boxed_unsync()
        }))
    }

    fn lost(&self, unanswered: Unanswered) -> BackendError {
        let unsent = unanswered.request.is_some() || is_unprocessed(&unanswered.error);
        let source = anyhow::Error::new(unanswered.error);
        match unsent {
            true => self.unreachable(source),
            false => self.broken(source),
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
            let answer = self.forward(request).await;
            if let Err(error) = &answer {
                warn!(path, "{error}");
            }
            answer
        })
    }
}

/// The same request, of one without a body.
fn copy(request: &Request<Body>) -> Request<Body> {
    let mut copy = Request::new(empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// Whether a connection ended before anything was answered on it.
fn is_end(error: &hyper::Error) -> bool {
    let reset = || {
        let cause = find::<std::io::Error>(error)?;
        use std::io::ErrorKind as Kind;
        Some(matches!(
            cause.kind(),
            Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe
        ))
    };
    error.is_incomplete_message() || reset().unwrap_or_default()
}

/// Whether an HTTP/2 server says that it has not looked at the request, nor will: it refuses the
/// stream (RFC 9113, 8.7), or goes away and names a stream before this as its last (6.8).
fn is_unprocessed(error: &hyper::Error) -> bool {
    find::<h2::Error>(error).is_some_and(|error| {
        error.reason() == Some(h2::Reason::REFUSED_STREAM)
            || (error.is_go_away() && error.is_remote())
    })
}

/// The cause of this type.
fn find<E: std::error::Error + 'static>(error: &hyper::Error) -> Option<&E> {
    std::iter::successors(std::error::Error::source(error), |cause| cause.source())
        .find_map(|cause| cause.downcast_ref())
}

/// HTTP/2 has them apart, which HTTP/1.1 does not allow (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut http::HeaderMap) {
    let mut cookies = headers.get_all(header::COOKIE).iter();
    if cookies.nth(1).is_none() {
        return;
    }
    let all: Vec<&[u8]> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    // Made of header values.
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// This host's entry in `Via` (RFC 9110, 7.6.3).
fn via(version: Version) -> HeaderValue {
    HeaderValue::from_static(match version {
        Version::HTTP_10 => "1.0 socket-host",
        Version::HTTP_2 => "2.0 socket-host",
        _ => "1.1 socket-host",
    })
}

/// Whether the protocols of one `Upgrade` hold that of another.
fn offers(offered: &HeaderValue, chosen: &HeaderValue) -> bool {
    let (Ok(offered), Ok(chosen)) = (offered.to_str(), chosen.to_str()) else {
        return false;
    };
    offered
        .split(',')
        .any(|offered| offered.trim().eq_ignore_ascii_case(chosen.trim()))
}
