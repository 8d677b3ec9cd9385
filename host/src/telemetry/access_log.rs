//! The access log: a line for each request of a client, and for each WebSocket that has ended.
//!
//! Lines are events of [`TARGET`], so they have the format of the log. What clients send is bounded,
//! and cannot add lines or control characters.

use std::{
    borrow::Cow,
    net::IpAddr,
    time::{Duration, Instant},
};

use tracing::info;

use crate::metrics::close_reason::CloseReason;

/// The target of the events.
pub(crate) const TARGET: &str = "socket_host::access";

/// The longest method that is recorded, in bytes.
pub(crate) const MAX_METHOD_BYTES: usize = 32;

/// The longest path of a WebSocket that is logged, in bytes.
const MAX_PATH_BYTES: usize = 2048;

/// What a line contains of a request.
pub(crate) struct AccessLine {
    pub(crate) client: IpAddr,
    pub(crate) method: String,
    /// The path, without the query, which may contain secrets.
    pub(crate) path: String,
    pub(crate) user_agent: Option<String>,
    pub(crate) trace_id: Option<u128>,
}

/// Logs a request whose response has ended. There is no status if the client disconnected before.
pub(crate) fn request(
    line: &AccessLine,
    status: Option<u16>,
    bytes: u64,
    duration: Duration,
    is_aborted: bool,
) {
    info!(
        target: TARGET,
        client = %line.client,
        method = line.method,
        path = line.path,
        status,
        bytes,
        duration_ms = millis(duration),
        user_agent = line.user_agent,
        trace_id = line.trace_id.map(trace_id),
        aborted = is_aborted.then_some(true),
        "request"
    );
}

/// A WebSocket that is logged when it has ended, or is dropped.
pub(crate) struct WebSocketLine {
    client: Option<IpAddr>,
    path: String,
    trace_id: Option<u128>,
    opened: Instant,
    reason: &'static str,
}

impl WebSocketLine {
    /// Starts the line of a WebSocket that is open.
    pub(crate) fn new(client: Option<IpAddr>, path: &str, trace_id: Option<u128>) -> Self {
        Self {
            client,
            path: printable(path.as_bytes(), MAX_PATH_BYTES).into_owned(),
            trace_id,
            opened: Instant::now(),
            reason: "aborted",
        }
    }

    /// Logs why the WebSocket was closed.
    pub(crate) fn closed(mut self, reason: CloseReason) {
        self.reason = reason.name();
    }
}

impl Drop for WebSocketLine {
    fn drop(&mut self) {
        info!(
            target: TARGET,
            client = self.client.map(tracing::field::display),
            path = self.path,
            reason = self.reason,
            duration_ms = millis(self.opened.elapsed()),
            trace_id = self.trace_id.map(trace_id),
            "WebSocket closed"
        );
    }
}

/// Returns milliseconds with three decimals.
fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

fn trace_id(id: u128) -> String {
    format!("{id:032x}")
}

/// Returns the first `max_bytes` of a text, in printable ASCII. Other bytes are escaped.
pub(crate) fn printable(text: &[u8], max_bytes: usize) -> Cow<'_, str> {
    let start = &text[..text.len().min(max_bytes)];
    let is_printable = start.iter().all(|byte| matches!(byte, b' '..=b'~'));
    let mut printable = match std::str::from_utf8(start) {
        Ok(start) if is_printable => Cow::Borrowed(start),
        _ => Cow::Owned(start.escape_ascii().to_string()),
    };
    if start.len() < text.len() {
        printable.to_mut().push_str("...");
    }
    printable
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{io, sync::Arc};

    use parking_lot::Mutex;
    use tracing::subscriber::with_default;
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    /// A writer that keeps what is written. Clones share it.
    #[derive(Clone, Default)]
    pub(crate) struct Output(Arc<Mutex<Vec<u8>>>);

    impl Output {
        /// Returns what was written.
        pub(crate) fn text(&self) -> String {
            String::from_utf8_lossy(&self.0.lock()).into_owned()
        }
    }

    impl io::Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Output {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    /// Returns what is logged as text, and as JSON.
    fn logged(log: impl Fn()) -> [String; 2] {
        let (text, json) = (Output::default(), Output::default());
        let subscriber = tracing_subscriber::fmt()
            .with_writer(text.clone())
            .with_ansi(false);
        with_default(subscriber.finish(), &log);
        let subscriber = tracing_subscriber::fmt().json().with_writer(json.clone());
        with_default(subscriber.finish(), &log);
        [text, json].map(|output| output.text())
    }

    #[test]
    fn clients_cannot_forge_lines() {
        let hostile = "/a\n2026-01-01 INFO forged\r\u{1b}[2J\u{9b}31m\u{202e}\"x=1";
        let line = AccessLine {
            client: [192, 0, 2, 7].into(),
            method: printable(b"GET", 32).into_owned(),
            path: printable(hostile.as_bytes(), 2048).into_owned(),
            user_agent: Some(printable(hostile.as_bytes(), 2048).into_owned()),
            trace_id: Some(10),
        };
        for logged in logged(|| {
            request(&line, Some(200), 5, Duration::from_micros(1500), false);
        }) {
            assert_eq!(logged.lines().count(), 1, "{logged}");
            let line = logged.trim_end();
            assert!(
                line.bytes().all(|byte| matches!(byte, b' '..=b'~')),
                "{logged}"
            );
            assert!(line.contains("0000000a"), "{logged}");
            assert!(line.contains("1.5"), "{logged}");
            assert!(!line.contains("aborted"), "{logged}");
        }
    }

    #[test]
    fn long_texts_are_cut() {
        assert_eq!(printable(b"/abc", 4), "/abc");
        assert_eq!(printable(b"/abcd", 4), "/abc...");
        assert_eq!(printable("é".as_bytes(), 4), r"\xc3\xa9");
        assert_eq!(printable("aé".as_bytes(), 2), r"a\xc3...");
    }

    #[test]
    fn the_end_of_a_websocket_has_a_reason() {
        let path = "/ws";
        let [text, json] = logged(|| {
            WebSocketLine::new(Some([192, 0, 2, 7].into()), path, None).closed(CloseReason::Slow);
            drop(WebSocketLine::new(None, path, None));
        });
        let lines: Vec<_> = text.lines().collect();
        assert!(
            lines[0].contains("client=192.0.2.7 path=\"/ws\" reason=\"slow\""),
            "{text}"
        );
        assert!(lines[1].contains("reason=\"aborted\""), "{text}");
        assert!(json.contains("\"reason\":\"slow\""), "{json}");
    }
}
