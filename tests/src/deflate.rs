//! Compresses messages as permessage-deflate does (RFC 7692), without context takeover.

use anyhow::{Context as _, Result};
use flate2::{Compress, Compression, FlushCompress};

/// The bytes at the end of a compressed message that are not sent (section 7.2.1).
pub const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// Compresses a message.
pub fn compress(message: &[u8]) -> Result<Vec<u8>> {
    let mut compressed = Vec::with_capacity(message.len() + 64);
    Compress::new(Compression::default(), false).compress_vec(
        message,
        &mut compressed,
        FlushCompress::Sync,
    )?;
    let length = compressed
        .strip_suffix(&TAIL)
        .context("compressing a message")?
        .len();
    compressed.truncate(length);
    Ok(compressed)
}
