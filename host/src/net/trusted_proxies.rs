//! The peers that are proxies in front of this host.

use std::{net::IpAddr, str::FromStr};

use ipnet::IpNet;

/// The networks whose peers are proxies, besides this machine: their forwarding headers and their
/// headers of the PROXY protocol are correct, and no limits by address apply to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedProxies {
    /// Private and link-local networks.
    private: bool,
    networks: Vec<IpNet>,
}

impl Default for TrustedProxies {
    fn default() -> Self {
        Self {
            private: true,
            networks: Vec::new(),
        }
    }
}

impl TrustedProxies {
    /// Returns whether the peer at this address is a proxy, or on this machine.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_loopback()
            || self.private && is_private(address)
            || self
                .networks
                .iter()
                .any(|network| network.contains(&address))
    }
}

/// Parses networks that are separated by commas: addresses, networks such as `10.0.0.0/8`,
/// `private`, and `none`.
impl FromStr for TrustedProxies {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut trusted = Self {
            private: false,
            networks: Vec::new(),
        };
        for entry in text.split(',').map(str::trim) {
            match entry {
                "private" => trusted.private = true,
                "none" => {}
                _ => trusted.networks.push(parse_network(entry)?),
            }
        }
        Ok(trusted)
    }
}

/// The length of the prefix of IPv6 addresses that stand for IPv4 addresses.
const MAPPED_PREFIX: u8 = 96;

fn parse_network(entry: &str) -> Result<IpNet, String> {
    let network = match entry.parse::<IpAddr>() {
        Ok(address) => Some(address.to_canonical().into()),
        Err(_) => entry.parse::<IpNet>().ok(),
    };
    let network = network.ok_or_else(|| {
        format!(
            "invalid network {entry:?}: expected an address, a network such as 10.0.0.0/8, \
             \"private\" or \"none\""
        )
    })?;
    // Addresses are compared in their shortest form.
    if let IpNet::V6(mapped) = network
        && let Some(address) = mapped.addr().to_ipv4_mapped()
        && let Some(prefix) = mapped.prefix_len().checked_sub(MAPPED_PREFIX)
    {
        return parse_network(&format!("{address}/{prefix}"));
    }
    if network.trunc() != network {
        return Err(format!(
            "invalid network {entry:?}: expected {}, or an address without a prefix length",
            network.trunc()
        ));
    }
    Ok(network)
}

fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_trusted(trusted: &TrustedProxies, address: &str, expected: bool) {
        let address = address.parse().expect("an address");
        assert_eq!(trusted.contains(address), expected, "{address}");
    }

    #[test]
    fn private_networks_are_trusted_by_default() {
        for (address, expected) in [
            ("127.0.0.1", true),
            ("::1", true),
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("172.16.0.1", true),
            ("192.168.1.1", true),
            ("169.254.1.1", true),
            ("fc00::1", true),
            ("fe80::1", true),
            ("203.0.113.9", false),
            ("2001:db8::9", false),
        ] {
            assert_trusted(&TrustedProxies::default(), address, expected);
        }
    }

    #[test]
    fn networks_replace_the_default() {
        let trusted = "203.0.113.0/24, 2001:db8::/32,198.51.100.7".parse();
        let trusted: TrustedProxies = trusted.expect("valid networks");
        for (address, expected) in [
            ("203.0.113.9", true),
            ("::ffff:203.0.113.9", true),
            ("2001:db8::9", true),
            ("198.51.100.7", true),
            ("127.0.0.1", true),
            ("10.1.2.3", false),
            ("198.51.100.8", false),
        ] {
            assert_trusted(&trusted, address, expected);
        }
        let mapped: TrustedProxies = "::ffff:10.0.0.0/104".parse().expect("a network");
        assert_trusted(&mapped, "10.1.2.3", true);
        assert_trusted(&mapped, "::ffff:10.1.2.3", true);
        assert_trusted(&mapped, "11.1.2.3", false);
        let none: TrustedProxies = "none".parse().expect("a word");
        assert_trusted(&none, "10.1.2.3", false);
        let both: TrustedProxies = "private,203.0.113.0/24".parse().expect("valid networks");
        assert_trusted(&both, "10.1.2.3", true);
        assert_trusted(&both, "203.0.113.1", true);
    }

    #[test]
    fn invalid_networks_are_errors() {
        for (text, problem) in [
            ("", "expected an address"),
            ("10.0.0.0/33", "10.0.0.0/33"),
            ("10.0.0.0/8,,", "expected an address"),
            ("localhost", "localhost"),
            ("10.1.2.3/8", "expected 10.0.0.0/8"),
        ] {
            let error = text.parse::<TrustedProxies>().expect_err(text);
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
