//! A bounded run of each fuzz target, on any toolchain: the seeds in `fuzz/corpus`, and
//! what a mutator makes of them.
//!
//! The same on every run. `FUZZ_SEED` begins elsewhere and `FUZZ_ROUNDS` goes on for
//! longer; what fails is printed so that it can become a seed. With coverage to guide it,
//! cargo-fuzz finds more: see `fuzz/Cargo.toml`.

use std::{env, fs, panic, path::Path};

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use self::mutator::Mutator;

mod mutator;
#[path = "../../fuzz/src/lib.rs"]
mod targets;

const SEED: u64 = 0;

const ROUNDS: usize = 20_000;

/// The most inputs to begin from, seeds and accepted ones together.
const MAX_POOL: usize = 500;

fn number<N: std::str::FromStr>(variable: &str, default: N) -> N {
    match env::var(variable) {
        Ok(value) => value
            .parse()
            .unwrap_or_else(|_| panic!("{variable}={value:?}: must be a whole number")),
        Err(_) => default,
    }
}

fn run(name: &str, target: fn(&[u8]) -> bool) {
    let (seed, rounds) = (number("FUZZ_SEED", SEED), number("FUZZ_ROUNDS", ROUNDS));
    println!("{name}: FUZZ_SEED={seed} FUZZ_ROUNDS={rounds}");
    let check = |input: &[u8]| match panic::catch_unwind(|| target(input)) {
        Ok(accepted) => accepted,
        Err(problem) => {
            let text = input.escape_ascii();
            println!("{name}: fails, with FUZZ_SEED={seed}, for the input \"{text}\"");
            panic::resume_unwind(problem);
        }
    };

    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(name);
    let files = fs::read_dir(&corpus).unwrap_or_else(|e| panic!("{}: {e}", corpus.display()));
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    // A directory's order is not the same everywhere.
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
            match pool.len() < MAX_POOL {
                true => pool.push(input),
                false => {
                    let at = rng.random_range(seeds..MAX_POOL);
                    pool[at] = input;
                }
            }
        }
    }
    // Neither stuck at what is refused at once, nor at what is all the same.
    println!("{name}: {accepted} of {rounds} accepted");
    assert!(
        accepted * 50 > rounds,
        "{name}: {accepted} of {rounds} accepted"
    );
    assert!(accepted < rounds, "{name}: all of {rounds} accepted");
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
