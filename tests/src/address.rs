//! Addresses for servers that cannot choose one themselves, or that are restarted.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context as _, Result};

/// Ports below those that Linux gives to outgoing connections. One of those would otherwise take the
/// port of a server that is being restarted.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// Returns an address of the loopback on which a server can listen now, and again later.
pub fn free_address() -> Result<SocketAddr> {
    (0..100)
        .map(|_| SocketAddr::from((Ipv4Addr::LOCALHOST, rand::random_range(PORTS))))
        .find(|address| TcpListener::bind(address).is_ok())
        .context("no free port")
}
