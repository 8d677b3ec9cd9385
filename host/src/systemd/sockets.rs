//! Socket activation: the service manager listens, and passes the sockets to the host.
//!
//! Connections that arrive while the host is restarted wait in the queue of the socket, which stays
//! open.

use std::{env, io, net::TcpListener, process, sync::Arc};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use listenfd::ListenFd;
use socket2::SockRef;

pub(super) const LISTEN_FDS: &str = "LISTEN_FDS";
pub(super) const LISTEN_PID: &str = "LISTEN_PID";
pub(super) const LISTEN_FDNAMES: &str = "LISTEN_FDNAMES";

/// The names of the ports, in the order of sockets without names.
const PORTS: [&str; 3] = ["public", "control", "redirect"];

/// Listening sockets that were passed to this process. Each one is used instead of binding the address
/// of its port.
#[derive(Clone, Debug, Default)]
pub struct PassedSockets {
    /// The socket of the public port.
    pub public: Option<Arc<TcpListener>>,
    /// The socket of the control port.
    pub control: Option<Arc<TcpListener>>,
    /// The socket of the port that redirects to TLS.
    pub redirect: Option<Arc<TcpListener>>,
}

impl PassedSockets {
    /// Takes the sockets that the service manager has passed to this process, and removes the variables
    /// that announce them.
    ///
    /// Must be called before the process starts threads, and opens files of its own.
    ///
    /// # Errors
    /// Fails if a socket cannot be used. The error names the key of the unit file.
    pub(crate) fn from_environment() -> Result<Self> {
        let Some(count) = passed_count()? else {
            return Ok(Self::default());
        };
        let names = env::var(LISTEN_FDNAMES).ok();
        let ports = ports(names.as_deref(), count)?;
        let mut passed = ListenFd::from_env();
        let mut sockets = Self::default();
        for (index, port) in ports.into_iter().enumerate() {
            let socket = passed.take_tcp_listener(index);
            let socket = socket.and_then(|socket| socket.ok_or(io::ErrorKind::NotFound.into()));
            let socket = socket.with_context(|| {
                format!(
                    "the socket {port:?} of the service manager is not a TCP socket: set \
                     ListenStream= to a port, or to an address with a port, in its socket unit"
                )
            })?;
            ensure!(
                SockRef::from(&socket).is_listener()?,
                "the socket {port:?} of the service manager is a connection: set Accept=no in its \
                 socket unit"
            );
            *sockets.port(port) = Some(Arc::new(socket));
        }
        Ok(sockets)
    }

    fn port(&mut self, name: &str) -> &mut Option<Arc<TcpListener>> {
        match name {
            "control" => &mut self.control,
            "redirect" => &mut self.redirect,
            _ => &mut self.public,
        }
    }
}

/// Returns how many sockets were passed to this process, if any. The variables may also be those of a
/// parent.
fn passed_count() -> Result<Option<usize>> {
    let Some(count) = env::var_os(LISTEN_FDS) else {
        return Ok(None);
    };
    let is_own = match env::var(LISTEN_PID) {
        Ok(pid) => pid.is_empty() || pid.parse() == Ok(process::id()),
        Err(_) => true,
    };
    if !is_own {
        return Ok(None);
    }
    let number = count.to_str().and_then(|count| count.parse().ok());
    number
        .map(Some)
        .ok_or_else(|| anyhow!("invalid {LISTEN_FDS} {count:?}: expected a number"))
}

/// Returns the ports of sockets with these names, which are separated by colons.
fn ports(names: Option<&str>, count: usize) -> Result<Vec<&'static str>> {
    ensure!(
        count <= PORTS.len(),
        "the service manager has passed {count} sockets, and the host has {} ports: remove \
         ListenStream= lines, or socket units of the service",
        PORTS.len()
    );
    let Some(names) = names.filter(|_| count > 0) else {
        return Ok(PORTS[..count].to_vec());
    };
    let names: Vec<&str> = names.split(':').collect();
    ensure!(
        names.len() == count,
        "invalid {LISTEN_FDNAMES}: expected {count} names, found {}",
        names.len()
    );
    let mut ports = Vec::with_capacity(count);
    for name in names {
        let Some(port) = PORTS.into_iter().find(|port| *port == name) else {
            bail!(
                "the service manager has passed a socket with the unknown name {name:?}: set \
                 FileDescriptorName= in its socket unit to {}",
                PORTS.join(", ")
            );
        };
        ensure!(
            !ports.contains(&port),
            "the service manager has passed several sockets with the name {port:?}: leave one \
             ListenStream= in the socket unit, or set FileDescriptorName= to another port"
        );
        ports.push(port);
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_have_names_or_an_order() {
        for (names, count, expected) in [
            (None, 0, &[][..]),
            (Some(""), 0, &[]),
            (None, 1, &["public"]),
            (None, 3, &["public", "control", "redirect"]),
            (Some("control"), 1, &["control"]),
            (Some("redirect:public"), 2, &["redirect", "public"]),
        ] {
            assert_eq!(ports(names, count).unwrap(), expected, "{names:?}");
        }
    }

    #[test]
    fn errors_name_the_key_of_the_unit() {
        for (names, count, expected) in [
            (None, 4, "ListenStream="),
            (None, usize::MAX, "ListenStream="),
            (Some("burger.socket"), 1, "FileDescriptorName="),
            (Some("public:public"), 2, "FileDescriptorName="),
            (Some("public"), 2, "expected 2 names, found 1"),
            (Some(""), 1, "FileDescriptorName="),
        ] {
            let error = ports(names, count).unwrap_err().to_string();
            assert!(error.contains(expected), "{names:?}: {error}");
        }
    }
}
