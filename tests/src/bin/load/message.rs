//! The published messages: an order as the application sends it, with a stamp in front that holds
//! its publisher, sequence number and time.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::socket::Transport;

const PREFIX: &[u8] = br#"{"load":""#;
/// What is before a message in an event of Socket.IO.
const SOCKET_IO_PREFIX: &[u8] = br#"42["message","#;
const STAMP_DIGITS: usize = 8 + 4 + 8 + 16;

/// The stamp of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The run. Messages of earlier runs may still arrive and are ignored.
    pub run: u32,
    /// The publisher. Each has its own sequence.
    pub publisher: u16,
    /// The sequence number, starting at 1.
    pub sequence: u32,
    /// The time of sending, on `clock`.
    pub at: u64,
}

impl Stamp {
    /// Parses the stamp of a message. Returns `None` for messages of other programs.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let digits = content(payload).strip_prefix(PREFIX)?.get(..STAMP_DIGITS)?;
        let number = |from: usize, to: usize| {
            digits[from..to].iter().try_fold(0u64, |number, digit| {
                let digit = match digit {
                    b'0'..=b'9' => digit - b'0',
                    b'a'..=b'f' => digit - b'a' + 10,
                    _ => return None,
                };
                Some(number << 4 | u64::from(digit))
            })
        };
        Some(Self {
            run: number(0, 8)? as u32,
            publisher: number(8, 12)? as u16,
            sequence: number(12, 20)? as u32,
            at: number(20, 36)?,
        })
    }

    fn write(&self, digits: &mut [u8]) {
        let text = format!(
            "{:08x}{:04x}{:08x}{:016x}",
            self.run, self.publisher, self.sequence, self.at
        );
        digits.copy_from_slice(text.as_bytes());
    }
}

/// Returns the published content of a message, which Socket.IO wraps in an event.
pub fn content(payload: &[u8]) -> &[u8] {
    payload
        .strip_prefix(SOCKET_IO_PREFIX)
        .and_then(|event| event.strip_suffix(b"]"))
        .unwrap_or(payload)
}

/// A publish request. It is built once; only its stamp changes.
pub struct Template {
    request: Vec<u8>,
    stamp: usize,
    /// The length of the message in bytes.
    pub length: usize,
}

impl Template {
    /// Builds the request that publishes a message of `length` bytes to the subscribers of
    /// `channel`. For streams, a line feed is added.
    pub fn new(
        control: SocketAddr,
        path: &str,
        channel: &str,
        bearer: Option<&str>,
        transport: Transport,
        length: usize,
    ) -> Result<Self> {
        let message = message(length)?;
        let formats = match transport {
            Transport::WebSocket => json!({ "ws-message": { "content": message } }),
            Transport::Stream => json!({ "http-stream": { "content": message + "\n" } }),
        };
        let items = json!({ "items": [{ "channel": channel, "formats": formats }] });
        let body = items.to_string();
        let bearer = bearer
            .map(|token| format!("Authorization: Bearer {token}\r\n"))
            .unwrap_or_default();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {control}\r\nContent-Type: application/json\r\n{bearer}\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let zeros = "0".repeat(STAMP_DIGITS);
        let stamp = request.find(&zeros).context("no stamp in the request")?;
        Ok(Self {
            request: request.into_bytes(),
            stamp,
            length,
        })
    }

    /// Returns the request with this stamp.
    pub fn with_stamp(&mut self, stamp: Stamp) -> &[u8] {
        stamp.write(&mut self.request[self.stamp..self.stamp + STAMP_DIGITS]);
        &self.request
    }
}

/// Returns an order in the application's format with an empty stamp. Earlier orders and words in a
/// note fill it to `length` bytes, so that it compresses as such messages do.
fn message(length: usize) -> Result<String> {
    let message = |note: &str, earlier: &str| {
        format!(
            "{{\"load\":\"{}\",\"event\":\"order-received\",\"detail\":{{\"order\":{{\
             \"timestamp\":\"2026-01-01T12:00:00.000Z\",\"id\":100,\"destination\":\"dining room\",\
             \"status\":\"received\",\"items\":[\
             {{\"name\":\"Double Burger\",\"substitutions\":[\"no onion\"]}}],\
             \"notes\":[\"{note}\"]}},\"earlier\":[{earlier}]}}}}",
            "0".repeat(STAMP_DIGITS),
        )
    };
    let min = message("", "").len();
    ensure!(
        length >= min,
        "--length {length} is too short: a message has at least {min} bytes"
    );
    let mut random = Random(1);
    let mut earlier = String::new();
    loop {
        let separator = if earlier.is_empty() { "" } else { "," };
        let order = separator.to_string() + random.order().as_str();
        if min + earlier.len() + order.len() > length {
            break;
        }
        earlier += &order;
    }
    let note_length = length - min - earlier.len();
    let mut note = String::new();
    while note.len() < note_length {
        note += random.pick(&WORDS);
        note.push(' ');
    }
    note.truncate(note_length);
    Ok(message(&note, &earlier))
}

const DISHES: [&str; 7] = [
    "Double Burger",
    "Cheeseburger",
    "Hamburger",
    "French Fries",
    "Vanilla Shake",
    "Strawberry Shake",
    "Chocolate Shake",
];
const SUBSTITUTIONS: [&str; 6] = [
    "extra sauce",
    "no lettuce",
    "no onion",
    "no tomato",
    "no salt",
    "well done",
];
const DESTINATIONS: [&str; 3] = ["dining room", "takeout", "drive thru"];
const STATUSES: [&str; 4] = ["received", "fired", "fulfilled", "cancelled"];
const WORDS: [&str; 18] = [
    "please",
    "extra",
    "crispy",
    "without",
    "ice",
    "side",
    "table",
    "seven",
    "birthday",
    "guest",
    "allergic",
    "sesame",
    "cut",
    "half",
    "sauce",
    "separately",
    "window",
    "later",
];

/// Pseudo-random choices, the same in each run.
struct Random(u64);

impl Random {
    /// Returns a number below `bound`, by Knuth's generator.
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    fn pick(&mut self, choices: &[&'static str]) -> &'static str {
        choices[self.below(choices.len())]
    }

    fn order(&mut self) -> String {
        let (hour, minute) = (self.below(24), self.below(60));
        let (second, millisecond) = (self.below(60), self.below(1000));
        let timestamp = format!("2026-01-01T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z");
        let id = self.below(10_000);
        let destination = self.pick(&DESTINATIONS);
        let status = self.pick(&STATUSES);
        let [first, second] = [(); 2].map(|()| {
            let (dish, substitution) = (self.pick(&DISHES), self.pick(&SUBSTITUTIONS));
            format!("{{\"name\":\"{dish}\",\"substitutions\":[\"{substitution}\"]}}")
        });
        let note = [(); 3].map(|()| self.pick(&WORDS)).join(" ");
        format!(
            "{{\"timestamp\":\"{timestamp}\",\"id\":{id},\"destination\":\"{destination}\",\
             \"status\":\"{status}\",\"items\":[{first},{second}],\"notes\":[\"{note}\"]}}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_parsed_from_published_messages() {
        let control = ([127, 0, 0, 1], 5561).into();
        let mut template = Template::new(
            control,
            "/publish/",
            "orders",
            Some("token"),
            Transport::WebSocket,
            400,
        )
        .unwrap();
        let stamp = Stamp {
            run: 0xdead_beef,
            publisher: 3,
            sequence: u32::MAX,
            at: 0x0123_4567_89ab_cdef,
        };
        let request = std::str::from_utf8(template.with_stamp(stamp))
            .unwrap()
            .to_string();
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("\r\nContent-Length: {}", body.len())));
        assert!(head.contains("\r\nAuthorization: Bearer token\r\n"));
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        let content = body["items"][0]["formats"]["ws-message"]["content"]
            .as_str()
            .unwrap();
        assert_eq!(content.len(), 400);
        assert!(
            serde_json::from_str::<serde_json::Value>(content).unwrap()["detail"]["order"]["id"]
                .is_number()
        );
        assert_eq!(Stamp::parse(content.as_bytes()), Some(stamp));
    }

    #[test]
    fn messages_are_json_of_the_length() {
        for length in [280, 300, 400, 600, 4096] {
            let message = message(length).unwrap();
            assert_eq!(message.len(), length);
            assert!(serde_json::from_str::<serde_json::Value>(&message).is_ok());
        }
    }

    #[test]
    fn other_messages_have_no_stamp() {
        let bad = format!("{{\"load\":\"{}", "g".repeat(STAMP_DIGITS));
        for payload in [
            &b""[..],
            b"{\"event\":\"pong\"}",
            b"{\"load\":\"00",
            bad.as_bytes(),
        ] {
            assert_eq!(Stamp::parse(payload), None);
        }
    }

    #[test]
    fn a_length_too_short_for_an_order_is_an_error() {
        assert!(message(100).is_err());
    }
}
