//! A bounded run of each fuzz target, on any toolchain.
//!
//! The inputs are the seeds in `fuzz/corpus` and mutations of them, the same on every run. Set
//! `FUZZ_SEED` for other mutations, and `FUZZ_ROUNDS` or `FUZZ_SECONDS` for more. A failing input
//! is printed, so that it can become a seed. cargo-fuzz is guided by coverage and finds more: see
//! `fuzz/Cargo.toml`.

use std::path::Path;

mod runner;
#[path = "../../fuzz/src/lib.rs"]
mod targets;

fn run(name: &str, target: fn(&[u8]) -> bool) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    runner::run(&corpus.join(name), target);
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
