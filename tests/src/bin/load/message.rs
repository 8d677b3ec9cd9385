//! The messages this program publishes: an order as the application sends it,
//! with a stamp in front that says who sent it, which it is, and when.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::sockets::Kind;

const PREFIX: &[u8] = br#"{"load":""#;
const STAMP_DIGITS: usize = 8 + 4 + 8 + 16;

/// What a message of ours carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// This run: messages of another one, still under way, are not ours.
    pub run: u32,
    /// Which publisher sent it; each counts for itself.
    pub publisher: u16,
    /// Its number, rising by 1 from 1.
    pub sequence: u32,
    /// When it was sent, on `clock`.
    pub at: u64,
}

impl Stamp {
    /// The stamp of a message, `None` for one that is not this program's.
    pub fn find(payload: &[u8]) -> Option<Self> {
        let digits = payload.strip_prefix(PREFIX)?.get(..STAMP_DIGITS)?;
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

/// A publish request, built once; each sending only changes the stamp.
pub struct Template {
    request: Vec<u8>,
    stamp: usize,
    /// Length of the message as sockets receive it, in bytes.
    pub length: usize,
}

impl Template {
    /// `POST path` with a GRIP publish body for those who hold `channel` as `kind`, its
    /// message `length` bytes long; in a stream it is a line.
    pub fn new(
        control: SocketAddr,
        path: &str,
        channel: &str,
        bearer: Option<&str>,
        kind: Kind,
        length: usize,
    ) -> Result<Self> {
        let message = message(length)?;
        let formats = match kind {
            Kind::WebSocket => json!({ "ws-message": { "content": message } }),
            Kind::Stream => json!({ "http-stream": { "content": message + "\n" } }),
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
        let stamp = request
            .find(&zeros)
            .context("the stamp is not in the request")?;
        Ok(Self {
            request: request.into_bytes(),
            stamp,
            length,
        })
    }

    /// The request with this stamp.
    pub fn stamped(&mut self, stamp: Stamp) -> &[u8] {
        stamp.write(&mut self.request[self.stamp..self.stamp + STAMP_DIGITS]);
        &self.request
    }
}

/// An order of design §5 with room for the stamp, filled up with notes.
fn message(length: usize) -> Result<String> {
    let with = |filling: usize| {
        format!(
            "{{\"load\":\"{}\",\"event\":\"order-received\",\"detail\":{{\"order\":{{\
             \"timestamp\":\"2026-01-01T12:00:00.000Z\",\"id\":100,\"destination\":\"dining room\",\
             \"status\":\"received\",\"items\":[\
             {{\"name\":\"Double Burger\",\"substitutions\":[\"extra sauce\",\"no onion\"]}},\
             {{\"name\":\"French Fries\",\"substitutions\":[\"well done\"]}}],\
             \"notes\":[\"{}\"]}}}}}}",
            "0".repeat(STAMP_DIGITS),
            "x".repeat(filling)
        )
    };
    let least = with(0).len();
    ensure!(
        length >= least,
        "a message is at least {least} bytes long, not {length}"
    );
    Ok(with(length - least))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_found_in_what_was_published() {
        let control = ([127, 0, 0, 1], 5561).into();
        let mut template = Template::new(
            control,
            "/publish/",
            "orders",
            Some("token"),
            Kind::WebSocket,
            400,
        )
        .unwrap();
        let stamp = Stamp {
            run: 0xdead_beef,
            publisher: 3,
            sequence: u32::MAX,
            at: 0x0123_4567_89ab_cdef,
        };
        let request = std::str::from_utf8(template.stamped(stamp))
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
        assert_eq!(Stamp::find(content.as_bytes()), Some(stamp));
    }

    #[test]
    fn messages_of_others_have_no_stamp() {
        let bad = format!("{{\"load\":\"{}", "g".repeat(STAMP_DIGITS));
        for payload in [
            &b""[..],
            b"{\"event\":\"pong\"}",
            b"{\"load\":\"00",
            bad.as_bytes(),
        ] {
            assert_eq!(Stamp::find(payload), None);
        }
    }

    #[test]
    fn a_message_too_short_for_an_order_is_an_error() {
        assert!(message(100).is_err());
    }
}
