//! Bytes as one line of text, with the escapes `\\`, `\r`, `\n`, `\t` and `\xHH`.

use std::fmt::Write;

use bytes::Bytes;

/// Decodes text. Fails at the first invalid escape.
pub(super) fn decode(text: &str) -> Result<Bytes, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, escape)) = rest.split_once('\\') {
        out.extend_from_slice(plain.as_bytes());
        let hex = |digits: &str| {
            // `from_str_radix` would also accept a sign.
            let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            let byte = u8::from_str_radix(digits, 16);
            byte.ok().filter(|_| is_hex)
        };
        let (byte, length) = match escape.as_bytes().first() {
            Some(b'\\') => (Some(b'\\'), 1),
            Some(b'r') => (Some(b'\r'), 1),
            Some(b'n') => (Some(b'\n'), 1),
            // Pushpin does not have it, but the library `@fanoutio/grip` writes it.
            Some(b't') => (Some(b'\t'), 1),
            Some(b'x') => (escape.get(1..3).and_then(hex), 3),
            _ => (None, 0),
        };
        let Some(byte) = byte else {
            let begin: String = escape.chars().take(3).collect();
            return Err(format!(
                "invalid escape \\{begin}: expected \\\\, \\r, \\n, \\t or \\xHH with two hexadecimal digits"
            ));
        };
        out.push(byte);
        rest = &escape[length..];
    }
    out.extend_from_slice(rest.as_bytes());
    Ok(out.into())
}

/// Encodes bytes, and escapes semicolons, quotes, and spaces at either end.
pub(super) fn encode(data: &[u8]) -> String {
    let mut out = String::with_capacity(data.len());
    for (at, &byte) in data.iter().enumerate() {
        let at_end = at == 0 || at == data.len() - 1;
        match byte {
            b'\\' => out.push_str("\\\\"),
            b'\r' => out.push_str("\\r"),
            b'\n' => out.push_str("\\n"),
            b' ' if !at_end => out.push(' '),
            b'!'..=b'~' if !matches!(byte, b';' | b'"') => out.push(byte.into()),
            // Writing to a string cannot fail.
            _ => drop(write!(out, "\\x{byte:02x}")),
        }
    }
    out
}
