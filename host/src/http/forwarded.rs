//! What an upstream is told about the client: `X-Forwarded-*` and `Forwarded` (RFC 7239).
//!
//! A peer on this machine or in a private network is taken for another proxy: what it says of its
//! client is kept, and added to. What any other peer says of itself is removed.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::http::headers::{hyphened, remove_headers, tokens};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

const TOLD: [HeaderName; 4] = [
    X_FORWARDED_FOR,
    X_FORWARDED_HOST,
    X_FORWARDED_PROTO,
    header::FORWARDED,
];

/// Sets the headers for a request that came from `peer`; its `Host` is the client's.
pub(crate) fn tell(headers: &mut HeaderMap, peer: SocketAddr) {
    let ip = peer.ip().to_canonical();
    match is_near(ip) {
        // A proxy passes on what is spelt with underscores, and so the same as ours to many servers.
        true => remove_headers(headers, |name| is_told(name) && !TOLD.contains(name)),
        false => forget(headers),
    }
    let mut chain: Vec<String> = tokens(headers, &X_FORWARDED_FOR)
        .map(str::to_owned)
        .collect();
    if !headers.contains_key(X_FORWARDED_HOST)
        && let Some(host) = headers.get(header::HOST).cloned()
    {
        headers.insert(X_FORWARDED_HOST, host);
    }
    headers
        .entry(X_FORWARDED_PROTO)
        .or_insert(HeaderValue::from_static("http"));

    let mut elements: Vec<String> = tokens(headers, &header::FORWARDED)
        .map(str::to_owned)
        .collect();
    if elements.is_empty() {
        // A proxy in front that speaks the older headers alone.
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
    set(headers, X_FORWARDED_FOR, &chain.join(", "));
    set(headers, header::FORWARDED, &elements.join(", "));
}

/// Removes what a client says about whom it stands for.
pub(crate) fn forget(headers: &mut HeaderMap) {
    remove_headers(headers, is_told);
}

/// Whether a name is one of ours, also by another spelling.
fn is_told(name: &HeaderName) -> bool {
    let name = hyphened(name);
    TOLD.iter().any(|told| *told == *name)
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // Made of parts of header values.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// Whether an address is of this machine or of a private network.
fn is_near(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// A `node` of RFC 7239: an IPv6 address stands in brackets.
fn node(client: &str) -> String {
    match client.parse() {
        Ok(IpAddr::V6(ip)) => format!("\"[{ip}]\""),
        _ => quoted(client),
    }
}

/// A token as it is, anything else as a quoted string.
fn quoted(text: &str) -> String {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    match !text.is_empty() && text.chars().all(is_token) {
        true => text.to_owned(),
        false => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(peer: &str, headers: &[(&'static str, &'static str)]) -> Vec<(String, String)> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        tell(&mut map, peer.parse().unwrap());
        let mut told: Vec<_> = map
            .iter()
            .filter(|(name, _)| *name != header::HOST)
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect();
        told.sort();
        told
    }

    #[track_caller]
    fn tells(
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
        assert_eq!(told(peer, headers), expected);
    }

    #[test]
    fn a_client_is_told_of() {
        tells(
            "203.0.113.9:4000",
            &[("host", "burger.example:3000")],
            "for=203.0.113.9;host=\"burger.example:3000\";proto=http",
            "203.0.113.9",
            "burger.example:3000",
            "http",
        );
        tells(
            "[2001:db8::9]:4000",
            &[("host", "a")],
            "for=\"[2001:db8::9]\";host=a;proto=http",
            "2001:db8::9",
            "a",
            "http",
        );
        // As a socket for both families sees it.
        tells(
            "[::ffff:203.0.113.9]:4000",
            &[("host", "a")],
            "for=203.0.113.9;host=a;proto=http",
            "203.0.113.9",
            "a",
            "http",
        );
    }

    #[test]
    fn what_a_stranger_says_of_itself_is_forgotten() {
        tells(
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
    fn what_a_proxy_says_is_added_to() {
        tells(
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
        // The older headers alone.
        tells(
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
}
