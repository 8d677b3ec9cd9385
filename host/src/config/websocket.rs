//! Reads `[application.tool.socket-host.websocket]`.

use std::collections::BTreeSet;

use bytesize::ByteSize;
use spin_runtime::manifest::reader::{Table, Value};

use super::{AllowedOrigins, Limits, duration::parse_duration};

/// What a response with one large message contains beside it: control messages, and the lines of
/// the events.
const EVENT_OVERHEAD_BYTES: usize = 64 * 1024;

/// The highest rate that can be configured.
const MAX_RATE: u32 = 1_000_000;

/// Reads the table. Keys that are missing keep their value.
///
/// Returns the ids of the components whose instances are reused for typed frames.
pub(super) fn read(
    value: &Value<'_>,
    origins: &mut AllowedOrigins,
    limits: &mut Limits,
) -> BTreeSet<String> {
    let Some(mut table) = value.table() else {
        return BTreeSet::new();
    };
    let reused = table.get("instance-reuse");
    let reused = reused.map_or_else(BTreeSet::new, |value| value.strings().into_iter().collect());
    if let Some(value) = table.get("allowed-origins") {
        *origins = AllowedOrigins::read(&value);
    }
    read_limits(&mut table, limits);
    table.finish();
    reused
}

fn read_limits(table: &mut Table<'_>, limits: &mut Limits) {
    for (name, limit) in [
        ("max-message-size", &mut limits.max_message_bytes),
        ("max-outgoing-buffer", &mut limits.max_outgoing_buffer_bytes),
        ("max-incoming-buffer", &mut limits.max_incoming_buffer_bytes),
    ] {
        if let Some(bytes) = table.get(name).and_then(|value| read_size(&value)) {
            *limit = bytes;
        }
    }
    limits.max_response_events_bytes = match table.get("max-response-events") {
        Some(value) => read_size(&value).unwrap_or(limits.max_response_events_bytes),
        None => {
            let one_message = limits
                .max_message_bytes
                .saturating_add(EVENT_OVERHEAD_BYTES);
            limits.max_response_events_bytes.max(one_message)
        }
    };
    for (name, limit) in [
        ("max-connections", &mut limits.max_connections),
        (
            "max-connections-per-address",
            &mut limits.max_holds_per_address,
        ),
    ] {
        if let Some(value) = table.get(name)
            && let Some(number) = read_count(&value, "connections")
        {
            *limit = number;
        }
    }
    for (name, limit) in [
        (
            "max-handshakes-per-address",
            &mut limits.max_handshakes_per_address,
        ),
        (
            "max-messages-per-second",
            &mut limits.max_messages_per_second,
        ),
    ] {
        if let Some(value) = table.get(name)
            && let Some(rate) = read_rate(&value)
        {
            *limit = rate;
        }
    }
    if let Some(compression) = table.get("compression").and_then(|value| value.boolean()) {
        limits.compression = compression;
    }
    if let Some(value) = table.get("ping-interval") {
        match value.string() {
            Some("off") => limits.ping_interval = None,
            Some(text) => match parse_duration(text) {
                Ok(interval) => limits.ping_interval = Some(interval),
                Err(reason) => value.error(format!("{reason}, or \"off\"")),
            },
            None => {}
        }
    }
}

/// Reads a number of these things, which is at least 1.
pub(super) fn read_count(value: &Value<'_>, things: &str) -> Option<usize> {
    let number = usize::try_from(value.integer()?).ok();
    let number = number.filter(|number| *number > 0);
    if number.is_none() {
        value.error(format!("expected a number of {things}, at least 1"));
    }
    number
}

/// Reads a number for each second, or `"off"`.
fn read_rate(value: &Value<'_>) -> Option<Option<u32>> {
    let rate = if value.is_integer() {
        u32::try_from(value.integer()?).ok()
    } else if value.string()? == "off" {
        return Some(None);
    } else {
        None
    };
    let rate = rate.filter(|rate| (1..=MAX_RATE).contains(rate));
    if rate.is_none() {
        value.error(format!(
            "expected a number for each second, from 1 to {MAX_RATE}, or \"off\""
        ));
    }
    rate.map(Some)
}

/// Reads a number of bytes, or a text such as `"64KiB"`.
pub(super) fn read_size(value: &Value<'_>) -> Option<usize> {
    let bytes = if value.is_integer() {
        u64::try_from(value.integer()?).ok()
    } else {
        let size = value.string()?.trim().parse();
        size.ok().map(|ByteSize(bytes)| bytes)
    };
    let bytes = bytes.filter(|bytes| (1..=Limits::DEFAULT.max_size_bytes).contains(bytes));
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
