//! The Wasmtime engine: its compiler, its memory pool, and its epoch timer.

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use wasmtime::{
    Cache, CacheConfig, Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel,
    PoolingAllocationConfig, RegallocAlgorithm, Strategy,
};

use super::{memory_limit::MAX_TABLE_ELEMENTS, options::EmbeddedOptions};
use crate::limits::Limits;

/// How often a computing guest is interrupted, to let others run and to check its limits.
pub(crate) const EPOCH_INTERVAL: Duration = Duration::from_millis(10);

/// The memory of a pool slot that is reset instead of being returned to the system between two
/// instances, which is cheaper than page faults. Only pages that were written count, where the system
/// can tell which ones.
const KEPT_BYTES: usize = 2 * 1024 * 1024;

/// The same where it cannot, so that all of this memory is reset each time.
const KEPT_BYTES_WITHOUT_SCAN: usize = 512 * 1024;

/// The part of a table that is reset instead of being returned to the system.
const KEPT_TABLE_BYTES: usize = 64 * 1024;

/// The address space of a memory in the pool.
const MEMORY_SLOT_BYTES: usize = 1 << 32;

/// How guests are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compiler {
    /// Cranelift with optimizations. The result is cached on disk.
    Cranelift,
    /// Winch: compiles several times faster to slower code, and lacks parts of WebAssembly.
    Winch,
    /// Cranelift without optimizations.
    CraneliftFast,
}

impl Compiler {
    /// Selects a compiler for this machine.
    pub(crate) fn select(optimize: bool) -> Self {
        if optimize {
            Self::Cranelift
        } else if cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
            Self::Winch
        } else {
            Self::CraneliftFast
        }
    }

    fn configure(self, options: &EmbeddedOptions, config: &mut Config) {
        if self == Self::Cranelift {
            config.cache(options.cache.then(cache).flatten());
            return;
        }
        // With Winch too, Cranelift compiles the trampolines into and out of a component.
        config
            .cranelift_opt_level(OptLevel::None)
            .cranelift_regalloc_algorithm(RegallocAlgorithm::SinglePass);
        if self == Self::Winch {
            config.strategy(Strategy::Winch);
        }
    }
}

/// Creates an engine for a number of components and starts its epoch timer, which stops with the
/// engine.
///
/// # Errors
/// Fails if Wasmtime does not support the machine, or if a thread cannot be started.
pub(crate) fn start(
    options: &EmbeddedOptions,
    components: usize,
    compiler: Compiler,
) -> anyhow::Result<Engine> {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .wasm_component_model_async(true)
        .epoch_interruption(true)
        .memory_init_cow(true);
    if options.pooling {
        config.allocation_strategy(pool(&options.limits, components));
    }
    compiler.configure(options, &mut config);
    let engine = match Engine::new(&config) {
        Ok(engine) => engine,
        Err(error) if !options.pooling => {
            return Err(anyhow::Error::from(error).context("cannot start Wasmtime"));
        }
        Err(error) => {
            // The pool reserves address space, which a limit of the process may not allow.
            tracing::warn!(%error, "no instance pool; allocating instances one by one, which is slower");
            config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
            Engine::new(&config)
                .map_err(anyhow::Error::from)
                .context("cannot start Wasmtime")?
        }
    };
    let weak = engine.weak();
    std::thread::Builder::new()
        .name("epoch".into())
        .spawn(move || {
            while let Some(engine) = weak.upgrade() {
                engine.increment_epoch();
                drop(engine);
                std::thread::sleep(EPOCH_INTERVAL);
            }
        })
        .context("cannot start the epoch thread")?;
    Ok(engine)
}

fn pool(limits: &Limits, components: usize) -> InstanceAllocationStrategy {
    let instances = limits.instances_per_component.saturating_mul(components);
    let instances = u32::try_from(instances).unwrap_or(u32::MAX);
    let kept_bytes = if PoolingAllocationConfig::is_pagemap_scan_available() {
        KEPT_BYTES
    } else {
        KEPT_BYTES_WITHOUT_SCAN
    };
    let mut pool = PoolingAllocationConfig::new();
    // A component consists of a few core instances and tables, and sometimes a second memory.
    // Unused slots only cost address space, of which a memory takes 4 GiB.
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(10))
        .total_memories(instances.saturating_add(instances / 4))
        .total_tables(instances.saturating_mul(5))
        .total_stacks(instances.saturating_mul(4))
        .max_core_instances_per_component(200)
        .max_memories_per_component(20)
        .max_tables_per_component(40)
        .max_component_instance_size(1 << 20)
        .max_core_instance_size(1 << 20)
        .table_elements(MAX_TABLE_ELEMENTS)
        .max_memory_size(limits.instance_memory_bytes.min(MEMORY_SLOT_BYTES))
        .pagemap_scan(Enabled::Auto)
        .linear_memory_keep_resident(kept_bytes)
        .table_keep_resident(KEPT_TABLE_BYTES);
    InstanceAllocationStrategy::Pooling(pool)
}

/// Opens the compilation cache of this user. Without a cache, components are compiled at every
/// start.
fn cache() -> Option<Cache> {
    let mut config = CacheConfig::new();
    config.with_directory(user_cache_dir()?.join("wasm"));
    Cache::new(config)
        .inspect_err(|error| tracing::warn!(%error, "cannot open the compilation cache"))
        .ok()
}

/// Returns `socket-host` in the user's cache folder, as an absolute path.
pub(crate) fn user_cache_dir() -> Option<PathBuf> {
    let absolute_path = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let base = absolute_path("XDG_CACHE_HOME")
        .or_else(|| absolute_path("HOME").map(|home| home.join(".cache")))?;
    Some(base.join("socket-host"))
}
