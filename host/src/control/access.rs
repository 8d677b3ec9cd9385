//! Who may use the control port.

use std::net::IpAddr;

use http::{HeaderValue, Request, Response, StatusCode, header};
use spin_runtime::backend::Body;

use crate::http::{
    error_response::text_response, origin::is_same_origin, signer::Signer, validate::Refusal,
};

/// The conditions for requests to the control port.
pub(super) struct Access {
    /// Publishing, and what concerns clients, requires a token that is signed with the host's key.
    pub(super) requires_token: bool,
    /// The names, besides `localhost`, by which requests may address the control port.
    pub(super) names: Vec<String>,
}

impl Access {
    /// Checks that a request may publish, or concern clients.
    ///
    /// Browsers need a token even on loopback, where a page of any origin can send a POST. The pages
    /// of the control port itself need none. A token that is sent must be valid, whether it is required
    /// or not.
    pub(super) fn authorize<B>(&self, signer: &Signer, request: &Request<B>) -> Result<(), String> {
        let headers = request.headers();
        let token = headers.get(header::AUTHORIZATION).map(|value| {
            value
                .to_str()
                .ok()
                .and_then(|value| value.split_once(' '))
                .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
                .map_or("", |(_, token)| token)
        });
        let is_browser =
            headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site");
        match token {
            Some(token) => signer
                .verify(token.trim())
                .map_err(|error| format!("invalid token: {error}")),
            None if self.requires_token || is_browser && !self.is_own_page(request) => Err(
                "missing token: expected `Authorization: Bearer` with a token that is signed with \
                 the host's key"
                    .to_owned(),
            ),
            None => Ok(()),
        }
    }

    /// Returns whether a browser has sent this request for a page of the control port.
    ///
    /// Pages cannot set these headers. The host is checked as well: the name of another site that
    /// resolves to this address would otherwise be the page's own origin.
    fn is_own_page<B>(&self, request: &Request<B>) -> bool {
        let headers = request.headers();
        let is_same_site = match headers.get("sec-fetch-site") {
            Some(site) => site == "same-origin",
            // Older browsers send `Origin` alone.
            None => headers.contains_key(header::ORIGIN),
        };
        let is_same_origin = headers
            .get(header::ORIGIN)
            .is_none_or(|origin| is_same_origin(origin, headers.get(header::HOST)));
        is_same_site && is_same_origin && self.check_host(request).is_ok()
    }

    /// Checks that a request names this host. A page of another site could otherwise make its own
    /// name resolve to this address, and read the responses (DNS rebinding). An address cannot be
    /// used for that.
    pub(super) fn check_host<B>(&self, request: &Request<B>) -> Result<(), Refusal> {
        let header = request.headers().get(header::HOST);
        let host = match (request.uri().host(), header) {
            (Some(host), _) => host,
            (None, Some(header)) => without_port(header.to_str().unwrap_or_default()),
            // HTTP/1.0, which browsers do not use.
            (None, None) => return Ok(()),
        };
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let address = host.trim_start_matches('[').trim_end_matches(']');
        let is_own = address.parse::<IpAddr>().is_ok()
            || host == "localhost"
            || host.ends_with(".localhost")
            || self
                .names
                .iter()
                .any(|name| name.eq_ignore_ascii_case(&host));
        if is_own {
            Ok(())
        } else {
            Err(Refusal(
                StatusCode::MISDIRECTED_REQUEST,
                "unknown host: expected an address, localhost, or a name set with --control-host",
            ))
        }
    }
}

/// Returns the response to a request that is not authorized, for this reason.
pub(super) fn unauthorized(reason: &str) -> Response<Body> {
    let mut response = text_response(StatusCode::UNAUTHORIZED, reason);
    let scheme = HeaderValue::from_static("Bearer");
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, scheme);
    response
}

/// Returns a valid `Host` header without its port.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use grip::{Key, signature::sign};

    use super::*;

    const KEY: &str = "a key that is long enough for tokens";

    fn access(requires_token: bool) -> Access {
        Access {
            requires_token,
            names: vec!["Control.example".to_owned()],
        }
    }

    #[test]
    fn refusals_name_what_is_wrong_with_a_token() {
        let signer = Signer::new(Key::parse(KEY).expect("valid key"));
        let refusal = |token: &str| {
            let request = Request::get("/").header("authorization", format!("Bearer {token}"));
            let request = request.body(()).expect("valid request");
            access(true).authorize(&signer, &request).expect_err(token)
        };
        let now = std::time::SystemTime::now();
        let hour = std::time::Duration::from_secs(3600);
        let other_key = Key::parse("another key").expect("valid key");
        let key = Key::parse(KEY).expect("valid key");
        for (token, problem) in [
            (sign(&other_key, "a", now, hour), "signature"),
            (sign(&key, "a", now - 2 * hour, hour), "expired"),
            ("no.token".to_owned(), "JWT"),
        ] {
            assert!(refusal(&token).contains(problem), "{}", refusal(&token));
        }
        let missing = access(true).authorize(&signer, &Request::new(()));
        assert!(missing.is_err_and(|text| text.contains("missing token")));
    }

    #[test]
    fn the_host_must_be_this_one() {
        let access = access(false);
        let check = |host: &str| {
            let request = Request::get("/metrics").header(header::HOST, host).body(());
            access.check_host(&request.expect("valid request")).is_ok()
        };
        for own in [
            "127.0.0.1",
            "127.0.0.1:5561",
            "10.0.0.7:5561",
            "[::1]",
            "[::1]:5561",
            "localhost",
            "LocalHost:5561",
            "localhost.",
            "app.localhost:1",
            "control.example:5561",
        ] {
            assert!(check(own), "{own}");
        }
        for other in [
            "",
            "evil.example",
            "evil.example:5561",
            "notlocalhost",
            "1.2.3.4.example",
        ] {
            assert!(!check(other), "{other}");
        }
        let absolute = Request::get("http://evil.example/metrics").body(());
        assert!(
            access
                .check_host(&absolute.expect("valid request"))
                .is_err()
        );
    }

    #[test]
    fn tokens_are_required_where_configured_and_from_browsers() {
        let signer = Signer::new(Key::parse(KEY).expect("valid key"));
        let token = signer.token();
        let token = token.to_str().expect("valid token");
        let is_authorized = |requires_token, name: &'static str, value: &str| {
            let request = Request::get("/").header(name, value).body(());
            let request = request.expect("valid request");
            access(requires_token).authorize(&signer, &request).is_ok()
        };
        for required in [true, false] {
            for valid in [
                format!("Bearer {token}"),
                format!("bearer  {token}"),
                format!("Bearer {KEY}"),
            ] {
                assert!(is_authorized(required, "authorization", &valid));
            }
            for invalid in ["Bearer", "Bearer ", "Bearer x", "Basic eDp5", KEY, token] {
                assert!(
                    !is_authorized(required, "authorization", invalid),
                    "{invalid}"
                );
            }
            assert!(!is_authorized(required, "origin", "http://localhost:3000"));
            assert!(!is_authorized(required, "sec-fetch-site", "same-site"));
        }
        assert!(is_authorized(false, "x-other", "") && !is_authorized(true, "x-other", ""));
    }

    #[test]
    fn only_the_pages_of_the_control_port_need_no_token() {
        let signer = Signer::new(Key::parse(KEY).expect("valid key"));
        let is_authorized = |requires_token, headers: &[(&str, &str)]| {
            let mut request = Request::post("/publish/");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let request = request.body(()).expect("valid request");
            access(requires_token).authorize(&signer, &request).is_ok()
        };
        let host = ("host", "127.0.0.1:5561");
        let own = ("origin", "http://127.0.0.1:5561");
        let same_origin = ("sec-fetch-site", "same-origin");
        for headers in [
            &[host, own, same_origin][..],
            &[host, same_origin],
            &[host, own],
            &[
                ("host", "localhost:5561"),
                ("origin", "http://localhost:5561"),
                same_origin,
            ],
        ] {
            assert!(is_authorized(false, headers), "{headers:?}");
            assert!(!is_authorized(true, headers), "{headers:?}");
        }
        for headers in [
            // A page of the application.
            &[
                host,
                ("origin", "http://127.0.0.1:3000"),
                ("sec-fetch-site", "same-site"),
            ][..],
            &[host, ("origin", "http://127.0.0.1:3000")],
            &[host, ("origin", "http://evil.example"), same_origin],
            &[host, ("origin", "null"), ("sec-fetch-site", "cross-site")],
            &[host, own, ("sec-fetch-site", "cross-site")],
            &[host, ("sec-fetch-site", "none")],
            // A name that was made to resolve to this address.
            &[
                ("host", "evil.example:5561"),
                ("origin", "http://evil.example:5561"),
                same_origin,
            ],
            &[own, same_origin],
        ] {
            assert!(!is_authorized(false, headers), "{headers:?}");
        }
    }
}
