//! A bounded run of each fuzz target, on any toolchain. The host compiles it as one of its tests.
//!
//! The inputs are the seeds in `corpus` and mutations of them, the same on every run. Set
//! `FUZZ_SEED` for other mutations, and `FUZZ_ROUNDS` or `FUZZ_SECONDS` for more. A failing input
//! is printed, so that it can become a seed. cargo-fuzz is guided by coverage and finds more: see
//! `Cargo.toml`.

use std::path::Path;

#[path = "../../../crates/grip/tests/fuzz/runner.rs"]
mod runner;
mod targets;

fn run(name: &str, target: fn(&[u8]) -> bool) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    runner::run(&corpus.join(name), target);
}

#[test]
fn frames() {
    run("frames", targets::frames);
}

#[test]
fn inflate() {
    run("inflate", targets::inflate);
}
