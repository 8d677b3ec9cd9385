//! Hop-by-hop headers, private headers, and helpers to read and remove headers.

use std::borrow::Cow;

use grip::{
    header::{CONNECTION_ID, GRIP_PREFIX, KEEP_ALIVE_INTERVAL, META_PREFIX, SET_META_PREFIX},
    hold::Channel,
};
use http::{HeaderMap, HeaderName, HeaderValue, header};

/// The number of a call of a timer, which rises with each call on any host.
pub(crate) const TIMER_RUN: &str = "timer-run";

/// Removes the hop-by-hop headers (RFC 9110, 7.6.1), including those that `Connection` names.
///
/// `TE: trailers` is kept, because trailers are forwarded. With `Transfer-Encoding`, a
/// `Content-Length` does not describe the body and is removed too (RFC 9112, 6.3).
pub(crate) fn remove_hop_headers(headers: &mut HeaderMap) {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        headers.remove(header::CONTENT_LENGTH);
    }
    let named: Vec<HeaderName> = list_items(headers, &header::CONNECTION)
        .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
        // A client must remove neither `Host` nor the headers that this host adds.
        .filter(|name| name != header::HOST && !is_private_header(name))
        .collect();
    let accepts_trailers =
        list_items(headers, &header::TE).any(|coding| coding.eq_ignore_ascii_case("trailers"));
    for name in named {
        headers.remove(name);
    }
    for name in HOP_HEADERS {
        headers.remove(name);
    }
    if accepts_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// The headers that apply to one connection.
const HOP_HEADERS: [&str; 9] = [
    "connection",
    "upgrade",
    "transfer-encoding",
    "te",
    "proxy-authenticate",
    "proxy-authorization",
    "keep-alive",
    "proxy-connection",
    "http2-settings",
];

/// Returns whether a normalized name describes the connection or the framing.
pub(crate) fn is_hop_or_framing_header(name: &str) -> bool {
    HOP_HEADERS.contains(&name) || name == "content-length"
}

/// Returns a value of `Grip-Last`: a channel and the id last published, if it is known. Like Pushpin,
/// it quotes the id only if it has to. Returns `None` if the channel's name cannot be in a header.
pub(crate) fn grip_last(channel: &str, id: Option<&str>) -> Option<HeaderValue> {
    let needs_quotes = |id: &str| id.trim() != id || id.contains([',', ';', '"']);
    let quoted = id.is_some_and(needs_quotes) || channel.contains([',', ';', '"']);
    let value = match id {
        Some(id) if quoted => {
            let mut quoted = Channel::new(channel);
            quoted.prev_id = Some(id.to_owned());
            quoted.to_grip_last().ok()??
        }
        Some(id) => format!("{channel}; last-id={id}"),
        None if quoted => return None,
        None => channel.to_owned(),
    };
    HeaderValue::from_bytes(value.as_bytes()).ok()
}

/// Returns whether a message has another transfer coding than a single `chunked`.
///
/// The host removes `chunked` and would leave the other codings in the body, without their name.
pub(crate) fn has_unsupported_transfer_coding(headers: &HeaderMap) -> bool {
    let mut codings = headers
        .get_all(header::TRANSFER_ENCODING)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|coding| !coding.is_empty());
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    headers.contains_key(header::TRANSFER_ENCODING)
        && !(codings.next().is_some_and(is_chunked) && codings.next().is_none())
}

/// Joins several `Cookie` headers into one.
///
/// HTTP/2 clients may split them. HTTP/1.1 servers and components expect one (RFC 9113, 8.2.3).
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if cookies.len() < 2 {
        return;
    }
    // Joined header values are valid, so this does not fail.
    if let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// Removes leading zeros from `Content-Length`: some servers would read the number as octal.
pub(crate) fn normalize_length(headers: &mut HeaderMap) {
    let Some(length) = headers.get(header::CONTENT_LENGTH) else {
        return;
    };
    if length.as_bytes().starts_with(b"0")
        && let Some(number) = length
            .to_str()
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    {
        headers.insert(header::CONTENT_LENGTH, number.into());
    }
}

/// Removes the headers whose name matches the predicate.
pub(crate) fn remove_headers(headers: &mut HeaderMap, predicate: impl Fn(&HeaderName) -> bool) {
    let names: Vec<_> = headers
        .keys()
        .filter(|name| predicate(name))
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
}

/// Returns a header name with its underscores replaced by hyphens.
///
/// Servers that follow CGI conventions do not distinguish the two.
pub(crate) fn normalize_name(name: &HeaderName) -> Cow<'_, str> {
    let name = name.as_str();
    if name.contains('_') {
        name.replace('_', "-").into()
    } else {
        name.into()
    }
}

/// Returns the non-empty items of a comma-separated header, skipping those that are not UTF-8.
pub(crate) fn list_items<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'h str> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|item| std::str::from_utf8(item).ok())
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

/// Returns whether a header belongs to the protocol between the host and its backends.
///
/// Clients must not be able to impersonate the host, so private headers are removed from their
/// requests. They are removed from responses as well. An underscore counts as a hyphen.
pub(crate) fn is_private_header(name: &HeaderName) -> bool {
    let name = &*normalize_name(name);
    name == CONNECTION_ID
        || name == TIMER_RUN
        || name == KEEP_ALIVE_INTERVAL
        || name.starts_with(GRIP_PREFIX)
        || name.starts_with(META_PREFIX)
        || name.starts_with(SET_META_PREFIX)
        || name.starts_with("content-bytes-")
}

/// Removes headers with underscores that a server behind this host could mistake for headers about
/// the connection or the framing, or for those of Spin.
pub(crate) fn remove_underscore_spellings(headers: &mut HeaderMap) {
    remove_headers(headers, |name| {
        name.as_str().contains('_') && {
            let name = &*normalize_name(name);
            is_hop_or_framing_header(name) || name.starts_with("spin-")
        }
    });
}

/// Removes all private headers (see [`is_private_header`]).
pub(crate) fn remove_private_headers(headers: &mut HeaderMap) {
    remove_headers(headers, is_private_header);
}

/// Returns whether a header describes the connection or the framing, which the host controls.
pub(crate) fn is_framing_header(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::CONNECTION | header::CONTENT_LENGTH | header::TRANSFER_ENCODING | header::UPGRADE
    ) || name.as_str() == "keep-alive"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hop_by_hop_headers_are_removed() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("host", "a"),
            ("connection", "close, X-Hop"),
            ("connection", "host, x-other,, é,\u{ff}, Grip-Sig"),
            ("grip-sig", "token"),
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
            ("content-length", "5"),
        ] {
            let name = HeaderName::from_static(name);
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        remove_hop_headers(&mut headers);
        let mut remaining: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        remaining.sort();
        assert_eq!(
            remaining,
            [
                ("grip-sig", "token"),
                ("host", "a"),
                ("te", "trailers"),
                ("trailer", "x-sum"),
                ("x-end", "3")
            ]
        );
    }

    #[test]
    fn spellings_with_underscores_are_removed() {
        let mut headers = HeaderMap::new();
        for name in [
            "content_length",
            "transfer_encoding",
            "keep_alive",
            "proxy_connection",
            "http2_settings",
            "spin_path_info",
            "spin-client_addr",
            "content-length",
            "my_header",
        ] {
            headers.insert(name, HeaderValue::from_static("1"));
        }
        remove_underscore_spellings(&mut headers);
        let mut remaining: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        remaining.sort_unstable();
        assert_eq!(remaining, ["content-length", "my_header"]);
    }

    #[test]
    fn only_chunked_is_a_supported_transfer_coding() {
        let is_unsupported = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                let value = HeaderValue::from_static(value);
                headers.append(header::TRANSFER_ENCODING, value);
            }
            has_unsupported_transfer_coding(&headers)
        };
        for supported in [&[][..], &["chunked"], &["Chunked"], &[" , chunked, "]] {
            assert!(!is_unsupported(supported), "{supported:?}");
        }
        for unsupported in [
            &["gzip, chunked"][..],
            &["gzip", "chunked"],
            &["chunked, chunked"],
            &["gzip"],
            &["identity"],
            &["chunked;q=1"],
            &[""],
        ] {
            assert!(is_unsupported(unsupported), "{unsupported:?}");
        }
    }

    #[test]
    fn lengths_have_no_leading_zeros() {
        for (length, expected) in [("5", "5"), ("0", "0"), ("00", "0"), ("010", "10"), ("", "")] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static(length));
            normalize_length(&mut headers);
            assert_eq!(headers[header::CONTENT_LENGTH], expected, "{length:?}");
        }
    }

    #[test]
    fn cookies_are_joined() {
        for (cookies, joined) in [
            (&[][..], None),
            (&["a=1"], Some("a=1")),
            (&["a=1", "b=2"], Some("a=1; b=2")),
            (&["a=1; b=2", "c=3", "d=4"], Some("a=1; b=2; c=3; d=4")),
        ] {
            let mut headers = HeaderMap::new();
            for cookie in cookies {
                headers.append(header::COOKIE, HeaderValue::from_static(cookie));
            }
            join_cookies(&mut headers);
            let values: Vec<_> = headers.get_all(header::COOKIE).iter().collect();
            assert_eq!(values, Vec::from_iter(joined), "{cookies:?}");
        }
    }

    #[test]
    fn protocol_headers_are_private() {
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
