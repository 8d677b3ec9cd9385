//! Properties of the codecs that hold for any input, one function for each codec.
//!
//! A function panics if a property does not hold. It returns whether the input was valid, so
//! that a run can check that it gets past the errors.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use grip::{
    ControlMessage, Event, Extension, Instruct, Key, Limits, Verifier,
    event::{decode_all, encode_all},
    extension::MessageKind,
    hold, publish, signature,
};

/// Decodes a body of WebSocket events.
pub fn events(data: &[u8]) -> bool {
    let limits = Limits {
        content: 300,
        events: 20,
    };
    let events = match decode_all(Bytes::copy_from_slice(data), limits) {
        Ok(events) => events,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    assert!(events.len() <= limits.events);
    assert!(
        events
            .iter()
            .all(|event| event.content_len() <= limits.content)
    );
    let encoded = encode_all(&events);
    assert_eq!(decode_all(encoded.clone(), limits), Ok(events.clone()));
    // The encoding of an event does not depend on the events around it.
    let pieces: Vec<u8> = events
        .iter()
        .flat_map(|event| encode_all([event]))
        .collect();
    assert_eq!(pieces, encoded);
    // A truncated body is an error, or the events before the cut.
    for end in 0..encoded.len() {
        if let Ok(prefix) = decode_all(encoded.slice(..end), limits) {
            assert!(prefix.len() < events.len() && events.starts_with(&prefix));
        }
    }
    // The limits are exact.
    let longest = events.iter().map(Event::content_len).max();
    let longest = longest.unwrap_or_default();
    let fits = |content, events| decode_all(encoded.clone(), Limits { content, events }).is_ok();
    assert!(fits(longest, events.len()));
    assert!(longest == 0 || !fits(longest - 1, events.len()));
    assert!(events.is_empty() || !fits(longest, events.len() - 1));
    true
}

/// Parses a control message.
pub fn control(data: &[u8]) -> bool {
    let message = match ControlMessage::parse(data) {
        Ok(message) => message,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    let json = message.to_json();
    assert_eq!(ControlMessage::parse(json.as_bytes()), Ok(message.clone()));
    let Event::Text(text) = message.into_event() else {
        panic!("a control message is text");
    };
    let kind = Extension::default().classify(text.as_bytes());
    assert_eq!(kind, MessageKind::Control(json.as_bytes()));
    true
}

/// Parses a body of published items.
pub fn publish(data: &[u8]) -> bool {
    match publish::parse(data) {
        Ok(items) => {
            assert_eq!(
                publish::parse(publish::to_json(&items).as_bytes()),
                Ok(items)
            );
            true
        }
        Err(error) => {
            assert!(!error.path.is_empty() && !error.problem.is_empty());
            false
        }
    }
}

/// Parses the headers of a response, with one `NAME: VALUE` per line, and after an empty line
/// an optional JSON body.
pub fn instruct(data: &[u8]) -> bool {
    let end = data.windows(2).position(|pair| pair == b"\n\n");
    let (head, body) = match end {
        Some(end) => (&data[..end], Some(&data[end + 2..])),
        None => (data, None),
    };
    let lines = head.split(|byte| *byte == b'\n').filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = std::str::from_utf8(&line[..colon]).ok()?;
        Some((name, &line[colon + 1..]))
    });
    let last = lines
        .clone()
        .filter(|line| line.0.eq_ignore_ascii_case("grip-last"));
    if let Ok(channels) = hold::Channel::from_grip_last(last.map(|line| line.1)) {
        for channel in channels {
            if let Ok(Some(value)) = channel.to_grip_last() {
                let read = hold::Channel::from_grip_last([value.as_bytes()]);
                let filters = Vec::new();
                assert_eq!(read, Ok(vec![hold::Channel { filters, ..channel }]));
            }
        }
    }
    let read = match Instruct::from_headers(lines) {
        Ok(read) => read,
        Err(error) => {
            assert!(error.path.starts_with("Grip-") && !error.problem.is_empty());
            return false;
        }
    };
    let mut accepted = read.is_some();
    let instruct = read.unwrap_or_default();
    if let Ok(headers) = instruct.to_headers() {
        assert_eq!(from_headers(&headers), instruct);
    }
    if let Some(body) = body {
        match instruct.with_json(body) {
            Ok(instruct) => check_json_form(instruct),
            Err(error) => {
                assert!(!error.path.is_empty() && !error.problem.is_empty());
                accepted = false;
            }
        }
    }
    accepted
}

fn check_json_form(instruct: Instruct) {
    let Ok((headers, body)) = instruct.to_json() else {
        return;
    };
    // The JSON form has some fields only within a hold.
    let expected = match instruct.hold {
        Some(_) => instruct,
        None => Instruct {
            expose_headers: instruct.expose_headers,
            next: instruct.next,
            gone: instruct.gone,
            response: instruct.response,
            ..Instruct::default()
        },
    };
    let read = from_headers(&headers).with_json(body.as_bytes());
    assert_eq!(read, Ok(expected));
}

fn from_headers(headers: &[(&'static str, String)]) -> Instruct {
    for (_, value) in headers {
        let control = |character: char| character.is_ascii_control();
        assert!(!value.contains(control), "{value:?} is not a valid header");
    }
    let pairs = headers
        .iter()
        .map(|(name, value)| (*name, value.as_bytes()));
    Instruct::from_headers(pairs).unwrap().unwrap_or_default()
}

/// Parses a `Sec-WebSocket-Extensions` header, and classifies the message after a zero byte.
pub fn extension(data: &[u8]) -> bool {
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let header = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let message = parts.next().unwrap_or_default();
    let Some(extension) = Extension::parse(&header) else {
        return false;
    };
    assert_eq!(
        Extension::parse(&extension.header_value()),
        Some(extension.clone())
    );
    let prefix = extension.message_prefix.as_bytes();
    let restored = match extension.classify(message) {
        MessageKind::Control(control) => [b"c:", control].concat(),
        MessageKind::Content(content) => [prefix, content].concat(),
        MessageKind::Unprefixed => {
            assert!(!message.starts_with(prefix) && !message.starts_with(b"c:"));
            message.to_vec()
        }
    };
    assert_eq!(restored, message);
    true
}

/// Verifies a token with the key `key`, and signs one with another key.
///
/// The first byte is the current time in seconds. Then follow the token and, after a space,
/// the other key.
pub fn signature(data: &[u8]) -> bool {
    let (&seconds, rest) = data.split_first().unwrap_or((&0, &[]));
    let text = String::from_utf8_lossy(rest);
    let (token, other) = text.split_once(' ').unwrap_or((&text, ""));
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.into());
    if let Ok(key) = Key::parse(other) {
        let signed = signature::sign(&key, token, now, Duration::from_secs(1));
        if signed.len() <= signature::MAX_TOKEN_LEN {
            let claims = signature::verify(&key, &signed, now).unwrap();
            assert_eq!(claims.issuer.as_deref(), Some(token));
        }
    }
    let key = Key::parse("key").unwrap();
    let verified = signature::verify(&key, token, now);
    let mut verifier = Verifier::new(key.clone());
    assert_eq!(verifier.verify(token, now).cloned(), verified);
    assert_eq!(verifier.verify(token, now).cloned(), verified);
    let Ok(claims) = verified else {
        return false;
    };
    assert!(claims.expires > now);
    assert!(signature::verify(&key, token, claims.expires).is_err());
    // A changed token is invalid. Every 16th byte is tried, because all would take long.
    for at in (usize::from(seconds) % 16..token.len()).step_by(16) {
        let mut bytes = token.as_bytes().to_vec();
        bytes[at] ^= 1;
        if let Ok(changed) = std::str::from_utf8(&bytes) {
            assert!(signature::verify(&key, changed, now).is_err());
        }
    }
    true
}
