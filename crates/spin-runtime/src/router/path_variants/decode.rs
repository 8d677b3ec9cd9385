//! Decoding of paths, as strict and as lenient servers do it.

use unicode_normalization::UnicodeNormalization as _;

/// Decodes percent-escapes once. Invalid escapes are kept. Overlong UTF-8 encodings, which are used
/// to bypass checks like this one, are replaced with the character.
pub(in crate::router) fn decode(path: &[u8]) -> Vec<u8> {
    decode_escapes(path, false)
}

/// Decodes percent-escapes and `%uXXXX` once. Replaces full-width and other compatibility
/// characters with those that they stand for, and removes characters that are not visible.
pub(super) fn decode_leniently(path: &[u8]) -> Vec<u8> {
    to_compatible(&decode_escapes(path, true))
}

fn decode_escapes(path: &[u8], unicode: bool) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&first, after)) = rest.split_first() {
        if unicode && let Some((character, after)) = unicode_escape(rest) {
            decoded.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            rest = after;
            continue;
        }
        let escape = match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                hex(*high).zip(hex(*low)).map(|digits| (digits, after))
            }
            _ => None,
        };
        let (byte, after) = match escape {
            Some(((high, low), after)) => ((high * 16 + low) as u8, after),
            None => (first, after),
        };
        decoded.push(byte);
        shorten_overlong(&mut decoded);
        rest = after;
    }
    decoded
}

fn hex(byte: u8) -> Option<u32> {
    (byte as char).to_digit(16)
}

/// Parses `%uXXXX` at the start, or two of them that are a surrogate pair.
fn unicode_escape(text: &[u8]) -> Option<(char, &[u8])> {
    let (unit, after) = code_unit(text)?;
    if let Some(character) = char::from_u32(unit.into()) {
        return Some((character, after));
    }
    let (low, after) = code_unit(after)?;
    let character = char::decode_utf16([unit, low]).next()?.ok()?;
    Some((character, after))
}

fn code_unit(text: &[u8]) -> Option<(u16, &[u8])> {
    let [b'%', b'u' | b'U', digits @ ..] = text else {
        return None;
    };
    let (digits, after) = digits.split_first_chunk::<4>()?;
    let mut unit = 0;
    for digit in digits {
        unit = unit * 16 + hex(*digit)?;
    }
    Some((u16::try_from(unit).ok()?, after))
}

/// Replaces an overlong encoding of an ASCII character at the end.
fn shorten_overlong(bytes: &mut Vec<u8>) {
    let (length, lead, last) = match bytes.as_slice() {
        [.., lead @ 0xC0..=0xC1, last @ 0x80..=0xBF] => (2, *lead, *last),
        [.., 0xE0, lead @ 0x80..=0x81, last @ 0x80..=0xBF] => (3, *lead, *last),
        [.., 0xF0, 0x80, lead @ 0x80..=0x81, last @ 0x80..=0xBF] => (4, *lead, *last),
        _ => return,
    };
    bytes.truncate(bytes.len() - length);
    bytes.push((lead & 1) << 6 | (last & 0x3F));
}

/// Normalizes the valid UTF-8 of a path to NFKC, and beyond that as some servers do.
fn to_compatible(path: &[u8]) -> Vec<u8> {
    let mut compatible = Vec::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        let visible = chunk.valid().chars().filter(|c| !is_invisible(*c));
        for character in visible.nfkc().map(to_ascii_punctuation) {
            compatible.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
        compatible.extend_from_slice(chunk.invalid());
    }
    compatible
}

/// Returns whether file systems or URL parsers ignore a character. A NUL ends a path instead.
fn is_invisible(character: char) -> bool {
    (character.is_control() && character != '\0')
        || matches!(
            character,
            '\u{AD}'
                | '\u{34F}'
                | '\u{61C}'
                | '\u{180B}'..='\u{180E}'
                | '\u{200B}'..='\u{200F}'
                | '\u{202A}'..='\u{202E}'
                | '\u{2060}'..='\u{206F}'
                | '\u{FE00}'..='\u{FE0F}'
                | '\u{FEFF}'
        )
}

/// Replaces characters that are only similar, as conversions to a legacy code page do.
fn to_ascii_punctuation(character: char) -> char {
    match character {
        '\u{2044}' | '\u{2215}' | '\u{29F8}' => '/',
        '\u{2216}' | '\u{29F5}' | '\u{29F9}' => '\\',
        '\u{3002}' => '.',
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lenient_decoding_yields_what_a_server_may_read() {
        for (path, expected) in [
            ("/%u0061%U0062", "/ab"),
            ("/%uD835%uDC22", "/i"),
            ("/%uD835x", "/%uD835x"),
            ("/%u006", "/%u006"),
            ("/%u00e9", "/é"),
            ("/ｉ．／", "/i./"),
            ("/\u{2025}", "/.."),
            ("/a\u{200B}\u{7F}\tb", "/ab"),
            ("/∕∖。", "//\\."),
            ("/cafe\u{301}", "/café"),
            ("/%EF%BC%8E", "/."),
        ] {
            let decoded = decode_leniently(path.as_bytes());
            assert_eq!(String::from_utf8_lossy(&decoded), expected, "{path}");
        }
        assert_eq!(decode_leniently(b"/\xFFa"), b"/\xFFa");
    }
}
