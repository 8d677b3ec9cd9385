//! A request that is kept, to be sent to the backend again.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use parking_lot::Mutex;

use bytes::Bytes;
use grip::{
    header::{GRIP_FEATURE, GRIP_SIG},
    hold::Channel,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header, uri::Authority};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use url::Url;

use crate::{http::signer::Signer, pubsub::filter::LastIds};
use spin_runtime::backend::{self, Body, BodyError, Caller};

/// The most bytes of a request's body that are kept; as in Pushpin.
const MAX_BODY: usize = 100_000;

/// The header with the last id of a channel that the client has seen.
const GRIP_LAST: HeaderName = HeaderName::from_static("grip-last");

/// What plain requests can be answered with, as Pushpin names it.
const FEATURES: HeaderValue = HeaderValue::from_static(
    "status, link:next, link:gone, filter:skip-self, filter:skip-users, filter:require-sub, filter:build-id, filter:var-subst",
);

/// See the module's words.
pub(crate) struct ReplayableRequest {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    caller: Option<Caller>,
    body: KeptBody,
}

enum KeptBody {
    Empty,
    Recorded(Arc<Mutex<Record>>),
}

#[derive(Default)]
struct Record {
    /// The frames as they came: keeping them costs no copy.
    frames: Vec<Bytes>,
    length: usize,
    /// It was read to its end, and fits.
    complete: bool,
    too_large: bool,
}

/// Why a link cannot be followed.
#[derive(Debug, thiserror::Error)]
#[error("the link {0:?} does not lead to a path of this host")]
pub(crate) struct Elsewhere(String);

impl ReplayableRequest {
    /// Keeps a request, and gives it back to be sent, signed: backends answer with a hold only
    /// where they know that there is somebody to hold.
    pub(crate) fn new(request: Request<Body>, signer: &Signer) -> (Self, Request<Body>) {
        let (mut parts, body) = request.into_parts();
        let headers = &mut parts.headers;
        headers.insert(HeaderName::from_static(GRIP_FEATURE), FEATURES);
        headers.insert(HeaderName::from_static(GRIP_SIG), signer.token());
        let (kept, body) = match body.is_end_stream() {
            true => (KeptBody::Empty, body),
            false => {
                let record = Arc::new(Mutex::new(Record::default()));
                let recording = Recording {
                    body,
                    record: record.clone(),
                };
                (KeptBody::Recorded(record), recording.boxed_unsync())
            }
        };
        let kept = Self {
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            headers: parts.headers.clone(),
            caller: parts.extensions.get().copied(),
            body: kept,
        };
        (kept, Request::from_parts(parts, body))
    }

    /// Returns the method.
    pub(crate) fn method(&self) -> &Method {
        &self.method
    }

    /// The path, for the log.
    pub(crate) fn path(&self) -> &str {
        self.uri.path()
    }

    /// Asks for content as it is the next time; false when that was asked already.
    pub(crate) fn refuse_codings(&mut self) -> bool {
        let identity = HeaderValue::from_static("identity");
        self.headers
            .insert(header::ACCEPT_ENCODING, identity.clone())
            .is_none_or(|before| before != identity)
    }

    /// The request again, saying which ids the client has seen; `None` when its body was not
    /// kept, because it is too large or the backend did not read it to its end.
    pub(crate) fn again(&self, signer: &Signer, ids: &LastIds) -> Option<Request<Body>> {
        let body = match &self.body {
            KeptBody::Empty => backend::empty(),
            KeptBody::Recorded(record) => {
                let record = record.lock();
                if !record.complete {
                    return None;
                }
                backend::full(record.frames.concat())
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

    /// A request for what `link` leads to from where the request went, which may be relative;
    /// none of the client's headers goes along.
    ///
    /// # Errors
    /// It leads to another host.
    pub(crate) fn follow(
        &self,
        method: Method,
        link: &str,
        signer: &Signer,
        ids: &LastIds,
    ) -> Result<Request<Body>, Elsewhere> {
        let uri = self
            .resolve(link)
            .ok_or_else(|| Elsewhere(link.to_owned()))?;
        let mut headers = HeaderMap::new();
        let authority = self.uri.authority();
        let authority = authority.and_then(|host| HeaderValue::from_str(host.as_str()).ok());
        // HTTP/2 has it in the URI.
        if let Some(host) = self.headers.get(header::HOST).cloned().or(authority) {
            headers.insert(header::HOST, host);
        }
        headers.insert(HeaderName::from_static(GRIP_FEATURE), FEATURES);
        Ok(self.request(method, uri, headers, backend::empty(), signer, ids))
    }

    /// Moves to where `link` leads, so that the next relative link starts there.
    pub(crate) fn move_to(&mut self, link: &str) {
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
        // Whether the client came by TLS is not known here, where a proxy may be in front.
        let target = self
            .uri
            .path_and_query()
            .map_or("/", |target| target.as_str());
        let schemes = ["http", "https"];
        schemes.into_iter().find_map(|scheme| {
            let base = Url::parse(&format!("{scheme}://{host}")).ok()?;
            let linked = base.join(target).ok()?.join(link).ok()?;
            let same = linked.origin() == base.origin();
            let query = linked
                .query()
                .map_or(String::new(), |query| format!("?{query}"));
            same.then(|| format!("{}{query}", linked.path()).parse().ok())?
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
                && let Some(value) = last(name, id)
            {
                headers.append(GRIP_LAST, value);
            }
        }
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        if let Some(caller) = self.caller {
            request.extensions_mut().insert(caller);
        }
        request
    }
}

/// A value of `Grip-Last`, as Pushpin writes it; in quotes only where it is not read otherwise.
fn last(channel: &str, id: &str) -> Option<HeaderValue> {
    let is_plain = id.trim() == id && !id.contains([',', ';', '"']);
    let value = match is_plain {
        true => format!("{channel}; last-id={id}"),
        false => {
            let mut quoted = Channel::new(channel);
            quoted.prev_id = Some(id.to_owned());
            quoted.to_grip_last().ok()??
        }
    };
    HeaderValue::from_str(&value).ok()
}

/// A body that is copied while it is read.
struct Recording {
    body: Body,
    record: Arc<Mutex<Record>>,
}

impl HttpBody for Recording {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let mut record = self.record.lock();
        match &polled {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref()
                    && !record.too_large
                {
                    record.length += data.len();
                    record.too_large = record.length > MAX_BODY;
                    if record.too_large {
                        record.frames = Vec::new();
                    } else {
                        record.frames.push(data.clone());
                    }
                }
                record.complete = self.body.is_end_stream() && !record.too_large;
            }
            Some(Err(_)) => record.too_large = true,
            None => record.complete = !record.too_large,
        }
        drop(record);
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
