//! Parses the query of a URL.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// What is encoded in names of channels and in values of headers and queries.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Percent-encodes all but letters, digits and `-._~`.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

/// Returns the parameters of a query, decoded. Bytes that are not UTF-8 are replaced.
pub(crate) fn parameters(query: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    })
}

/// Decodes percent-encoded text, in which a plus is a space.
pub(crate) fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return text.into();
    }
    let text = text.replace('+', " ");
    let decoded = percent_decode_str(&text).decode_utf8_lossy();
    decoded.into_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let parameters: Vec<_> = parameters("a=1&b&&c=x+y%2Bz%26&a=%ff=").collect();
        let parameters: Vec<_> = parameters.iter().map(|(a, b)| (&**a, &**b)).collect();
        assert_eq!(
            parameters,
            [("a", "1"), ("b", ""), ("c", "x y+z&"), ("a", "\u{fffd}=")]
        );
    }

    #[test]
    fn encoded_text_is_decoded_again() {
        let text = "a b+c&d=é,;/%~";
        assert_eq!(decode(&encode(text)), text);
        assert_eq!(encode("a-b_c.d~e"), "a-b_c.d~e");
    }
}
