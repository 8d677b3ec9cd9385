//! The parameters in the queries of requests.

use grip::event::is_close_code;
use http::{Request, Response, StatusCode};
use spin_runtime::backend::Body;
use url::form_urlencoded;

use crate::{http::error_response::text_response, net::frame};

/// The entries of a list without a `limit`.
const DEFAULT_LIMIT: usize = 100;

/// The most entries of a list.
const MAX_LIMIT: usize = 1000;

/// The most bytes of the reason in a close frame (RFC 6455, section 5.5).
const MAX_REASON_BYTES: usize = 123;

/// Returns a parameter of the query.
pub(super) fn parameter<B>(request: &Request<B>, name: &str) -> Option<String> {
    let query = request.uri().query().unwrap_or_default();
    let mut parameters = form_urlencoded::parse(query.as_bytes());
    let (_, value) = parameters.find(|(parameter, _)| parameter == name)?;
    Some(value.into_owned())
}

/// Returns a parameter that is a number of at most `max`, or `default` if it is missing.
///
/// # Errors
/// Returns the response to a request whose parameter is invalid.
pub(super) fn number<B>(
    request: &Request<B>,
    name: &str,
    default: usize,
    max: usize,
) -> Result<usize, Box<Response<Body>>> {
    match parameter(request, name).as_deref().map(str::parse) {
        None => Ok(default),
        Some(Ok(number)) if number <= max => Ok(number),
        Some(_) => Err(bad_request(&format!(
            "{name}: expected a number from 0 to {max}"
        ))),
    }
}

/// Returns the number of entries that are asked for.
///
/// # Errors
/// Returns the response to a request whose `limit` is invalid.
pub(super) fn page_limit<B>(request: &Request<B>) -> Result<usize, Box<Response<Body>>> {
    number(request, "limit", DEFAULT_LIMIT, MAX_LIMIT)
}

/// Returns the code and the reason with which WebSockets are to be closed.
///
/// # Errors
/// Returns the response to a request for which they are invalid.
pub(super) fn close_parameters<B>(
    request: &Request<B>,
) -> Result<(u16, String), Box<Response<Body>>> {
    let code = match parameter(request, "code").as_deref().map(str::parse) {
        None => frame::POLICY_VIOLATION,
        Some(Ok(code)) if is_close_code(code) => code,
        Some(_) => {
            return Err(bad_request(
                "code: expected a close code that can be sent, such as 1008 or 4000 to 4999",
            ));
        }
    };
    let reason = parameter(request, "reason").unwrap_or_default();
    if reason.len() > MAX_REASON_BYTES {
        let text = format!("reason: expected at most {MAX_REASON_BYTES} bytes");
        return Err(bad_request(&text));
    }
    Ok((code, reason))
}

fn bad_request(text: &str) -> Box<Response<Body>> {
    Box::new(text_response(StatusCode::BAD_REQUEST, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(query: &str) -> Request<()> {
        let request = Request::get(format!("/sessions/?{query}")).body(());
        request.expect("valid request")
    }

    #[test]
    fn numbers_are_bounded() {
        let limit = |query| page_limit(&request(query)).ok();
        assert_eq!(limit(""), Some(100));
        assert_eq!(limit("limit=0"), Some(0));
        assert_eq!(limit("a=b&limit=1000"), Some(1000));
        for invalid in ["limit=1001", "limit=-1", "limit=", "limit=x"] {
            assert_eq!(limit(invalid), None, "{invalid}");
        }
    }

    #[test]
    fn close_codes_must_be_ones_that_can_be_sent() {
        let close = |query: &str| close_parameters(&request(query)).ok();
        assert_eq!(close(""), Some((1008, String::new())));
        assert_eq!(close("code=4001&reason=a%20b"), Some((4001, "a b".into())));
        for invalid in ["code=1005", "code=x", "code=70000"] {
            assert_eq!(close(invalid), None, "{invalid}");
        }
        let long = "x".repeat(124);
        assert_eq!(close(&format!("reason={long}")), None);
    }
}
