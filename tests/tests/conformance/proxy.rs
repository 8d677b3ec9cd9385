//! The proxies: one of each kind shared by the cases, and more for cases that need their own.

use std::{fmt, net::SocketAddr};

use anyhow::{Result, anyhow};
use tests::{Redis, Server};
use tokio::sync::OnceCell;

use crate::pushpin::Pushpin;

/// The key with which the proxies and the publishers sign.
pub const KEY: &str = "base64:dGhlIHRlc3RzJyBvd24ga2V5LCBzaGFyZWQgYnkgYm90aA==";

/// A kind of proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Debian's Pushpin.
    Pushpin,
    /// The host in this workspace.
    SocketHost,
    /// The same, with a bus.
    SocketHostWithBus,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Pushpin, Self::SocketHost, Self::SocketHostWithBus];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pushpin => "pushpin",
            Self::SocketHost => "socket_host",
            Self::SocketHostWithBus => "socket_host_with_bus",
        })
    }
}

/// One proxy of each kind, started when a case first needs it.
pub struct Proxies {
    upstream: SocketAddr,
    pushpin: OnceCell<Result<Proxy, String>>,
    socket_host: OnceCell<Result<Proxy, String>>,
    socket_host_with_bus: OnceCell<Result<Proxy, String>>,
}

impl Proxies {
    /// Prepares proxies in front of `upstream`, without starting them.
    pub fn new(upstream: SocketAddr) -> Self {
        Self {
            upstream,
            pushpin: OnceCell::new(),
            socket_host: OnceCell::new(),
            socket_host_with_bus: OnceCell::new(),
        }
    }

    /// Starts another proxy in front of the same backend.
    pub async fn start(&self, kind: Kind) -> Result<Proxy> {
        Proxy::start(kind, self.upstream).await
    }

    /// Returns the shared proxy and starts it if necessary. A failed start is not repeated.
    pub async fn get(&self, kind: Kind) -> Result<&Proxy> {
        let proxy = match kind {
            Kind::Pushpin => &self.pushpin,
            Kind::SocketHost => &self.socket_host,
            Kind::SocketHostWithBus => &self.socket_host_with_bus,
        };
        let start = async || {
            let started = Proxy::start(kind, self.upstream).await;
            started.map_err(|error| format!("cannot start {kind}: {error:#}"))
        };
        let started = proxy.get_or_init(start).await;
        started.as_ref().map_err(|error| anyhow!("{error}"))
    }
}

/// A running proxy. Stopped on drop.
pub struct Proxy {
    /// The address for clients.
    pub public: SocketAddr,
    /// The address for publishers.
    pub control: SocketAddr,
    _process: Process,
}

enum Process {
    Pushpin {
        _pushpin: Pushpin,
    },
    SocketHost {
        _server: Server,
        _redis: Option<Redis>,
    },
}

impl Proxy {
    /// Starts a proxy in front of `upstream` and waits until it serves.
    pub async fn start(kind: Kind, upstream: SocketAddr) -> Result<Self> {
        match kind {
            Kind::Pushpin => {
                let pushpin = Pushpin::start(upstream).await?;
                Ok(Self {
                    public: pushpin.public,
                    control: pushpin.control,
                    _process: Process::Pushpin { _pushpin: pushpin },
                })
            }
            Kind::SocketHost => Self::start_host(upstream, false).await,
            Kind::SocketHostWithBus => Self::start_host(upstream, true).await,
        }
    }

    /// Starts the host. Its bus is a Redis server of its own, since hosts with the same bus have the
    /// same channels.
    async fn start_host(upstream: SocketAddr, has_bus: bool) -> Result<Self> {
        let start = move || {
            let redis = has_bus.then(Redis::start).transpose()?;
            let bus = redis.as_ref().map(Redis::url);
            let mut options = vec!["--grip-key", KEY];
            options.extend(bus.iter().flat_map(|url| ["--bus", url]));
            let server = Server::in_front_of(&format!("http://{upstream}"), &options)?;
            anyhow::Ok((server, redis))
        };
        let (server, redis) = tokio::task::spawn_blocking(start).await??;
        Ok(Self {
            public: server.address,
            control: server.control,
            _process: Process::SocketHost {
                _server: server,
                _redis: redis,
            },
        })
    }
}
