//! Runs the probe components of the workspace in a simulated world.

mod clients;
mod failures;
mod holds;
mod manifests;
mod outbound;
mod stores;
mod time;
mod typed;

use std::path::PathBuf;

use component_testing::{TestApp, TestAppBuilder};

/// Returns the path of a component. `tests/run` builds it before it runs the tests.
fn wasm(name: &str) -> PathBuf {
    let workspace = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let path = workspace.join(format!("target/wasm32-wasip2/component/{name}.wasm"));
    assert!(
        path.exists(),
        "{} is missing: tests/run builds it",
        path.display()
    );
    path
}

/// Returns the probe for WASI 0.3.
fn probe() -> TestAppBuilder {
    TestApp::from_component(wasm("probe")).key_value_store("default")
}

/// Returns the probe for WASI 0.2.
fn probe02() -> TestAppBuilder {
    TestApp::from_component(wasm("probe02")).key_value_store("default")
}

/// Returns the result of `course` for a seed, and checks that it is always the same.
fn reproducible<T: PartialEq + std::fmt::Debug>(course: impl Fn() -> T) -> T {
    let first = course();
    for _ in 0..3 {
        assert_eq!(course(), first);
    }
    first
}
