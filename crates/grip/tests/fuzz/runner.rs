//! Runs a fuzz target for a bounded time.

use std::{
    env, fs, panic,
    path::Path,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use self::mutator::Mutator;

#[path = "mutator.rs"]
mod mutator;

const SEED: u64 = 0;

const ROUNDS: usize = 20_000;

/// The maximum number of inputs to mutate, both seeds and accepted ones.
const MAX_POOL: usize = 500;

fn number<N: std::str::FromStr>(variable: &str) -> Option<N> {
    let value = env::var(variable).ok()?;
    let number = value.parse();
    Some(number.unwrap_or_else(|_| panic!("invalid {variable} {value:?}: expected a whole number")))
}

/// Runs a target, which returns whether it accepts an input, with the seeds in `corpus` and with
/// mutations of them. Some of the inputs must be accepted, and others not.
pub(crate) fn run(corpus: &Path, target: fn(&[u8]) -> bool) {
    let name = corpus.file_name().unwrap_or_default().display();
    let seed = number("FUZZ_SEED").unwrap_or(SEED);
    let max_time = number("FUZZ_SECONDS").map(Duration::from_secs);
    let max_rounds = number("FUZZ_ROUNDS").unwrap_or(match max_time {
        Some(_) => usize::MAX,
        None => ROUNDS,
    });
    let check = |input: &[u8]| match panic::catch_unwind(|| target(input)) {
        Ok(accepted) => accepted,
        Err(payload) => {
            let text = input.escape_ascii();
            println!("{name}: FUZZ_SEED={seed} failed for input \"{text}\"");
            panic::resume_unwind(payload);
        }
    };

    let files = fs::read_dir(corpus).unwrap_or_else(|e| panic!("{}: {e}", corpus.display()));
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    // The order of directory entries differs between systems.
    files.sort();
    let mut pool: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    let accepted_seeds = pool.iter().filter(|seed| check(seed)).count();
    assert!(
        accepted_seeds > 0 && pool.len() < MAX_POOL,
        "{}",
        corpus.display()
    );

    let mutator = Mutator::new(&pool);
    let seeds = pool.len();
    let mut rng = SmallRng::seed_from_u64(seed);
    let start = Instant::now();
    let (mut rounds, mut accepted) = (0, 0);
    while rounds < max_rounds && max_time.is_none_or(|time| start.elapsed() < time) {
        let input = mutator.mutate(&pool, &mut rng);
        rounds += 1;
        if check(&input) {
            accepted += 1;
            if pool.len() < MAX_POOL {
                pool.push(input);
            } else {
                let index = rng.random_range(seeds..MAX_POOL);
                pool[index] = input;
            }
        }
    }
    // A useful run has a mix of valid and invalid inputs.
    println!("{name}: FUZZ_SEED={seed}, {accepted} of {rounds} accepted");
    assert!(
        accepted * 50 > rounds,
        "{name}: {accepted} of {rounds} accepted"
    );
    assert!(accepted < rounds, "{name}: all {rounds} accepted");
}
