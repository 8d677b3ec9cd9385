//! The hosts that are attacked, an upstream that records what reaches it, and raw clients.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use tests::{Server, TIMEOUT, probe};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinHandle,
    time::timeout,
};

/// The start of requests, without the end of the head.
pub const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n";
pub const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\n";

/// The valid request that follows each case on the same connection.
pub const NEXT: &str = "GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It gets this status. Nothing reaches the backend, and the connection is closed.
    Refused(u16),
    /// It reaches the backend with this body, and the next request is served too.
    Served(&'static str),
    /// It reaches the backend with this body, and the connection is closed.
    Last(&'static str),
}

/// A request, and what becomes of it.
pub struct Case(Vec<u8>, Outcome);

/// Creates a case.
pub fn case(request: impl Into<Vec<u8>>, outcome: Outcome) -> Case {
    Case(request.into(), outcome)
}

/// A request that was received completely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub line: String,
    /// The header fields as lines in lower case.
    pub fields: Vec<String>,
    pub body: String,
}

/// An upstream that records its requests. Stopped on drop.
pub struct Upstream {
    pub address: SocketAddr,
    requests: UnboundedReceiver<Received>,
    task: JoinHandle<()>,
}

impl Upstream {
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (sender, requests) = unbounded_channel();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A connection that is cut ends with an error.
                tokio::spawn(serve(stream, sender.clone()));
            }
        });
        Ok(Self {
            address,
            requests,
            task,
        })
    }

    /// Returns what was received since the last call.
    pub fn take(&mut self) -> Vec<Received> {
        std::iter::from_fn(|| self.requests.try_recv().ok()).collect()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads requests strictly, and responds to each with `ok`.
async fn serve(stream: TcpStream, requests: UnboundedSender<Received>) -> Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let line = read_line(&mut stream).await?;
        let mut fields = Vec::new();
        loop {
            let field = read_line(&mut stream).await?;
            if field.is_empty() {
                break;
            }
            fields.push(field.to_ascii_lowercase());
        }
        let field = |name: &str| fields.iter().find_map(|field| field.strip_prefix(name));
        let mut body = Vec::new();
        if let Some(length) = field("content-length: ") {
            read_bytes(&mut stream, length.parse()?, &mut body).await?;
        } else if field("transfer-encoding: ") == Some("chunked") {
            loop {
                let size = usize::from_str_radix(&read_line(&mut stream).await?, 16)?;
                if size == 0 {
                    break;
                }
                read_bytes(&mut stream, size, &mut body).await?;
                ensure!(read_line(&mut stream).await?.is_empty(), "a chunk's end");
            }
            while !read_line(&mut stream).await?.is_empty() {}
        }
        let is_head = line.starts_with("HEAD ");
        let _ = requests.send(Received {
            line,
            fields,
            body: String::from_utf8_lossy(&body).into_owned(),
        });
        let content = if is_head { "" } else { "ok" };
        let response = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{content}");
        stream.write_all(response.as_bytes()).await?;
    }
}

async fn read_line(stream: &mut BufReader<TcpStream>) -> Result<String> {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line).await?;
    let line = line.strip_suffix(b"\r\n").context("the end of a line")?;
    Ok(String::from_utf8_lossy(line).into_owned())
}

async fn read_bytes(
    stream: &mut BufReader<TcpStream>,
    count: usize,
    into: &mut Vec<u8>,
) -> Result<()> {
    let start = into.len();
    into.resize(start + count, 0);
    stream.read_exact(&mut into[start..]).await?;
    Ok(())
}

/// A host with a component, and one in front of an upstream.
pub struct Hosts {
    pub embedded: Server,
    pub proxy: Server,
    pub upstream: Upstream,
    _folder: TempDir,
}

impl Hosts {
    pub async fn start() -> Result<Self> {
        let upstream = Upstream::start().await?;
        let folder = probe("");
        Ok(Self {
            embedded: Server::start(folder.path(), &[])?,
            proxy: Server::in_front_of(&format!("http://{}", upstream.address), &[])?,
            upstream,
            _folder: folder,
        })
    }

    /// Sends each case to both hosts, and fails with all cases whose outcome is another.
    pub async fn check(&mut self, cases: impl IntoIterator<Item = Case>) -> Result<()> {
        let mut failures = Vec::new();
        for Case(request, outcome) in cases {
            let bytes = [&request, NEXT.as_bytes()].concat();
            let result = self.check_one(&bytes, outcome).await;
            if let Err(error) = result {
                let request: String = request.escape_ascii().to_string();
                failures.push(format!("{request:.300}: expected {outcome:?}: {error:#}"));
            }
        }
        ensure!(failures.is_empty(), "{}", failures.join("\n"));
        Ok(())
    }

    async fn check_one(&mut self, bytes: &[u8], outcome: Outcome) -> Result<()> {
        self.upstream.take();
        for address in [self.embedded.address, self.proxy.address] {
            let responses = exchange(address, bytes).await?;
            let statuses = &responses.statuses;
            match outcome {
                Outcome::Refused(status) => {
                    ensure!(*statuses == [status], "{responses:?}");
                    ensure!(
                        responses.text.contains("\r\nconnection: close\r\n"),
                        "{responses:?}"
                    );
                    ensure!(
                        responses.text.ends_with('\n') && !responses.text.ends_with("\r\n"),
                        "{responses:?}"
                    );
                }
                Outcome::Served(_) => ensure!(statuses.len() == 2, "{responses:?}"),
                Outcome::Last(_) => ensure!(statuses.len() == 1, "{responses:?}"),
            }
            let is_refused = |status: &u16| matches!(status, 400 | 408 | 413 | 414 | 431 | 501);
            let is_served = !matches!(outcome, Outcome::Refused(_));
            ensure!(
                !is_served || !statuses.iter().any(is_refused),
                "{responses:?}"
            );
        }
        let received = self.upstream.take();
        let bodies: Vec<&str> = received.iter().map(|it| it.body.as_str()).collect();
        match outcome {
            Outcome::Refused(_) => ensure!(received.is_empty(), "received {received:?}"),
            Outcome::Served(body) => ensure!(bodies == [body, ""], "received {received:?}"),
            Outcome::Last(body) => ensure!(bodies == [body], "received {received:?}"),
        }
        Ok(())
    }
}

/// What a client received.
#[derive(Debug)]
pub struct Responses {
    pub statuses: Vec<u16>,
    pub text: String,
}

/// Sends bytes at once, and receives until the host closes the connection.
///
/// # Errors
/// Fails if the connection is reset, since the client could then lose the response.
pub async fn exchange(address: SocketAddr, bytes: &[u8]) -> Result<Responses> {
    let stream = TcpStream::connect(address).await?;
    let (mut reader, mut writer) = stream.into_split();
    let bytes = bytes.to_vec();
    let sending = tokio::spawn(async move {
        // The host may stop reading.
        let _ = writer.write_all(&bytes).await;
        writer
    });
    let mut received = Vec::new();
    timeout(TIMEOUT, reader.read_to_end(&mut received))
        .await
        .with_context(|| format!("not closed after {:?}", received.escape_ascii()))??;
    drop(sending.await?);
    let text = String::from_utf8_lossy(&received).into_owned();
    let statuses = text
        .match_indices("HTTP/1.")
        .filter_map(|(start, _)| text.get(start + 9..start + 12)?.parse().ok())
        .filter(|status| *status >= 200)
        .collect();
    Ok(Responses { statuses, text })
}
