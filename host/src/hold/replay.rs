//! A client's request, kept so that it can be sent to the backend again.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use grip::header::{GRIP_FEATURE, GRIP_LAST, GRIP_SIG};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header, uri::Authority};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;
use spin_runtime::backend::{self, Body, BodyError, Caller, WaitsForCapacity};
use url::Url;

use crate::{
    config::Limits,
    http::{headers::grip_last, signer::Signer},
    pubsub::filter::LastIds,
    telemetry::trace_context::SpanContext,
};

/// The largest request body that is kept, in bytes. Pushpin has the same limit.
const MAX_REPLAY_BODY_BYTES: usize = Limits::DEFAULT.max_replay_body_bytes;

/// The GRIP features of plain requests, with Pushpin's names.
const FEATURES: HeaderValue = HeaderValue::from_static(
    "status, link:next, link:gone, filter:skip-self, filter:skip-users, filter:require-sub, filter:build-id, filter:var-subst",
);

/// A request that can be sent again, as long as its body is small and was read to its end.
pub(crate) struct ReplayableRequest {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    caller: Option<Caller>,
    /// The span of the request, to which all calls belong.
    span: Option<SpanContext>,
    body: ReplayBody,
}

enum ReplayBody {
    Empty,
    Recorded(Arc<Mutex<Recording>>),
}

#[derive(Default)]
struct Recording {
    /// A copy: keeping the chunks would keep the read buffers that they are slices of.
    bytes: BytesMut,
    /// Whether the whole body was read and recorded.
    complete: bool,
    /// Whether the body is too large or broken. Nothing is recorded then.
    failed: bool,
}

/// A link that leads to another host.
#[derive(Debug, thiserror::Error)]
#[error("invalid link {0:?}: expected a path of the same host")]
pub(crate) struct ForeignLink(String);

impl ReplayableRequest {
    /// Keeps a request and returns it with the headers that offer GRIP to the backend.
    pub(crate) fn new(request: Request<Body>, signer: &Signer) -> (Self, Request<Body>) {
        let (mut parts, body) = request.into_parts();
        let headers = &mut parts.headers;
        headers.insert(HeaderName::from_static(GRIP_FEATURE), FEATURES);
        headers.insert(HeaderName::from_static(GRIP_SIG), signer.token());
        let (replay_body, body) = if body.is_end_stream() {
            (ReplayBody::Empty, body)
        } else {
            let recording = Arc::new(Mutex::new(Recording::default()));
            let recorded = RecordedBody {
                body,
                recording: recording.clone(),
            };
            (ReplayBody::Recorded(recording), recorded.boxed_unsync())
        };
        let replayable = Self {
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            headers: parts.headers.clone(),
            caller: parts.extensions.get().copied(),
            span: parts.extensions.get().copied(),
            body: replay_body,
        };
        (replayable, Request::from_parts(parts, body))
    }

    pub(crate) fn method(&self) -> &Method {
        &self.method
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    pub(crate) fn path(&self) -> &str {
        self.uri.path()
    }

    /// Makes replays ask for content without an encoding. Returns `false` if they already did.
    pub(crate) fn require_identity_encoding(&mut self) -> bool {
        let identity = HeaderValue::from_static("identity");
        self.headers
            .insert(header::ACCEPT_ENCODING, identity.clone())
            .is_none_or(|previous| previous != identity)
    }

    /// Returns the request with the last ids that the client has seen.
    ///
    /// Returns `None` if the body was too large, or the backend did not read it to its end.
    pub(crate) fn replay(&self, signer: &Signer, ids: &LastIds) -> Option<Request<Body>> {
        let body = match &self.body {
            ReplayBody::Empty => backend::empty(),
            ReplayBody::Recorded(recording) => {
                let recording = recording.lock();
                if !recording.complete {
                    return None;
                }
                backend::full(Bytes::copy_from_slice(&recording.bytes))
            }
        };
        let headers = self.headers.clone();
        Some(self.request(
            self.method.clone(),
            self.uri.clone(),
            headers,
            body,
            signer,
            ids,
        ))
    }

    /// Returns a request for a link, which may be relative to this request.
    ///
    /// Apart from `Host`, it has none of the client's headers.
    ///
    /// # Errors
    /// Returns an error if the link leads to another host.
    pub(crate) fn link_request(
        &self,
        method: Method,
        link: &str,
        signer: &Signer,
        ids: &LastIds,
    ) -> Result<Request<Body>, ForeignLink> {
        let uri = self
            .resolve(link)
            .ok_or_else(|| ForeignLink(link.to_owned()))?;
        let mut headers = HeaderMap::new();
        let authority = self.uri.authority();
        let authority = authority.and_then(|host| HeaderValue::from_str(host.as_str()).ok());
        // HTTP/2 requests name the host in the URI.
        if let Some(host) = self.headers.get(header::HOST).cloned().or(authority) {
            headers.insert(header::HOST, host);
        }
        headers.insert(HeaderName::from_static(GRIP_FEATURE), FEATURES);
        Ok(self.request(method, uri, headers, backend::empty(), signer, ids))
    }

    /// Makes `link` the base of further relative links.
    pub(crate) fn set_base(&mut self, link: &str) {
        if let Some(uri) = self.resolve(link) {
            self.uri = uri;
        }
    }

    fn resolve(&self, link: &str) -> Option<Uri> {
        let host = self.headers.get(header::HOST).map(HeaderValue::to_str);
        let host = host
            .and_then(Result::ok)
            .or(self.uri.authority().map(Authority::as_str))
            .unwrap_or("localhost");
        // A proxy in front may have terminated TLS, so either scheme is accepted.
        let target = self
            .uri
            .path_and_query()
            .map_or("/", |target| target.as_str());
        let schemes = ["http", "https"];
        schemes.into_iter().find_map(|scheme| {
            let base = Url::parse(&format!("{scheme}://{host}")).ok()?;
            let url = base.join(target).ok()?.join(link).ok()?;
            if url.origin() != base.origin() {
                return None;
            }
            match url.query() {
                Some(query) => format!("{}?{query}", url.path()).parse().ok(),
                None => url.path().parse().ok(),
            }
        })
    }

    fn request(
        &self,
        method: Method,
        uri: Uri,
        mut headers: HeaderMap,
        body: Body,
        signer: &Signer,
        ids: &LastIds,
    ) -> Request<Body> {
        headers.insert(HeaderName::from_static(GRIP_SIG), signer.token());
        for (name, id) in ids {
            if let Some(id) = id
                && let Some(value) = grip_last(name, Some(id))
            {
                headers.append(HeaderName::from_static(GRIP_LAST), value);
            }
        }
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        if let Some(caller) = self.caller {
            request.extensions_mut().insert(caller);
        }
        if let Some(span) = self.span {
            request.extensions_mut().insert(span);
        }
        // A held request has at most one request in flight, and would otherwise end.
        request.extensions_mut().insert(WaitsForCapacity);
        request
    }
}

/// A body that is recorded while it is read.
struct RecordedBody {
    body: Body,
    recording: Arc<Mutex<Recording>>,
}

impl HttpBody for RecordedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let mut recording = self.recording.lock();
        match &polled {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref()
                    && !recording.failed
                {
                    recording.failed = recording.bytes.len() + data.len() > MAX_REPLAY_BODY_BYTES;
                    if recording.failed {
                        recording.bytes = BytesMut::new();
                    } else {
                        recording.bytes.extend_from_slice(data);
                    }
                }
                recording.complete = self.body.is_end_stream() && !recording.failed;
            }
            Some(Err(_)) => recording.failed = true,
            None => recording.complete = !recording.failed,
        }
        drop(recording);
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pubsub::filter::Filter;

    #[test]
    fn every_filter_is_a_feature() {
        let features = FEATURES;
        let features = features.to_str().expect("visible ASCII");
        for (name, _) in Filter::NAMES {
            assert!(features.contains(&format!("filter:{name}")), "{name}");
        }
    }
}
