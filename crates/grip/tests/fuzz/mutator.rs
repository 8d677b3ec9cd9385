//! Mutates inputs in ways that are likely to matter to a parser.

use std::collections::BTreeSet;

use rand::{RngExt, rngs::SmallRng, seq::IndexedRandom};

/// The maximum length of an input in bytes.
const MAX_LEN: usize = 2048;

/// Bytes with a meaning in some format, and bytes at the ends of ranges.
const BYTES: &[u8] = b"\0\n\r\t \"\\,;:=<>{}[]0919afFz-+.\x7f\x80\xc3\xff";

/// Derives inputs from others.
pub struct Mutator {
    /// The words and numbers in the seeds.
    words: Vec<Vec<u8>>,
}

impl Mutator {
    /// Creates a mutator that uses the words of `seeds`.
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

    /// Returns an input of `pool` with one to four changes.
    pub fn mutate(&self, pool: &[Vec<u8>], rng: &mut SmallRng) -> Vec<u8> {
        let mut input = choose(pool, rng).to_vec();
        for _ in 0..rng.random_range(1..=4) {
            self.change(&mut input, pool, rng);
        }
        input.truncate(MAX_LEN);
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
                let target = rng.random_range(0..=input.len());
                drop(input.splice(target..target, piece));
            }
            5 => drop(input.splice(from..to, choose(&self.words, rng).iter().copied())),
            6 => self.replace_word(input, from, rng),
            _ => {
                // Replace the rest with the end of another input.
                let other = choose(pool, rng);
                let start = rng.random_range(0..=other.len());
                input.truncate(from);
                input.extend_from_slice(&other[start..]);
            }
        }
    }

    /// Replaces the first word at or after `from`.
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
    from.choose(rng).expect("seeds with words")
}
