//! The origins that may open WebSockets and hold requests.

use spin_runtime::manifest::reader::Value;

/// The values of the `Origin` header that the handshake of a WebSocket, and a request that is held,
/// may have.
///
/// A request without this header does not come from a page of another site, and is always allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedOrigins {
    /// `"*"`: any origin.
    pub any: bool,
    /// `"same-origin"`: an origin with the host and port of the `Host` header.
    pub same_origin: bool,
    /// Exact origins, `scheme://host[:port]`, in lower case, without the default port.
    pub exact: Vec<String>,
}

impl AllowedOrigins {
    /// Reads the array `allowed-origins`.
    pub(super) fn read(value: &Value<'_>) -> Self {
        let mut allowed = Self {
            any: false,
            same_origin: false,
            exact: Vec::new(),
        };
        for entry in value.array() {
            let Some(text) = entry.string() else { continue };
            match text {
                "*" => allowed.any = true,
                "same-origin" => allowed.same_origin = true,
                _ => match parse_origin(text) {
                    Some(origin) => allowed.exact.push(origin),
                    None => entry.error(format!(
                        "expected \"same-origin\", \"*\" or an exact origin without a path, such as \
                         \"https://example.com\", found {text:?}"
                    )),
                },
            }
        }
        allowed
    }
}

impl Default for AllowedOrigins {
    fn default() -> Self {
        Self {
            any: false,
            same_origin: true,
            exact: Vec::new(),
        }
    }
}

/// Returns an origin as a browser sends it: in lower case, without the default port.
pub(crate) fn parse_origin(text: &str) -> Option<String> {
    let url = url::Url::parse(text).ok()?;
    let is_origin = matches!(url.path(), "" | "/")
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none()
        && text.contains("://");
    let host = url
        .host_str()
        .filter(|host| is_origin && !host.is_empty() && !host.contains('*'))?;
    let port = url
        .port()
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    Some(format!(
        "{}://{}{port}",
        url.scheme(),
        host.to_ascii_lowercase()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn origins_are_normalized_as_browsers_do() {
        for (text, origin) in [
            ("https://Example.COM", "https://example.com"),
            ("https://example.com:443/", "https://example.com"),
            ("http://example.com:80", "http://example.com"),
            ("http://example.com:8080", "http://example.com:8080"),
            ("http://[::1]:3000", "http://[::1]:3000"),
            ("https://bücher.example", "https://xn--bcher-kva.example"),
            ("tauri://Localhost", "tauri://localhost"),
        ] {
            assert_eq!(parse_origin(text).as_deref(), Some(origin), "{text}");
        }
        for invalid in [
            "",
            "example.com",
            "https://",
            "https://a/b",
            "https://a?b",
            "https://u@a",
            "https://*.a",
            "null",
            "mailto:x",
        ] {
            assert_eq!(parse_origin(invalid), None, "{invalid}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in ".{0,40}") {
            let _ = parse_origin(&text);
        }
    }
}
