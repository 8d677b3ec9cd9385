//! The URL of a server that requests are forwarded to.

use std::{fmt, str::FromStr};

use url::Url;

/// A URL with the scheme `http`, `https` or `h2c`, a host, and optionally a port and a path.
///
/// `Display` prints the URL in its normal form, without a trailing slash.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamUrl {
    scheme: UpstreamScheme,
    authority: String,
    base: String,
}

/// The scheme of an [`UpstreamUrl`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamScheme {
    /// `http`: HTTP/1.1.
    Http,
    /// `https`: HTTP/2 or HTTP/1.1 over TLS. The server chooses.
    Https,
    /// `h2c`: HTTP/2 without TLS, with prior knowledge.
    H2c,
}

impl UpstreamScheme {
    /// Returns the port of a URL without one.
    pub(crate) fn default_port(self) -> u16 {
        match self {
            Self::Http | Self::H2c => 80,
            Self::Https => 443,
        }
    }
}

impl UpstreamUrl {
    /// Returns the scheme.
    pub fn scheme(&self) -> UpstreamScheme {
        self.scheme
    }

    /// Returns the host, and the port if it is not the default of the scheme.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Returns the prefix of the path of each request: empty, or a path without a trailing slash.
    pub fn base(&self) -> &str {
        &self.base
    }
}

impl UpstreamScheme {
    /// Returns the scheme as it is written in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::H2c => "h2c",
        }
    }
}

impl FromStr for UpstreamUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected a URL such as \"http://127.0.0.1:3001\"";
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| format!("{expected}, found {text:?}"))?;
        // The URL parser only knows the hosts and ports of known schemes, which `h2c` is not.
        let (scheme, url_scheme) = match scheme.to_ascii_lowercase().as_str() {
            "http" => (UpstreamScheme::Http, "http"),
            "https" => (UpstreamScheme::Https, "https"),
            "h2c" => (UpstreamScheme::H2c, "http"),
            _ => {
                return Err(format!(
                    "{expected}: the scheme is http, https, or h2c (HTTP/2 without TLS), not {scheme:?}"
                ));
            }
        };
        // The URL parser skips slashes and line breaks, and would take the host from the path.
        let starts_with_host = rest.starts_with(|c: char| c.is_alphanumeric() || c == '[');
        if !starts_with_host || text.contains(|c: char| c.is_whitespace() || c == '\\') {
            return Err(format!("{expected}: {text:?} has no host"));
        }
        let url = Url::parse(&format!("{url_scheme}://{rest}"))
            .map_err(|error| format!("{expected}: {text:?} is invalid: {error}"))?;
        // The message omits the text, which may contain a password.
        if !url.username().is_empty() || url.password().is_some() {
            return Err(format!("{expected}, without a user or a password"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(format!(
                "{expected}, without a query or a fragment: {text:?}"
            ));
        }
        let host = url.host_str().unwrap_or_default();
        let authority = match url.port() {
            Some(0) => return Err(format!("{expected}: no server has port 0: {text:?}")),
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        Ok(Self {
            scheme,
            authority,
            base: url.path().trim_end_matches('/').to_owned(),
        })
    }
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}://{}{}",
            self.scheme.as_str(),
            self.authority,
            self.base
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn urls_are_normalized() {
        for (text, normal) in [
            ("http://localhost", "http://localhost"),
            ("HTTP://LocalHost:80/", "http://localhost"),
            ("http://127.0.0.1:3001", "http://127.0.0.1:3001"),
            ("https://[::1]:8443/a/b/", "https://[::1]:8443/a/b"),
            ("h2c://example.com:80", "h2c://example.com"),
            ("h2c://example.com:50051", "h2c://example.com:50051"),
            (
                "https://bücher.example/ä",
                "https://xn--bcher-kva.example/%C3%A4",
            ),
        ] {
            let url: UpstreamUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), normal, "{text}");
        }
    }

    #[test]
    fn errors_name_the_reason() {
        for (text, reason) in [
            ("", "expected a URL"),
            ("127.0.0.1:3001", "expected a URL"),
            ("localhost", "expected a URL"),
            ("ws://localhost", "the scheme is"),
            ("unix:///tmp/x", "the scheme is"),
            ("http://", "no host"),
            ("http:///path", "no host"),
            ("http://\\host", "no host"),
            ("http://a b", "no host"),
            ("http://localhost:99999", "port"),
            ("http://localhost:0", "port 0"),
            ("http://localhost/?a=b", "query"),
            ("http://localhost/#a", "fragment"),
            ("http://user@localhost", "without a user"),
        ] {
            let error = UpstreamUrl::from_str(text).unwrap_err();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
        let secret = UpstreamUrl::from_str("http://me:secret@localhost").unwrap_err();
        assert!(!secret.contains("secret"), "{secret}");
    }

    proptest! {
        #[test]
        fn the_normal_form_is_stable(text in "(http|https|h2c)://[a-z\\[\\]:0-9./%@é?#-]{0,30}") {
            if let Ok(url) = text.parse::<UpstreamUrl>() {
                prop_assert_eq!(url.to_string().parse::<UpstreamUrl>(), Ok(url.clone()));
                prop_assert!(!url.base().ends_with('/'));
                prop_assert!(!url.authority().is_empty());
            }
        }
    }
}
