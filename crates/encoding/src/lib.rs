//! Content codings for HTTP responses: negotiation and compression.
//!
//! Brotli is the default feature `brotli`. It makes a component considerably larger.

use std::io::Write as _;

#[cfg(feature = "brotli")]
use brotli::enc::BrotliEncoderParams;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::HeaderValue;

/// Content with fewer bytes is not compressed, as it would hardly get smaller.
const MIN_BYTES: usize = 200;

/// A content coding (RFC 9110 §8.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Brotli (RFC 7932).
    #[cfg(feature = "brotli")]
    Brotli,
    /// Gzip (RFC 1952).
    Gzip,
}

/// The effort to spend on compression.
#[derive(Clone, Copy, Debug)]
pub enum Effort {
    /// Best compression, for content that is compressed once and sent often.
    Best,
    /// Fast compression, for content that is compressed for each response.
    Fast,
}

impl Encoding {
    /// All content codings, in order of preference.
    pub const ALL: &[Encoding] = &[
        #[cfg(feature = "brotli")]
        Encoding::Brotli,
        Encoding::Gzip,
    ];

    /// Returns the name in `Content-Encoding`.
    pub fn name(self) -> &'static str {
        match self {
            #[cfg(feature = "brotli")]
            Encoding::Brotli => "br",
            Encoding::Gzip => "gzip",
        }
    }

    /// Chooses the coding with the highest weight in `Accept-Encoding` headers (RFC 9110
    /// §12.5.3). [`ALL`](Encoding::ALL) decides between equal weights.
    ///
    /// Returns `None` if the client prefers uncompressed content, or accepts no known coding.
    pub fn choose<'a>(accepted: impl Iterator<Item = &'a HeaderValue>) -> Option<Self> {
        let lists: Vec<&str> = accepted.filter_map(|list| list.to_str().ok()).collect();
        let weight = |name: &str| {
            lists
                .iter()
                .flat_map(|list| list.split(','))
                .find_map(|member| {
                    let (coding, parameters) = member.split_once(';').unwrap_or((member, ""));
                    let is_named = coding.trim().eq_ignore_ascii_case(name);
                    is_named.then(|| quality(parameters))
                })
        };
        let wildcard = weight("*").unwrap_or(0);
        let identity = weight("identity").unwrap_or(0);
        Self::ALL
            .iter()
            .map(|encoding| (*encoding, weight(encoding.name()).unwrap_or(wildcard)))
            .rev() // `max_by_key` returns the last of several maxima.
            .max_by_key(|(_, weight)| *weight)
            .filter(|(_, weight)| *weight > 0 && *weight >= identity)
            .map(|(encoding, _)| encoding)
    }

    /// Compresses `content`. Returns `None` if the result would not be smaller.
    pub fn compress(self, content: &[u8], effort: Effort) -> Option<Bytes> {
        if content.len() < MIN_BYTES {
            return None;
        }
        let mut compressed = Vec::with_capacity(content.len() / 2);
        // Writing to memory cannot fail. If it did, the content would be sent uncompressed.
        match self {
            #[cfg(feature = "brotli")]
            Encoding::Brotli => {
                let parameters = BrotliEncoderParams {
                    quality: match effort {
                        Effort::Best => 11,
                        Effort::Fast => 5,
                    },
                    size_hint: content.len(),
                    ..BrotliEncoderParams::default()
                };
                brotli::BrotliCompress(&mut &*content, &mut compressed, &parameters).ok()?;
            }
            Encoding::Gzip => {
                let level = match effort {
                    Effort::Best => Compression::best(),
                    Effort::Fast => Compression::new(4),
                };
                let mut encoder = GzEncoder::new(&mut compressed, level);
                encoder.write_all(content).ok()?;
                encoder.finish().ok()?;
            }
        }
        (compressed.len() < content.len()).then(|| compressed.into())
    }
}

/// Returns the weight in a coding's parameters, in thousandths.
///
/// A missing or invalid weight counts as 1.
fn quality(parameters: &str) -> u16 {
    let mut parameters = parameters.split(';').map(str::trim);
    let value = parameters.find_map(|parameter| {
        parameter
            .strip_prefix("q=")
            .or(parameter.strip_prefix("Q="))
    });
    match value.map(str::parse::<f32>) {
        // A cast from a float saturates, and maps NaN to 0.
        Some(Ok(weight)) => (weight.clamp(0.0, 1.0) * 1000.0) as u16,
        _ => 1000,
    }
}

#[cfg(all(test, feature = "brotli"))]
mod tests {
    use std::io::Read as _;

    use proptest::prelude::*;

    use super::*;

    fn choose(accepted: &[&str]) -> Option<&'static str> {
        let headers: Vec<_> = accepted
            .iter()
            .map(|list| HeaderValue::from_str(list).expect("a valid header value"))
            .collect();
        Encoding::choose(headers.iter()).map(Encoding::name)
    }

    fn decompress(encoding: Encoding, compressed: &[u8]) -> Vec<u8> {
        let mut content = Vec::new();
        match encoding {
            Encoding::Brotli => brotli::BrotliDecompress(&mut &*compressed, &mut content),
            Encoding::Gzip => flate2::read::GzDecoder::new(compressed)
                .read_to_end(&mut content)
                .map(drop),
        }
        .expect("valid compressed content");
        content
    }

    #[test]
    fn the_preferred_coding_is_chosen() {
        for (accepted, expected) in [
            (&["gzip, deflate, br, zstd"][..], Some("br")),
            (&["gzip, deflate"], Some("gzip")),
            (&["gzip", "br"], Some("br")),
            (&["GZIP"], Some("gzip")),
            (&["br;q=0.5, gzip;q=0.8"], Some("gzip")),
            (&["br; q=0.8 ,gzip;q=0.8"], Some("br")),
            (&["br;q=0, gzip"], Some("gzip")),
            (&["*"], Some("br")),
            (&["*, br;q=0"], Some("gzip")),
            (&["identity, gzip;q=0.5"], None),
            (&["br;q=0, *;q=0"], None),
            (&["identity"], None),
            (&["x-gzip-like"], None),
            (&[""], None),
            (&[], None),
        ] {
            assert_eq!(choose(accepted), expected, "{accepted:?}");
        }
    }

    #[test]
    fn content_is_compressed_only_if_it_gets_smaller() {
        let text = "order ".repeat(100);
        for &encoding in Encoding::ALL {
            for effort in [Effort::Best, Effort::Fast] {
                let compressed = encoding.compress(text.as_bytes(), effort).expect("smaller");
                assert!(compressed.len() < 100);
                assert_eq!(decompress(encoding, &compressed), text.as_bytes());
                assert_eq!(encoding.compress(&compressed, effort), None);
            }
        }
    }

    proptest! {
        #[test]
        fn choosing_never_panics(list in "[ -~]{0,40}|((br|gzip|\\*)(;q=[0-9.]{0,4})?,?){0,4}") {
            choose(&[&list]);
        }

        #[test]
        fn compression_round_trips(content in prop::collection::vec(0u8..9, 0..2000)) {
            for &encoding in Encoding::ALL {
                if let Some(compressed) = encoding.compress(&content, Effort::Best) {
                    prop_assert_eq!(decompress(encoding, &compressed), &content[..]);
                }
            }
        }
    }
}
