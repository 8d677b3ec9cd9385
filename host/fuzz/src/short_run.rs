//! A bounded run of each fuzz target, on any toolchain. The host compiles it as one of its tests.
//!
//! The inputs are the seeds in `corpus` and mutations of them, the same on every run. Set
//! `FUZZ_SEED` for other mutations, and `FUZZ_ROUNDS` or `FUZZ_SECONDS` for more. A failing input
//! is printed, so that it can become a seed. cargo-fuzz is guided by coverage and finds more: see
//! `Cargo.toml`.

use std::{
    env, fs, panic,
    path::Path,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use self::mutator::Mutator;

#[path = "../../../crates/grip/tests/fuzz/mutator.rs"]
mod mutator;
mod targets;

const SEED: u64 = 0;

const ROUNDS: usize = 20_000;

/// The maximum number of inputs to mutate, both seeds and accepted ones.
const MAX_POOL: usize = 500;

fn number<N: std::str::FromStr>(variable: &str) -> Option<N> {
    let value = env::var(variable).ok()?;
    let number = value.parse();
    Some(number.unwrap_or_else(|_| panic!("invalid {variable} {value:?}: expected a whole number")))
}

fn run(name: &str, target: fn(&[u8]) -> bool) {
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

    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(name);
    let files = fs::read_dir(&corpus).unwrap_or_else(|e| panic!("{}: {e}", corpus.display()));
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

#[test]
fn frames() {
    run("frames", targets::frames);
}

#[test]
fn inflate() {
    run("inflate", targets::inflate);
}
