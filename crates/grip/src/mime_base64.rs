//! Base64 as publishers write it: padded or not, and broken into lines.

use base64::{
    DecodeError, Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

/// Accepts input with and without padding, and ignores unused bits at the end, as Pushpin does.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Decodes base64 of the standard alphabet.
///
/// White space is ignored: some libraries, such as Ruby's, break base64 into lines (RFC 2045,
/// section 6.8).
///
/// # Errors
/// Fails for any other character, and if a character is missing.
pub(crate) fn decode(encoded: &str) -> Result<Vec<u8>, DecodeError> {
    if encoded.bytes().any(|byte| byte.is_ascii_whitespace()) {
        let joined: Vec<u8> = encoded
            .bytes()
            .filter(|byte| !byte.is_ascii_whitespace())
            .collect();
        LENIENT.decode(joined)
    } else {
        LENIENT.decode(encoded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_missing_padding_are_accepted() {
        for encoded in [
            "/wBiaW4=",
            "/wBiaW4",
            "/wBiaW4=\n",
            "/wBi\r\naW4=\r\n",
            " /wBi\taW4 ",
            "\n/w\nBiaW4",
        ] {
            assert_eq!(
                decode(encoded).as_deref(),
                Ok(&b"\xff\0bin"[..]),
                "{encoded:?}"
            );
        }
        assert_eq!(decode("").as_deref(), Ok(&b""[..]));
        assert_eq!(decode("\n").as_deref(), Ok(&b""[..]));
        // Unused bits that are not zero.
        assert_eq!(decode("AB==").as_deref(), Ok(&b"\0"[..]));
    }

    #[test]
    fn other_characters_and_lengths_are_errors() {
        for encoded in ["_w==", "-w==", "a", "/wBi=aW4", "/w===", "é", "a\0=="] {
            assert!(decode(encoded).is_err(), "{encoded:?}");
        }
    }
}
