//! Refuses requests that are malformed, that no backend may get, or that this host and a server behind
//! it could read differently.

use std::net::Ipv6Addr;

use grip::header::WEBSOCKET_EVENTS;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version, header, uri::Authority};
use http_body::Body;
use spin_runtime::escapes_root;

use crate::{
    config::Limits,
    http::{
        extended_connect::is_extended_connect,
        framing::Malformed,
        headers::{has_unsupported_transfer_coding, list_items, normalize_name},
    },
};

/// The status and text of a response to a request that is refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal(pub(crate) StatusCode, pub(crate) &'static str);

/// The refusal of a head that exceeds the limits.
pub(crate) const HEAD_TOO_LARGE: Refusal = Refusal(
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    "the head of the request is too large: expected at most 100 header fields and 32 KiB",
);

const MAX_HEAD_BYTES: usize = Limits::DEFAULT.max_request_head_bytes;
const MAX_HEADER_FIELDS: usize = Limits::DEFAULT.max_request_header_fields;

/// Checks the parts of a request that matter on both ports: its size, target, host and framing.
pub(crate) fn check_message<B>(request: &Request<B>) -> Result<(), Refusal> {
    if is_too_large(request) {
        return Err(HEAD_TOO_LARGE);
    }
    if let Some(Malformed(problem)) = request.extensions().get() {
        return Err(Refusal(StatusCode::BAD_REQUEST, problem));
    }
    // HTTP/2 allows the same length twice.
    let mut lengths = request.headers().get_all(header::CONTENT_LENGTH).iter();
    if lengths.nth(1).is_some() {
        return Err(Refusal(
            StatusCode::BAD_REQUEST,
            "more than one Content-Length header",
        ));
    }
    if let Some(problem) = target_problem(request).or_else(|| host_problem(request)) {
        return Err(Refusal(StatusCode::BAD_REQUEST, problem));
    }
    if has_unsupported_transfer_coding(request.headers()) {
        return Err(Refusal(
            StatusCode::NOT_IMPLEMENTED,
            "unsupported Transfer-Encoding: expected chunked",
        ));
    }
    Ok(())
}

/// Checks the parts of a request that matter to a backend.
pub(crate) fn check_backend_request<B>(request: &Request<B>) -> Result<(), Refusal> {
    if request.method() == Method::CONNECT && !is_extended_connect(request) {
        return Err(Refusal(
            StatusCode::NOT_IMPLEMENTED,
            "CONNECT is only supported for WebSockets over HTTP/2",
        ));
    }
    // The backend would send back the headers that the host has added.
    if request.method() == Method::TRACE {
        return Err(Refusal(
            StatusCode::NOT_IMPLEMENTED,
            "TRACE is not supported",
        ));
    }
    // Appended to the path of an upstream, it would reach what this host does not serve.
    if escapes_root(request.uri().path()) {
        return Err(Refusal(
            StatusCode::BAD_REQUEST,
            "the path escapes the root",
        ));
    }
    if claims_events(request.headers()) {
        return Err(Refusal(
            StatusCode::FORBIDDEN,
            "only the host may send WebSocket events",
        ));
    }
    Ok(())
}

/// Checks that a request for a WebSocket has no body: a server behind this host could read it as
/// messages.
pub(crate) fn check_upgrade<B: Body>(request: &Request<B>) -> Result<(), Refusal> {
    let is_websocket = |protocol: &str| {
        protocol
            .split('/')
            .next()
            .is_some_and(|name| name.eq_ignore_ascii_case("websocket"))
    };
    if request.version() == Version::HTTP_11
        && !request.body().is_end_stream()
        && list_items(request.headers(), &header::UPGRADE).any(is_websocket)
    {
        return Err(Refusal(
            StatusCode::BAD_REQUEST,
            "a request for a WebSocket must not have a body",
        ));
    }
    Ok(())
}

/// Returns whether the target and the headers exceed the limits.
fn is_too_large<B>(request: &Request<B>) -> bool {
    let (uri, headers) = (request.uri(), request.headers());
    let target = uri.path().len() + uri.query().map_or(0, str::len);
    // With the `: ` and the end of the line, as in HTTP/1.
    let fields = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4);
    headers.len() > MAX_HEADER_FIELDS || target + fields.sum::<usize>() > MAX_HEAD_BYTES
}

/// Returns whether any server could read the content type as that of WebSocket events: within a
/// list, with parameters, or in a header that is spelt with an underscore.
fn claims_events(headers: &HeaderMap) -> bool {
    let names_events = |value: &HeaderValue| {
        let value = value.as_bytes();
        let mut windows = value.windows(WEBSOCKET_EVENTS.len());
        windows.any(|window| window.eq_ignore_ascii_case(WEBSOCKET_EVENTS.as_bytes()))
    };
    headers
        .iter()
        .any(|(name, value)| normalize_name(name) == "content-type" && names_events(value))
}

/// Returns what is wrong with the target of a request (RFC 9112, section 3.2; RFC 9113, section
/// 8.3.1).
fn target_problem<B>(request: &Request<B>) -> Option<&'static str> {
    let (uri, method) = (request.uri(), request.method());
    if method == Method::CONNECT && !is_extended_connect(request) {
        return None;
    }
    if let Some(scheme) = uri.scheme_str()
        && !matches!(scheme, "http" | "https")
    {
        return Some("invalid request target: expected the scheme http or https");
    }
    if uri.scheme().is_none() && uri.authority().is_some() {
        return Some("invalid request target: expected a path");
    }
    if uri.path() == "*" && method != Method::OPTIONS {
        return Some("invalid request target: * is only for OPTIONS");
    }
    let authority = uri.authority().map(Authority::as_str);
    authority
        .filter(|authority| authority.is_empty() || !is_host(authority))
        .map(|_| "invalid request target: expected a host with an optional port")
}

/// Returns what is wrong with the host that a request names. If the header and the target differ,
/// this host and a component could pick different ones.
fn host_problem<B>(request: &Request<B>) -> Option<&'static str> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Some("more than one Host header");
    }
    let Some(host) = host else {
        return match request.version() {
            Version::HTTP_11 => Some("the Host header is missing"),
            // HTTP/2 has the host in the URI, and may have it in the header (RFC 9113, section 8.3.1).
            Version::HTTP_2 if request.uri().authority().is_none() => {
                Some("the host is missing: expected :authority or a Host header")
            }
            _ => None,
        };
    };
    let Some(host) = host.to_str().ok().filter(|host| is_host(host)) else {
        return Some("invalid Host header: expected a host with an optional port");
    };
    let authority = request.uri().authority()?;
    let is_same = is_same_host(host, authority, request.uri().scheme_str());
    (!is_same).then_some("the Host header differs from the request target")
}

/// Returns whether a text is a host with an optional port, or empty (RFC 9110, section 7.2).
fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<Ipv6Addr>().is_ok() => {
                ("", port.strip_prefix(':').or(port.is_empty().then_some("")))
            }
            _ => return false,
        },
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, Some("")),
        },
    };
    let is_valid_port = port.is_some_and(|port| {
        port.is_empty()
            || (port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok())
    });
    let is_host_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    is_valid_port && host.bytes().all(is_host_byte)
}

/// Returns whether a `Host` header names the authority of a URI. The scheme determines which port
/// may be omitted.
fn is_same_host(host: &str, authority: &Authority, scheme: Option<&str>) -> bool {
    let default_port = if scheme == Some("https") { 443 } else { 80 };
    let Ok(host) = host.parse::<Authority>() else {
        return false;
    };
    let port = |authority: &Authority| authority.port_u16().unwrap_or(default_port);
    host.host().eq_ignore_ascii_case(authority.host()) && port(&host) == port(authority)
}

#[cfg(test)]
mod tests;
