//! permessage-deflate (RFC 7692): negotiates the extension, and compresses and decompresses messages.
//!
//! Both directions use no context takeover. A message is therefore compressed once for all sockets,
//! and an idle socket holds no window.

use std::cell::RefCell;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use http::{HeaderMap, HeaderValue, header};

use crate::http::headers::list_items;

/// The name of the extension.
const NAME: &str = "permessage-deflate";

/// The end of a compressed message, which is not sent (RFC 7692, section 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// The base-2 logarithm of the largest window in bytes. The host compresses with this window.
const MAX_WINDOW_BITS: u8 = 15;

/// The size of the smallest message that is compressed, in bytes.
pub(crate) const MIN_BYTES: usize = 128;

/// A fast level, since messages are compressed while they are published. Higher levels make typical
/// messages hardly smaller.
const LEVEL: Compression = Compression::new(2);

/// The minimum growth of an output buffer, in bytes.
const CHUNK_BYTES: usize = 1024;

/// The negotiated parameters of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deflate {
    /// The base-2 logarithm of the client's decompression window in bytes.
    /// `None` if the client has not limited it.
    window_bits: Option<u8>,
}

/// Why a message cannot be decompressed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum DecompressError {
    /// The message is larger than the limit.
    TooLarge,
    /// The data is not a compressed message.
    Invalid,
}

impl Deflate {
    /// Accepts the first offer in `Sec-WebSocket-Extensions` whose parameters are valid. Returns the
    /// value of the header in the response.
    pub(crate) fn negotiate(request: &HeaderMap) -> Option<(Self, HeaderValue)> {
        let deflate =
            list_items(request, &header::SEC_WEBSOCKET_EXTENSIONS).find_map(Self::accept)?;
        let mut accepted =
            format!("{NAME}; server_no_context_takeover; client_no_context_takeover");
        // Must be in the response if it was offered (RFC 7692, section 7.1.2.1).
        if let Some(bits) = deflate.window_bits {
            accepted += &format!("; server_max_window_bits={bits}");
        }
        Some((deflate, HeaderValue::from_str(&accepted).ok()?))
    }

    /// Accepts one offer. Any unknown, repeated or invalid parameter declines it (RFC 7692, section
    /// 7.1).
    fn accept(offer: &str) -> Option<Self> {
        let mut parts = offer.split(';').map(str::trim);
        if !parts.next()?.eq_ignore_ascii_case(NAME) {
            return None;
        }
        let mut seen = Vec::new();
        let mut window_bits = None;
        for part in parts {
            let (name, value) = match part.split_once('=') {
                Some((name, value)) => (name.trim_end(), Some(value.trim_start())),
                None => (part, None),
            };
            match (name, value) {
                ("server_no_context_takeover" | "client_no_context_takeover", None) => {}
                ("server_max_window_bits", Some(value)) => window_bits = Some(parse_bits(value)?),
                ("client_max_window_bits", None) => {}
                ("client_max_window_bits", Some(value)) => {
                    parse_bits(value)?;
                }
                _ => return None,
            }
            if seen.contains(&name) {
                return None;
            }
            seen.push(name);
        }
        Some(Self { window_bits })
    }

    /// Returns whether the client can decompress a message of this size. Back-references reach no
    /// further than the start of the message, so the message must fit in the client's window.
    pub(crate) fn fits(self, message_bytes: usize) -> bool {
        let fits = |bits| bits == MAX_WINDOW_BITS || message_bytes <= 1_usize << bits;
        self.window_bits.is_none_or(fits)
    }
}

/// Parses the base-2 logarithm of a window, which may be quoted.
fn parse_bits(value: &str) -> Option<u8> {
    let unquoted = value
        .strip_prefix('"')
        .and_then(|value| value.strip_suffix('"'));
    let value = unquoted.unwrap_or(value);
    // `parse` also accepts a sign and leading zeros.
    let is_decimal = !value.starts_with('0') && value.bytes().all(|byte| byte.is_ascii_digit());
    let bits = value.parse().ok().filter(|_| is_decimal)?;
    (8..=MAX_WINDOW_BITS).contains(&bits).then_some(bits)
}

thread_local! {
    // The state is large, so all sockets of a thread share it.
    static COMPRESS: RefCell<Compress> = RefCell::new(Compress::new(LEVEL, false));
    static DECOMPRESS: RefCell<Decompress> = RefCell::new(Decompress::new(false));
}

/// Returns the largest size to which a client may compress a message of `message_bytes`. It may be
/// larger than the message: what cannot be compressed is stored in blocks, with a head for each.
pub(crate) fn max_compressed_bytes(message_bytes: usize) -> usize {
    message_bytes + message_bytes / 1000 + 64
}

/// Compresses a message. Returns `None` if it would not become smaller.
pub(crate) fn compress(message: &[u8]) -> Option<Vec<u8>> {
    if message.len() < MIN_BYTES {
        return None;
    }
    COMPRESS.with_borrow_mut(|compress| {
        compress.reset();
        let mut compressed = Vec::with_capacity(message.len() / 2 + CHUNK_BYTES);
        loop {
            let consumed = usize::try_from(compress.total_in()).ok()?;
            let status =
                compress.compress_vec(&message[consumed..], &mut compressed, FlushCompress::Sync);
            // The state of the stream is valid, so this does not fail.
            status.ok()?;
            if compressed.len() >= message.len() + TAIL.len() {
                return None;
            }
            // Unused space shows that all output was written.
            if compressed.len() < compressed.capacity() {
                break;
            }
            compressed.reserve(CHUNK_BYTES);
        }
        let length = compressed.strip_suffix(&TAIL)?.len();
        compressed.truncate(length);
        compressed.shrink_to_fit();
        Some(compressed)
    })
}

/// Decompresses a message of at most `max_bytes`.
///
/// # Errors
/// Fails, without decompressing more, once the message exceeds the limit, or if it is invalid.
pub(crate) fn decompress(compressed: &[u8], max_bytes: usize) -> Result<Vec<u8>, DecompressError> {
    DECOMPRESS.with_borrow_mut(|decompress| {
        decompress.reset(false);
        let mut message = Vec::new();
        for part in [compressed, &TAIL] {
            decompress_part(decompress, part, &mut message, max_bytes)?;
        }
        Ok(message)
    })
}

/// Decompresses a part of a message and appends the result to `message`.
fn decompress_part(
    decompress: &mut Decompress,
    mut part: &[u8],
    message: &mut Vec<u8>,
    max_bytes: usize,
) -> Result<(), DecompressError> {
    loop {
        if message.len() == message.capacity() {
            // Doubles the space, up to one byte more than the limit, which shows that it is exceeded.
            let wanted = message
                .len()
                .max(part.len().saturating_mul(2))
                .max(CHUNK_BYTES);
            message.reserve_exact(wanted.min(max_bytes + 1 - message.len()));
        }
        let before = decompress.total_in();
        let status = decompress
            .decompress_vec(part, message, FlushDecompress::Sync)
            .map_err(|_| DecompressError::Invalid)?;
        let consumed = usize::try_from(decompress.total_in() - before).unwrap_or(part.len());
        part = &part[consumed..];
        if message.len() > max_bytes {
            return Err(DecompressError::TooLarge);
        }
        let has_ended = status == Status::StreamEnd;
        let has_space = message.len() < message.capacity();
        if has_ended {
            // A sender may end the stream (BFINAL) and start another (RFC 7692, section 7.2.3.4).
            decompress.reset(false);
        }
        if part.is_empty() && (has_ended || has_space) {
            return Ok(());
        }
        if consumed == 0 && has_space && !has_ended {
            return Err(DecompressError::Invalid);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn negotiate(offers: &[&str]) -> Option<(u8, String)> {
        let mut headers = HeaderMap::new();
        for offer in offers {
            let value = HeaderValue::from_str(offer).unwrap();
            headers.append(header::SEC_WEBSOCKET_EXTENSIONS, value);
        }
        let (deflate, value) = Deflate::negotiate(&headers)?;
        let bits = deflate.window_bits.unwrap_or(MAX_WINDOW_BITS);
        Some((bits, value.to_str().unwrap().to_owned()))
    }

    #[test]
    fn the_first_valid_offer_is_accepted() {
        let both = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
        for (offers, bits, suffix) in [
            (&["permessage-deflate"][..], 15, ""),
            (&["PerMessage-Deflate;client_max_window_bits"], 15, ""),
            (&["permessage-deflate; client_max_window_bits=9"], 15, ""),
            (&["x-other; a=1, permessage-deflate"], 15, ""),
            (&["x-other", "permessage-deflate"], 15, ""),
            (
                &["permessage-deflate; server_max_window_bits=10"],
                10,
                "; server_max_window_bits=10",
            ),
            (
                &[
                    "permessage-deflate ; server_max_window_bits = \"8\" ; server_no_context_takeover",
                ],
                8,
                "; server_max_window_bits=8",
            ),
            (
                &["permessage-deflate; server_max_window_bits=15"],
                15,
                "; server_max_window_bits=15",
            ),
            (
                &["permessage-deflate; server_max_window_bits=7, permessage-deflate"],
                15,
                "",
            ),
        ] {
            let expected = Some((bits, format!("{both}{suffix}")));
            assert_eq!(negotiate(offers), expected, "{offers:?}");
        }
    }

    #[test]
    fn invalid_offers_are_declined() {
        for offer in [
            "",
            "x-webkit-deflate-frame",
            "permessage-deflate; unknown",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=08",
            "permessage-deflate; server_max_window_bits=+9",
            "permessage-deflate; server_max_window_bits=\"9",
            "permessage-deflate; client_max_window_bits=x",
            "permessage-deflate; client_no_context_takeover=1",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            "permessage-deflate;",
        ] {
            assert_eq!(negotiate(&[offer]), None, "{offer}");
        }
    }

    #[test]
    fn small_windows_bound_the_size_of_messages() {
        let deflate = |bits| Deflate {
            window_bits: Some(bits),
        };
        assert!(deflate(8).fits(256) && !deflate(8).fits(257));
        assert!(deflate(14).fits(1 << 14) && !deflate(14).fits((1 << 14) + 1));
        assert!(deflate(15).fits(usize::MAX));
    }

    #[test]
    fn messages_are_compressed_only_if_they_become_smaller() {
        assert_eq!(compress(&[b'a'; MIN_BYTES - 1]), None);
        let text = "An order of two burgers and three shakes. ".repeat(100);
        let compressed = compress(text.as_bytes()).unwrap();
        assert!(compressed.len() < text.len() / 10, "{}", compressed.len());
        let random: Vec<u8> = (0..10_000u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        if let Some(compressed) = compress(&random) {
            assert!(compressed.len() < random.len());
        }
    }

    #[test]
    fn the_examples_of_the_rfc_are_decompressed() {
        // RFC 7692, section 7.2.3: one block, two blocks, no compression, BFINAL.
        for compressed in [
            &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..],
            &[
                0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00,
            ],
            &[
                0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00,
            ],
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
        ] {
            assert_eq!(
                decompress(compressed, 5),
                Ok(b"Hello".to_vec()),
                "{compressed:x?}"
            );
            assert_eq!(decompress(compressed, 4), Err(DecompressError::TooLarge));
        }
        assert_eq!(decompress(&[0], 0), Ok(Vec::new()));
    }

    #[test]
    fn invalid_data_is_an_error() {
        for compressed in [&[0xff; 20][..], &[0x06, 0x00], b"Hello, this is plain text"] {
            assert_eq!(decompress(compressed, 100), Err(DecompressError::Invalid));
        }
    }

    #[test]
    fn bombs_are_cut_off() {
        // A megabyte of zeros in a kilobyte.
        let bomb = compress(&vec![0; 1 << 20]).unwrap();
        assert!(bomb.len() < 6000, "{}", bomb.len());
        assert_eq!(decompress(&bomb, 1 << 16), Err(DecompressError::TooLarge));
        assert_eq!(decompress(&bomb, 1 << 20).map(|it| it.len()), Ok(1 << 20));
    }

    proptest! {
        #[test]
        fn messages_survive(message in proptest::collection::vec(0u8..4, 0..5000)) {
            if let Some(compressed) = compress(&message) {
                prop_assert!(compressed.len() < message.len());
                prop_assert_eq!(decompress(&compressed, message.len()), Ok(message));
            }
        }

        #[test]
        fn any_data_is_decompressed_within_the_limit(
            data in proptest::collection::vec(any::<u8>(), 0..300),
            limit in 0usize..1000,
        ) {
            if let Ok(message) = decompress(&data, limit) {
                prop_assert!(message.len() <= limit);
            }
        }
    }
}
