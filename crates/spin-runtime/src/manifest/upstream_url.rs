//! The address of a server that requests are forwarded to, in the command line and in the manifest.

use std::{fmt, str::FromStr};

use url::Url;

/// `http://`, `https://` or `h2c://`, a host, and perhaps a port and a path.
///
/// Its display is the URL in its normal form, without a slash at its end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamUrl {
    scheme: UpstreamScheme,
    authority: String,
    base: String,
}

/// How an upstream is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamScheme {
    /// `http`: HTTP/1.1.
    Http,
    /// `https`: HTTP/2 or HTTP/1.1 over TLS, as the server chooses.
    Https,
    /// `h2c`: HTTP/2 without TLS, which the server is known to speak.
    H2c,
}

impl UpstreamUrl {
    /// How it is spoken to.
    pub fn scheme(&self) -> UpstreamScheme {
        self.scheme
    }

    /// The host and, when it is not the scheme's own, the port; an IPv6 address in brackets.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// What stands before the path of each request: empty, or a path without a slash at its end.
    pub fn base(&self) -> &str {
        &self.base
    }
}

impl UpstreamScheme {
    /// As it is written.
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
        let wanted = "expected a URL like \"http://127.0.0.1:3001\"";
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| format!("{wanted}, found {text:?}"))?;
        // What URLs know of hosts and ports they know of `http` and `https` only.
        let (scheme, known) = match scheme.to_ascii_lowercase().as_str() {
            "http" => (UpstreamScheme::Http, "http"),
            "https" => (UpstreamScheme::Https, "https"),
            "h2c" => (UpstreamScheme::H2c, "http"),
            _ => {
                return Err(format!(
                    "{wanted}: the scheme is http, https, or h2c (HTTP/2 without TLS), not {scheme:?}"
                ));
            }
        };
        // Their parser passes over slashes and line ends, and so would read a host from the path.
        let host_first = rest.starts_with(|c: char| c.is_alphanumeric() || c == '[');
        let url = match host_first && !text.contains(|c: char| c.is_whitespace() || c == '\\') {
            true => Url::parse(&format!("{known}://{rest}")).map_err(|error| error.to_string()),
            false => Err("there is no host".to_owned()),
        };
        let url = url.map_err(|reason| format!("{wanted}: {text:?} is none: {reason}"))?;
        // Not said again, since it may hold a password.
        if !url.username().is_empty() || url.password().is_some() {
            return Err(format!("{wanted}, without a user or a password"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(format!("{wanted}, without a query or a fragment: {text:?}"));
        }
        let host = url.host_str().unwrap_or_default();
        let authority = match url.port() {
            Some(0) => return Err(format!("{wanted}: no server has port 0: {text:?}")),
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
    fn urls_are_read() {
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
    fn what_is_no_url_says_why() {
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
        fn the_normal_form_stays_as_it_is(text in "(http|https|h2c)://[a-z\\[\\]:0-9./%@é?#-]{0,30}") {
            if let Ok(url) = text.parse::<UpstreamUrl>() {
                prop_assert_eq!(url.to_string().parse::<UpstreamUrl>(), Ok(url.clone()));
                prop_assert!(!url.base().ends_with('/'));
                prop_assert!(!url.authority().is_empty());
            }
        }
    }
}
