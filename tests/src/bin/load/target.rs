//! What is measured: a server's addresses, and for those this program knows
//! how to start, the command.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use ::tests::pushpin::Pushpin;

use crate::sockets::{Kind, Sockets};

/// A server to measure.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where it listens for HTTP and WebSockets.
    pub address: SocketAddr,
    /// What is held there.
    pub kind: Kind,
    /// The path of what is held.
    pub path: String,
    /// A path it answers 200 to a GET.
    pub get_path: String,
    /// A path it answers 200 to a GET when all parts of it are there.
    pub ready_path: String,
    /// Where it takes publishes.
    pub control: SocketAddr,
    /// The path of a publish.
    pub publish_path: String,
    /// The channel its sockets are subscribed to.
    pub channel: String,
    /// Sent as `Authorization: Bearer` with each publish.
    pub bearer: Option<String>,
}

impl Target {
    /// Its connections, none open yet.
    pub fn sockets(&self) -> Result<Sockets> {
        Sockets::new(self.address, self.kind, &self.path)
    }
}

/// How to start a server.
#[derive(Clone, Debug)]
pub struct Start {
    /// What to run.
    pub program: PathBuf,
    /// With which arguments.
    pub arguments: Vec<String>,
    /// What must run beside it. It is not measured.
    pub beside: Vec<Start>,
}

impl Start {
    /// From a command line already split.
    pub fn of(command: &[String]) -> Result<Self> {
        let (program, arguments) = command
            .split_first()
            .context("the command to start is empty")?;
        Ok(Self {
            program: program.into(),
            arguments: arguments.to_vec(),
            beside: Vec::new(),
        })
    }
}

/// A server this program can start.
#[derive(Clone, Debug)]
pub enum Known {
    /// `socket-host up` over a manifest.
    SocketHost {
        /// The binary.
        binary: PathBuf,
        /// The manifest.
        manifest: PathBuf,
        /// The path of the small GET.
        get_path: String,
    },
    /// `socket-host up --upstream` in front of this program's backend.
    Upstream {
        /// The binary.
        binary: PathBuf,
    },
    /// Pushpin in front of this program's backend.
    Pushpin,
    /// The comparison server on Node's `ws`.
    Ws {
        /// The folder with `ws.mjs` and its `node_modules`.
        servers: PathBuf,
    },
}

impl Known {
    /// Its name in the tables.
    pub fn name(&self) -> &'static str {
        match self {
            Self::SocketHost { .. } => "socket-host",
            Self::Upstream { .. } => "socket-host --upstream",
            Self::Pushpin => "Pushpin",
            Self::Ws { .. } => "ws",
        }
    }

    /// Whether it holds such connections.
    pub fn holds(&self, kind: Kind) -> bool {
        kind == Kind::WebSocket || !matches!(self, Self::Ws { .. })
    }

    /// The server on free ports of 127.0.0.1, with its state in `state`, to be measured
    /// holding connections of `kind`.
    pub fn target(&self, kind: Kind, state: &Path) -> Result<(Target, Start)> {
        let [address, control, behind] = free_ports()?;
        let listening = [
            "--listen",
            &address.to_string(),
            "--control",
            &control.to_string(),
        ]
        .map(String::from);
        let (path, get_path, ready_path) = match self {
            Self::SocketHost { get_path, .. } => ("/api/orders/stream", get_path.as_str(), "/"),
            // Pushpin proxies before it holds.
            Self::Upstream { .. } | Self::Pushpin => ("/stream", "/", "/stream"),
            Self::Ws { .. } => ("", "/healthz", "/healthz"),
        };
        let target = Target {
            address,
            kind,
            path: match kind {
                Kind::WebSocket => "/api/ws".to_string(),
                Kind::Stream => path.to_string(),
            },
            get_path: get_path.to_string(),
            ready_path: ready_path.to_string(),
            control,
            publish_path: "/publish/".to_string(),
            channel: "orders".to_string(),
            bearer: None,
        };
        let mut start = match self {
            Self::SocketHost {
                binary, manifest, ..
            } => up(
                binary,
                &[
                    "--quiet",
                    "--from",
                    utf8(manifest)?,
                    "--state-dir",
                    utf8(state)?,
                ],
            )?,
            Self::Upstream { binary } => {
                let mut start = up(binary, &["--upstream", &format!("http://{behind}")])?;
                start.beside.push(backend(behind)?);
                start
            }
            Self::Pushpin => {
                return Ok((target, pushpin(state, address, control, behind)?));
            }
            Self::Ws { servers } => {
                let installed = servers.join("node_modules/ws/package.json");
                ensure!(
                    installed.is_file(),
                    "{} is missing: npm ci --prefix {}",
                    installed.display(),
                    servers.display()
                );
                Start {
                    program: "node".into(),
                    arguments: vec![utf8(&servers.join("ws.mjs"))?.to_string()],
                    beside: Vec::new(),
                }
            }
        };
        start.arguments.extend(listening);
        Ok((target, start))
    }
}

/// `socket-host up` with these options.
fn up(binary: &Path, options: &[&str]) -> Result<Start> {
    ensure!(
        binary.is_file(),
        "{} is missing: cargo build --release --bin socket-host",
        binary.display()
    );
    let options = options.iter().copied();
    Ok(Start {
        program: binary.to_owned(),
        arguments: ["up"]
            .into_iter()
            .chain(options)
            .map(String::from)
            .collect(),
        beside: Vec::new(),
    })
}

/// Pushpin between `public` and this program's backend at `upstream`.
fn pushpin(
    folder: &Path,
    public: SocketAddr,
    control: SocketAddr,
    upstream: SocketAddr,
) -> Result<Start> {
    let pushpin = Pushpin {
        public,
        control,
        upstream,
        key: "changeme",
        // Both are its defaults.
        client_buffer: 8192,
        connections: 50_000,
        log_level: 0,
    };
    let [client, proxy] = pushpin.configure(folder)?;
    let program = |(program, argument): (&str, String), beside| Start {
        program: program.into(),
        arguments: vec![argument],
        beside,
    };
    let beside = vec![program(client, Vec::new()), backend(upstream)?];
    Ok(program(proxy, beside))
}

/// This program as the backend of a proxy.
fn backend(address: SocketAddr) -> Result<Start> {
    Ok(Start {
        program: std::env::current_exe().context("finding this program")?,
        arguments: ["backend", "--listen", &address.to_string()]
            .map(String::from)
            .to_vec(),
        beside: Vec::new(),
    })
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{path:?} is not UTF-8"))
}

/// Three ports nobody listens on now.
fn free_ports() -> Result<[SocketAddr; 3]> {
    let free = || TcpListener::bind("127.0.0.1:0");
    let listeners = [free()?, free()?, free()?];
    let [a, b, c] = listeners.each_ref().map(TcpListener::local_addr);
    Ok([a?, b?, c?])
}

/// `SCHEME://HOST[:PORT][/PATH]` on this machine, as an address and a path.
pub fn url(text: &str, scheme: &str) -> Result<(SocketAddr, String)> {
    let rest = text
        .strip_prefix(scheme)
        .and_then(|rest| rest.strip_prefix("://"))
        .with_context(|| format!("{text:?} does not begin with {scheme}://"))?;
    let (host, path) = rest
        .find('/')
        .map_or((rest, "/"), |slash| rest.split_at(slash));
    ensure!(
        path.bytes().all(|byte| byte.is_ascii_graphic()),
        "the path of {text:?} is not plain ASCII"
    );
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(_, port)| !port.contains(']'));
    let host = if has_port {
        host.to_string()
    } else {
        format!("{host}:80")
    };
    Ok((loopback(&host)?, path.to_string()))
}

/// `HOST:PORT` on this machine. Load is never sent to another one.
pub fn loopback(text: &str) -> Result<SocketAddr> {
    let addresses = text
        .to_socket_addrs()
        .with_context(|| format!("{text:?} is not HOST:PORT"))?;
    for address in addresses {
        if address.ip().is_loopback() {
            return Ok(address);
        }
    }
    bail!("{text} is not on loopback, and this program sends load to no other machine")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let parsed = |text| url(text, "ws").map(|(address, path)| (address.to_string(), path));
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
        for bad in [
            "http://127.0.0.1/",
            "ws:/127.0.0.1",
            "ws://127.0.0.1:99999/",
            "ws://127.0.0.1/a b",
            "ws://127.0.0.1/\r\n",
        ] {
            assert!(parsed(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn other_machines_are_refused() {
        for other in ["192.0.2.1:3000", "0.0.0.0:3000", "[2001:db8::1]:80"] {
            let error = loopback(other).unwrap_err().to_string();
            assert!(error.contains("loopback"), "{error}");
        }
    }
}
