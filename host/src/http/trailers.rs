//! Trailers: fields that follow a body. Some servers and libraries add them to the headers.

use http::HeaderMap;

use crate::http::{
    forwarded::is_forwarding_header,
    headers::{is_hop_or_framing_header, is_private_header, normalize_name, remove_headers},
};

/// Removes from trailers what is removed from headers, and fields that only headers may contain
/// (RFC 9110, section 6.5.1).
pub(crate) fn remove_unsafe_trailers(trailers: &mut HeaderMap) {
    remove_headers(trailers, |name| {
        let normalized = &*normalize_name(name);
        is_private_header(name)
            || is_forwarding_header(name)
            || is_hop_or_framing_header(normalized)
            || normalized.starts_with("spin-")
            || HEADERS_ONLY.contains(&normalized)
    });
}

/// Fields for routing, authentication and the handling of a request, which must not arrive after
/// it was routed.
const HEADERS_ONLY: [&str; 14] = [
    "host",
    "content-type",
    "content-encoding",
    "content-range",
    "authorization",
    "cookie",
    "set-cookie",
    "www-authenticate",
    "expect",
    "via",
    "trailer",
    "cache-control",
    "range",
    "location",
];

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn trailers_cannot_pose_as_headers() {
        let mut trailers = HeaderMap::new();
        for name in [
            "grip-sig",
            "grip_hold",
            "meta-user",
            "x-forwarded-for",
            "x_forwarded_for",
            "connection",
            "transfer_encoding",
            "content-length",
            "content-type",
            "content_encoding",
            "host",
            "cookie",
            "authorization",
            "spin-path-info",
            "spin_client_addr",
            "content-digest",
            "server-timing",
        ] {
            trailers.insert(name, HeaderValue::from_static("1"));
        }
        remove_unsafe_trailers(&mut trailers);
        let mut remaining: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
        remaining.sort_unstable();
        assert_eq!(remaining, ["content-digest", "server-timing"]);
    }
}
