//! The clients' addresses: bounds what one of them may have open, and how often it may open a
//! WebSocket.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::MissedTickBehavior;

use crate::{config::Limits, net::rate::Rate};

/// How often the addresses that have nothing open are forgotten.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// What the clients of each address have open.
///
/// The addresses of an IPv6 network of 64 bits count as one, since a single client may have all of
/// them.
pub(crate) struct Addresses {
    usage: Mutex<HashMap<IpAddr, Usage>>,
    maximum: Mutex<Maximum>,
}

/// What one address uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    connections: usize,
    holds: usize,
    handshakes: Rate,
}

/// What one address may use.
#[derive(Clone, Copy)]
struct Maximum {
    connections: usize,
    holds: usize,
    /// Handshakes in a second, on average. `None` if they are not limited.
    handshakes: Option<NonZeroU32>,
}

/// What an [`AddressGuard`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Connection,
    /// A WebSocket or a held request.
    Hold,
}

/// Counts a connection, a WebSocket or a held request of an address until it is dropped.
pub(crate) struct AddressGuard {
    addresses: Arc<Addresses>,
    address: IpAddr,
    kind: Kind,
}

/// An address has reached a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AtLimit;

impl Addresses {
    /// Creates a registry with these limits.
    pub(crate) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            usage: Mutex::default(),
            maximum: Mutex::new(Maximum::new(limits)),
        })
    }

    /// Changes the limits. What is open stays open.
    pub(crate) fn set_limits(&self, limits: &Limits) {
        *self.maximum.lock() = Maximum::new(limits);
    }

    /// Counts a connection of an address. No limit applies to `None`.
    ///
    /// # Errors
    /// Fails at the limit.
    pub(crate) fn connect(
        self: &Arc<Self>,
        address: Option<IpAddr>,
    ) -> Result<Option<AddressGuard>, AtLimit> {
        self.count(address, Kind::Connection)
    }

    /// Counts a WebSocket or a held request of an address. No limit applies to `None`.
    ///
    /// # Errors
    /// Fails at the limit.
    pub(crate) fn hold(
        self: &Arc<Self>,
        address: Option<IpAddr>,
    ) -> Result<Option<AddressGuard>, AtLimit> {
        self.count(address, Kind::Hold)
    }

    /// Records a handshake of an address. No limit applies to `None`.
    ///
    /// # Errors
    /// At the limit, returns when the next handshake is possible.
    pub(crate) fn handshake(&self, address: Option<IpAddr>) -> Result<(), Duration> {
        let maximum = self.maximum.lock().handshakes;
        let (Some(maximum), Some(address)) = (maximum, address.map(network)) else {
            return Ok(());
        };
        let mut usage = self.usage.lock();
        usage.entry(address).or_default().handshakes.record(maximum)
    }

    /// Forgets, at intervals, the addresses that have nothing open.
    pub(crate) async fn sweep(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.usage.lock().retain(|_, usage| !usage.is_unused());
        }
    }

    fn count(
        self: &Arc<Self>,
        address: Option<IpAddr>,
        kind: Kind,
    ) -> Result<Option<AddressGuard>, AtLimit> {
        let Some(address) = address.map(network) else {
            return Ok(None);
        };
        let maximum = *self.maximum.lock();
        let mut usage = self.usage.lock();
        let usage = usage.entry(address).or_default();
        let (count, maximum) = match kind {
            Kind::Connection => (&mut usage.connections, maximum.connections),
            Kind::Hold => (&mut usage.holds, maximum.holds),
        };
        if *count >= maximum {
            return Err(AtLimit);
        }
        *count += 1;
        Ok(Some(AddressGuard {
            addresses: self.clone(),
            address,
            kind,
        }))
    }
}

impl Maximum {
    fn new(limits: &Limits) -> Self {
        Self {
            connections: limits.max_connections_per_address,
            holds: limits.max_holds_per_address,
            handshakes: limits.max_handshakes_per_address.and_then(NonZeroU32::new),
        }
    }
}

impl Usage {
    fn is_unused(&self) -> bool {
        self.connections == 0 && self.holds == 0 && self.handshakes.is_unused()
    }
}

impl Drop for AddressGuard {
    fn drop(&mut self) {
        let mut addresses = self.addresses.usage.lock();
        let Some(usage) = addresses.get_mut(&self.address) else {
            return;
        };
        match self.kind {
            Kind::Connection => usage.connections -= 1,
            Kind::Hold => usage.holds -= 1,
        }
        if usage.is_unused() {
            addresses.remove(&self.address);
        }
    }
}

/// Returns an IPv4 address, or the first address of the /64 network of an IPv6 address.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(connections: usize, holds: usize, handshakes: Option<u32>) -> Arc<Addresses> {
        Addresses::new(&Limits {
            max_connections_per_address: connections,
            max_holds_per_address: holds,
            max_handshakes_per_address: handshakes,
            ..Limits::DEFAULT
        })
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().expect("an address"))
    }

    #[test]
    fn each_address_has_a_limit() {
        let addresses = addresses(2, 1, None);
        let first = addresses.connect(ip("203.0.113.9"));
        let second = addresses.connect(ip("::ffff:203.0.113.9"));
        assert!(first.is_ok() && second.is_ok());
        assert!(addresses.connect(ip("203.0.113.9")).is_err());
        assert!(addresses.connect(ip("203.0.113.10")).is_ok());
        let held = addresses.hold(ip("203.0.113.9"));
        assert!(held.is_ok() && addresses.hold(ip("203.0.113.9")).is_err());
        drop(first);
        assert!(addresses.connect(ip("203.0.113.9")).is_ok());
        drop((second, held));
        assert!(addresses.usage.lock().is_empty());
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let addresses = addresses(1, 1, None);
        let _first = addresses.connect(ip("2001:db8:0:1::1"));
        assert!(addresses.connect(ip("2001:db8:0:1:ffff::2")).is_err());
        assert!(addresses.connect(ip("2001:db8:0:2::1")).is_ok());
    }

    #[test]
    fn proxies_have_no_limit() {
        let addresses = addresses(1, 1, Some(1));
        for _ in 0..100 {
            assert!(addresses.connect(None).is_ok_and(|guard| guard.is_none()));
            assert!(addresses.handshake(None).is_ok());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn handshakes_of_each_address_are_limited() {
        let addresses = addresses(1, 1, Some(2));
        for _ in 0..20 {
            assert!(addresses.handshake(ip("203.0.113.9")).is_ok());
        }
        let wait = addresses.handshake(ip("203.0.113.9"));
        assert_eq!(wait, Err(Duration::from_millis(500)));
        assert!(addresses.handshake(ip("203.0.113.10")).is_ok());
        tokio::spawn(addresses.clone().sweep());
        tokio::time::sleep(SWEEP_INTERVAL * 2).await;
        assert!(addresses.usage.lock().is_empty());
    }
}
