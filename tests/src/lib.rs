//! What the end-to-end tests share: the built host as a process, and clients of it.

use std::{
    borrow::BorrowMut,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderValue},
};

pub mod pushpin;

/// Nothing that a test waits for takes this long, unless it never comes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The workspace's folder.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// The host's program, as `tests/run` builds it before the tests.
pub fn program() -> PathBuf {
    let program = workspace().join("target/release/socket-host");
    let wasm = workspace().join("target/wasm32-wasip2/component/probe.wasm");
    for built in [&program, &wasm] {
        assert!(
            built.exists(),
            "{} is missing: tests/run builds it",
            built.display()
        );
    }
    program
}

/// Socket Burger's manifest, its orders coming `every`, in a folder of its own.
pub fn burger(every: &str) -> TempDir {
    let manifest = std::fs::read_to_string(workspace().join("spin.toml")).expect("spin.toml");
    let root = workspace().display();
    let manifest = manifest
        .replace("\"2s..6s\"", &format!("{every:?}"))
        .replace("\"target/", &format!("\"{root}/target/"))
        .replace(
            "source = \"static\"",
            &format!("source = \"{root}/static\""),
        );
    assert!(
        manifest.contains(every) && manifest.contains(&format!("\"{root}/static\"")),
        "spin.toml has changed"
    );
    manifest_in_folder(&manifest)
}

/// Socket Burger without its timer: no orders come.
pub fn closed_burger() -> TempDir {
    let folder = burger("1h");
    let path = folder.path().join("spin.toml");
    let manifest = std::fs::read_to_string(&path).expect("the manifest");
    let start = manifest
        .find("[[application.tool.socket-host.timer]]")
        .expect("a timer");
    let end = manifest[start..]
        .find("\n[application")
        .expect("a table behind it")
        + start;
    std::fs::write(&path, manifest[..start].to_owned() + &manifest[end..])
        .expect("a manifest is written");
    folder
}

/// An application of the probe component alone, with more under `[component.probe]`.
pub fn probe(more: &str) -> TempDir {
    manifest_in_folder(&format!(
        r#"
spin_manifest_version = 2
[application]
name = "probe"
[[trigger.http]]
route = "/..."
component = "probe"
[component.probe]
source = "{}/target/wasm32-wasip2/component/probe.wasm"
{more}"#,
        workspace().display()
    ))
}

/// A manifest in a folder of its own.
pub fn manifest_in_folder(manifest: &str) -> TempDir {
    let folder = TempDir::new().expect("a temporary folder");
    std::fs::write(folder.path().join("spin.toml"), manifest).expect("a manifest is written");
    folder
}

/// A running `socket-host up`. Killed when it is dropped.
pub struct Server {
    child: Child,
    /// The public address.
    pub address: SocketAddr,
    /// The control port's.
    pub control: SocketAddr,
    /// All that it has written to stderr.
    log: Arc<Mutex<String>>,
}

impl Server {
    /// Starts the host for the manifest in `folder`, on ports that the system chooses.
    pub fn start(folder: &Path, options: &[&str]) -> Result<Self> {
        let mut command = Command::new(program());
        command.arg("up").arg("--from").arg(folder);
        Self::run(command, options)
    }

    /// Starts the host in front of an upstream, where there is no manifest unless the options name
    /// one.
    pub fn in_front_of(upstream: &str, options: &[&str]) -> Result<Self> {
        let folder = TempDir::new()?;
        let mut command = Command::new(program());
        command.args(["up", "--upstream", upstream]);
        Self::run(command.current_dir(folder.path()), options)
    }

    /// Starts the host by this command, with more options.
    pub fn run(mut command: impl BorrowMut<Command>, options: &[&str]) -> Result<Self> {
        let command = command.borrow_mut();
        for option in ["--listen", "--control"] {
            if !options.contains(&option) {
                command.args([option, "127.0.0.1:0"]);
            }
        }
        let mut child = command
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("socket-host does not start")?;
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = BufReader::new(child.stderr.take().context("stderr")?);
        let writer = log.clone();
        let reader = std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if let Ok(mut log) = writer.lock() {
                    *log += &line;
                    log.push('\n');
                }
            }
        });
        let (mut address, mut control) = (None, None);
        let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
        while let Some(line) = lines.next().transpose()? {
            let at = |prefix| {
                line.strip_prefix(prefix)
                    .map(|address: &str| address.parse())
            };
            address = at("Serving http://").transpose()?.or(address);
            control = at("Control: http://").transpose()?.or(control);
            if let (Some(address), Some(control)) = (address, control) {
                std::thread::spawn(move || lines.for_each(drop));
                return Ok(Self {
                    child,
                    address,
                    control,
                    log,
                });
            }
        }
        let status = child.wait()?;
        // All that it said is read before it is told.
        let _ = reader.join();
        bail!(
            "socket-host ended with {status}: {}",
            log.lock().map(|log| log.clone()).unwrap_or_default()
        )
    }

    /// A GET, with the body as text.
    pub async fn get(&self, path: &str) -> Result<(u16, String)> {
        let answer = request(
            self.address,
            &format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address),
        )
        .await?;
        Ok((answer.status, answer.body))
    }

    /// A GET whose body is JSON.
    pub async fn get_json(&self, path: &str) -> Result<Value> {
        let (status, body) = self.get(path).await?;
        ensure!(status == 200, "{path}: {status} {body}");
        Ok(serde_json::from_str(&body)?)
    }

    /// What the control port answers to this body at `/publish/`, sent with more `headers`, whole
    /// lines.
    pub async fn publish(&self, headers: &str, body: &str) -> Result<Answer> {
        let length = body.len();
        let asked = format!(
            "POST /publish/ HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        );
        request(self.control, &asked).await
    }

    /// What `/healthz` says.
    pub async fn health(&self) -> Result<Value> {
        let answer = request(
            self.control,
            "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        )
        .await?;
        Ok(serde_json::from_str(&answer.body)?)
    }

    /// What `/healthz` counts under `name`.
    pub async fn count(&self, name: &str) -> Result<u64> {
        let health = self.health().await?;
        health[name]
            .as_u64()
            .with_context(|| format!("{name} in {health}"))
    }

    /// Waits until `/metrics` has this line.
    pub async fn counts(&self, line: &str) -> Result<()> {
        eventually(&format!("the metric {line:?}"), async || {
            let asked = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
            let metrics = request(self.control, asked).await.ok()?;
            metrics.body.lines().any(|told| told == line).then_some(())
        })
        .await
    }

    /// Opens a WebSocket.
    pub async fn socket(&self, path: &str) -> Result<Client> {
        Client::open(self.address, path, &[])
            .await
            .map_err(|refused| refused.error)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) -> Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        Ok(rustix::process::kill_process(pid, signal)?)
    }

    /// Waits for the end; gives the exit code, `None` when a signal ended it.
    pub async fn ended(mut self) -> Result<Option<i32>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code());
            }
            ensure!(Instant::now() < deadline, "the host does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Resident memory, in KiB.
    pub fn resident(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .context("VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// All that it has logged, also after its end.
    pub fn log(&self) -> Arc<Mutex<String>> {
        self.log.clone()
    }

    /// Waits until the log has all of `words` in one line.
    pub async fn logged(&self, words: &[&str]) -> Result<String> {
        eventually(&format!("a log line with {words:?}"), async || {
            let log = self.log.lock().map(|log| log.clone()).unwrap_or_default();
            log.lines()
                .find(|line| words.iter().all(|word| line.contains(word)))
                .map(str::to_owned)
        })
        .await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks again and again until there is an answer.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return Ok(answer);
        }
        ensure!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The head as it came.
    pub head: String,
    /// The body, chunks joined.
    pub body: String,
}

/// Sends exactly these bytes and reads one answer: for requests that no client library would send.
pub async fn request(address: SocketAddr, bytes: &str) -> Result<Answer> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(bytes.as_bytes()).await?;
    tokio::time::timeout(
        PATIENCE,
        read_answer(&mut stream, !bytes.starts_with("HEAD")),
    )
    .await
    .context("no answer")?
}

/// Reads one answer; `has_body` is false for the answer to a HEAD.
pub async fn read_answer(stream: &mut TcpStream, has_body: bool) -> Result<Answer> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        ensure!(
            stream.read_buf(&mut bytes).await? > 0,
            "the connection ended within the head: {:?}",
            lossy(&bytes)
        );
    };
    let head = lossy(&bytes[..head_end]);
    let mut body = bytes.split_off(head_end);
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .context("a status")?;
    let lower = head.to_ascii_lowercase();
    let length = lower
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .map(|value| value.trim().parse());
    let no_body = !has_body || status == 304 || status == 204 || status < 200;
    if no_body {
    } else if let Some(length) = length.transpose()? {
        while body.len() < length {
            ensure!(
                stream.read_buf(&mut body).await? > 0,
                "the connection ended within the body"
            );
        }
    } else if lower.contains("transfer-encoding: chunked") {
        while !body.ends_with(b"0\r\n\r\n") {
            ensure!(
                stream.read_buf(&mut body).await? > 0,
                "the connection ended within the body: {:?}",
                lossy(&body)
            );
        }
        body = unchunk(&body)?;
    } else {
        stream.read_to_end(&mut body).await?;
    }
    Ok(Answer {
        status,
        head,
        body: lossy(&body),
    })
}

fn unchunk(mut chunks: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = chunks
            .windows(2)
            .position(|window| window == b"\r\n")
            .context("a chunk's length")?;
        let length = usize::from_str_radix(&lossy(&chunks[..line]), 16)?;
        let rest = &chunks[line + 2..];
        if length == 0 {
            return Ok(body);
        }
        body.extend_from_slice(rest.get(..length).context("a whole chunk")?);
        chunks = rest.get(length + 2..).context("a chunk's end")?;
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A WebSocket client, as careful as a browser.
pub struct Client(pub WebSocketStream<TcpStream>);

/// A handshake that did not succeed.
#[derive(Debug)]
pub struct Refused {
    /// The status, when there was an answer.
    pub status: Option<u16>,
    /// All of it.
    pub error: anyhow::Error,
}

impl Client {
    /// Opens a WebSocket with additional headers.
    pub async fn open(
        address: SocketAddr,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, Refused> {
        let open = async {
            let mut request = format!("ws://{address}{path}").into_client_request()?;
            for (name, value) in headers {
                request
                    .headers_mut()
                    .insert(*name, HeaderValue::from_str(value)?);
            }
            client_async(request, TcpStream::connect(address).await?).await
        };
        match tokio::time::timeout(PATIENCE, open).await {
            Ok(Ok((socket, _))) => Ok(Self(socket)),
            Ok(Err(error)) => {
                let status = match &error {
                    tokio_tungstenite::tungstenite::Error::Http(response) => {
                        Some(response.status().as_u16())
                    }
                    _ => None,
                };
                Err(Refused {
                    status,
                    error: error.into(),
                })
            }
            Err(_) => Err(Refused {
                status: None,
                error: anyhow::anyhow!("no answer to the handshake"),
            }),
        }
    }

    /// Sends a text message.
    pub async fn send(&mut self, text: &str) -> Result<()> {
        Ok(self.0.send(Message::text(text)).await?)
    }

    /// The next message of any kind; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Message>> {
        let next = tokio::time::timeout(PATIENCE, self.0.next())
            .await
            .context("nothing comes")?;
        Ok(next.transpose()?)
    }

    /// The next event of the application.
    pub async fn event(&mut self) -> Result<Value> {
        loop {
            match self.next().await?.context("the socket has ended")? {
                Message::Text(text) => return Ok(serde_json::from_str(&text)?),
                Message::Ping(_) | Message::Pong(_) => {}
                other => bail!("unexpected {other:?}"),
            }
        }
    }

    /// The next event of this name; others are passed over.
    pub async fn event_named(&mut self, name: &str) -> Result<Value> {
        loop {
            let event = self.event().await?;
            if event["event"] == name {
                return Ok(event["detail"].clone());
            }
        }
    }

    /// The next order that comes in.
    pub async fn order(&mut self) -> Result<Value> {
        Ok(self.event_named("order-received").await?["order"].clone())
    }

    /// Reads until the server closes; gives its code.
    pub async fn closed(&mut self) -> Result<Option<u16>> {
        loop {
            match self.next().await? {
                Some(Message::Close(frame)) => return Ok(frame.map(|frame| frame.code.into())),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }
}
