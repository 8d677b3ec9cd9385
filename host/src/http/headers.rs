//! Headers that are about one connection, and end with it; and how headers are read and removed.

use std::borrow::Cow;

use grip::header::{CONNECTION_ID, GRIP_PREFIX, KEEP_ALIVE_INTERVAL, META_PREFIX, SET_META_PREFIX};
use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Removes the hop-by-hop headers (RFC 9110, 7.6.1) and those that `Connection` names. What a
/// client says about trailers is kept: they are passed on.
pub(crate) fn remove_hop_headers(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = tokens(headers, &header::CONNECTION)
        .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
        // It would leave the request with no host, and the backend to guess; or without what the
        // host itself has added.
        .filter(|name| name != header::HOST && !is_private_header(name))
        .collect();
    let trailers =
        tokens(headers, &header::TE).any(|coding| coding.eq_ignore_ascii_case("trailers"));
    for name in named {
        headers.remove(name);
    }
    for name in [
        header::CONNECTION,
        header::UPGRADE,
        header::TRANSFER_ENCODING,
        header::TE,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        HeaderName::from_static("http2-settings"),
    ] {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Removes the headers whose names are so.
pub(crate) fn remove_headers(headers: &mut HeaderMap, is_so: impl Fn(&HeaderName) -> bool) {
    let names: Vec<_> = headers.keys().filter(|name| is_so(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// A name as servers read it to which an underscore is a hyphen, as CGI makes both the same.
pub(crate) fn hyphened(name: &HeaderName) -> Cow<'_, str> {
    match name.as_str() {
        name if name.contains('_') => name.replace('_', "-").into(),
        name => name.into(),
    }
}

/// The items of a comma-separated header, without those that are not text.
pub(crate) fn tokens<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'h str> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|token| std::str::from_utf8(token).ok())
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

/// Whether a header is between the host and its backends only: taken away from what
/// comes from outside, so that nobody there can pretend to be the host, and from
/// what goes out. An underscore counts as a hyphen.
pub(crate) fn is_private_header(name: &HeaderName) -> bool {
    let name = &*hyphened(name);
    name == CONNECTION_ID
        || name == KEEP_ALIVE_INTERVAL
        || name.starts_with(GRIP_PREFIX)
        || name.starts_with(META_PREFIX)
        || name.starts_with(SET_META_PREFIX)
        || name.starts_with("content-bytes-")
}

/// Removes the headers for which [`is_private_header`] holds.
pub(crate) fn remove_private_headers(headers: &mut HeaderMap) {
    remove_headers(headers, is_private_header);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_the_connection_goes() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("host", "a"),
            ("connection", "close, X-Hop"),
            ("connection", "host, x-other,, é,\u{ff}, Grip-Sig"),
            ("grip-sig", "ours"),
            ("x-hop", "1"),
            ("x-other", "2"),
            ("x-end", "3"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "Basic x"),
            ("transfer-encoding", "chunked"),
            ("te", "gzip;q=0.5, Trailers"),
            ("trailer", "x-sum"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABk"),
        ] {
            let name = HeaderName::from_static(name);
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        remove_hop_headers(&mut headers);
        let mut kept: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        kept.sort();
        assert_eq!(
            kept,
            [
                ("grip-sig", "ours"),
                ("host", "a"),
                ("te", "trailers"),
                ("trailer", "x-sum"),
                ("x-end", "3")
            ]
        );
    }

    #[test]
    fn headers_between_host_and_backends() {
        let is_private = |name: &'static str| is_private_header(&HeaderName::from_static(name));
        for name in [
            "grip-sig",
            "grip-hold",
            "connection-id",
            "meta-user",
            "set-meta-user",
            "content-bytes-accepted",
            "meta_user",
            "grip_sig",
            "connection_id",
        ] {
            assert!(is_private(name), "{name}");
        }
        for name in [
            "connection",
            "content-type",
            "metadata",
            "x-grip-sig",
            "meta",
        ] {
            assert!(!is_private(name), "{name}");
        }
    }
}
