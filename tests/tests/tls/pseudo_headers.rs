//! Requests for WebSockets over HTTP/2 whose pseudo-header fields are wrong.

use anyhow::{Context as _, Result, ensure};
use tests::TIMEOUT;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::timeout};
use tokio_rustls::client::TlsStream;

use crate::{
    authority::serve,
    client::connect,
    http2_frame::{
        END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, frame, literals, read_frame, start,
    },
};

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// A response with status 200, which opens a WebSocket.
    Opened,
    /// A response with another status.
    Refused,
    /// The stream is reset.
    Reset,
    /// The connection is closed.
    Closed,
}

/// Sends header fields on a stream, and waits for what becomes of it.
async fn send(
    stream: &mut TlsStream<TcpStream>,
    id: u32,
    flags: u8,
    fields: &[(&str, &str)],
) -> Result<Outcome> {
    let request = frame(HEADERS, flags, id, &literals(fields));
    stream.write_all(&request).await?;
    let outcome = async {
        loop {
            let frame = read_frame(stream).await?;
            match frame.kind {
                // `:status: 200` of the static table (RFC 7541, appendix A).
                HEADERS if frame.stream == id && frame.payload.first() == Some(&0x88) => {
                    return Ok(Outcome::Opened);
                }
                HEADERS if frame.stream == id => return Ok(Outcome::Refused),
                RST_STREAM if frame.stream == id => return Ok(Outcome::Reset),
                GOAWAY => return Ok(Outcome::Closed),
                _ => {}
            }
        }
    };
    timeout(TIMEOUT, outcome).await.context("no response")?
}

const METHOD: (&str, &str) = (":method", "CONNECT");
const PROTOCOL: (&str, &str) = (":protocol", "websocket");
const SCHEME: (&str, &str) = (":scheme", "https");
const PATH: (&str, &str) = (":path", "/websocket-echo");
const AUTHORITY: (&str, &str) = (":authority", "localhost");
const VERSION: (&str, &str) = ("sec-websocket-version", "13");

#[tokio::test]
async fn no_wrong_pseudo_header_opens_a_socket() -> Result<()> {
    use Outcome::{Closed, Opened, Refused, Reset};
    let (host, authority, _folder) = serve(&[])?;
    let root = authority.root();
    for (what, fields, expected) in [
        (
            "all",
            &[METHOD, PROTOCOL, SCHEME, PATH, AUTHORITY, VERSION][..],
            Opened,
        ),
        (
            "no :method",
            &[PROTOCOL, SCHEME, PATH, AUTHORITY, VERSION],
            Reset,
        ),
        (
            "no :scheme",
            &[METHOD, PROTOCOL, PATH, AUTHORITY, VERSION],
            Reset,
        ),
        (
            "no :path",
            &[METHOD, PROTOCOL, SCHEME, AUTHORITY, VERSION],
            Reset,
        ),
        (
            "no :authority",
            &[METHOD, PROTOCOL, SCHEME, PATH, VERSION],
            Refused,
        ),
        (
            "no :protocol",
            &[METHOD, SCHEME, PATH, AUTHORITY, VERSION],
            Reset,
        ),
        ("CONNECT alone", &[METHOD, AUTHORITY], Refused),
        (
            ":protocol of a GET",
            &[
                (":method", "GET"),
                PROTOCOL,
                SCHEME,
                PATH,
                AUTHORITY,
                VERSION,
            ],
            Reset,
        ),
        (
            "an empty :protocol",
            &[METHOD, (":protocol", ""), SCHEME, PATH, AUTHORITY, VERSION],
            Refused,
        ),
        (
            "another :protocol",
            &[
                METHOD,
                (":protocol", "connect-udp"),
                SCHEME,
                PATH,
                AUTHORITY,
                VERSION,
            ],
            Refused,
        ),
        (
            "a :protocol in capitals",
            &[
                METHOD,
                (":protocol", "WebSocket"),
                SCHEME,
                PATH,
                AUTHORITY,
                VERSION,
            ],
            Refused,
        ),
        (
            "two of :protocol",
            &[METHOD, PROTOCOL, PROTOCOL, SCHEME, PATH, AUTHORITY, VERSION],
            Reset,
        ),
        (
            "two of :path",
            &[METHOD, PROTOCOL, SCHEME, PATH, PATH, AUTHORITY, VERSION],
            Reset,
        ),
        (
            "two of :authority",
            &[
                METHOD, PROTOCOL, SCHEME, PATH, AUTHORITY, AUTHORITY, VERSION,
            ],
            Reset,
        ),
        (
            "an empty :path",
            &[METHOD, PROTOCOL, SCHEME, (":path", ""), AUTHORITY, VERSION],
            Reset,
        ),
        (
            "a relative :path",
            &[
                METHOD,
                PROTOCOL,
                SCHEME,
                (":path", "websocket-echo"),
                AUTHORITY,
                VERSION,
            ],
            Reset,
        ),
        (
            "a :path with a space",
            &[
                METHOD,
                PROTOCOL,
                SCHEME,
                (":path", "/websocket-echo a"),
                AUTHORITY,
                VERSION,
            ],
            Reset,
        ),
        (
            "another :scheme",
            &[
                METHOD,
                PROTOCOL,
                (":scheme", "ftp"),
                PATH,
                AUTHORITY,
                VERSION,
            ],
            Refused,
        ),
        (
            "an empty :authority",
            &[METHOD, PROTOCOL, SCHEME, PATH, (":authority", ""), VERSION],
            Reset,
        ),
        (
            "an :authority with a user",
            &[
                METHOD,
                PROTOCOL,
                SCHEME,
                PATH,
                (":authority", "a@localhost"),
                VERSION,
            ],
            Refused,
        ),
        (
            "another host",
            &[
                METHOD,
                PROTOCOL,
                SCHEME,
                PATH,
                AUTHORITY,
                VERSION,
                ("host", "other"),
            ],
            Refused,
        ),
        (
            "a :status",
            &[
                METHOD,
                PROTOCOL,
                SCHEME,
                PATH,
                AUTHORITY,
                (":status", "200"),
                VERSION,
            ],
            Reset,
        ),
        (
            "an unknown one",
            &[
                METHOD,
                PROTOCOL,
                SCHEME,
                PATH,
                AUTHORITY,
                (":version", "13"),
                VERSION,
            ],
            Reset,
        ),
        (
            "one after a header",
            &[METHOD, PROTOCOL, SCHEME, PATH, VERSION, AUTHORITY],
            Reset,
        ),
        (
            "a header of a connection",
            &[
                METHOD,
                PROTOCOL,
                SCHEME,
                PATH,
                AUTHORITY,
                VERSION,
                ("upgrade", "websocket"),
            ],
            Reset,
        ),
        (
            "a header in capitals",
            &[
                METHOD,
                PROTOCOL,
                SCHEME,
                PATH,
                AUTHORITY,
                ("Sec-WebSocket-Version", "13"),
            ],
            Closed,
        ),
    ] {
        let mut stream = connect(host.address, "localhost", &root, &["h2"]).await?;
        start(&mut stream).await?;
        let outcome = send(&mut stream, 1, END_HEADERS, fields)
            .await
            .context(what)?;
        ensure!(outcome == expected, "{what}: {outcome:?}");
        if outcome != Closed {
            // The connection still serves requests.
            let page = [(":method", "GET"), SCHEME, (":path", "/"), AUTHORITY];
            let page = send(&mut stream, 3, END_HEADERS | END_STREAM, &page)
                .await
                .context(what)?;
            ensure!(page == Opened, "a request after {what}: {page:?}");
        }
        let sessions = u64::from(expected == Opened);
        ensure!(host.count("sessions").await? == sessions, "{what}");
        drop(stream);
        tests::eventually("the end of the session", async || {
            (host.count("sessions").await.ok()? == 0).then_some(())
        })
        .await?;
    }
    Ok(())
}
