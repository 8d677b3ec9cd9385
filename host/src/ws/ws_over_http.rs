//! One WebSocket-over-HTTP exchange: events to the backend, and what it answers.
//!
//! The protocol: <https://pushpin.org/docs/protocols/websocket-over-http/>.

use std::{mem, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use grip::{
    Event, EventError, Limits,
    header::{
        CONNECTION_ID, CONTENT_BYTES_ACCEPTED, CONTENT_BYTES_REPLAYED, GRIP_FEATURE, GRIP_SIG,
        KEEP_ALIVE_INTERVAL, META_PREFIX, SEC_WEBSOCKET_EXTENSIONS, SET_META_PREFIX,
        WEBSOCKET_EVENTS, is_websocket_events,
    },
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use tokio::time::timeout;

use crate::{
    http::signer::Signer,
    pubsub::filter::{MAX_META, MetaFull},
    ws::request_head::RequestHead,
};
use spin_runtime::backend::{self, Backend, BackendError, Body, Caller};

/// The most bytes of events in one answer; as in Pushpin.
pub(crate) const MAX_REPLY: usize = 1_000_000;

/// How long the body of an answer may take once its head is there.
pub(crate) const REPLY_PATIENCE: Duration = Duration::from_secs(60);

/// What the host can do, in the words of `Grip-Feature`; the same as Pushpin.
pub(crate) const FEATURES: &str = "status, session, link:next, filter:skip-self, filter:skip-users, \
                            filter:require-sub, filter:build-id, filter:var-subst";

/// The shortest keep-alive interval that a backend can set; as in Pushpin.
const LEAST_KEEP_ALIVE: Duration = Duration::from_secs(20);

/// What a connection is to its backend, the same in each of its exchanges.
#[derive(Debug)]
pub(crate) struct Identity {
    /// The head of the request that opened it.
    pub(crate) head: RequestHead,
    /// Its `Connection-Id`.
    pub(crate) id: HeaderValue,
    /// Where the client is.
    pub(crate) caller: Caller,
    /// What the backend asked to be told again, as `Meta-NAME` headers.
    pub(crate) meta: Vec<(HeaderName, HeaderValue)>,
}

/// A backend's answer in events.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The headers of the answer.
    pub(crate) headers: HeaderMap,
    /// The events, in the order to act on them.
    pub(crate) events: Vec<Event>,
}

/// Why there is no [`Reply`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    /// There was no answer.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// There was an answer, but not of events.
    #[error("answered {} with content type {:?} instead of 200 with {WEBSOCKET_EVENTS}", .0.status(), .0.headers().get(header::CONTENT_TYPE))]
    Refused(Box<Response<Body>>),
    /// The answer's body ended early.
    #[error("the answer's body ended early: {0}")]
    Body(backend::BodyError),
    /// The answer's body did not come to its end.
    #[error("the answer's body did not end within {REPLY_PATIENCE:?}")]
    Stalled,
    /// The answer's body was larger than a million bytes.
    #[error("the answer's body is over {MAX_REPLY} bytes")]
    TooLarge,
    /// The answer's body is not what its content type says.
    #[error("the answer's events are malformed: {0}")]
    Malformed(#[from] EventError),
    /// The answer to OPEN neither opens nor refuses.
    #[error("the answer to OPEN {0}")]
    NotOpened(&'static str),
}

/// Sends `events` and waits for the answer.
pub(crate) async fn exchange(
    backend: Arc<dyn Backend>,
    request: Request<Body>,
) -> Result<Reply, ExchangeError> {
    let response = backend.call(request).await?;
    let is_events = response.status() == StatusCode::OK
        && response
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(is_websocket_events);
    if !is_events {
        return Err(ExchangeError::Refused(Box::new(response)));
    }
    let (parts, body) = response.into_parts();
    let body = timeout(REPLY_PATIENCE, read(body))
        .await
        .map_err(|_| ExchangeError::Stalled)??;
    // What bounds an answer is its size.
    let limits = Limits {
        content: MAX_REPLY,
        events: MAX_REPLY,
    };
    let events = grip::event::decode_all(body, limits)?;
    Ok(Reply {
        headers: parts.headers,
        events,
    })
}

/// The whole of a body, without a copy when it comes in one piece.
async fn read(mut body: Body) -> Result<Bytes, ExchangeError> {
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(ExchangeError::Body)?.into_data() else {
            continue;
        };
        if first.len() + all.len() + data.len() > MAX_REPLY {
            return Err(ExchangeError::TooLarge);
        }
        if first.is_empty() && all.is_empty() {
            first = data;
        } else {
            all.extend_from_slice(&mem::take(&mut first));
            all.extend_from_slice(&data);
        }
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

impl ExchangeError {
    /// Whether the backend has certainly heard nothing, so that it can be told again.
    pub(crate) fn is_unreached(&self) -> bool {
        matches!(self, Self::Backend(BackendError::Unreachable { .. }))
    }
}

impl Identity {
    /// The request that tells the backend `events`, of which the first `replayed` bytes of
    /// content were offered before.
    pub(crate) fn request(
        &self,
        signer: &Signer,
        events: &[Event],
        replayed: usize,
    ) -> Request<Body> {
        let mut body = BytesMut::new();
        for event in events {
            event.encode(&mut body);
        }
        let mut headers = self.head.headers(9 + self.meta.len());
        let mut set = |name: &'static str, value: HeaderValue| {
            headers.insert(HeaderName::from_static(name), value);
        };
        set("content-type", HeaderValue::from_static(WEBSOCKET_EVENTS));
        set("accept", HeaderValue::from_static(WEBSOCKET_EVENTS));
        set("content-length", HeaderValue::from(body.len()));
        set(CONNECTION_ID, self.id.clone());
        set(GRIP_SIG, signer.token());
        set(GRIP_FEATURE, HeaderValue::from_static(FEATURES));
        set(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static("grip"));
        if replayed > 0 {
            set(CONTENT_BYTES_REPLAYED, HeaderValue::from(replayed));
        }
        for (name, value) in &self.meta {
            headers.insert(name.clone(), value.clone());
        }
        let mut request = Request::new(backend::full(body.freeze()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.head.uri();
        *request.headers_mut() = headers;
        request.extensions_mut().insert(self.caller);
        request
    }

    /// Remembers what an answer sets with `Set-Meta-NAME`; an empty value forgets.
    ///
    /// # Errors
    /// There would be too many: the rest is not remembered.
    pub(crate) fn remember(&mut self, reply: &HeaderMap) -> Result<(), MetaFull> {
        for (name, value) in reply {
            let Some(name) = name.as_str().strip_prefix(SET_META_PREFIX) else {
                continue;
            };
            // A part of a valid name behind a valid prefix.
            let Ok(name) = HeaderName::try_from(format!("{META_PREFIX}{name}")) else {
                continue;
            };
            self.meta.retain(|(known, _)| *known != name);
            // Copied, since it may be a slice of the answer's whole head.
            if !value.is_empty()
                && let Ok(value) = HeaderValue::from_bytes(value.as_bytes())
            {
                if self.meta.len() == MAX_META {
                    return Err(MetaFull);
                }
                self.meta.push((name, value));
            }
        }
        Ok(())
    }
}

impl Reply {
    /// The keep-alive interval when the answer sets one: `Some(None)` stops it. What is no
    /// number stops it too; without the header it stays as it is.
    pub(crate) fn keep_alive(&self) -> Option<Option<Duration>> {
        self.headers.get(KEEP_ALIVE_INTERVAL)?;
        let seconds = self.number(KEEP_ALIVE_INTERVAL).unwrap_or(0);
        Some((seconds > 0).then(|| Duration::from_secs(seconds).max(LEAST_KEEP_ALIVE)))
    }

    /// How many bytes of the content that was offered are taken; `None` when all of it is.
    pub(crate) fn accepted(&self) -> Option<usize> {
        self.number(CONTENT_BYTES_ACCEPTED)?.try_into().ok()
    }

    fn number(&self, header: &str) -> Option<u64> {
        self.headers.get(header)?.to_str().ok()?.trim().parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keep_alive_intervals_have_a_least() {
        let interval = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(KEEP_ALIVE_INTERVAL, HeaderValue::from_static(value));
            let reply = Reply {
                headers,
                events: Vec::new(),
            };
            reply
                .keep_alive()
                .map(|set| set.map(|interval| interval.as_secs()))
        };
        assert_eq!(
            [interval("30"), interval("1"), interval(" 20 ")],
            [Some(Some(30)), Some(Some(20)), Some(Some(20))]
        );
        for off in ["0", "soon", "-1"] {
            assert_eq!(interval(off), Some(None), "{off}");
        }
    }

    #[test]
    fn without_headers_all_is_taken_and_nothing_changes() {
        let mut reply = Reply {
            headers: HeaderMap::new(),
            events: Vec::new(),
        };
        assert_eq!((reply.accepted(), reply.keep_alive()), (None, None));
        for (value, accepted) in [("7", Some(7)), ("0", Some(0)), ("-1", None), ("x", None)] {
            let value = HeaderValue::from_static(value);
            reply.headers.insert(CONTENT_BYTES_ACCEPTED, value);
            assert_eq!(reply.accepted(), accepted);
        }
    }
}
