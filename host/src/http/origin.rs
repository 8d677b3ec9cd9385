//! The origin of the page that sends a request: which pages may use what the host holds open.

use http::{HeaderMap, HeaderValue, Request, header};

use crate::{config::AllowedOrigins, http::headers::list_items};

/// Whether the page that sends a request may use what the host holds open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The request comes from a page of this host, or not from a page of another site.
    Own,
    /// A page of an allowed origin.
    Allowed(CrossOrigin),
    /// A page of another origin.
    Refused,
}

/// How a response allows a page of another origin to read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CrossOrigin {
    /// Every page may read it, without credentials.
    Any,
    /// Pages of this origin may read it, also with credentials.
    Exact(HeaderValue),
}

impl Origin {
    /// Returns the origin of a request.
    pub(crate) fn of<B>(request: &Request<B>, allowed: &AllowedOrigins) -> Self {
        let headers = request.headers();
        let Some(origin) = headers.get(header::ORIGIN) else {
            return Self::Own;
        };
        let host = headers.get(header::HOST);
        if allowed.same_origin && is_same_origin(origin, host) {
            Self::Own
        } else if allowed.any {
            Self::Allowed(CrossOrigin::Any)
        } else if is_allowed(allowed, origin, host) {
            Self::Allowed(CrossOrigin::Exact(origin.clone()))
        } else {
            Self::Refused
        }
    }
}

impl CrossOrigin {
    /// Allows the page to read a response, unless the response itself says which pages may.
    pub(crate) fn apply(self, headers: &mut HeaderMap) {
        if headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
            return;
        }
        let origin = match self {
            Self::Any => HeaderValue::from_static("*"),
            Self::Exact(origin) => {
                let credentials = HeaderValue::from_static("true");
                headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, credentials);
                if !list_items(headers, &header::VARY)
                    .any(|name| name.eq_ignore_ascii_case("origin"))
                {
                    headers.append(header::VARY, HeaderValue::from_static("Origin"));
                }
                origin
            }
        };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    }
}

/// Returns whether a page of `origin` is one of `host`.
pub(crate) fn is_same_origin(origin: &HeaderValue, host: Option<&HeaderValue>) -> bool {
    let own = AllowedOrigins {
        any: false,
        same_origin: true,
        exact: Vec::new(),
    };
    is_allowed(&own, origin, host)
}

/// Returns whether a page of `origin` may use what is held open on `host`.
pub(crate) fn is_allowed(
    origins: &AllowedOrigins,
    origin: &HeaderValue,
    host: Option<&HeaderValue>,
) -> bool {
    if origins.any {
        return true;
    }
    let Ok(origin) = origin.to_str() else {
        return false;
    };
    let origin = origin.to_ascii_lowercase();
    let Some((scheme, authority)) = origin.split_once("://") else {
        return false;
    };
    let port = match scheme {
        "http" | "ws" => ":80",
        "https" | "wss" => ":443",
        _ => "",
    };
    // A proxy may have terminated TLS, so the client's scheme is unknown and a default port is
    // equivalent to none.
    let without_default_port = |authority: &str| {
        authority
            .strip_suffix(port)
            .unwrap_or(authority)
            .to_ascii_lowercase()
    };
    let is_same_origin = origins.same_origin
        && host
            .and_then(|host| host.to_str().ok())
            .is_some_and(|host| without_default_port(host) == without_default_port(authority));
    is_same_origin
        || origins
            .exact
            .iter()
            .any(|exact| *exact == format!("{scheme}://{}", without_default_port(authority)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(any: bool, same_origin: bool, exact: &[&str]) -> AllowedOrigins {
        AllowedOrigins {
            any,
            same_origin,
            exact: exact.iter().map(|&origin| origin.into()).collect(),
        }
    }

    #[test]
    fn origins_are_matched_by_scheme_host_and_port() {
        let allows = |origins: &AllowedOrigins, origin: &'static str, host: &'static str| {
            is_allowed(
                origins,
                &HeaderValue::from_static(origin),
                Some(&HeaderValue::from_static(host)),
            )
        };
        let same_origin = origins(false, true, &[]);
        for (origin, host) in [
            ("http://localhost:3000", "localhost:3000"),
            ("https://burger.example", "burger.example"),
            ("https://Burger.example:443", "burger.example"),
            ("https://burger.example", "burger.example:443"),
            ("http://[::1]:3000", "[::1]:3000"),
        ] {
            assert!(allows(&same_origin, origin, host), "{origin} {host}");
        }
        for (origin, host) in [
            ("http://evil.example", "localhost:3000"),
            ("http://localhost:3001", "localhost:3000"),
            ("http://localhost:3000.evil.example", "localhost:3000"),
            ("null", "localhost:3000"),
            ("", ""),
        ] {
            assert!(!allows(&same_origin, origin, host), "{origin} {host}");
        }
        let exact = origins(false, false, &["https://app.example"]);
        assert!(allows(&exact, "https://app.example:443", "other"));
        assert!(!allows(&exact, "http://app.example", "app.example"));
        assert!(allows(&origins(true, false, &[]), "null", "x"));
    }

    #[test]
    fn responses_allow_the_origins_that_are_configured() {
        let origin = |allowed: &AllowedOrigins, origin: Option<&str>| {
            let mut request = Request::get("/").header("host", "burger.example");
            if let Some(origin) = origin {
                request = request.header("origin", origin);
            }
            Origin::of(&request.body(()).unwrap(), allowed)
        };
        let headers = |origin: Origin, own: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in own {
                headers.insert(*name, HeaderValue::from_static(value));
            }
            if let Origin::Allowed(origin) = origin {
                origin.apply(&mut headers);
            }
            let values = headers
                .iter()
                .map(|(name, value)| format!("{name}: {value:?}"));
            values.collect::<Vec<_>>().join(", ").replace('"', "")
        };
        let other = Some("https://app.example");
        let same = origins(false, true, &[]);
        assert_eq!(origin(&same, None), Origin::Own);
        assert_eq!(origin(&same, Some("https://burger.example")), Origin::Own);
        assert_eq!(origin(&same, other), Origin::Refused);
        let exact = origins(false, true, &["https://app.example"]);
        assert_eq!(
            headers(origin(&exact, other), &[]),
            "access-control-allow-credentials: true, vary: Origin, \
             access-control-allow-origin: https://app.example"
        );
        let set = [("access-control-allow-origin", "https://c.example")];
        assert_eq!(
            headers(origin(&exact, other), &set),
            "access-control-allow-origin: https://c.example"
        );
        assert_eq!(origin(&exact, Some("null")), Origin::Refused);
        let any = origins(true, false, &[]);
        assert_eq!(
            headers(origin(&any, Some("null")), &[]),
            "access-control-allow-origin: *"
        );
    }
}
