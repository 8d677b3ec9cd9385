//! Listening sockets that are passed to the host.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use tests::{
    COMPONENT_PING, Client, Server, burger, eventually, free_address, host_binary, probe, request,
    workspace,
};

/// The variables that are for the host alone.
const VARIABLES: [&str; 6] = [
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
];

/// Starts a host with a socket of this process for one of its ports. The socket stays open.
fn start_with(socket: &TcpListener, port: &str, folder: &Path, options: &[&str]) -> Result<Server> {
    let mut command = Command::new("sh");
    // The host is the process of the shell, so that the id is its own.
    let script = "exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ LISTEN_FDNAMES=$0 \
                  exec \"$@\"";
    command.args(["-c", script, port]);
    command
        .arg(host_binary())
        .args(["up", "--from"])
        .arg(folder);
    let socket = OwnedFd::from(socket.try_clone()?);
    Server::run_with_input(command, options, socket.into())
}

/// Returns a command that starts a host with sockets of these kinds and names.
fn passing(kinds: &str, names: &str, folder: &Path) -> Command {
    let mut command = Command::new("/usr/bin/python3");
    command.arg(workspace().join("tests/pass-sockets.py"));
    command.args([kinds, names]).arg(host_binary());
    command.args(["up", "--from"]).arg(folder);
    command
}

/// Clients that connect without pause.
struct Clients {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<Result<()>>>,
}

impl Clients {
    /// Starts clients of a public port. Half of them open a WebSocket, and the others send a request.
    fn start(address: SocketAddr) -> Self {
        Self::run(move |index: usize| async move {
            if index.is_multiple_of(2) {
                let bytes =
                    format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
                let response = request(address, &bytes).await?;
                ensure!(response.status == 200, "{response:?}");
            } else {
                let open = Client::open(address, "/api/ws", &[]).await;
                let mut socket = open.map_err(|failed| failed.error)?;
                socket.send(COMPONENT_PING).await?;
                // The host may be restarted meanwhile.
                while let Ok(Some(message)) = socket.next().await {
                    if message.is_close() || message.to_text()?.contains("pong") {
                        break;
                    }
                }
            }
            Ok(())
        })
    }

    /// Starts publishers.
    fn publish(control: SocketAddr) -> Self {
        Self::run(move |_| async move {
            let body = r#"{"items":[{"channel":"a","formats":{"ws-message":{"content":"b"}}}]}"#;
            let length = body.len();
            let bytes = format!(
                "POST /publish/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                 Content-Length: {length}\r\n\r\n{body}"
            );
            let response = request(control, &bytes).await?;
            // The port is served before the application.
            ensure!([200, 503].contains(&response.status), "{response:?}");
            Ok(())
        })
    }

    /// Repeats what a client does, for several clients at the same time.
    fn run<F>(client: impl Fn(usize) -> F + Clone + Send + 'static) -> Self
    where
        F: Future<Output = Result<()>> + Send,
    {
        let stop = Arc::new(AtomicBool::new(false));
        let served = Arc::new(AtomicUsize::new(0));
        let start = |index: usize| {
            let (client, stop, served) = (client.clone(), stop.clone(), served.clone());
            tokio::spawn(async move {
                while !stop.load(SeqCst) {
                    client(index).await?;
                    served.fetch_add(1, SeqCst);
                }
                Ok(())
            })
        };
        let tasks = (0..16).map(start).collect();
        Self {
            stop,
            served,
            tasks,
        }
    }

    /// Waits until further clients were served.
    async fn wait_for_more(&self) -> Result<()> {
        let before = self.served.load(SeqCst);
        eventually("clients to be served", async || {
            let is_failed = self.tasks.iter().any(|task| task.is_finished());
            (is_failed || self.served.load(SeqCst) > before + 100).then_some(())
        })
        .await
    }

    /// Ends the clients, and returns how many of them were served.
    async fn stop(self) -> Result<usize> {
        self.stop.store(true, SeqCst);
        for task in self.tasks {
            task.await?.context("a client has failed")?;
        }
        Ok(self.served.load(SeqCst))
    }
}

/// Restarts a host several times, while clients of its port connect.
async fn restart_under(port: &str, clients: impl FnOnce(SocketAddr) -> Clients) -> Result<()> {
    let folder = burger("1h");
    let socket = TcpListener::bind("127.0.0.1:0")?;
    let address = socket.local_addr()?;
    let start = || start_with(&socket, port, folder.path(), &["--quiet"]);
    let mut host = start()?;
    let clients = clients(address);
    for _ in 0..5 {
        clients.wait_for_more().await?;
        host.signal(Signal::TERM)?;
        ensure!(host.wait().await? == Some(0));
        host = start()?;
    }
    clients.wait_for_more().await?;
    let served = clients.stop().await?;
    ensure!(served > 600, "{served}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_refuses_and_resets_no_client() -> Result<()> {
    restart_under("public", Clients::start).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_refuses_and_resets_no_publisher() -> Result<()> {
    restart_under("control", Clients::publish).await
}

#[tokio::test]
async fn sockets_are_found_by_their_names() -> Result<()> {
    let folder = probe("");
    for (kinds, names) in [("tcp,tcp6", "control:public"), ("tcp6,tcp", "")] {
        let host = Server::run(passing(kinds, names, folder.path()), &[])?;
        ensure!(host.address.is_ipv6() && host.control.is_ipv4(), "{names}");
        ensure!(host.get("/headers").await?.0 == 200);
        ensure!(host.control("GET", "/readyz").await?.status == 200);
    }
    Ok(())
}

#[test]
fn unusable_sockets_name_the_key_of_the_unit_file() -> Result<()> {
    let folder = probe("");
    for (kinds, names, expected) in [
        ("udp", "public", "ListenStream="),
        ("unix", "public", "ListenStream="),
        ("bound", "public", "Accept=no"),
        ("tcp,tcp,tcp,tcp", "", "ListenStream="),
        ("tcp", "burger.socket", "FileDescriptorName="),
        ("tcp,tcp", "public:public", "FileDescriptorName="),
        // The rules of the control port apply to a passed socket too.
        ("any", "control", "passed socket of the control port"),
        ("tcp", "redirect", "--tls-cert"),
    ] {
        let Err(error) = Server::run(passing(kinds, names, folder.path()), &[]) else {
            anyhow::bail!("the host starts with {kinds} {names}");
        };
        let error = format!("{error:#}");
        ensure!(error.contains(expected), "no {expected:?} in {error}");
        ensure!(!error.contains("panicked"), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn child_processes_do_not_get_the_variables() -> Result<()> {
    let folder = probe("[component.probe.build]\ncommand = \"env > env.txt\"\n");
    let mut command = passing("tcp", "public", folder.path());
    // The socket does not exist, which the host logs.
    command.env("NOTIFY_SOCKET", folder.path().join("notify"));
    command.env("WATCHDOG_USEC", "60000000");
    let host = Server::run(command, &["--build"])?;
    ensure!(host.get("/headers").await?.0 == 200);
    host.wait_for_log(&["WARN", "cannot reach the service manager"])
        .await?;
    let environment = fs::read_to_string(folder.path().join("env.txt"))?;
    ensure!(environment.contains("PATH="), "{environment}");
    for variable in VARIABLES {
        let line = environment
            .lines()
            .find(|line| line.starts_with(&format!("{variable}=")));
        ensure!(line.is_none(), "{line:?}");
    }
    Ok(())
}

#[tokio::test]
async fn sockets_of_another_process_are_ignored() -> Result<()> {
    let folder = probe("");
    let mut command = Command::new(host_binary());
    command.args(["up", "--from"]).arg(folder.path());
    command.envs([("LISTEN_FDS", "1"), ("LISTEN_PID", "1")]);
    let host = Server::run(command, &[])?;
    ensure!(host.get("/headers").await?.0 == 200);
    Ok(())
}

/// Ends a process when it is dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_first_client_starts_the_host() -> Result<()> {
    let folder = probe("");
    let address = free_address()?;
    let mut command = Command::new("systemd-socket-activate");
    command.args(["--fdname=public", "--listen"]);
    command.arg(address.to_string()).arg(host_binary());
    command.args(["up", "--control", "127.0.0.1:0", "--from"]);
    command.arg(folder.path());
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let _host = Killed(
        command
            .spawn()
            .context("cannot run systemd-socket-activate")?,
    );
    let bytes = format!("GET /headers HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let response = eventually("the socket", async || request(address, &bytes).await.ok()).await?;
    ensure!(response.status == 200, "{response:?}");
    Ok(())
}
