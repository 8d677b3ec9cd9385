//! Decompresses the messages of permessage-deflate (RFC 7692), without context takeover.

use ::tests::deflate::TAIL;
use anyhow::{Context, Result, bail, ensure};
use flate2::{Decompress, FlushDecompress};

/// The maximum length of a message, in bytes.
const MESSAGE_MAX: usize = 1 << 20;
/// The number of messages kept. More than the window of `flat-out`.
const KEPT: usize = 64;

/// Decompresses messages.
///
/// All sockets receive the same bytes of a published message, so the last messages are kept, and
/// each is decompressed once.
pub struct Decompressor {
    decompress: Decompress,
    /// The last messages, compressed and decompressed.
    kept: Vec<(Vec<u8>, Vec<u8>)>,
    /// The index of the message that was received last.
    last: usize,
    /// The index of the oldest message.
    oldest: usize,
}

impl Default for Decompressor {
    fn default() -> Self {
        Self {
            decompress: Decompress::new(false),
            kept: Vec::new(),
            last: 0,
            oldest: 0,
        }
    }
}

impl Decompressor {
    /// Returns the message.
    pub fn message(&mut self, compressed: &[u8]) -> Result<&[u8]> {
        let count = self.kept.len();
        // The next one is usually the same on another socket, or the one after it.
        let found = (self.last..count)
            .chain(0..self.last)
            .find(|&index| self.kept[index].0 == compressed);
        self.last = match found {
            Some(index) => index,
            None => {
                let message = (compressed.to_vec(), self.decompress(compressed)?);
                if count < KEPT {
                    self.kept.push(message);
                    count
                } else {
                    let index = self.oldest;
                    self.kept[index] = message;
                    self.oldest = (index + 1) % KEPT;
                    index
                }
            }
        };
        Ok(&self.kept[self.last].1)
    }

    fn decompress(&mut self, compressed: &[u8]) -> Result<Vec<u8>> {
        let input = [compressed, &TAIL].concat();
        let mut message = Vec::with_capacity(4 * input.len());
        self.decompress.reset(false);
        loop {
            let consumed = self.decompress.total_in() as usize;
            self.decompress
                .decompress_vec(&input[consumed..], &mut message, FlushDecompress::Sync)
                .context("decompressing a message")?;
            if message.len() == message.capacity() {
                ensure!(
                    message.len() <= MESSAGE_MAX,
                    "the server sent a message longer than {MESSAGE_MAX} bytes"
                );
                message.reserve(message.len());
            } else if self.decompress.total_in() == input.len() as u64 {
                return Ok(message);
            } else {
                bail!("the server sent a message that is not compressed completely");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ::tests::deflate::compress;

    use super::*;

    #[test]
    fn messages_are_decompressed_whether_kept_or_not() {
        let messages: Vec<String> = (0..KEPT + 10)
            .map(|number| format!("{number} {}", "message ".repeat(number * number)))
            .collect();
        let mut decompressor = Decompressor::default();
        for _ in 0..2 {
            for message in &messages {
                let compressed = compress(message.as_bytes()).unwrap();
                for _ in 0..2 {
                    let actual = decompressor.message(&compressed).unwrap();
                    assert!(actual == message.as_bytes());
                }
            }
        }
        assert_eq!(decompressor.kept.len(), KEPT);
        let zeros = compress(&vec![0; 2 * MESSAGE_MAX]).unwrap();
        assert!(decompressor.message(&zeros).is_err());
        assert!(decompressor.message(&[0xff; 10]).is_err());
    }
}
