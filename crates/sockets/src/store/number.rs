//! Numbers of the key-value store. The host chooses their format when it increments an absent key.

/// The format of a stored number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// 8 bytes, little-endian: the format of SQLite stores.
    Binary,
    /// Decimal text: the format of Redis stores.
    Decimal,
}

/// A number and the format in which it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoredNumber {
    pub(crate) value: i64,
    format: Format,
}

impl StoredNumber {
    /// Reads a stored number.
    ///
    /// Eight digits are decimal. As binary, they would be above 10^18, which no number of this
    /// component reaches.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok();
        if let Some(value) = text.and_then(|text| text.parse().ok()) {
            let format = Format::Decimal;
            return Some(Self { value, format });
        }
        Some(Self {
            value: i64::from_le_bytes(bytes.try_into().ok()?),
            format: Format::Binary,
        })
    }

    /// Returns another number in the format of this one.
    pub(crate) fn encode(self, value: i64) -> Vec<u8> {
        match self.format {
            Format::Binary => value.to_le_bytes().into(),
            Format::Decimal => value.to_string().into_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_format() {
        for value in [0, 1, -1, 1000, 7 << 32 | 7, i64::MAX, i64::MIN] {
            for bytes in [value.to_string().into_bytes(), value.to_le_bytes().into()] {
                let number = StoredNumber::decode(&bytes).unwrap();
                assert_eq!(number.value, value);
                assert_eq!(number.encode(value), bytes);
            }
        }
    }

    #[test]
    fn eight_digits_are_decimal() {
        assert_eq!(StoredNumber::decode(b"12345678").unwrap().value, 12_345_678);
    }

    #[test]
    fn other_values_are_no_numbers() {
        for bytes in [
            &b""[..],
            b"1 ",
            b"abc",
            b"9223372036854775808",
            &[0; 7],
            &[0; 9],
        ] {
            assert_eq!(StoredNumber::decode(bytes), None, "{bytes:?}");
        }
    }
}
