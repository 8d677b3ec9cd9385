//! WebSocket client for the tests.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest, http::HeaderValue},
};

use crate::TIMEOUT;

/// A ping that Socket Burger's component answers itself. It leaves the ping of the page to the host, which
/// compares bytes.
pub const COMPONENT_PING: &str = r#"{ "event": "ping" }"#;

/// A WebSocket client.
pub struct Client<S = TcpStream>(pub WebSocketStream<S>);

/// A failed handshake.
#[derive(Debug)]
pub struct HandshakeError {
    /// The status of the response, if there was one.
    pub status: Option<u16>,
    /// The cause.
    pub error: anyhow::Error,
}

impl HandshakeError {
    fn new(error: impl Into<anyhow::Error>) -> Self {
        Self {
            status: None,
            error: error.into(),
        }
    }
}

impl Client {
    /// Opens a WebSocket with additional headers.
    pub async fn open(
        address: SocketAddr,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, HandshakeError> {
        let stream = TcpStream::connect(address)
            .await
            .map_err(HandshakeError::new)?;
        Self::over(stream, &format!("ws://{address}{path}"), headers).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// Opens a WebSocket on a connection.
    pub async fn over(
        stream: S,
        url: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, HandshakeError> {
        let mut request = url.into_client_request().map_err(HandshakeError::new)?;
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).map_err(HandshakeError::new)?;
            request.headers_mut().insert(*name, value);
        }
        match tokio::time::timeout(TIMEOUT, client_async(request, stream)).await {
            Ok(Ok((socket, _))) => Ok(Self(socket)),
            Ok(Err(error)) => {
                let status = match &error {
                    Error::Http(response) => Some(response.status().as_u16()),
                    _ => None,
                };
                Err(HandshakeError {
                    status,
                    error: error.into(),
                })
            }
            Err(_) => Err(HandshakeError::new(anyhow::anyhow!(
                "no response to the handshake"
            ))),
        }
    }

    /// Sends a text message.
    pub async fn send(&mut self, text: &str) -> Result<()> {
        Ok(self.0.send(Message::text(text)).await?)
    }

    /// Returns the next message of any kind, or `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Message>> {
        let next = tokio::time::timeout(TIMEOUT, self.0.next())
            .await
            .context("no message received")?;
        Ok(next.transpose()?)
    }

    /// Returns the next event of the application.
    pub async fn event(&mut self) -> Result<Value> {
        loop {
            match self.next().await?.context("the socket was closed")? {
                Message::Text(text) => return Ok(serde_json::from_str(&text)?),
                Message::Ping(_) | Message::Pong(_) => {}
                other => bail!("unexpected {other:?}"),
            }
        }
    }

    /// Returns the detail of the next event with this name and skips other events.
    pub async fn event_named(&mut self, name: &str) -> Result<Value> {
        loop {
            let event = self.event().await?;
            if event["event"] == name {
                return Ok(event["detail"].clone());
            }
        }
    }

    /// Returns the next order received.
    pub async fn order(&mut self) -> Result<Value> {
        Ok(self.event_named("order-received").await?["order"].clone())
    }

    /// Reads until the server closes the socket and returns its close code.
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
