//! The limits of connections and messages.

use std::time::Duration;

use bytesize::ByteSize;
use spin_runtime::manifest::reader::{Table, Value};

use super::duration::parse_duration;

/// The largest size that can be configured.
const MAX_SIZE_BYTES: u64 = 1024 * 1024 * 1024;

/// The limits of connections and messages.
///
/// `[application.tool.socket-host.websocket]` sets those that have a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest message that a client may send (key `max-message-size`). Default: 64 KiB.
    pub max_message_bytes: usize,
    /// The data that may wait for a client before it is closed with 1013 (key
    /// `max-outgoing-buffer`). Default: 1 MiB.
    pub max_outgoing_buffer_bytes: usize,
    /// The data of a client that may wait for the backend before its socket is no longer read (key
    /// `max-incoming-buffer`). Default: 200,000 bytes, as in Pushpin.
    pub max_incoming_buffer_bytes: usize,
    /// The open sockets, at least 1. Further handshakes get 503. Held HTTP requests and tunnels
    /// each have a limit of the same size (key `max-connections`). Default: 100,000.
    pub max_connections: usize,
    /// How long a client may be silent before it gets a ping, and then before it is dropped. `None`
    /// disables pings (key `ping-interval`, `"off"` for `None`). Default: 30 s.
    pub ping_interval: Option<Duration>,
}

impl Limits {
    /// The default limits.
    pub const DEFAULT: Self = Self {
        max_message_bytes: 64 * 1024,
        max_outgoing_buffer_bytes: 1024 * 1024,
        max_incoming_buffer_bytes: 200_000,
        max_connections: 100_000,
        ping_interval: Some(Duration::from_secs(30)),
    };

    /// Reads the keys that are present in the table.
    pub(super) fn read(&mut self, table: &mut Table<'_>) {
        for (name, limit) in [
            ("max-message-size", &mut self.max_message_bytes),
            ("max-outgoing-buffer", &mut self.max_outgoing_buffer_bytes),
            ("max-incoming-buffer", &mut self.max_incoming_buffer_bytes),
        ] {
            if let Some(bytes) = table.get(name).and_then(|value| read_size(&value)) {
                *limit = bytes;
            }
        }
        if let Some(value) = table.get("max-connections") {
            match value.integer().map(usize::try_from) {
                Some(Ok(number)) if number > 0 => self.max_connections = number,
                Some(_) => value.error("expected a number of connections, at least 1"),
                None => {}
            }
        }
        if let Some(value) = table.get("ping-interval") {
            match value.string() {
                Some("off") => self.ping_interval = None,
                Some(text) => match parse_duration(text) {
                    Ok(interval) => self.ping_interval = Some(interval),
                    Err(reason) => value.error(format!("{reason}, or \"off\"")),
                },
                None => {}
            }
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Reads a number of bytes, or a text such as `"64KiB"`.
fn read_size(value: &Value<'_>) -> Option<usize> {
    let bytes = if value.is_integer() {
        u64::try_from(value.integer()?).ok()
    } else {
        let size = value.string()?.trim().parse();
        size.ok().map(|ByteSize(bytes)| bytes)
    };
    let bytes = bytes.filter(|bytes| (1..=MAX_SIZE_BYTES).contains(bytes));
    if bytes.is_none() {
        value.error(
            "expected a size from 1 byte to 1GiB, such as \"64KiB\", \"1MiB\" or a number of bytes",
        );
    }
    usize::try_from(bytes?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("1", 1),
            ("512B", 512),
            ("64KiB", 65536),
            ("1 MiB", 1 << 20),
            ("2kB", 2000),
            ("100kB", 100_000),
            ("1GiB", 1 << 30),
            ("1.5MiB", 3 << 19),
            ("1mib", 1 << 20),
            ("1 K", 1000),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for invalid in ["", "KiB", "-1", "1 X", "big"] {
            assert!(invalid.parse::<ByteSize>().is_err(), "{invalid}");
        }
    }
}
