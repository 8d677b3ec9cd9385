//! Wasmtime, configured to compile quickly.

use std::sync::LazyLock;

use anyhow::{Result, anyhow};
use wasmtime::{Config, Engine, OptLevel, RegallocAlgorithm};

static ENGINE: LazyLock<wasmtime::Result<Engine>> = LazyLock::new(|| {
    let mut config = Config::new();
    config
        .wasm_component_model_async(true)
        .cranelift_opt_level(OptLevel::None)
        .cranelift_regalloc_algorithm(RegallocAlgorithm::SinglePass);
    Engine::new(&config)
});

/// Returns the engine of all platforms.
pub fn engine() -> Result<Engine> {
    let engine = ENGINE.as_ref();
    engine.cloned().map_err(|error| anyhow!("{error:?}"))
}
