//! A client of the reload event stream.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tests::{Server, TIMEOUT};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// The event stream of `/.socket-host/reload`, as a page receives it.
pub struct ReloadStream {
    socket: TcpStream,
    /// Received text that has not been parsed yet.
    buffer: String,
    /// The last state that was received.
    pub state: Value,
}

impl ReloadStream {
    pub async fn open(host: &Server) -> Result<Self> {
        let mut socket = TcpStream::connect(host.address).await?;
        let head = format!(
            "GET /.socket-host/reload HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n\r\n",
            host.address
        );
        socket.write_all(head.as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tokio::time::timeout(TIMEOUT, socket.read_u8()).await??);
        }
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        ensure!(
            head.contains(" 200 ") && head.contains("content-type: text/event-stream"),
            "{head}"
        );
        let mut stream = Self {
            socket,
            buffer: String::new(),
            state: Value::Null,
        };
        stream.next().await?;
        Ok(stream)
    }

    /// Waits for the next state.
    pub async fn next(&mut self) -> Result<()> {
        let mut bytes = vec![0; 128 << 10];
        loop {
            // The host sends each event as one chunk, so the framing does not split it.
            if let Some((_, rest)) = self.buffer.split_once("data: ")
                && let Some((event, after)) = rest.split_once("\n\n")
            {
                self.state = serde_json::from_str(event)?;
                self.buffer = after.to_owned();
                return Ok(());
            }
            let read = tokio::time::timeout(TIMEOUT, self.socket.read(&mut bytes));
            let length = read.await.context("no event")??;
            ensure!(length > 0, "the stream ended: {}", self.buffer);
            self.buffer += &String::from_utf8_lossy(&bytes[..length]);
        }
    }

    /// Waits for a state that satisfies the predicate.
    pub async fn until(&mut self, what: &str, predicate: impl Fn(&Value) -> bool) -> Result<()> {
        let state = async {
            while !predicate(&self.state) {
                self.next().await?;
            }
            Ok(())
        };
        match tokio::time::timeout(TIMEOUT, state).await {
            Ok(result) => result,
            Err(_) => bail!("timed out waiting for {what}: {}", self.state),
        }
    }

    /// Returns how often pages and style sheets have been reloaded.
    pub fn counts(&self) -> (u64, u64) {
        let count = |name: &str| self.state[name].as_u64().unwrap_or_default();
        (count("pages"), count("styles"))
    }

    /// Waits for a reload of pages. Fails if there is more than one, or a reload of style sheets.
    pub async fn page_reload(&mut self) -> Result<()> {
        let (pages, styles) = self.counts();
        self.until("a page reload", |state| state["pages"] != pages)
            .await?;
        ensure!(self.counts() == (pages + 1, styles), "{}", self.state);
        Ok(())
    }

    /// Waits for a reload of style sheets. Fails if there is more than one, or a reload of pages.
    pub async fn style_reload(&mut self) -> Result<()> {
        let (pages, styles) = self.counts();
        self.until("a style sheet reload", |state| state["styles"] != styles)
            .await?;
        ensure!(self.counts() == (pages, styles + 1), "{}", self.state);
        Ok(())
    }

    pub fn problems(&self) -> String {
        self.state["problems"].to_string()
    }

    pub async fn no_problem(&mut self) -> Result<()> {
        self.until("no problem", |state| {
            state["problems"] == serde_json::json!([])
        })
        .await
    }

    pub async fn problem(&mut self) -> Result<String> {
        self.until("a problem", |state| {
            state["problems"] != serde_json::json!([])
        })
        .await?;
        Ok(self.problems())
    }
}
