//! What a page hears.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tests::{Server, TIMEOUT};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// What a page hears.
pub struct Stream {
    socket: TcpStream,
    heard: String,
    /// The last state that was heard.
    pub state: Value,
}

impl Stream {
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
            heard: String::new(),
            state: Value::Null,
        };
        stream.next().await?;
        Ok(stream)
    }

    /// Waits for the next state.
    pub async fn next(&mut self) -> Result<()> {
        let mut bytes = vec![0; 128 << 10];
        loop {
            // Each event is a chunk, and so is whole within the chunks' framing.
            if let Some((_, rest)) = self.heard.split_once("data: ")
                && let Some((event, after)) = rest.split_once("\n\n")
            {
                self.state = serde_json::from_str(event)?;
                self.heard = after.to_owned();
                return Ok(());
            }
            let read = tokio::time::timeout(TIMEOUT, self.socket.read(&mut bytes));
            let length = read.await.context("nothing is told")??;
            ensure!(length > 0, "the stream ended: {}", self.heard);
            self.heard += &String::from_utf8_lossy(&bytes[..length]);
        }
    }

    /// Waits for a state in which this holds.
    pub async fn until(&mut self, what: &str, holds: impl Fn(&Value) -> bool) -> Result<()> {
        let told = async {
            while !holds(&self.state) {
                self.next().await?;
            }
            Ok(())
        };
        match tokio::time::timeout(TIMEOUT, told).await {
            Ok(told) => told,
            Err(_) => bail!("waited in vain for {what}: {}", self.state),
        }
    }

    /// How often pages were told to load again, and to take their style sheets again.
    pub fn told(&self) -> (u64, u64) {
        let count = |name: &str| self.state[name].as_u64().unwrap_or_default();
        (count("pages"), count("styles"))
    }

    /// Waits until pages are told to load again; more than once is a failure.
    pub async fn pages(&mut self) -> Result<()> {
        let (pages, styles) = self.told();
        self.until("pages", |state| state["pages"] != pages).await?;
        ensure!(self.told() == (pages + 1, styles), "{}", self.state);
        Ok(())
    }

    /// Waits until pages are told to take their style sheets again, and nothing else.
    pub async fn styles(&mut self) -> Result<()> {
        let (pages, styles) = self.told();
        self.until("styles", |state| state["styles"] != styles)
            .await?;
        ensure!(self.told() == (pages, styles + 1), "{}", self.state);
        Ok(())
    }

    pub fn problems(&self) -> String {
        self.state["problems"].to_string()
    }

    pub async fn mended(&mut self) -> Result<()> {
        self.until("no problem", |state| {
            state["problems"] == serde_json::json!([])
        })
        .await
    }

    pub async fn broken(&mut self) -> Result<String> {
        self.until("a problem", |state| {
            state["problems"] != serde_json::json!([])
        })
        .await?;
        Ok(self.problems())
    }
}
