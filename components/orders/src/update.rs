//! Requests that set an order's status: `POST /api/orders/ID/status`.

use serde::Deserialize;
use spin_sdk::http::{HeaderMap, Request, StatusCode};

use crate::order::Status;

/// The maximum size of a request body.
pub(crate) const MAX_BODY_BYTES: usize = 1 << 10;

const EXPECTED: &str =
    r#"expected {"status":STATUS}, STATUS one of "received", "fired", "fulfilled", "cancelled""#;

/// Rejects requests that a page of another origin may have sent.
///
/// There are two checks, so that neither is the only defense. Browsers send `application/json`
/// to another origin only after a preflight request, which this component does not allow.
/// Browsers also name the origin of the page in `Sec-Fetch-Site` or `Origin`. Requests with
/// neither header do not come from a browser and are accepted.
pub(crate) fn check_headers(request: &Request<()>) -> Result<(), (StatusCode, &'static str)> {
    let headers = request.headers();
    let content_type = text(headers, "content-type").unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default();
    if !essence.trim().eq_ignore_ascii_case("application/json") {
        let message = "content-type: expected application/json";
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let same_origin = match (text(headers, "sec-fetch-site"), text(headers, "origin")) {
        (Some(site), _) => site == "same-origin",
        (None, Some(origin)) => {
            let host = request
                .uri()
                .authority()
                .map(|authority| authority.as_str());
            let host = host.or_else(|| text(headers, "host"));
            origin.split_once("://").map(|(_, authority)| authority) == host
        }
        // A header that is present but not text is rejected.
        (None, None) => !headers.contains_key("sec-fetch-site") && !headers.contains_key("origin"),
    };
    if same_origin {
        Ok(())
    } else {
        let message = "only pages of the same origin may update orders";
        Err((StatusCode::FORBIDDEN, message))
    }
}

/// Parses the requested status from a body.
pub(crate) fn parse_body(body: &[u8]) -> Result<Status, &'static str> {
    #[derive(Deserialize)]
    struct Update {
        status: Status,
    }
    // Serde would also accept an array of the fields.
    match serde_json::from_slice(body) {
        Ok(Update { status }) if body.trim_ascii_start().starts_with(b"{") => Ok(status),
        _ => Err(EXPECTED),
    }
}

/// Returns a header's value, or `None` if it is absent or not text.
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
        check_headers(&request).map_or_else(|(status, _)| status.as_u16(), |()| 200)
    }

    #[test]
    fn only_json_is_accepted() {
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
    fn only_the_same_origin_is_accepted() {
        const JSON: (&str, &str) = ("content-type", "application/json");
        const HOST: (&str, &str) = ("host", "burger.example:3000");
        let status_with =
            |headers: &[(&'static str, &str)]| status(&[&[JSON, HOST], headers].concat());
        for (site, expected) in [
            ("same-origin", 200),
            ("same-site", 403),
            ("cross-site", 403),
            ("none", 403),
            ("é", 403),
        ] {
            assert_eq!(status_with(&[("sec-fetch-site", site)]), expected, "{site}");
        }
        for (origin, expected) in [
            ("http://burger.example:3000", 200),
            // A proxy that terminates TLS may connect to the host over plain HTTP.
            ("https://burger.example:3000", 200),
            ("http://burger.example", 403),
            ("http://evil.example", 403),
            ("http://burger.example:3000.evil.example", 403),
            ("null", 403),
            ("é", 403),
        ] {
            assert_eq!(status_with(&[("origin", origin)]), expected, "{origin}");
        }
        // Sec-Fetch-Site takes precedence, as a proxy may have changed the Host header.
        assert_eq!(
            status_with(&[("sec-fetch-site", "same-origin"), ("origin", "https://x")]),
            200
        );
        assert_eq!(
            status_with(&[
                ("sec-fetch-site", "cross-site"),
                ("origin", "http://burger.example:3000")
            ]),
            403
        );
    }

    #[test]
    fn bodies_are_parsed() {
        assert_eq!(
            parse_body(br#" {"status":"fired","more":1} "#),
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
            assert_eq!(parse_body(bad.as_bytes()), Err(EXPECTED), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(body: Vec<u8>) {
            let _ = parse_body(&body);
        }
    }
}
