//! Components that handle WebSockets by typed frames (SIP-016).
//!
//! - `suite` is a list of exchanges whose outcome is the same behind typed frames and over HTTP.
//! - `frames` is about calls: their order, instances, failures, and the last frame.
//! - `sending` is about tokens, and `bus` about those of other hosts.
//! - `hostile` has clients that misbehave.
//! - `example` is that of the docs, and `python` a component in Python.

mod bus;
mod example;
mod frames;
mod hostile;
mod python;
mod sending;
mod suite;

use anyhow::{Context as _, Result, bail};
use tests::Client;
use tokio_tungstenite::tungstenite::Message;

/// Returns the next text message.
async fn text(client: &mut Client) -> Result<String> {
    loop {
        match client.next().await?.context("the socket was closed")? {
            Message::Text(text) => return Ok(text.to_string()),
            Message::Ping(_) | Message::Pong(_) => {}
            other => bail!("expected a text, got {other:?}"),
        }
    }
}

/// Sends a text message, and returns the next one.
async fn ask(client: &mut Client, message: &str) -> Result<String> {
    client.send(message).await?;
    text(client).await
}
