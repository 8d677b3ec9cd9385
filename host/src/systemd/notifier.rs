//! Reports the state of the service to the service manager (`sd_notify`).

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt, io,
    os::unix::net::UnixDatagram as StdUnixDatagram,
    sync::Arc,
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use tokio::{
    net::UnixDatagram,
    time::{Instant, sleep, timeout},
};
use tracing::{debug, warn};

pub(super) const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// How long a message may wait for the service manager to receive others.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// The interval of messages that ask for more time, and the time that each of them asks for.
const EXTENSION_INTERVAL: Duration = Duration::from_secs(5);
const EXTENSION: Duration = Duration::from_secs(20);

/// How long a start or a shutdown may be extended. One that hangs then fails.
const MAX_EXTENSION: Duration = Duration::from_secs(60 * 60);

/// Sends messages to the service manager. Clones share the socket. Without a service manager, sending
/// has no effect.
#[derive(Clone, Default)]
pub(crate) struct Notifier(Option<Arc<UnixDatagram>>);

/// A line of a message.
#[derive(Debug)]
pub(crate) enum State<'a> {
    /// The start, or a reload, is complete.
    Ready,
    /// Files are read again.
    Reloading,
    /// The host drains.
    Stopping,
    /// The host works.
    Watchdog,
    /// A text for `systemctl status`.
    Status(&'a str),
    /// The start or the shutdown takes at least this time.
    ExtendTimeout(Duration),
}

impl fmt::Display for State<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => writeln!(f, "READY=1"),
            Self::Reloading => {
                let now = clock_gettime(ClockId::Monotonic);
                let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
                writeln!(f, "RELOADING=1\nMONOTONIC_USEC={micros}")
            }
            Self::Stopping => writeln!(f, "STOPPING=1"),
            Self::Watchdog => writeln!(f, "WATCHDOG=1"),
            Self::Status(text) => writeln!(f, "STATUS={}", text.replace('\n', " ")),
            Self::ExtendTimeout(time) => {
                writeln!(f, "EXTEND_TIMEOUT_USEC={}", time.as_micros())
            }
        }
    }
}

impl Notifier {
    /// Connects to the service manager of this process, if it has one. Must be called in a Tokio
    /// runtime.
    pub(crate) fn from_environment() -> Self {
        Self::connect(env::var_os(NOTIFY_SOCKET))
    }

    /// Connects to the socket at an address, which begins with `@` if it is not in the file system.
    pub(super) fn connect(address: Option<OsString>) -> Self {
        let Some(address) = address.filter(|address| !address.is_empty()) else {
            return Self::default();
        };
        let socket = open(&address)
            .inspect_err(|error| warn!(?address, %error, "cannot reach the service manager"));
        Self(socket.ok().map(Arc::new))
    }

    /// Returns whether there is a service manager.
    pub(crate) fn is_connected(&self) -> bool {
        self.0.is_some()
    }

    /// Sends a message.
    pub(crate) async fn send(&self, states: &[State<'_>]) {
        let Some(socket) = &self.0 else {
            return;
        };
        let message: String = states.iter().map(State::to_string).collect();
        match timeout(SEND_TIMEOUT, socket.send(message.as_bytes())).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => debug!(%error, "cannot notify the service manager"),
            Err(_) => debug!("cannot notify the service manager: it does not read its socket"),
        }
    }

    /// Runs a start or a shutdown, during which the service manager waits and shows `status`.
    pub(crate) async fn extend_during<T>(
        &self,
        status: impl Fn() -> String,
        future: impl Future<Output = T>,
    ) -> T {
        let end = Instant::now() + MAX_EXTENSION;
        let extend = async {
            while self.is_connected() && Instant::now() < end {
                let status = status();
                self.send(&[State::Status(&status), State::ExtendTimeout(EXTENSION)])
                    .await;
                sleep(EXTENSION_INTERVAL).await;
            }
            std::future::pending().await
        };
        tokio::select! {
            output = future => output,
            () = extend => unreachable!("never completes"),
        }
    }
}

fn open(address: &OsStr) -> io::Result<UnixDatagram> {
    let socket = StdUnixDatagram::unbound()?;
    match address.as_encoded_bytes().strip_prefix(b"@") {
        Some(name) => connect_abstract(&socket, name)?,
        None => socket.connect(address)?,
    }
    socket.set_nonblocking(true)?;
    UnixDatagram::from_std(socket)
}

/// Connects to a socket that is not in the file system, as in some containers.
#[cfg(target_os = "linux")]
fn connect_abstract(socket: &StdUnixDatagram, name: &[u8]) -> io::Result<()> {
    use std::os::{linux::net::SocketAddrExt as _, unix::net::SocketAddr};

    socket.connect_addr(&SocketAddr::from_abstract_name(name)?)
}

#[cfg(not(target_os = "linux"))]
fn connect_abstract(_: &StdUnixDatagram, _: &[u8]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_a_line_for_each_state() {
        let states = [
            State::Ready,
            State::Status("one\ntwo"),
            State::ExtendTimeout(Duration::from_secs(20)),
        ];
        let message: String = states.iter().map(State::to_string).collect();
        assert_eq!(
            message,
            "READY=1\nSTATUS=one two\nEXTEND_TIMEOUT_USEC=20000000\n"
        );
        let reloading = State::Reloading.to_string();
        let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
        let time = time.and_then(|time| time.trim_end().parse::<u64>().ok());
        assert!(time.is_some_and(|time| time > 0), "{reloading:?}");
    }

    #[tokio::test]
    async fn messages_arrive_at_paths_and_at_abstract_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let receiver = UnixDatagram::bind(&path).unwrap();
        let mut receivers = vec![(path.into_os_string(), receiver)];
        #[cfg(target_os = "linux")]
        {
            use std::os::{linux::net::SocketAddrExt as _, unix::net::SocketAddr};

            let name = format!("socket-host-test-{}", uuid::Uuid::new_v4());
            let address = SocketAddr::from_abstract_name(&name).unwrap();
            let receiver = StdUnixDatagram::bind_addr(&address).unwrap();
            receiver.set_nonblocking(true).unwrap();
            let receiver = UnixDatagram::from_std(receiver).unwrap();
            receivers.push((format!("@{name}").into(), receiver));
        }
        for (address, receiver) in receivers {
            let notifier = Notifier::connect(Some(address));
            notifier.send(&[State::Watchdog]).await;
            let mut buffer = [0; 100];
            let length = receiver.recv(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..length], b"WATCHDOG=1\n");
        }
    }

    #[tokio::test]
    async fn nothing_is_sent_without_a_service_manager() {
        for address in [None, Some("".into()), Some("/nowhere/notify".into())] {
            let notifier = Notifier::connect(address);
            assert!(!notifier.is_connected());
            notifier.send(&[State::Ready]).await;
            let output = notifier.extend_during(String::new, async { 1 }).await;
            assert_eq!(output, 1);
        }
    }
}
