//! A client of the reload socket.

use anyhow::{Result, bail, ensure};
use serde_json::Value;
use tests::{Client, Server, TIMEOUT};

/// The WebSocket of `/.socket-host/reload`, as a page opens it.
pub struct ReloadSocket {
    pub socket: Client,
    /// The last state that was received.
    pub state: Value,
}

impl ReloadSocket {
    pub async fn open(host: &Server) -> Result<Self> {
        let origin = format!("http://{}", host.address);
        let headers = [("origin", origin.as_str())];
        let socket = Client::open(host.address, "/.socket-host/reload", &headers);
        let socket = socket.await.map_err(|error| error.error)?;
        let mut page = Self {
            socket,
            state: Value::Null,
        };
        page.next().await?;
        Ok(page)
    }

    /// Waits for the next state.
    pub async fn next(&mut self) -> Result<()> {
        self.state = self.socket.event().await?;
        Ok(())
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
