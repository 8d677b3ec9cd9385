//! Headers that name the client to an upstream: `X-Forwarded-*` and `Forwarded` (RFC 7239).
//!
//! The forwarding headers of a trusted proxy are kept and extended. Those of any other peer are
//! removed.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use spin_runtime::backend::Client;

use crate::{
    http::headers::{list_items, normalize_name, remove_headers},
    net::trusted_proxies::TrustedProxies,
};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

const FORWARDING_HEADERS: [HeaderName; 4] = [
    X_FORWARDED_FOR,
    X_FORWARDED_HOST,
    X_FORWARDED_PROTO,
    header::FORWARDED,
];

/// Sets the forwarding headers of a request that `peer` sent.
///
/// `Host` must still be the client's.
pub(crate) fn set_forwarding_headers(headers: &mut HeaderMap, peer: Client) {
    let ip = peer.address.ip().to_canonical();
    if peer.is_trusted_proxy {
        // The proxy may have passed on spellings with underscores, which many servers do not
        // distinguish from its own headers.
        remove_headers(headers, |name| {
            is_forwarding_header(name) && !FORWARDING_HEADERS.contains(name)
        });
    } else {
        remove_forwarding_headers(headers);
    }
    let mut chain: Vec<String> = list_items(headers, &X_FORWARDED_FOR)
        .map(str::to_owned)
        .collect();
    if !headers.contains_key(X_FORWARDED_HOST)
        && let Some(host) = headers.get(header::HOST).cloned()
    {
        headers.insert(X_FORWARDED_HOST, host);
    }
    headers
        .entry(X_FORWARDED_PROTO)
        .or_insert(HeaderValue::from_static(if peer.is_secure {
            "https"
        } else {
            "http"
        }));

    let mut elements: Vec<String> = list_items(headers, &header::FORWARDED)
        .map(str::to_owned)
        .collect();
    if elements.is_empty() {
        // The proxy only sets the older headers.
        elements.extend(chain.iter().map(|client| format!("for={}", node(client))));
    }
    let mut element = format!("for={}", node(&ip.to_string()));
    for (key, name) in [("host", X_FORWARDED_HOST), ("proto", X_FORWARDED_PROTO)] {
        if let Some(value) = headers.get(name).and_then(|value| value.to_str().ok()) {
            element += &format!(";{key}={}", quoted(value));
        }
    }
    elements.push(element);
    chain.push(ip.to_string());
    insert(headers, X_FORWARDED_FOR, &chain.join(", "));
    insert(headers, header::FORWARDED, &elements.join(", "));
}

/// Returns the address that limits by address apply to, for a request that `peer` sent.
///
/// Behind proxies it is the last one in `X-Forwarded-For`, or else in `Forwarded`, that is not a
/// trusted proxy. Everything before it may be forged. `None` if a proxy names no client.
pub(crate) fn limited_address(
    headers: &HeaderMap,
    peer: Client,
    trusted: &TrustedProxies,
) -> Option<IpAddr> {
    if !peer.is_trusted_proxy {
        return peer.limited_address;
    }
    let name = if headers.contains_key(X_FORWARDED_FOR) {
        X_FORWARDED_FOR
    } else {
        header::FORWARDED
    };
    let items: Vec<&str> = list_items(headers, &name).collect();
    for item in items.into_iter().rev() {
        let node = if name == header::FORWARDED {
            forwarded_for(item)?
        } else {
            item
        };
        // What follows an unknown node cannot be attributed to anyone else.
        let address = node_address(node)?;
        if !trusted.contains(address) {
            return Some(address);
        }
    }
    None
}

/// Returns the `for` parameter of an element of `Forwarded`.
fn forwarded_for(element: &str) -> Option<&str> {
    element.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let is_for = name.trim().eq_ignore_ascii_case("for");
        is_for.then(|| value.trim().trim_matches('"'))
    })
}

/// Parses an address, which may have a port, and brackets if it is IPv6.
fn node_address(node: &str) -> Option<IpAddr> {
    let bracketed = node.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    let address = bracketed.unwrap_or(node).parse::<IpAddr>();
    let address = address.or_else(|_| node.parse::<SocketAddr>().map(|it| it.ip()));
    address.ok().map(|address| address.to_canonical())
}

/// Removes all forwarding headers.
pub(crate) fn remove_forwarding_headers(headers: &mut HeaderMap) {
    remove_headers(headers, is_forwarding_header);
}

/// Returns whether a name is a forwarding header, possibly spelt with underscores.
pub(crate) fn is_forwarding_header(name: &HeaderName) -> bool {
    let name = normalize_name(name);
    FORWARDING_HEADERS.iter().any(|header| *header == *name)
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // The value consists of parts of header values, so this does not fail.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// Returns a client as a `node` of RFC 7239, with IPv6 addresses in brackets.
fn node(client: &str) -> String {
    match client.parse() {
        Ok(IpAddr::V6(ip)) => format!("\"[{ip}]\""),
        _ => quoted(client),
    }
}

/// Returns the text itself if it is a token, and a quoted string otherwise.
fn quoted(text: &str) -> String {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if !text.is_empty() && text.chars().all(is_token) {
        text.to_owned()
    } else {
        format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_is_that_of_the_connection() {
        let mut headers = HeaderMap::new();
        let peer = Client {
            is_secure: true,
            ..Client::plain("192.0.2.1:1".parse().unwrap())
        };
        set_forwarding_headers(&mut headers, peer);
        assert_eq!(headers[X_FORWARDED_PROTO], "https");
        assert_eq!(headers[header::FORWARDED], "for=192.0.2.1;proto=https");
    }

    /// Returns a client at an address, which is a proxy if it is private.
    fn client(address: &str) -> Client {
        let client = Client::plain(address.parse().unwrap());
        Client {
            is_trusted_proxy: TrustedProxies::default().contains(client.address.ip()),
            ..client
        }
    }

    /// Returns the headers of a request of `peer` after the forwarding headers were set.
    fn headers_after(
        peer: &str,
        headers: &[(&'static str, &'static str)],
    ) -> Vec<(String, String)> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        set_forwarding_headers(&mut map, client(peer));
        let mut forwarded: Vec<_> = map
            .iter()
            .filter(|(name, _)| *name != header::HOST)
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect();
        forwarded.sort();
        forwarded
    }

    #[track_caller]
    fn assert_forwarded(
        peer: &str,
        headers: &[(&'static str, &'static str)],
        forwarded: &str,
        client: &str,
        host: &str,
        proto: &str,
    ) {
        let expected = [
            ("forwarded", forwarded),
            ("x-forwarded-for", client),
            ("x-forwarded-host", host),
            ("x-forwarded-proto", proto),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(headers_after(peer, headers), expected);
    }

    #[test]
    fn client_address_host_and_scheme_are_set() {
        assert_forwarded(
            "203.0.113.9:4000",
            &[("host", "burger.example:3000")],
            "for=203.0.113.9;host=\"burger.example:3000\";proto=http",
            "203.0.113.9",
            "burger.example:3000",
            "http",
        );
        assert_forwarded(
            "[2001:db8::9]:4000",
            &[("host", "a")],
            "for=\"[2001:db8::9]\";host=a;proto=http",
            "2001:db8::9",
            "a",
            "http",
        );
        // IPv4-mapped, as a dual-stack socket reports it.
        assert_forwarded(
            "[::ffff:203.0.113.9]:4000",
            &[("host", "a")],
            "for=203.0.113.9;host=a;proto=http",
            "203.0.113.9",
            "a",
            "http",
        );
    }

    #[test]
    fn headers_of_a_public_peer_are_replaced() {
        assert_forwarded(
            "203.0.113.9:4000",
            &[
                ("host", "a"),
                ("forwarded", "for=127.0.0.1"),
                ("x-forwarded-for", "127.0.0.1"),
                ("x_forwarded_for", "127.0.0.1"),
                ("x-forwarded_host", "evil.example"),
                ("x-forwarded-host", "evil.example"),
                ("x-forwarded-proto", "https"),
            ],
            "for=203.0.113.9;host=a;proto=http",
            "203.0.113.9",
            "a",
            "http",
        );
    }

    #[test]
    fn headers_of_a_local_proxy_are_extended() {
        assert_forwarded(
            "127.0.0.1:4000",
            &[
                ("host", "inner"),
                ("forwarded", "for=203.0.113.9;proto=https"),
                ("forwarded", "for=10.0.0.1"),
                ("x-forwarded-for", "203.0.113.9, 10.0.0.1"),
                ("x_forwarded_for", "192.0.2.1"),
                ("x-forwarded-host", "burger.example"),
                ("x-forwarded-proto", "https"),
            ],
            "for=203.0.113.9;proto=https, for=10.0.0.1, for=127.0.0.1;host=burger.example;proto=https",
            "203.0.113.9, 10.0.0.1, 127.0.0.1",
            "burger.example",
            "https",
        );
        // A proxy without `Forwarded`.
        assert_forwarded(
            "10.1.2.3:4000",
            &[
                ("host", "a"),
                ("x-forwarded-for", "2001:db8::9,odd \"one\""),
            ],
            "for=\"[2001:db8::9]\", for=\"odd \\\"one\\\"\", for=10.1.2.3;host=a;proto=http",
            "2001:db8::9, odd \"one\", 10.1.2.3",
            "a",
            "http",
        );
    }

    #[test]
    fn limits_apply_to_the_last_address_that_is_no_proxy() {
        let trusted = TrustedProxies::default();
        let limited = |peer: &str, headers: &[(&'static str, &'static str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, HeaderValue::from_static(value));
            }
            let address = limited_address(&map, client(peer), &trusted);
            address.map(|address| address.to_string())
        };
        let proxy = "10.0.0.1:1";
        for (peer, headers, expected) in [
            // A client cannot choose its address.
            (
                "203.0.113.9:1",
                &[("x-forwarded-for", "192.0.2.7")][..],
                Some("203.0.113.9"),
            ),
            ("203.0.113.9:1", &[], Some("203.0.113.9")),
            ("127.0.0.1:1", &[], None),
            (proxy, &[], None),
            (
                proxy,
                &[("x-forwarded-for", "192.0.2.7")],
                Some("192.0.2.7"),
            ),
            (
                proxy,
                &[("x-forwarded-for", "1.1.1.1, 192.0.2.7, 10.0.0.2")],
                Some("192.0.2.7"),
            ),
            (
                proxy,
                &[
                    ("x-forwarded-for", "1.1.1.1"),
                    ("x-forwarded-for", "192.0.2.7:80"),
                ],
                Some("192.0.2.7"),
            ),
            (
                proxy,
                &[("x-forwarded-for", "[2001:db8::9]:80")],
                Some("2001:db8::9"),
            ),
            (
                proxy,
                &[("x-forwarded-for", "::ffff:192.0.2.7")],
                Some("192.0.2.7"),
            ),
            (proxy, &[("x-forwarded-for", "192.0.2.7, unknown")], None),
            (proxy, &[("x-forwarded-for", "10.0.0.3, 10.0.0.2")], None),
            (
                proxy,
                &[("forwarded", "for=192.0.2.7;proto=https, for=10.0.0.2")],
                Some("192.0.2.7"),
            ),
            (
                proxy,
                &[("forwarded", "proto=https;For=\"[2001:db8::9]:80\"")],
                Some("2001:db8::9"),
            ),
            (proxy, &[("forwarded", "for=_hidden")], None),
            (proxy, &[("forwarded", "proto=https")], None),
        ] {
            let limited = limited(peer, headers);
            assert_eq!(limited.as_deref(), expected, "{peer} {headers:?}");
        }
    }
}
