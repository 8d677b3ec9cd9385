//! Writes `Cache-Status` (RFC 9211), which says how the cache has handled a request.

use http::{HeaderMap, HeaderName, HeaderValue};

/// The name of the header.
pub(super) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// A stored response was used.
pub(super) const HIT: &str = "socket-host; hit";

/// The response to another request was awaited and used.
pub(super) const COLLAPSED: &str = "socket-host; fwd=uri-miss; collapsed";

/// Why a request was forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ForwardReason {
    /// Nothing is stored for the URL.
    UriMiss,
    /// What is stored for the URL is for other headers.
    VaryMiss,
    /// What is stored is no longer fresh.
    Stale,
    /// The cache does not handle such requests.
    Bypass,
}

impl ForwardReason {
    /// Adds the member of the cache to the headers of a response from the backend.
    pub(super) fn append_to(self, headers: &mut HeaderMap, is_stored: bool) {
        let value = match (self, is_stored) {
            (Self::UriMiss, false) => "socket-host; fwd=uri-miss",
            (Self::UriMiss, true) => "socket-host; fwd=uri-miss; stored",
            (Self::VaryMiss, false) => "socket-host; fwd=vary-miss",
            (Self::VaryMiss, true) => "socket-host; fwd=vary-miss; stored",
            (Self::Stale, false) => "socket-host; fwd=stale",
            (Self::Stale, true) => "socket-host; fwd=stale; stored",
            (Self::Bypass, _) => "socket-host; fwd=bypass",
        };
        headers.append(CACHE_STATUS, HeaderValue::from_static(value));
    }
}

/// Returns the members of caches behind this one, which are kept.
pub(super) fn join(headers: &HeaderMap) -> Option<String> {
    let values = headers.get_all(CACHE_STATUS).iter();
    let values: Vec<&str> = values.filter_map(|value| value.to_str().ok()).collect();
    (!values.is_empty()).then(|| values.join(", "))
}
