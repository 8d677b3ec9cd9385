//! What is measured: a server's addresses, and for those this program knows
//! how to start, the command.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// A server to measure.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where it listens for HTTP and WebSockets.
    pub address: SocketAddr,
    /// The path of its WebSocket.
    pub ws_path: String,
    /// A path it answers 200 to a GET.
    pub get_path: String,
    /// Where it takes publishes.
    pub control: SocketAddr,
    /// The path of a publish.
    pub publish_path: String,
    /// The channel its sockets are subscribed to.
    pub channel: String,
    /// Sent as `Authorization: Bearer` with each publish.
    pub bearer: Option<String>,
}

/// How to start a server.
#[derive(Clone, Debug)]
pub struct Start {
    /// What to run.
    pub program: PathBuf,
    /// With which arguments.
    pub arguments: Vec<String>,
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
            Self::Ws { .. } => "ws",
        }
    }

    /// The server on free ports of 127.0.0.1, with its state in `state`.
    pub fn target(&self, state: &Path) -> Result<(Target, Start)> {
        let [address, control] = free_ports()?;
        let path = |path: &Path| {
            path.to_str()
                .map(str::to_string)
                .with_context(|| format!("{path:?} is not UTF-8"))
        };
        let mut arguments = match self {
            Self::SocketHost {
                binary, manifest, ..
            } => {
                ensure!(
                    binary.is_file(),
                    "{} is missing: cargo build --release -p socket-host",
                    binary.display()
                );
                [
                    "up",
                    "--quiet",
                    "--from",
                    &path(manifest)?,
                    "--state-dir",
                    &path(state)?,
                ]
                .map(String::from)
                .to_vec()
            }
            Self::Ws { servers } => {
                let installed = servers.join("node_modules/ws/package.json");
                ensure!(
                    installed.is_file(),
                    "{} is missing: npm ci --prefix {}",
                    installed.display(),
                    servers.display()
                );
                vec![path(&servers.join("ws.mjs"))?]
            }
        };
        arguments.extend([
            "--listen".into(),
            address.to_string(),
            "--control".into(),
            control.to_string(),
        ]);
        let (program, get_path) = match self {
            Self::SocketHost {
                binary, get_path, ..
            } => (binary.clone(), get_path.clone()),
            Self::Ws { .. } => ("node".into(), "/healthz".to_string()),
        };
        let target = Target {
            address,
            ws_path: "/api/ws".to_string(),
            get_path,
            control,
            publish_path: "/publish/".to_string(),
            channel: "orders".to_string(),
            bearer: None,
        };
        Ok((target, Start { program, arguments }))
    }
}

/// Two ports nobody listens on now.
fn free_ports() -> Result<[SocketAddr; 2]> {
    let listeners = [
        TcpListener::bind("127.0.0.1:0")?,
        TcpListener::bind("127.0.0.1:0")?,
    ];
    Ok([listeners[0].local_addr()?, listeners[1].local_addr()?])
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
