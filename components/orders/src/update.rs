//! A change of status as a request: whether it was meant, and what it asks for.

use serde::Deserialize;
use spin_sdk::http::{HeaderMap, Request, StatusCode};

use crate::order::Status;

/// The most bytes that the body of a change can have.
pub const MAX_CHANGE: usize = 1 << 10;

const EXPECTED: &str =
    r#"expected {"status":STATUS}, STATUS one of "received", "fired", "fulfilled", "cancelled""#;

/// Lets in a request that no other site's page can have sent, or says why not.
///
/// A browser sends `application/json` to another origin only when that one allows it, which
/// nothing here does; and it says where a request comes from. Both are asked for, so that
/// neither is all there is. What is no browser says nothing, and is let in.
pub fn admit(request: &Request<()>) -> Result<(), (StatusCode, &'static str)> {
    let headers = request.headers();
    let content_type = text(headers, "content-type").unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default();
    if !essence.trim().eq_ignore_ascii_case("application/json") {
        let message = "content-type: expected application/json";
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let is_own = match (text(headers, "sec-fetch-site"), text(headers, "origin")) {
        (Some(site), _) => site == "same-origin",
        (None, Some(origin)) => {
            let host = request
                .uri()
                .authority()
                .map(|authority| authority.as_str());
            let host = host.or_else(|| text(headers, "host"));
            origin.split_once("://").map(|(_, authority)| authority) == host
        }
        (None, None) => !headers.contains_key("sec-fetch-site") && !headers.contains_key("origin"),
    };
    match is_own {
        true => Ok(()),
        false => Err((
            StatusCode::FORBIDDEN,
            "only pages of this origin may change orders",
        )),
    }
}

/// The status that a body asks for.
pub fn parse(body: &[u8]) -> Result<Status, &'static str> {
    #[derive(Deserialize)]
    struct Change {
        status: Status,
    }
    // A list with the same value would do for serde.
    match serde_json::from_slice(body) {
        Ok(Change { status }) if body.trim_ascii_start().starts_with(b"{") => Ok(status),
        _ => Err(EXPECTED),
    }
}

/// `None` also for a header that is there and not text: see [`admit`].
fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use spin_sdk::http::HeaderValue;

    use super::*;

    fn status(headers: &[(&'static str, &str)]) -> u16 {
        let mut request = Request::new(());
        for (name, value) in headers {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            request.headers_mut().append(*name, value);
        }
        admit(&request).map_or_else(|(status, _)| status.as_u16(), |()| 200)
    }

    #[test]
    fn only_json() {
        for (content_type, expected) in [
            ("application/json", 200),
            ("Application/JSON; charset=utf-8", 200),
            ("text/plain", 415),
            ("text/plain; application/json", 415),
            ("application/x-www-form-urlencoded", 415),
            ("multipart/form-data", 415),
            ("application/jsonp", 415),
            ("", 415),
            ("é", 415),
        ] {
            assert_eq!(
                status(&[("content-type", content_type)]),
                expected,
                "{content_type}"
            );
        }
        assert_eq!(status(&[]), 415);
    }

    #[test]
    fn only_of_this_origin() {
        const JSON: (&str, &str) = ("content-type", "application/json");
        const HOST: (&str, &str) = ("host", "burger.example:3000");
        let of = |headers: &[(&'static str, &str)]| status(&[&[JSON, HOST], headers].concat());
        for (site, expected) in [
            ("same-origin", 200),
            ("same-site", 403),
            ("cross-site", 403),
            ("none", 403),
            ("é", 403),
        ] {
            assert_eq!(of(&[("sec-fetch-site", site)]), expected, "{site}");
        }
        for (origin, expected) in [
            ("http://burger.example:3000", 200),
            // What ends TLS in front may speak HTTP to the host.
            ("https://burger.example:3000", 200),
            ("http://burger.example", 403),
            ("http://evil.example", 403),
            ("http://burger.example:3000.evil.example", 403),
            ("null", 403),
            ("é", 403),
        ] {
            assert_eq!(of(&[("origin", origin)]), expected, "{origin}");
        }
        // The browser's own word counts where a proxy has changed the host's name.
        assert_eq!(
            of(&[("sec-fetch-site", "same-origin"), ("origin", "https://x")]),
            200
        );
        assert_eq!(
            of(&[
                ("sec-fetch-site", "cross-site"),
                ("origin", "http://burger.example:3000")
            ]),
            403
        );
    }

    #[test]
    fn bodies() {
        assert_eq!(
            parse(br#" {"status":"fired","more":1} "#),
            Ok(Status::Fired)
        );
        for bad in [
            "",
            "{",
            "{}",
            r#"["fired"]"#,
            r#"{"status":"eaten"}"#,
            r#"{"status":1}"#,
            "fired",
        ] {
            assert_eq!(parse(bad.as_bytes()), Err(EXPECTED), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_body_is_answered(body: Vec<u8>) {
            let _ = parse(&body);
        }
    }
}
