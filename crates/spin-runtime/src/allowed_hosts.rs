//! The hosts that a component may send requests to: `allowed_outbound_hosts`, parsed as in Spin.

use std::{net::IpAddr, ops::Range};

use ipnet::IpNet;
use url::{Host, Url};

/// The domain of service chaining: `NAME.spin.internal`.
const SERVICE_CHAINING_SUFFIX: &str = ".spin.internal";

/// The reason why an entry with a path is invalid.
const HAS_PATH: &str = "it must not have a path";

/// The hosts that a component may send requests to. The default allows none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AllowedHosts {
    entries: Vec<Entry>,
}

/// An invalid entry of `allowed_outbound_hosts`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid allowed_outbound_hosts entry {entry:?}: {reason}")]
pub(crate) struct InvalidEntry {
    /// The entry with expanded variables.
    pub(crate) entry: String,
    pub(crate) reason: String,
}

impl AllowedHosts {
    /// Parses entries of the form `SCHEME://HOST[:PORT]`, with expanded templates.
    ///
    /// The scheme may be `*`. The host is a name, an address, a network (`10.0.0.0/8`), `*`,
    /// `*.example.com` or `self`. The port is a number, a range that excludes its end
    /// (`8000..9000`) or `*`, and defaults to that of the scheme.
    ///
    /// # Errors
    /// Returns the first invalid entry.
    pub(crate) fn parse(entries: &[impl AsRef<str>]) -> Result<Self, InvalidEntry> {
        let entries = entries
            .iter()
            .map(|entry| Entry::parse(entry.as_ref()))
            .collect::<Result<_, _>>()?;
        Ok(Self { entries })
    }

    /// Returns whether a request to a host is allowed.
    ///
    /// The scheme is in lower case. The host is a name or an address; the brackets of an IPv6
    /// address are optional. The port defaults to that of the scheme. Other components are checked
    /// by their host `NAME.spin.internal`, and the application itself by [`Self::allows_self`].
    pub(crate) fn allows(&self, scheme: &str, host: &str, port: Option<u16>) -> bool {
        !self.matching(scheme, host, port).is_empty()
    }

    /// Returns whether an allowed request matches entries of the form `*.example.com` only.
    pub(crate) fn allows_as_subdomain_only(
        &self,
        scheme: &str,
        host: &str,
        port: Option<u16>,
    ) -> bool {
        let entries = self.matching(scheme, host, port);
        let is_wildcard = |entry: &&Entry| matches!(entry.host, HostRule::Subdomains(_));
        !entries.is_empty() && entries.iter().all(is_wildcard)
    }

    /// Returns the entries that allow a request.
    fn matching(&self, scheme: &str, host: &str, port: Option<u16>) -> Vec<&Entry> {
        let Some(host) = parse_host(host) else {
            return Vec::new();
        };
        let port = port.or_else(|| default_port(scheme));
        let matches_port = |entry: &Entry| match port {
            Some(port) => entry.port.matches(port),
            None => entry.port == Port::Any,
        };
        let matches = |entry: &&Entry| matches_port(entry) && entry.matches(scheme, &host);
        self.entries.iter().filter(matches).collect()
    }

    /// Returns whether the component may call its own application, by [`SELF_HOST`].
    pub(crate) fn allows_self(&self) -> bool {
        let is_http = |entry: &Entry| {
            ["http", "https"]
                .iter()
                .any(|scheme| entry.scheme.matches(scheme))
        };
        let matches_self =
            |entry: &Entry| matches!(entry.host, HostRule::Any | HostRule::Application);
        self.entries
            .iter()
            .any(|entry| is_http(entry) && matches_self(entry))
    }
}

/// The host of requests to the application itself. Spin denies requests to `self`, which is only a
/// name for the application in `allowed_outbound_hosts`.
pub(crate) const SELF_HOST: &str = "self.alt";

/// Returns the component of a service chaining host: `NAME` for `NAME.spin.internal`, with or
/// without a port.
pub(crate) fn service_chain_target(host: &str) -> Option<&str> {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let id = name.strip_suffix(SERVICE_CHAINING_SUFFIX)?;
    (!id.is_empty() && !id.contains('.')).then_some(id)
}

/// Checks an entry without templates.
pub(crate) fn check_entry(entry: &str) -> Result<(), InvalidEntry> {
    Entry::parse(entry).map(drop)
}

/// Converts an entry of the deprecated key `allowed_http_hosts`: a host with an optional port, to be
/// reached by HTTP and HTTPS.
pub(crate) fn from_http_host(text: &str) -> Result<Vec<String>, String> {
    let invalid = || format!("invalid host {text:?}: expected a host or host:port, without a path");
    if text == "insecure:allow-all" {
        return Ok(["http://*:*", "https://*:*", "http://self"]
            .map(str::to_owned)
            .to_vec());
    }
    let url = if text.contains("//") {
        Url::parse(text)
    } else {
        Url::parse(&format!("http://{text}"))
    };
    let url = url.map_err(|_| invalid())?;
    let host = url
        .host_str()
        .filter(|_| matches!(url.scheme(), "http" | "https"))
        .ok_or_else(invalid)?;
    if url.path().len() > 1 {
        return Err(invalid());
    }
    if host == "self" {
        return Ok(vec!["http://self".to_owned()]);
    }
    let port = url
        .port()
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    Ok(["http", "https"]
        .map(|scheme| format!("{scheme}://{host}{port}"))
        .to_vec())
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    scheme: Scheme,
    host: HostRule,
    port: Port,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Scheme {
    Any,
    Exact(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum HostRule {
    Any,
    /// The application itself.
    Application,
    /// The subdomains of a domain, which is stored with a leading dot.
    Subdomains(String),
    Exact(Host),
    Network(IpNet),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Port {
    Any,
    Exact(u16),
    Range(Range<u16>),
}

impl Entry {
    fn parse(text: &str) -> Result<Self, InvalidEntry> {
        let invalid = |reason: &str| InvalidEntry {
            entry: text.to_owned(),
            reason: reason.to_owned(),
        };
        let Some((scheme, rest)) = text.trim().split_once("://") else {
            return Err(invalid(match text.trim() {
                "insecure:allow-all" => "use \"*://*:*\" to allow everything",
                _ => "expected a scheme, such as https://",
            }));
        };
        let (host, port) = match rest.rsplit_once(':') {
            None => (rest, ""),
            Some((host, "")) => (host, ""),
            // All colons may belong to an IPv6 address.
            Some(_) if HostRule::parse(rest).is_ok() => (rest, ""),
            Some((host, port)) => match port.split_once('/') {
                None => (host, port),
                Some((port, "")) => (host, port),
                Some(_) => return Err(invalid(HAS_PATH)),
            },
        };
        Ok(Self {
            port: Port::parse(port, scheme).map_err(|reason| invalid(&reason))?,
            scheme: Scheme::parse(scheme).map_err(|reason| invalid(&reason))?,
            host: HostRule::parse(host).map_err(|reason| invalid(&reason))?,
        })
    }

    fn matches(&self, scheme: &str, host: &Host) -> bool {
        self.scheme.matches(scheme) && self.host.matches(host)
    }
}

impl Scheme {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "*" => Ok(Self::Any),
            _ if text.chars().all(char::is_alphabetic) => Ok(Self::Exact(text.to_owned())),
            _ => Err(format!(
                "the scheme must be `*` or consist of letters, unlike {text:?}"
            )),
        }
    }

    fn matches(&self, scheme: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact == scheme,
        }
    }
}

impl HostRule {
    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text == "*" {
            return Ok(Self::Any);
        }
        if text == "self" || text == SELF_HOST {
            return Ok(Self::Application);
        }
        if text.starts_with('{') {
            return Err("lists of hosts are not supported: use an entry for each host".to_owned());
        }
        if let Ok(network) = text.parse::<IpNet>() {
            return Ok(Self::Network(network.trunc()));
        }
        let text = text.strip_suffix('/').unwrap_or(text);
        if text.contains('/') {
            return Err(HAS_PATH.to_owned());
        }
        let parse = |host: &str| {
            Host::parse(host).map_err(|error| format!("invalid host {host:?}: {error}"))
        };
        let (is_wildcard, domain) = match text.strip_prefix("*.") {
            Some(domain) => (true, domain),
            None => (false, text),
        };
        if domain.contains('*') {
            return Err("`*` is only allowed as the whole host or before its first dot".to_owned());
        }
        match parse(domain)? {
            host if !is_wildcard => Ok(Self::Exact(host)),
            Host::Domain(domain) => Ok(Self::Subdomains(format!(".{domain}"))),
            _ => Err("`*.` must be followed by a domain; write a network as 10.0.0.0/8".to_owned()),
        }
    }

    fn matches(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::Any, _) => true,
            (Self::Subdomains(suffix), Host::Domain(domain)) => domain.ends_with(suffix),
            (Self::Exact(exact), host) => exact == host,
            (Self::Network(network), Host::Ipv4(address)) => {
                network.contains(&IpAddr::V4(*address))
            }
            (Self::Network(network), Host::Ipv6(address)) => {
                network.contains(&IpAddr::V6(*address))
            }
            (Self::Subdomains(_) | Self::Network(_) | Self::Application, _) => false,
        }
    }
}

impl Port {
    fn parse(text: &str, scheme: &str) -> Result<Self, String> {
        let number = |text: &str| {
            text.parse::<u16>()
                .map_err(|_| format!("invalid port {text:?}: expected a number, a range or `*`"))
        };
        match text {
            "*" => Ok(Self::Any),
            "" => default_port(scheme).map(Self::Exact).ok_or_else(|| {
                format!(
                    "the scheme {scheme:?} has no default port: add one, such as `:8080` or `:*`"
                )
            }),
            _ if text.starts_with('{') => {
                Err("lists of ports are not supported: use an entry for each port".to_owned())
            }
            _ => match text.split_once("..") {
                Some((start, end)) => Ok(Self::Range(number(start)?..number(end)?)),
                None => number(text).map(Self::Exact),
            },
        }
    }

    fn matches(&self, port: u16) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => *exact == port,
            Self::Range(range) => range.contains(&port),
        }
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    Some(match scheme {
        "http" => 80,
        "https" => 443,
        "postgres" => 5432,
        "mysql" => 3306,
        "redis" => 6379,
        "mqtt" => 1883,
        _ => return None,
    })
}

/// Parses a host as a URL does, so that all spellings of an address are equal.
fn parse_host(text: &str) -> Option<Host> {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => Some(Host::Ipv6(address)),
        _ => Host::parse(text).ok(),
    }
}

#[cfg(test)]
mod tests;
