//! Requests for WebSockets over HTTP/2 whose pseudo-header fields are wrong.

use anyhow::{Context as _, Result, ensure};
use tests::{
    TIMEOUT, eventually,
    http2_frame::{
        END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, frame, literals, read_frame, start,
    },
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::timeout};
use tokio_rustls::client::TlsStream;

use crate::{authority::serve, client::connect};

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

type Fields = Vec<(&'static str, &'static str)>;

/// The fields of a valid request.
const VALID: [(&str, &str); 6] = [
    (":method", "CONNECT"),
    (":protocol", "websocket"),
    (":scheme", "https"),
    (":path", "/websocket-echo"),
    (":authority", "localhost"),
    ("sec-websocket-version", "13"),
];

fn without(name: &str) -> Fields {
    VALID.into_iter().filter(|field| field.0 != name).collect()
}

/// Replaces the value of a field.
fn replaced(name: &'static str, value: &'static str) -> Fields {
    let replace = |field: (&'static str, _)| {
        if field.0 == name {
            (name, value)
        } else {
            field
        }
    };
    VALID.map(replace).to_vec()
}

/// Inserts a field among the pseudo-headers.
fn inserted(name: &'static str, value: &'static str) -> Fields {
    let mut fields = VALID.to_vec();
    fields.insert(4, (name, value));
    fields
}

/// Appends a field after the headers.
fn appended(fields: Fields, name: &'static str, value: &'static str) -> Fields {
    [fields, vec![(name, value)]].concat()
}

#[tokio::test]
async fn no_wrong_pseudo_header_opens_a_socket() -> Result<()> {
    use Outcome::{Closed, Opened, Refused, Reset};
    let (host, authority, _folder) = serve(&[])?;
    let root = authority.root();
    let valid = VALID.to_vec();
    for (what, fields, expected) in [
        ("a valid request", valid.clone(), Opened),
        ("no :method", without(":method"), Reset),
        ("no :scheme", without(":scheme"), Reset),
        ("no :path", without(":path"), Reset),
        ("no :authority", without(":authority"), Refused),
        ("no :protocol", without(":protocol"), Reset),
        ("a GET with :protocol", replaced(":method", "GET"), Reset),
        ("an empty :protocol", replaced(":protocol", ""), Refused),
        (
            "another :protocol",
            replaced(":protocol", "connect-udp"),
            Refused,
        ),
        (
            "a :protocol in capitals",
            replaced(":protocol", "WebSocket"),
            Refused,
        ),
        (
            "two of :protocol",
            inserted(":protocol", "websocket"),
            Reset,
        ),
        ("two of :path", inserted(":path", "/websocket-echo"), Reset),
        (
            "two of :authority",
            inserted(":authority", "localhost"),
            Reset,
        ),
        ("an empty :path", replaced(":path", ""), Reset),
        (
            "a relative :path",
            replaced(":path", "websocket-echo"),
            Reset,
        ),
        (
            "a space in :path",
            replaced(":path", "/websocket echo"),
            Reset,
        ),
        ("another :scheme", replaced(":scheme", "ftp"), Refused),
        ("an empty :authority", replaced(":authority", ""), Reset),
        (
            "a user in :authority",
            replaced(":authority", "a@localhost"),
            Refused,
        ),
        (
            "another Host",
            appended(valid.clone(), "host", "other"),
            Refused,
        ),
        ("a :status", inserted(":status", "200"), Reset),
        (
            "an unknown pseudo-header",
            inserted(":version", "13"),
            Closed,
        ),
        (
            "a pseudo-header after a header",
            appended(without(":authority"), ":authority", "localhost"),
            Reset,
        ),
        (
            "an Upgrade header",
            appended(valid.clone(), "upgrade", "websocket"),
            Reset,
        ),
        (
            "a header in capitals",
            appended(valid, "Origin", "https://localhost"),
            Closed,
        ),
    ] {
        let mut stream = connect(host.address, "localhost", &root, &["h2"]).await?;
        start(&mut stream).await?;
        let outcome = send(&mut stream, 1, END_HEADERS, &fields)
            .await
            .context(what)?;
        ensure!(outcome == expected, "{what}: {outcome:?}");
        if outcome != Closed {
            // The connection still serves requests.
            let page = [
                (":method", "GET"),
                (":scheme", "https"),
                (":path", "/"),
                (":authority", "localhost"),
            ];
            let page = send(&mut stream, 3, END_HEADERS | END_STREAM, &page)
                .await
                .context(what)?;
            ensure!(page == Opened, "a request after {what}: {page:?}");
        }
        let sessions = u64::from(expected == Opened);
        ensure!(host.count("sessions").await? == sessions, "{what}");
        drop(stream);
        eventually("the end of the session", async || {
            (host.count("sessions").await.ok()? == 0).then_some(())
        })
        .await?;
    }
    Ok(())
}
