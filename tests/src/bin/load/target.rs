//! The servers to measure: their addresses, and how to start the ones this program knows.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use rustls::ClientConfig;

use ::tests::{free_address, pushpin::Pushpin};

use crate::app::App;
use crate::layers::Layers;
use crate::process::Launch;
use crate::socket::Transport;
use crate::sockets::Sockets;

/// A running server to measure.
#[derive(Clone, Debug)]
pub struct Target {
    /// The public address.
    pub address: SocketAddr,
    /// The public addresses of further hosts, which serve the sockets in turn.
    pub peers: Vec<SocketAddr>,
    /// What each socket sends when it is open.
    pub greeting: Option<&'static str>,
    /// How clients receive messages.
    pub transport: Transport,
    /// The layers of the public port.
    pub layers: Layers,
    /// The configuration of clients, if the layers have TLS.
    pub tls: Option<Arc<ClientConfig>>,
    /// The path of the WebSocket or the held stream.
    pub path: String,
    /// The path for `get`, which returns 200.
    pub get_path: String,
    /// A path that returns 200 once the server and its backend are ready.
    pub ready_path: String,
    /// The address of the control port.
    pub control: SocketAddr,
    /// The path for publishing.
    pub publish_path: String,
    /// The channel to which the sockets are subscribed.
    pub channel: String,
    /// The token sent as `Authorization: Bearer` with each publish.
    pub bearer: Option<String>,
}

impl Target {
    /// Creates an empty set of connections to the server.
    pub fn sockets(&self) -> Result<Sockets> {
        Sockets::new(self)
    }
}

/// A server that this program can start.
#[derive(Clone, Debug)]
pub enum Contender {
    /// `socket-host up` with a manifest.
    SocketHost {
        /// The name in the tables.
        name: String,
        /// The binary.
        binary: PathBuf,
        /// The manifest.
        manifest: PathBuf,
        /// The path for `get`.
        get_path: String,
        /// The layers of the public port.
        layers: Layers,
        /// The number of hosts. Several share a Redis server.
        hosts: usize,
        /// The number of processors to which it is pinned, if it is.
        processors: Option<usize>,
    },
    /// `socket-host up --upstream` in front of this program's backend.
    Upstream {
        /// The binary.
        binary: PathBuf,
    },
    /// Pushpin in front of this program's backend.
    Pushpin,
    /// Node servers with Socket.IO that share a Redis server.
    SocketIo {
        /// The folder with `socket-io.mjs` and its `node_modules`.
        servers: PathBuf,
        /// Their number.
        nodes: usize,
    },
    /// A Node server with `ws`.
    Ws {
        /// The folder with `ws.mjs` and its `node_modules`.
        servers: PathBuf,
    },
    /// A server in Bun.
    Bun {
        /// The folder with `bun.mjs` and its `node_modules`.
        servers: PathBuf,
    },
    /// `wasmtime serve` with a component.
    Wasmtime {
        /// The binary.
        binary: PathBuf,
        /// The component.
        component: PathBuf,
    },
}

impl Contender {
    /// Returns the name in the tables.
    pub fn name(&self) -> &str {
        match self {
            Self::SocketHost { name, .. } => name,
            Self::Upstream { .. } => "socket-host --upstream",
            Self::Pushpin => "Pushpin",
            Self::SocketIo { .. } => "Socket.IO",
            Self::Ws { .. } => "ws",
            Self::Bun { .. } => "Bun",
            Self::Wasmtime { .. } => "wasmtime serve",
        }
    }

    /// Returns the layers of the public port.
    pub fn layers(&self) -> Layers {
        match self {
            Self::SocketHost { layers, .. } => *layers,
            _ => Layers::Plain,
        }
    }

    /// Returns the number of socket-hosts.
    pub fn hosts(&self) -> usize {
        match self {
            Self::SocketHost { hosts, .. } => *hosts,
            _ => 1,
        }
    }

    /// Returns whether it is a proxy in front of this program's backend.
    pub fn is_proxy(&self) -> bool {
        matches!(self, Self::Upstream { .. } | Self::Pushpin)
    }

    /// Returns whether the server has connections of this kind.
    pub fn supports(&self, transport: Transport) -> bool {
        match self {
            Self::SocketHost { .. } | Self::Upstream { .. } | Self::Pushpin => true,
            Self::Ws { .. } | Self::Bun { .. } | Self::SocketIo { .. } => {
                transport == Transport::WebSocket
            }
            Self::Wasmtime { .. } => false,
        }
    }

    /// Returns whether the server can serve an application that a measurement brings along, or does
    /// the same itself.
    pub fn serves(&self, app: App) -> bool {
        match self {
            Self::SocketHost { hosts, .. } => *hosts == 1,
            Self::Wasmtime { .. } => app.needs_only_wasi(),
            // It answers no pings.
            Self::SocketIo { .. } => false,
            Self::Upstream { .. } | Self::Pushpin | Self::Ws { .. } | Self::Bun { .. } => {
                app == App::Orders
            }
        }
    }

    /// Returns the server with an application that it serves. Its manifest is written to `folder`.
    pub fn serving(&self, app: App, folder: &Path) -> Result<Self> {
        let mut contender = self.clone();
        match &mut contender {
            Self::SocketHost {
                manifest, get_path, ..
            } => {
                *manifest = app.write_manifest(folder)?;
                *get_path = app.get_path().to_string();
            }
            Self::Wasmtime { component, .. } => {
                *component = app.component()?;
            }
            // These have their own.
            Self::Upstream { .. }
            | Self::Pushpin
            | Self::Ws { .. }
            | Self::Bun { .. }
            | Self::SocketIo { .. } => {}
        }
        Ok(contender)
    }

    /// Returns how to start the server on free ports of 127.0.0.1 with its state in `state`, and
    /// how to measure it.
    pub fn target(&self, transport: Transport, state: &Path) -> Result<(Target, Launch)> {
        let [address, control, upstream] = free_addresses()?;
        let addresses = [
            "--listen",
            &address.to_string(),
            "--control",
            &control.to_string(),
        ]
        .map(String::from);
        let (path, get_path, ready_path) = match self {
            Self::SocketHost { get_path, .. } => ("/api/orders/stream", get_path.as_str(), "/"),
            // Pushpin proxies plain requests before it can hold streams.
            Self::Upstream { .. } | Self::Pushpin => ("/stream", "/", "/stream"),
            Self::Ws { .. } | Self::Bun { .. } | Self::SocketIo { .. } => {
                ("", "/healthz", "/healthz")
            }
            Self::Wasmtime { .. } => ("", "/", "/"),
        };
        let mut target = Target {
            address,
            peers: Vec::new(),
            greeting: None,
            transport,
            layers: self.layers(),
            tls: None,
            path: match transport {
                Transport::WebSocket => "/api/ws".to_string(),
                Transport::Stream => path.to_string(),
            },
            get_path: get_path.to_string(),
            ready_path: ready_path.to_string(),
            control,
            publish_path: "/publish/".to_string(),
            channel: "orders".to_string(),
            bearer: None,
        };
        let mut launch = match self {
            Self::SocketHost {
                binary,
                manifest,
                hosts,
                processors,
                ..
            } => {
                let redis = (*hosts > 1).then(|| redis(state)).transpose()?;
                let host = |number: usize| -> Result<Launch> {
                    let folder = state.join(format!("host-{number}"));
                    let mut options = vec!["--quiet", "--from", utf8(manifest)?];
                    options.extend(["--state-dir", utf8(&folder)?]);
                    if let Some((_, url)) = &redis {
                        options.extend(["--bus", url]);
                    }
                    let mut launch = up(binary, &options)?;
                    if let Some(processors) = processors {
                        launch.pin(*processors)?;
                    }
                    Ok(launch)
                };
                let mut launch = host(0)?;
                for number in 1..*hosts {
                    target.peers.push(launch.add_peer(host(number)?)?);
                }
                launch.companions.extend(redis.map(|(redis, _)| redis));
                launch
            }
            Self::Upstream { binary } => {
                let mut launch = up(binary, &["--upstream", &format!("http://{upstream}")])?;
                launch.companions.push(backend(upstream)?);
                launch
            }
            Self::Pushpin => {
                return Ok((target, pushpin(state, address, control, upstream)?));
            }
            Self::SocketIo { servers, nodes } => {
                target.path = "/socket.io/?EIO=4&transport=websocket".to_string();
                // Joins the default namespace.
                target.greeting = Some("40");
                let (redis, url) = redis(state)?;
                let node = || {
                    node(
                        "node",
                        servers,
                        "socket.io",
                        "socket-io.mjs",
                        &["--redis", &url],
                    )
                };
                let mut launch = node()?;
                for _ in 1..*nodes {
                    target.peers.push(launch.add_peer(node()?)?);
                }
                launch.companions.push(redis);
                launch
            }
            Self::Ws { servers } => node("node", servers, "ws", "ws.mjs", &[])?,
            Self::Bun { servers } => {
                let bun = servers.join("node_modules/.bin/bun");
                node(utf8(&bun)?, servers, "bun", "bun.mjs", &[])?
            }
            Self::Wasmtime { binary, component } => {
                return Ok((target, wasmtime(binary, component, address)?));
            }
        };
        launch.arguments.extend(addresses);
        if target.layers.has_tls() {
            let config = target.layers.issue_certificate(address.ip(), state)?;
            target.tls = Some(config);
            for (option, file) in [("--tls-cert", "cert.pem"), ("--tls-key", "key.pem")] {
                let path = state.join(file);
                launch
                    .arguments
                    .extend([option.to_string(), utf8(&path)?.to_string()]);
            }
        }
        Ok((target, launch))
    }
}

impl Launch {
    /// Adds another process of the server, on free ports, and returns its public address.
    fn add_peer(&mut self, mut peer: Launch) -> Result<SocketAddr> {
        let [address, control] = free_addresses()?;
        let options = [
            "--listen",
            &address.to_string(),
            "--control",
            &control.to_string(),
        ];
        peer.arguments.extend(options.map(String::from));
        self.peers.push(peer);
        Ok(address)
    }
}

/// Launches a server of the folder `servers` with a runtime for JavaScript. It needs a package.
fn node(
    runtime: &str,
    servers: &Path,
    package: &str,
    script: &str,
    options: &[&str],
) -> Result<Launch> {
    let installed = servers.join("node_modules").join(package);
    ensure!(
        installed.is_dir(),
        "{} is missing: install it with `npm ci --prefix {}`",
        installed.display(),
        servers.display()
    );
    let script = servers.join(script);
    let options = options.iter().copied();
    let arguments = std::iter::once(utf8(&script)?).chain(options);
    Ok(Launch::new(runtime, arguments))
}

/// Launches `wasmtime serve`. Its limits of requests per instance are those of Spin and socket-host.
fn wasmtime(binary: &Path, component: &Path, address: SocketAddr) -> Result<Launch> {
    ensure!(
        binary.is_file(),
        "{} is missing: build it with `cargo install wasmtime-cli --version ^48 --locked`",
        binary.display()
    );
    let (address, component) = (address.to_string(), utf8(component)?);
    // Without `cli`, there are no interfaces for files and the environment, which Rust's standard
    // library imports.
    let arguments = ["serve", "-S", "cli", "--addr", &address, component];
    Ok(Launch {
        stop: Signal::INT,
        ..Launch::new(binary, arguments)
    })
}

/// Launches a Redis server that keeps its data in memory, and returns its URL.
fn redis(folder: &Path) -> Result<(Launch, String)> {
    let address = free_address()?;
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    let arguments = [
        "--bind",
        &ip,
        "--port",
        &port,
        "--save",
        "",
        "--dir",
        utf8(folder)?,
    ];
    let launch = Launch::new("redis-server", arguments);
    Ok((launch, format!("redis://{address}")))
}

/// Launches `socket-host up` with these options.
fn up(binary: &Path, options: &[&str]) -> Result<Launch> {
    ensure!(
        binary.is_file(),
        "{} is missing: build it with `cargo build --release --bin socket-host`",
        binary.display()
    );
    let options = options.iter().copied();
    Ok(Launch::new(binary, ["up"].into_iter().chain(options)))
}

/// Launches Pushpin on `public` in front of this program's backend on `upstream`.
fn pushpin(
    folder: &Path,
    public: SocketAddr,
    control: SocketAddr,
    upstream: SocketAddr,
) -> Result<Launch> {
    let pushpin = Pushpin {
        public,
        control,
        routes: &format!("* {upstream},over_http\n"),
        key: "changeme",
        // Pushpin's defaults.
        client_buffer: 8192,
        connections: 50_000,
        log_level: 0,
    };
    let [client, proxy] = pushpin.configure(folder)?;
    let launch = |(program, argument): (&str, String), companions| Launch {
        companions,
        ..Launch::new(program, [argument])
    };
    let companions = vec![launch(client, Vec::new()), backend(upstream)?];
    Ok(launch(proxy, companions))
}

/// Launches this program as the backend of a proxy.
fn backend(address: SocketAddr) -> Result<Launch> {
    let program = std::env::current_exe().context("locating this program")?;
    let address = address.to_string();
    Ok(Launch::new(program, ["backend", "--listen", &address]))
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{path:?} is not UTF-8"))
}

/// Returns free addresses of the loopback.
fn free_addresses<const N: usize>() -> Result<[SocketAddr; N]> {
    let addresses: Vec<_> = (0..N).map(|_| free_address()).collect::<Result<_>>()?;
    // There are as many.
    Ok(std::array::from_fn(|index| addresses[index]))
}

/// Parses `SCHEME://HOST[:PORT][/PATH]`, which must be on loopback, into an address and a path.
pub fn parse_url(text: &str, scheme: &str) -> Result<(SocketAddr, String)> {
    let rest = text
        .strip_prefix(scheme)
        .and_then(|rest| rest.strip_prefix("://"))
        .with_context(|| format!("{text:?} does not start with {scheme}://"))?;
    let (host, path) = rest
        .find('/')
        .map_or((rest, "/"), |slash| rest.split_at(slash));
    ensure!(
        path.bytes().all(|byte| byte.is_ascii_graphic()),
        "the path of {text:?} contains spaces, control characters or non-ASCII characters"
    );
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(_, port)| !port.contains(']'));
    let host = if has_port {
        host.to_string()
    } else {
        format!("{host}:80")
    };
    Ok((parse_loopback(&host)?, path.to_string()))
}

/// Parses `HOST:PORT`, which must be on loopback: this program never sends load to other machines.
fn parse_loopback(text: &str) -> Result<SocketAddr> {
    let addresses = text
        .to_socket_addrs()
        .with_context(|| format!("{text:?} is not HOST:PORT"))?;
    for address in addresses {
        if address.ip().is_loopback() {
            return Ok(address);
        }
    }
    bail!("{text} is not a loopback address: this program sends load to this machine only")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_parsed() {
        let parsed =
            |text| parse_url(text, "ws").map(|(address, path)| (address.to_string(), path));
        assert_eq!(
            parsed("ws://127.0.0.1:3000/api/ws").unwrap(),
            ("127.0.0.1:3000".into(), "/api/ws".into())
        );
        assert_eq!(
            parsed("ws://127.0.0.1").unwrap(),
            ("127.0.0.1:80".into(), "/".into())
        );
        assert_eq!(
            parsed("ws://[::1]:80/a?b=c").unwrap(),
            ("[::1]:80".into(), "/a?b=c".into())
        );
        assert_eq!(
            parsed("ws://[::1]/").unwrap(),
            ("[::1]:80".into(), "/".into())
        );
        for invalid in [
            "http://127.0.0.1/",
            "ws:/127.0.0.1",
            "ws://127.0.0.1:99999/",
            "ws://127.0.0.1/a b",
            "ws://127.0.0.1/\r\n",
        ] {
            assert!(parsed(invalid).is_err(), "{invalid:?}");
        }
    }

    #[test]
    fn other_machines_are_rejected() {
        for other in ["192.0.2.1:3000", "0.0.0.0:3000", "[2001:db8::1]:80"] {
            let error = parse_loopback(other).unwrap_err().to_string();
            assert!(error.contains("loopback"), "{error}");
        }
    }
}
