//! Changes inputs a little, in ways that are likely to matter to a parser.

use std::collections::BTreeSet;

use rand::{RngExt, rngs::SmallRng, seq::IndexedRandom};

/// The longest input, in bytes.
const MAX_LENGTH: usize = 2048;

/// Bytes that mean something somewhere, or that are at an end of something.
const BYTES: &[u8] = b"\0\n\r\t \"\\,;:=<>{}[]0919afFz-+.\x7f\x80\xc3\xff";

/// Makes inputs from inputs.
pub struct Mutator {
    /// Words and numbers of the seeds.
    words: Vec<Vec<u8>>,
}

impl Mutator {
    /// A mutator that knows the words of `seeds`.
    pub fn new(seeds: &[Vec<u8>]) -> Mutator {
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let words = seeds
            .iter()
            .flat_map(|seed| seed.split(|byte| !is_word(byte)));
        let words: BTreeSet<&[u8]> = words.filter(|word| !word.is_empty()).collect();
        Mutator {
            words: words.into_iter().map(<[u8]>::to_vec).collect(),
        }
    }

    /// One of `pool`, changed in one to four places.
    pub fn mutate(&self, pool: &[Vec<u8>], rng: &mut SmallRng) -> Vec<u8> {
        let mut input = choose(pool, rng).to_vec();
        for _ in 0..rng.random_range(1..=4) {
            self.change(&mut input, pool, rng);
        }
        input.truncate(MAX_LENGTH);
        input
    }

    fn change(&self, input: &mut Vec<u8>, pool: &[Vec<u8>], rng: &mut SmallRng) {
        let from = rng.random_range(0..=input.len());
        let to = rng.random_range(from..=input.len().min(from + 16));
        match rng.random_range(0..8) {
            0 => {
                if let Some(byte) = input.get_mut(from) {
                    *byte ^= 1 << rng.random_range(0..8);
                }
            }
            1 => {
                if let Some(byte) = input.get_mut(from) {
                    *byte = *choose(BYTES, rng);
                }
            }
            2 => input.insert(from, *choose(BYTES, rng)),
            3 => drop(input.drain(from..to)),
            4 => {
                let piece = input[from..to].to_vec();
                let at = rng.random_range(0..=input.len());
                drop(input.splice(at..at, piece));
            }
            5 => drop(input.splice(from..to, choose(&self.words, rng).iter().copied())),
            6 => self.replace_word(input, from, rng),
            _ => {
                // The end of another.
                let other = choose(pool, rng);
                let at = rng.random_range(0..=other.len());
                input.truncate(from);
                input.extend_from_slice(&other[at..]);
            }
        }
    }

    /// Puts a word where one is, at or after `from`.
    fn replace_word(&self, input: &mut Vec<u8>, from: usize, rng: &mut SmallRng) {
        let is_word = u8::is_ascii_alphanumeric;
        let Some(start) = input[from..].iter().position(is_word) else {
            return;
        };
        let start = from + start;
        let length = input[start..]
            .iter()
            .take_while(|byte| is_word(byte))
            .count();
        let word = choose(&self.words, rng).iter().copied();
        drop(input.splice(start..start + length, word));
    }
}

fn choose<'a, T>(from: &'a [T], rng: &mut SmallRng) -> &'a T {
    from.choose(rng)
        .expect("there are seeds, and words in them")
}
