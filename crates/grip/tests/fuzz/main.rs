//! A bounded run of each fuzz target, on any toolchain.
//!
//! The inputs are the seeds in `fuzz/corpus` and mutations of them, the same on every run.
//! Set `FUZZ_SEED` for other mutations and `FUZZ_ROUNDS` for more. A failing input is printed,
//! so that it can become a seed. cargo-fuzz is guided by coverage and finds more: see
//! `fuzz/Cargo.toml`.

use std::{env, fs, panic, path::Path};

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use self::mutator::Mutator;

mod mutator;
#[path = "../../fuzz/src/lib.rs"]
mod targets;

const SEED: u64 = 0;

const ROUNDS: usize = 20_000;

/// The maximum number of inputs to mutate, both seeds and accepted ones.
const MAX_POOL: usize = 500;

fn number<N: std::str::FromStr>(variable: &str, default: N) -> N {
    match env::var(variable) {
        Ok(value) => value
            .parse()
            .unwrap_or_else(|_| panic!("invalid {variable} {value:?}: expected a whole number")),
        Err(_) => default,
    }
}

fn run(name: &str, target: fn(&[u8]) -> bool) {
    let (seed, rounds) = (number("FUZZ_SEED", SEED), number("FUZZ_ROUNDS", ROUNDS));
    println!("{name}: FUZZ_SEED={seed} FUZZ_ROUNDS={rounds}");
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
    let mut accepted = 0;
    for _ in 0..rounds {
        let input = mutator.mutate(&pool, &mut rng);
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
    println!("{name}: {accepted} of {rounds} accepted");
    assert!(
        accepted * 50 > rounds,
        "{name}: {accepted} of {rounds} accepted"
    );
    assert!(accepted < rounds, "{name}: all {rounds} accepted");
}

#[test]
fn events() {
    run("events", targets::events);
}

#[test]
fn control() {
    run("control", targets::control);
}

#[test]
fn publish() {
    run("publish", targets::publish);
}

#[test]
fn instruct() {
    run("instruct", targets::instruct);
}

#[test]
fn extension() {
    run("extension", targets::extension);
}

#[test]
fn signature() {
    run("signature", targets::signature);
}
