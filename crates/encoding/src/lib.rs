//! Content codings: which one a client takes, and the compressing.
//!
//! A component that can do without Brotli leaves the feature `brotli` out.

use std::io::Write as _;

#[cfg(feature = "brotli")]
use brotli::enc::BrotliEncoderParams;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::HeaderValue;

/// Shorter content hardly gets shorter.
const MIN_BYTES: usize = 200;

/// A content coding (RFC 9110 §8.4.1), but for none at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// RFC 7932.
    #[cfg(feature = "brotli")]
    Brotli,
    /// RFC 1952.
    Gzip,
}

/// How long compressing may take.
#[derive(Clone, Copy, Debug)]
pub enum Effort {
    /// It is done once, and sent often.
    Once,
    /// It is done for each answer.
    Always,
}

impl Encoding {
    /// All of them, the best first.
    pub const ALL: &[Encoding] = &[
        #[cfg(feature = "brotli")]
        Encoding::Brotli,
        Encoding::Gzip,
    ];

    /// The name in `Content-Encoding`.
    pub fn name(self) -> &'static str {
        match self {
            #[cfg(feature = "brotli")]
            Encoding::Brotli => "br",
            Encoding::Gzip => "gzip",
        }
    }

    /// The one that a client likes best, by its `Accept-Encoding` headers (RFC
    /// 9110 §12.5.3); of several, the best. `None` is the content as it is, which
    /// every client is taken to accept.
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
        let any = weight("*").unwrap_or(0);
        let weigh = |encoding: &Self| (*encoding, weight(encoding.name()).unwrap_or(any));
        // Of equals, `max_by_key` takes the last.
        let best = Self::ALL.iter().rev().map(weigh).max_by_key(|it| it.1);
        let plain = weight("identity").unwrap_or(0);
        best.filter(|(_, weight)| *weight > 0 && *weight >= plain)
            .map(|(encoding, _)| encoding)
    }

    /// `content` in this coding, or `None` if that would not be shorter.
    pub fn compress(self, content: &[u8], effort: Effort) -> Option<Bytes> {
        if content.len() < MIN_BYTES {
            return None;
        }
        let mut packed = Vec::with_capacity(content.len() / 2);
        // Writing to memory does not fail; if it did, the content would go as it is.
        match self {
            #[cfg(feature = "brotli")]
            Encoding::Brotli => {
                let parameters = BrotliEncoderParams {
                    quality: match effort {
                        Effort::Once => 11,
                        Effort::Always => 5,
                    },
                    size_hint: content.len(),
                    ..BrotliEncoderParams::default()
                };
                brotli::BrotliCompress(&mut &*content, &mut packed, &parameters).ok()?;
            }
            Encoding::Gzip => {
                let level = match effort {
                    Effort::Once => Compression::best(),
                    Effort::Always => Compression::new(4),
                };
                let mut encoder = GzEncoder::new(&mut packed, level);
                encoder.write_all(content).ok()?;
                encoder.finish().ok()?;
            }
        }
        (packed.len() < content.len()).then(|| packed.into())
    }
}

/// The weight in a coding's parameters, in thousandths; 1 when there is none, and
/// when it cannot be read.
fn quality(parameters: &str) -> u16 {
    let mut parameters = parameters.split(';').map(str::trim);
    let value = parameters.find_map(|it| it.strip_prefix("q=").or(it.strip_prefix("Q=")));
    match value.map(str::parse::<f32>) {
        // A cast from a float saturates.
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
            .map(|list| HeaderValue::from_str(list).expect("a header"))
            .collect();
        Encoding::choose(headers.iter()).map(Encoding::name)
    }

    fn unpacked(encoding: Encoding, packed: &[u8]) -> Vec<u8> {
        let mut content = Vec::new();
        match encoding {
            Encoding::Brotli => brotli::BrotliDecompress(&mut &*packed, &mut content),
            Encoding::Gzip => flate2::read::GzDecoder::new(packed)
                .read_to_end(&mut content)
                .map(drop),
        }
        .expect("what was packed");
        content
    }

    #[test]
    fn what_clients_accept() {
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
    fn only_when_it_helps() {
        let text = "order ".repeat(100);
        for &encoding in Encoding::ALL {
            for effort in [Effort::Once, Effort::Always] {
                let packed = encoding.compress(text.as_bytes(), effort).expect("shorter");
                assert!(packed.len() < 100);
                assert_eq!(unpacked(encoding, &packed), text.as_bytes());
                assert_eq!(encoding.compress(&packed, effort), None);
            }
        }
    }

    proptest! {
        #[test]
        fn any_list_is_read(list in "[ -~]{0,40}|((br|gzip|\\*)(;q=[0-9.]{0,4})?,?){0,4}") {
            choose(&[&list]);
        }

        #[test]
        fn any_content_comes_back(content in prop::collection::vec(0u8..9, 0..2000)) {
            for &encoding in Encoding::ALL {
                if let Some(packed) = encoding.compress(&content, Effort::Once) {
                    prop_assert_eq!(unpacked(encoding, &packed), &content[..]);
                }
            }
        }
    }
}
