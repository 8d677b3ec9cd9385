//! Fingerprints of contents, and names that contain them: `main.js` is also `main.01234567.js`.

use std::fmt::{self, Display};
use std::str;

use sha2::{Digest as _, Sha256};

/// How many digits a name contains: enough to tell the versions of one file apart.
const NAME_DIGITS: usize = 8;

/// The first half of a content's SHA-256, in lower-case hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(crate) fn of(content: &[u8]) -> Self {
        const HEX: [u8; 16] = *b"0123456789abcdef";
        let mut digits = [0; 32];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(Sha256::digest(content)) {
            pair[0] = HEX[usize::from(byte >> 4)];
            pair[1] = HEX[usize::from(byte & 15)];
        }
        Self(digits)
    }

    fn digits(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }

    /// Returns `name` with the fingerprint before its extension.
    pub(crate) fn add_to(&self, name: &str) -> String {
        let digits = &self.digits()[..NAME_DIGITS];
        match split(name) {
            Some((stem, extension)) => format!("{stem}.{digits}.{extension}"),
            None => format!("{name}.{digits}"),
        }
    }

    /// Returns whether `digits`, from a name, belong to this fingerprint.
    pub(crate) fn matches(&self, digits: &str) -> bool {
        digits.len() == NAME_DIGITS && self.digits().starts_with(digits)
    }
}

impl Display for Fingerprint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.digits())
    }
}

/// Splits a name that contains a fingerprint into the plain name and the digits.
pub(crate) fn parse(name: &str) -> Option<(String, &str)> {
    let (rest, extension) = match split(name) {
        Some((rest, extension)) if !is_digits(extension) => (rest, Some(extension)),
        _ => (name, None),
    };
    let (stem, digits) = rest
        .rsplit_once('.')
        .filter(|(_, digits)| is_digits(digits))?;
    Some(match extension {
        Some(extension) => (format!("{stem}.{extension}"), digits),
        None => (stem.to_owned(), digits),
    })
}

fn is_digits(text: &str) -> bool {
    text.len() == NAME_DIGITS
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Splits a name into stem and extension: `icons/bell` and `svg`.
fn split(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once('.')
        .filter(|(_, extension)| !extension.contains('/'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fingerprint_of_a_known_content() {
        let fingerprint = Fingerprint::of(b"abc");
        // The first half of the example in FIPS 180-2, B.1.
        assert_eq!(fingerprint.to_string(), "ba7816bf8f01cfea414140de5dae2223");
        assert_eq!(
            fingerprint.add_to("icons/bell.svg"),
            "icons/bell.ba7816bf.svg"
        );
        assert_eq!(fingerprint.add_to("v1.0/README"), "v1.0/README.ba7816bf");
        assert!(fingerprint.matches("ba7816bf"));
        for other in ["", "ba7816b", "ba7816bd", "ba7816bf8"] {
            assert!(!fingerprint.matches(other), "{other}");
        }
    }

    #[test]
    fn plain_names_have_no_fingerprint() {
        for name in [
            "main.js",
            "a.b.js",
            "ba7816bf.js",
            "a.BA7816BF.js",
            "",
            ".",
            "a.",
        ] {
            assert_eq!(parse(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn parse_undoes_add_to(name in "[a-z]{1,3}(/[a-z]{1,3})?(\\.[a-z]{1,4}){0,2}", content: Vec<u8>) {
            let fingerprint = Fingerprint::of(&content);
            let versioned = fingerprint.add_to(&name);
            let (plain, digits) = parse(&versioned).expect("a fingerprint");
            prop_assert_eq!(plain, name);
            prop_assert!(fingerprint.matches(digits));
        }

        #[test]
        fn any_name_can_be_parsed(name in "[a-f0-9./]{0,40}") {
            let _ = parse(&name);
        }
    }
}
