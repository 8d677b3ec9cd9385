//! HTTP client with one connection per request, and WebSocket client.

use std::net::SocketAddr;

use crate::case::TIMEOUT;
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1, ext::ReasonPhrase, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinHandle};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest,
        handshake::derive_accept_key,
        protocol::{
            CloseFrame, Role,
            frame::{
                Frame,
                coding::{Data, OpCode},
            },
        },
    },
};

use crate::backend::single_header;

/// Builds an HTTP request.
pub fn request(
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Request<Full<Bytes>>> {
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", "localhost");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Ok(request.body(Full::new(Bytes::from(body.to_owned())))?)
}

/// Sends a request and reads the complete response.
pub async fn send(address: SocketAddr, request: Request<Full<Bytes>>) -> Result<Response> {
    let held = hold(address, request).await?;
    tokio::time::timeout(TIMEOUT, held.complete())
        .await
        .context("the response does not end")?
}

/// Sends a request and reads the head of the response.
pub async fn hold(address: SocketAddr, request: Request<Full<Bytes>>) -> Result<HeldResponse> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = Connection(tokio::spawn(async move {
        let _ = connection.with_upgrades().await;
    }));
    let response = tokio::time::timeout(TIMEOUT, sender.send_request(request))
        .await
        .context("no response")??;
    Ok(HeldResponse {
        response,
        read: Vec::new(),
        _connection: connection,
    })
}

/// The task of a connection. Closes the connection on drop, unless it was upgraded.
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A response whose body is still being sent. Closes the connection on drop.
pub struct HeldResponse {
    response: http::Response<Incoming>,
    read: Vec<u8>,
    _connection: Connection,
}

impl HeldResponse {
    /// Returns the status.
    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// Returns the reason phrase if it is not the standard one.
    pub fn reason(&self) -> Option<&str> {
        let reason = self.response.extensions().get::<ReasonPhrase>()?;
        std::str::from_utf8(reason.as_bytes()).ok()
    }

    /// Returns the value of a header that occurs exactly once.
    pub fn header(&self, name: &str) -> Option<&str> {
        single_header(self.response.headers(), name)
    }

    /// Returns all headers.
    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// Reads `expected`. Fails if anything else is received.
    pub async fn expect(&mut self, expected: &str) -> Result<()> {
        let expected = expected.as_bytes();
        while self.read.len() < expected.len() && expected.starts_with(&self.read) {
            match self.read_more().await? {
                Some(data) => self.read.extend(data),
                None => bail!(
                    "the body ends after {:?}, expected {:?}",
                    String::from_utf8_lossy(&self.read),
                    String::from_utf8_lossy(expected)
                ),
            }
        }
        ensure!(
            self.read.starts_with(expected),
            "received {:?}, expected {:?}",
            String::from_utf8_lossy(&self.read),
            String::from_utf8_lossy(expected)
        );
        self.read.drain(..expected.len());
        Ok(())
    }

    /// Returns the next line with its line feed.
    pub async fn line(&mut self) -> Result<String> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line = self.read.drain(..=end).collect();
                return Ok(String::from_utf8(line)?);
            }
            let more = self.read_more().await?.context("the body ends")?;
            self.read.extend(more);
        }
    }

    /// Returns the next `length` bytes.
    pub async fn bytes(&mut self, length: usize) -> Result<Vec<u8>> {
        while self.read.len() < length {
            let more = self.read_more().await?.context("the body ends")?;
            self.read.extend(more);
        }
        Ok(self.read.drain(..length).collect())
    }

    /// Fails unless the body ends here.
    pub async fn ended(&mut self) -> Result<()> {
        match self.read_more().await? {
            None if self.read.is_empty() => Ok(()),
            more => bail!(
                "the body continues: {:?} {more:?}",
                String::from_utf8_lossy(&self.read)
            ),
        }
    }

    async fn read_more(&mut self) -> Result<Option<Bytes>> {
        loop {
            let frame = tokio::time::timeout(TIMEOUT, self.response.body_mut().frame())
                .await
                .context("the body does not continue")?;
            match frame.transpose()?.map(|frame| frame.into_data()) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => return Ok(Some(data)),
                Some(Err(_)) => {}
                None => return Ok(None),
            }
        }
    }

    async fn complete(mut self) -> Result<Response> {
        let mut body = std::mem::take(&mut self.read);
        while let Some(data) = self.read_more().await? {
            body.extend(data);
        }
        Ok(Response {
            status: self.status(),
            headers: std::mem::take(self.response.headers_mut()),
            body: body.into(),
        })
    }
}

/// A complete response.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Response {
    /// Returns the value of a header that occurs exactly once.
    pub fn header(&self, name: &str) -> Option<&str> {
        single_header(&self.headers, name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Builds a request for a WebSocket.
pub fn upgrade(
    address: SocketAddr,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Result<Request<()>> {
    let mut request = format!("ws://{address}{path}").into_client_request()?;
    *request.uri_mut() = path.parse()?;
    for (name, value) in headers {
        let name = HeaderName::from_static(name);
        request
            .headers_mut()
            .append(name, HeaderValue::from_str(value)?);
    }
    Ok(request)
}

/// Requests a WebSocket. If it is refused, reads the complete response.
pub async fn handshake(address: SocketAddr, request: Request<()>) -> Result<Handshake> {
    let key = request.headers().get("sec-websocket-key");
    let accept = derive_accept_key(
        key.context("no Sec-WebSocket-Key in the request")?
            .as_bytes(),
    );
    let mut held = hold(address, request.map(|()| Full::default())).await?;
    if held.status() != StatusCode::SWITCHING_PROTOCOLS.as_u16() {
        let response = tokio::time::timeout(TIMEOUT, held.complete()).await;
        return Ok(Handshake::Refused(
            response.context("the response does not end")??,
        ));
    }
    for (name, value) in [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-accept", accept.as_str()),
    ] {
        let actual = held.header(name).unwrap_or_default();
        ensure!(
            actual.eq_ignore_ascii_case(value),
            "{name} is {actual:?} in the 101"
        );
    }
    let headers = std::mem::take(held.response.headers_mut());
    let upgraded = hyper::upgrade::on(&mut held.response).await?;
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None);
    Ok(Handshake::Accepted(Box::new(Socket(socket.await)), headers))
}

/// The result of a handshake.
pub enum Handshake {
    /// The socket and the headers of the 101.
    Accepted(Box<Socket>, HeaderMap),
    /// Any other response.
    Refused(Response),
}

impl Handshake {
    /// Returns the socket. Fails if it was refused.
    pub fn accepted(self) -> Result<Socket> {
        Ok(self.accepted_with_headers()?.0)
    }

    /// Returns the socket and the headers of the 101. Fails if it was refused.
    pub fn accepted_with_headers(self) -> Result<(Socket, HeaderMap)> {
        match self {
            Self::Accepted(socket, headers) => Ok((*socket, headers)),
            Self::Refused(response) => bail!("the handshake is refused: {response:?}"),
        }
    }

    /// Returns the response that refused the socket. Fails if it was accepted.
    pub fn refused(self) -> Result<Response> {
        match self {
            Self::Refused(response) => {
                ensure!(response.status != StatusCode::SWITCHING_PROTOCOLS.as_u16());
                Ok(response)
            }
            Self::Accepted(..) => bail!("the handshake was accepted"),
        }
    }
}

/// A WebSocket. Disconnects without a close on drop.
pub struct Socket(WebSocketStream<TokioIo<Upgraded>>);

impl Socket {
    /// Sends a text message.
    pub async fn send(&mut self, text: &str) -> Result<()> {
        self.message(Message::text(text)).await
    }

    /// Sends a message of any kind.
    pub async fn message(&mut self, message: Message) -> Result<()> {
        Ok(self.0.send(message).await?)
    }

    /// Sends the pending pong, if any.
    pub async fn flush(&mut self) -> Result<()> {
        Ok(self.0.flush().await?)
    }

    /// Sends one frame of a fragmented message.
    pub async fn frame(&mut self, kind: Data, last: bool, payload: &'static [u8]) -> Result<()> {
        let frame = Frame::message(payload, OpCode::Data(kind), last);
        self.message(Message::Frame(frame)).await
    }

    /// Sends a close frame.
    pub async fn close(&mut self, code: u16, reason: &str) -> Result<()> {
        let frame = CloseFrame {
            code: code.into(),
            reason: reason.into(),
        };
        self.message(Message::Close(Some(frame))).await
    }

    /// Returns the next message of any kind, or `None` at the end of the connection.
    pub async fn next(&mut self) -> Result<Option<Message>> {
        let next = tokio::time::timeout(TIMEOUT, self.0.next())
            .await
            .context("the client received no message")?;
        match next.transpose() {
            Ok(message) => Ok(message),
            // Disconnected without a close.
            Err(Error::Protocol(_) | Error::Io(_) | Error::ConnectionClosed) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the next message, which must be text.
    pub async fn text(&mut self) -> Result<String> {
        match self.next().await? {
            Some(Message::Text(text)) => Ok(text.as_str().to_owned()),
            other => bail!("the client received {other:?}, expected a text"),
        }
    }

    /// Fails unless the next message is this text.
    pub async fn expect(&mut self, text: &str) -> Result<()> {
        let received = self.text().await?;
        ensure!(
            received == text,
            "the client received {received:?}, expected {text:?}"
        );
        Ok(())
    }

    /// Returns code and reason of the next message, which must be a close.
    pub async fn closed(&mut self) -> Result<Option<(u16, String)>> {
        match self.next().await? {
            Some(Message::Close(frame)) => {
                Ok(frame.map(|frame| (frame.code.into(), frame.reason.as_str().to_owned())))
            }
            other => bail!("the client received {other:?}, expected a close"),
        }
    }

    /// Fails unless the connection ends next, without a close.
    pub async fn disconnected(&mut self) -> Result<()> {
        match self.next().await? {
            None => Ok(()),
            other => bail!("the client received {other:?}, expected a disconnect"),
        }
    }
}
