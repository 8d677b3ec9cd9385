//! What a case is as a client: of HTTP, one connection a request, and of WebSockets.

use std::net::SocketAddr;

use crate::case::PATIENCE;
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
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

use crate::backend::one;

/// An HTTP request.
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

/// Sends a request and reads its answer to the end.
pub async fn send(address: SocketAddr, request: Request<Full<Bytes>>) -> Result<Answer> {
    let held = hold(address, request).await?;
    tokio::time::timeout(PATIENCE, held.whole())
        .await
        .context("the answer does not end")?
}

/// Sends a request and reads the head of its answer.
pub async fn hold(address: SocketAddr, request: Request<Full<Bytes>>) -> Result<Held> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = Connection(tokio::spawn(async move {
        let _ = connection.with_upgrades().await;
    }));
    let response = tokio::time::timeout(PATIENCE, sender.send_request(request))
        .await
        .context("no answer comes")??;
    Ok(Held {
        response,
        read: Vec::new(),
        _connection: connection,
    })
}

/// The task of a connection. Dropped, the connection is closed, unless it was upgraded.
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An answer whose body still comes. Dropped, the connection is closed.
pub struct Held {
    response: Response<Incoming>,
    read: Vec<u8>,
    _connection: Connection,
}

impl Held {
    /// The status.
    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// The reason phrase, where it is not the usual one.
    pub fn reason(&self) -> Option<&str> {
        let reason = self.response.extensions().get::<ReasonPhrase>()?;
        std::str::from_utf8(reason.as_bytes()).ok()
    }

    /// A header's text, if there is exactly one.
    pub fn header(&self, name: &str) -> Option<&str> {
        one(self.response.headers(), name)
    }

    /// All headers.
    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// Reads until all of `expected` has come, and nothing else before it.
    pub async fn expect(&mut self, expected: &str) -> Result<()> {
        let expected = expected.as_bytes();
        while self.read.len() < expected.len() && expected.starts_with(&self.read) {
            match self.more().await? {
                Some(data) => self.read.extend(data),
                None => bail!(
                    "the body ends after {:?}, before {:?}",
                    String::from_utf8_lossy(&self.read),
                    String::from_utf8_lossy(expected)
                ),
            }
        }
        ensure!(
            self.read.starts_with(expected),
            "{:?} comes, not {:?}",
            String::from_utf8_lossy(&self.read),
            String::from_utf8_lossy(expected)
        );
        self.read.drain(..expected.len());
        Ok(())
    }

    /// The next line, with its end.
    pub async fn line(&mut self) -> Result<String> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line = self.read.drain(..=end).collect();
                return Ok(String::from_utf8(line)?);
            }
            let more = self.more().await?.context("the body ends")?;
            self.read.extend(more);
        }
    }

    /// The next so many bytes.
    pub async fn bytes(&mut self, length: usize) -> Result<Vec<u8>> {
        while self.read.len() < length {
            let more = self.more().await?.context("the body ends")?;
            self.read.extend(more);
        }
        Ok(self.read.drain(..length).collect())
    }

    /// Reads until the end, which must be next.
    pub async fn ended(&mut self) -> Result<()> {
        match self.more().await? {
            None if self.read.is_empty() => Ok(()),
            more => bail!(
                "more comes: {:?} {more:?}",
                String::from_utf8_lossy(&self.read)
            ),
        }
    }

    async fn more(&mut self) -> Result<Option<Bytes>> {
        loop {
            let frame = tokio::time::timeout(PATIENCE, self.response.body_mut().frame())
                .await
                .context("no more of the body comes")?;
            match frame.transpose()?.map(|frame| frame.into_data()) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => return Ok(Some(data)),
                Some(Err(_)) => {}
                None => return Ok(None),
            }
        }
    }

    async fn whole(mut self) -> Result<Answer> {
        let mut body = std::mem::take(&mut self.read);
        while let Some(data) = self.more().await? {
            body.extend(data);
        }
        Ok(Answer {
            status: self.status(),
            headers: std::mem::take(self.response.headers_mut()),
            body: body.into(),
        })
    }
}

/// An answer, whole.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// A header's text, if there is exactly one.
    pub fn header(&self, name: &str) -> Option<&str> {
        one(&self.headers, name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A request for a WebSocket.
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

/// Asks for a WebSocket. An answer that refuses it is read to its end.
pub async fn shake(address: SocketAddr, request: Request<()>) -> Result<Handshake> {
    let key = request.headers().get("sec-websocket-key");
    let accept = derive_accept_key(key.context("a key")?.as_bytes());
    let mut held = hold(address, request.map(|()| Full::default())).await?;
    if held.status() != StatusCode::SWITCHING_PROTOCOLS.as_u16() {
        let answer = tokio::time::timeout(PATIENCE, held.whole()).await;
        return Ok(Handshake::Refused(
            answer.context("the refusal does not end")??,
        ));
    }
    for (name, value) in [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-accept", accept.as_str()),
    ] {
        let said = held.header(name).unwrap_or_default();
        ensure!(
            said.eq_ignore_ascii_case(value),
            "{name} is {said:?} in a 101"
        );
    }
    let headers = std::mem::take(held.response.headers_mut());
    let upgraded = hyper::upgrade::on(&mut held.response).await?;
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None);
    Ok(Handshake::Accepted(Box::new(Socket(socket.await)), headers))
}

/// The answer to a handshake.
pub enum Handshake {
    /// A socket, and the headers of the 101.
    Accepted(Box<Socket>, HeaderMap),
    /// Another answer.
    Refused(Answer),
}

impl Handshake {
    /// The socket.
    pub fn accepted(self) -> Result<Socket> {
        Ok(self.accepted_with_headers()?.0)
    }

    /// The socket, and the headers of the 101.
    pub fn accepted_with_headers(self) -> Result<(Socket, HeaderMap)> {
        match self {
            Self::Accepted(socket, headers) => Ok((*socket, headers)),
            Self::Refused(answer) => bail!("the handshake is refused: {answer:?}"),
        }
    }

    /// The answer that refuses it.
    pub fn refused(self) -> Result<Answer> {
        match self {
            Self::Refused(answer) => {
                ensure!(answer.status != StatusCode::SWITCHING_PROTOCOLS.as_u16());
                Ok(answer)
            }
            Self::Accepted(..) => bail!("the handshake is accepted"),
        }
    }
}

/// A WebSocket. Dropped, it is gone without a close.
pub struct Socket(WebSocketStream<TokioIo<Upgraded>>);

impl Socket {
    /// Sends a text.
    pub async fn send(&mut self, text: &str) -> Result<()> {
        self.message(Message::text(text)).await
    }

    /// Sends a message of any kind.
    pub async fn message(&mut self, message: Message) -> Result<()> {
        Ok(self.0.send(message).await?)
    }

    /// Sends the pong for a ping that was read, if there was one.
    pub async fn flush(&mut self) -> Result<()> {
        Ok(self.0.flush().await?)
    }

    /// Sends a frame as it is: one of several that are a message together.
    pub async fn frame(&mut self, kind: Data, last: bool, payload: &'static [u8]) -> Result<()> {
        let frame = Frame::message(payload, OpCode::Data(kind), last);
        self.message(Message::Frame(frame)).await
    }

    /// Sends a close.
    pub async fn close(&mut self, code: u16, reason: &str) -> Result<()> {
        let frame = CloseFrame {
            code: code.into(),
            reason: reason.into(),
        };
        self.message(Message::Close(Some(frame))).await
    }

    /// The next message of any kind; `None` at the end of the connection, however it ends.
    pub async fn next(&mut self) -> Result<Option<Message>> {
        let next = tokio::time::timeout(PATIENCE, self.0.next())
            .await
            .context("nothing comes to the client")?;
        match next.transpose() {
            Ok(message) => Ok(message),
            // Cut without a close.
            Err(Error::Protocol(_) | Error::Io(_) | Error::ConnectionClosed) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The next message, which must be text.
    pub async fn text(&mut self) -> Result<String> {
        match self.next().await? {
            Some(Message::Text(text)) => Ok(text.as_str().to_owned()),
            other => bail!("{other:?} comes to the client, not a text"),
        }
    }

    /// Fails unless this text is next.
    pub async fn expect(&mut self, text: &str) -> Result<()> {
        let came = self.text().await?;
        ensure!(came == text, "{came:?} comes to the client, not {text:?}");
        Ok(())
    }

    /// Fails unless a close is next; gives its code and reason.
    pub async fn closed(&mut self) -> Result<Option<(u16, String)>> {
        match self.next().await? {
            Some(Message::Close(frame)) => {
                Ok(frame.map(|frame| (frame.code.into(), frame.reason.as_str().to_owned())))
            }
            other => bail!("{other:?} comes to the client, not a close"),
        }
    }

    /// Fails unless the connection ends next, without a close.
    pub async fn cut(&mut self) -> Result<()> {
        match self.next().await? {
            None => Ok(()),
            other => bail!("{other:?} comes to the client, not the end"),
        }
    }
}
