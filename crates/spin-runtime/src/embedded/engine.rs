//! The engine: how guests are compiled, where their memory comes from, and the clock that
//! interrupts them.

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use wasmtime::{
    Cache, CacheConfig, Config, Engine, InstanceAllocationStrategy, OptLevel,
    PoolingAllocationConfig, RegallocAlgorithm, Strategy,
};

use super::Options;

/// How often a guest that computes is interrupted, to let others run and to look at its limits.
pub const TICK: Duration = Duration::from_millis(10);

/// Memory of a slot that is cleared by hand rather than given back to the system between two
/// instances: cheaper than its page faults.
const KEEP_RESIDENT: usize = 512 << 10;

/// How guests are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compiler {
    /// By Cranelift, for code that runs fast. It takes so long that the results are kept on disk.
    Optimizing,
    /// By Winch, several times as quick, for slower code. Not all of WebAssembly is known to it.
    Baseline,
    /// By Cranelift, with as little effort as it can make.
    Hasty,
}

impl Compiler {
    /// The one that these options ask for, on this machine.
    pub fn of(options: &Options) -> Self {
        match options.optimize {
            true => Self::Optimizing,
            false if cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) => Self::Baseline,
            false => Self::Hasty,
        }
    }

    fn configure(self, config: &mut Config) {
        if self == Self::Optimizing {
            config.cache(cache());
            return;
        }
        // What Winch leaves to Cranelift, the way into and out of a component, is made so too.
        config
            .cranelift_opt_level(OptLevel::None)
            .cranelift_regalloc_algorithm(RegallocAlgorithm::SinglePass);
        if self == Self::Baseline {
            config.strategy(Strategy::Winch);
        }
    }
}

/// Makes the engine for that many components and starts its clock, which ends with the engine.
///
/// # Errors
/// When the machine cannot run what wasmtime compiles, or no thread can be started.
pub fn start(options: &Options, components: usize, compiler: Compiler) -> anyhow::Result<Engine> {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .wasm_component_model_async(true)
        .epoch_interruption(true)
        .memory_init_cow(true)
        .allocation_strategy(pool(options, components));
    compiler.configure(&mut config);
    let engine = match Engine::new(&config) {
        Ok(engine) => engine,
        Err(error) => {
            // The pool reserves address space up front, which a limit on it may not allow.
            tracing::warn!(%error, "no pool of instances; each will be allocated by itself, slower");
            config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
            Engine::new(&config)
                .map_err(anyhow::Error::from)
                .context("cannot start wasmtime")?
        }
    };
    let clock = engine.weak();
    std::thread::Builder::new()
        .name("epoch".into())
        .spawn(move || {
            while let Some(engine) = clock.upgrade() {
                engine.increment_epoch();
                drop(engine);
                std::thread::sleep(TICK);
            }
        })
        .context("cannot start the thread that interrupts components")?;
    Ok(engine)
}

fn pool(options: &Options, components: usize) -> InstanceAllocationStrategy {
    let instances = options.max_instances.max(1).saturating_mul(components);
    let instances = u32::try_from(instances).unwrap_or(u32::MAX);
    let mut pool = PoolingAllocationConfig::new();
    // A component is a few core instances and tables and now and then a second memory. None costs
    // anything but address space until it is used, and a memory takes 4 GiB of that.
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
        .table_elements(100_000)
        .max_memory_size(options.max_memory)
        .linear_memory_keep_resident(KEEP_RESIDENT)
        .table_keep_resident(KEEP_RESIDENT / 8);
    InstanceAllocationStrategy::Pooling(pool)
}

/// The compilation cache of this user. Without one, everything works and starts slower.
fn cache() -> Option<Cache> {
    let mut config = CacheConfig::new();
    config.with_directory(cache_folder()?);
    Cache::new(config)
        .inspect_err(|error| tracing::warn!(%error, "components are compiled at every start"))
        .ok()
}

/// `socket-host/wasm` in the user's cache folder, absolute.
fn cache_folder() -> Option<PathBuf> {
    let folder = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let base =
        folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")))?;
    Some(base.join("socket-host/wasm"))
}
