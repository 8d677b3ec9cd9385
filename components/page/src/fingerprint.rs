//! Names that change with what they name: `main.js` is also `main.01234567.js`.

use std::fmt::{self, Display};
use std::str;

use sha2::{Digest as _, Sha256};

/// How many digits of it are in a name: enough for the versions of one file.
const IN_NAME: usize = 8;

/// Half of the SHA-256 of some content, in lower-case hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of `content`.
    pub fn of(content: &[u8]) -> Self {
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

    /// `name` with the fingerprint in it, before its extension.
    pub fn name(&self, name: &str) -> String {
        let digits = &self.digits()[..IN_NAME];
        match split(name) {
            Some((stem, extension)) => format!("{stem}.{digits}.{extension}"),
            None => format!("{name}.{digits}"),
        }
    }

    /// Whether `digits`, from a name, are of this one.
    pub fn is_in(&self, digits: &str) -> bool {
        digits.len() == IN_NAME && self.digits().starts_with(digits)
    }
}

impl Display for Fingerprint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.digits())
    }
}

/// The name in a name with a fingerprint, and the fingerprint's digits.
pub fn parse(name: &str) -> Option<(String, &str)> {
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
    text.len() == IN_NAME
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A name's stem and extension: `icons/bell` and `svg`.
fn split(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once('.')
        .filter(|(_, extension)| !extension.contains('/'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_known_one() {
        let fingerprint = Fingerprint::of(b"abc");
        // The first half of the example in FIPS 180-2, B.1.
        assert_eq!(fingerprint.to_string(), "ba7816bf8f01cfea414140de5dae2223");
        assert_eq!(
            fingerprint.name("icons/bell.svg"),
            "icons/bell.ba7816bf.svg"
        );
        assert_eq!(fingerprint.name("v1.0/README"), "v1.0/README.ba7816bf");
        assert!(fingerprint.is_in("ba7816bf"));
        for other in ["", "ba7816b", "ba7816bd", "ba7816bf8"] {
            assert!(!fingerprint.is_in(other), "{other}");
        }
    }

    #[test]
    fn plain_names_have_none() {
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
        fn names_are_found_in_names(name in "[a-z]{1,3}(/[a-z]{1,3})?(\\.[a-z]{1,4}){0,2}", content: Vec<u8>) {
            let fingerprint = Fingerprint::of(&content);
            let with = fingerprint.name(&name);
            let (without, digits) = parse(&with).expect("a fingerprint");
            prop_assert_eq!(without, name);
            prop_assert!(fingerprint.is_in(digits));
        }

        #[test]
        fn any_name_is_read(name in "[a-f0-9./]{0,40}") {
            let _ = parse(&name);
        }
    }
}
