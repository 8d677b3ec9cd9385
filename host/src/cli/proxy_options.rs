//! The command-line options for proxies in front of the public port.

use clap::Args;

use crate::{HostOptions, TrustedProxies};

#[derive(Args)]
pub(super) struct ProxyOptions {
    /// The networks of the proxies in front of the public port, separated by commas: addresses,
    /// networks such as 10.0.0.0/8, "private" for all private networks, or "none" [default: private].
    /// This machine is always trusted.
    #[arg(long, value_name = "NETWORKS", env = "SOCKET_HOST_TRUSTED_PROXIES")]
    trusted_proxies: Option<TrustedProxies>,
    /// Expect a header of the PROXY protocol, version 1 or 2, at the start of each connection to the
    /// public port. Connections that do not come from a trusted proxy are refused.
    #[arg(long)]
    proxy_protocol: bool,
}

impl ProxyOptions {
    /// Sets the options of a host.
    pub(super) fn apply(self, options: &mut HostOptions) {
        options.trusted_proxies = self.trusted_proxies.unwrap_or_default();
        options.proxy_protocol = self.proxy_protocol;
    }
}
