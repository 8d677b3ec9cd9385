//! A stored response, and the responses to requests that are made of it.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header, request::Parts,
    response,
};
use spin_runtime::backend::{Body, empty, full};
use tokio::time::Instant;

use super::{
    cache_control, conditions,
    conditions::Validators,
    key::Key,
    range::RequestedRange,
    selection::Selection,
    status::{self, CACHE_STATUS},
};
use crate::{
    http::headers::{remove_headers, remove_hop_headers},
    net::date,
};

/// The memory of an entry beside its content, names and values, about.
const OVERHEAD_BYTES: usize = 1024;

/// The memory of a header beside its value, about: one place in each of the two maps.
const HEADER_OVERHEAD_BYTES: usize = 256;

/// Headers that describe the content, which a response without content does not have.
const CONTENT_HEADERS: [HeaderName; 5] = [
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_TYPE,
    header::ACCEPT_RANGES,
];

/// What is known of a response that may be stored, before its body has arrived.
#[derive(Debug)]
pub(super) struct Head {
    selection: Selection,
    /// The headers of the response, with all that responses from the cache have.
    headers: HeaderMap,
    validators: Validators,
    /// The members of `Cache-Status` of caches behind this one.
    upstream_status: Option<String>,
    received: Instant,
    /// The age of the response when it was received.
    initial_age: Duration,
    lifetime: Duration,
}

impl Head {
    /// Returns the head of a response if it may be stored. `request` are the headers of a GET request,
    /// which was sent `delay` ago.
    ///
    /// The response must be a complete one for every client whose request it matches, and never change.
    pub(super) fn new(
        request: &HeaderMap,
        response: &response::Parts,
        delay: Duration,
    ) -> Option<Self> {
        let headers = &response.headers;
        let lifetime = cache_control::lifetime(headers)?;
        if response.status != StatusCode::OK
            || headers.contains_key(header::SET_COOKIE)
            || headers.contains_key(header::CONTENT_RANGE)
        {
            return None;
        }
        let selection = Selection::new(headers, request)?;
        let (received, now) = (Instant::now(), SystemTime::now());
        let apparent_age = conditions::date(headers, &header::DATE)
            .and_then(|date| now.duration_since(date).ok())
            .unwrap_or_default();
        let initial_age = apparent_age.max(cache_control::age(headers)? + delay);
        if initial_age >= lifetime {
            return None;
        }
        let validators = Validators::new(headers, now);
        let upstream_status = status::join(headers);
        let mut headers = headers.clone();
        remove_hop_headers(&mut headers);
        headers.remove("proxy-authentication-info");
        // Values that each response replaces in place.
        headers.insert(header::AGE, HeaderValue::from_static("0"));
        headers.insert(CACHE_STATUS, HeaderValue::from_static(""));
        headers.entry(header::DATE).or_insert_with(date::now);
        headers
            .entry(header::ACCEPT_RANGES)
            .or_insert(HeaderValue::from_static("bytes"));
        Some(Self {
            selection,
            headers,
            validators,
            upstream_status,
            received,
            initial_age,
            lifetime,
        })
    }

    /// Returns the size in memory of an entry with this head, without its content, about.
    pub(super) fn bytes(&self, key: &Key) -> usize {
        let headers = self.headers.iter();
        let headers = headers.map(|(name, value)| name.as_str().len() + value.len());
        OVERHEAD_BYTES
            + key.as_str().len()
            + self.headers.len() * HEADER_OVERHEAD_BYTES
            + headers.sum::<usize>()
            + self.selection.bytes()
    }
}

/// A stored response.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Key,
    head: Head,
    not_modified: HeaderMap,
    content: Bytes,
    /// The size in memory, about.
    pub(super) bytes: usize,
    /// Whether a request was answered with it since it was last considered for eviction.
    was_used: AtomicBool,
}

impl Entry {
    /// Creates an entry whose content has arrived.
    pub(super) fn new(key: Key, mut head: Head, content: Bytes) -> Self {
        let bytes = head.bytes(&key) + content.len();
        head.headers
            .insert(header::CONTENT_LENGTH, content.len().into());
        let mut not_modified = head.headers.clone();
        remove_headers(&mut not_modified, |name| CONTENT_HEADERS.contains(name));
        if not_modified.contains_key(header::ETAG) {
            not_modified.remove(header::LAST_MODIFIED);
        }
        Self {
            key,
            head,
            not_modified,
            content,
            bytes,
            was_used: AtomicBool::new(false),
        }
    }

    /// Returns the headers of requests that it answers.
    pub(super) fn selection(&self) -> &Selection {
        &self.head.selection
    }

    /// Returns whether it may still be used.
    pub(super) fn is_fresh(&self) -> bool {
        self.age() < self.head.lifetime
    }

    /// Marks it as used, which delays its eviction.
    pub(super) fn mark_used(&self) {
        // Written only when it changes, so that processors can share it.
        if !self.was_used.load(Relaxed) {
            self.was_used.store(true, Relaxed);
        }
    }

    /// Returns whether it was used since the last call.
    pub(super) fn take_used(&self) -> bool {
        self.was_used.swap(false, Relaxed)
    }

    fn age(&self) -> Duration {
        self.head.initial_age + self.head.received.elapsed()
    }

    /// Returns the response to a GET or HEAD request. `outcome` is how the cache has found the entry.
    pub(super) fn respond(&self, request: &Parts, outcome: &str) -> Response<Body> {
        let request_headers = &request.headers;
        if self.head.validators.is_not_modified(request_headers) {
            let headers = self.headers(&self.not_modified, outcome);
            return new_response(StatusCode::NOT_MODIFIED, headers, empty());
        }
        let (prepared, length) = (&self.head.headers, self.content.len());
        let has_ranges = prepared
            .get(header::ACCEPT_RANGES)
            .is_none_or(|units| units != "none");
        let range = if has_ranges
            && request.method == Method::GET
            && self.head.validators.permit_range(request_headers)
        {
            RequestedRange::of(request_headers, length)
        } else {
            RequestedRange::Whole
        };
        match range {
            RequestedRange::Whole => {
                let body = if request.method == Method::HEAD {
                    empty()
                } else {
                    full(self.content.clone())
                };
                new_response(StatusCode::OK, self.headers(prepared, outcome), body)
            }
            RequestedRange::Part(part) => {
                let mut headers = self.headers(prepared, outcome);
                let content_range = format!("bytes {}-{}/{length}", part.start, part.end - 1);
                set(&mut headers, header::CONTENT_RANGE, content_range);
                headers.insert(header::CONTENT_LENGTH, part.len().into());
                let content = self.content.slice(part);
                new_response(StatusCode::PARTIAL_CONTENT, headers, full(content))
            }
            RequestedRange::Unsatisfiable => {
                let mut headers = self.headers(&self.not_modified, outcome);
                // They describe the content, not this response.
                for name in [header::CACHE_CONTROL, header::ETAG, header::LAST_MODIFIED] {
                    headers.remove(name);
                }
                let content_range = format!("bytes */{length}");
                set(&mut headers, header::CONTENT_RANGE, content_range);
                new_response(StatusCode::RANGE_NOT_SATISFIABLE, headers, empty())
            }
        }
    }

    /// Returns prepared headers with the current `Age` and `Cache-Status`.
    fn headers(&self, prepared: &HeaderMap, outcome: &str) -> HeaderMap {
        let age = self.age();
        let ttl = self.head.lifetime.saturating_sub(age).as_secs();
        let own = format!("{outcome}; ttl={ttl}");
        let status = match &self.head.upstream_status {
            Some(upstream) => format!("{upstream}, {own}"),
            None => own,
        };
        let mut headers = prepared.clone();
        headers.insert(header::AGE, age.as_secs().into());
        set(&mut headers, CACHE_STATUS, status);
        headers
    }
}

/// Sets a header to a text that consists of parts of header values.
fn set(headers: &mut HeaderMap, name: HeaderName, text: String) {
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(name, value);
    }
}

fn new_response(status: StatusCode, headers: HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
