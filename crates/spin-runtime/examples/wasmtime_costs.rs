//! Measures what calls cost in Wasmtime alone, with components of a few instructions.
//!
//! `docs/benchmarks.md` says what the figures mean. Run it with
//! `cargo run --release --workspace --example wasmtime_costs`.

use std::time::Instant;

use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Result, Store,
    component::{Component, Linker, TypedFunc},
};

/// A header as `wasi:http` returns it to a guest.
type Header = (String, Vec<u8>);

const CALLS: u32 = 20_000;
const SAMPLES: usize = 7;

/// `nothing` has no parameters. `headers` receives a list, for which Wasmtime calls `realloc`.
const COMPONENT: &str = r#"
(component
  (core module $module
    (memory (export "memory") 1)
    (global $next (mut i32) (i32.const 16))
    (func (export "nothing"))
    (func (export "headers") (param i32 i32)
      (global.set $next (i32.const 16)))
    (func (export "realloc") (param i32 i32 i32) (param $bytes i32) (result i32)
      (global.get $next)
      (global.set $next (i32.and
        (i32.add (i32.add (global.get $next) (local.get $bytes)) (i32.const 7))
        (i32.const -8)))))
  (core instance $instance (instantiate $module))
  (func (export "nothing") (canon lift (core func $instance "nothing")))
  (func (export "headers") (param "list" (list (tuple string (list u8))))
    (canon lift (core func $instance "headers")
      (memory $instance "memory") (realloc (func $instance "realloc")))))
"#;

/// How a function is called.
#[derive(Clone, Copy)]
enum Way {
    /// With `call_async`, in an engine without concurrent calls.
    Plain,
    /// With `call_async`, in an engine that supports concurrent calls.
    Supported,
    /// With `call_concurrent`, as the exports of WASI 0.3 are.
    Concurrent,
}

struct Bench {
    engine: Engine,
    component: Component,
    linker: Linker<()>,
    way: Way,
}

impl Bench {
    fn new(way: Way) -> Result<Self> {
        let mut config = Config::new();
        config.concurrency_support(!matches!(way, Way::Plain));
        let pool = PoolingAllocationConfig::default();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        let engine = Engine::new(&config)?;
        Ok(Self {
            component: Component::new(&engine, wat::parse_str(COMPONENT)?)?,
            linker: Linker::new(&engine),
            engine,
            way,
        })
    }

    async fn call(
        &self,
        store: &mut Store<()>,
        nothing: TypedFunc<(), ()>,
        headers: TypedFunc<(&[Header],), ()>,
        list: Option<&[Header]>,
    ) -> Result<()> {
        match (self.way, list) {
            (Way::Concurrent, None) => {
                let call = async |store: &_| nothing.call_concurrent(store, ()).await;
                store.run_concurrent(call).await?
            }
            (Way::Concurrent, Some(_)) => unreachable!("borrowed parameters cannot be concurrent"),
            (_, None) => nothing.call_async(store, ()).await,
            (_, Some(list)) => headers.call_async(store, (list,)).await,
        }
    }

    /// Returns the nanoseconds for a call in an instance that is reused.
    async fn reused(&self, list: Option<&[Header]>) -> Result<f64> {
        let mut store = Store::new(&self.engine, ());
        let instance = self.linker.instantiate_async(&mut store, &self.component);
        let instance = instance.await?;
        let nothing = instance.get_typed_func(&mut store, "nothing")?;
        let headers = instance.get_typed_func(&mut store, "headers")?;
        median(async || {
            for _ in 0..CALLS {
                let call = self.call(&mut store, nothing, headers, list);
                call.await?;
            }
            Ok(())
        })
        .await
    }

    /// Returns the nanoseconds for creating an instance, a call, and dropping the instance.
    async fn fresh(&self) -> Result<f64> {
        let pre = self.linker.instantiate_pre(&self.component)?;
        median(async || {
            for _ in 0..CALLS {
                let mut store = Store::new(&self.engine, ());
                let instance = pre.instantiate_async(&mut store).await?;
                let nothing = instance.get_typed_func(&mut store, "nothing")?;
                let headers = instance.get_typed_func(&mut store, "headers")?;
                let call = self.call(&mut store, nothing, headers, None);
                call.await?;
            }
            Ok(())
        })
        .await
    }
}

/// Returns the median of the nanoseconds that one of the calls takes.
async fn median(mut calls: impl AsyncFnMut() -> Result<()>) -> Result<f64> {
    let mut samples = Vec::with_capacity(SAMPLES);
    for _ in 0..SAMPLES {
        let start = Instant::now();
        calls().await?;
        samples.push(start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS));
    }
    samples.sort_by(f64::total_cmp);
    Ok(samples[SAMPLES / 2])
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    println!("{:<44} {:>14} {:>14}", "", "reused, ns", "new, ns");
    for (name, way) in [
        ("call_async, concurrency_support(false)", Way::Plain),
        ("call_async, concurrency_support(true)", Way::Supported),
        ("call_concurrent", Way::Concurrent),
    ] {
        let bench = Bench::new(way)?;
        let (reused, fresh) = (bench.reused(None).await?, bench.fresh().await?);
        println!("{name:<44} {reused:>14.0} {fresh:>14.0}");
    }
    let bench = Bench::new(Way::Supported)?;
    for count in [0, 17] {
        let header = |number| {
            (
                format!("x-header-{number:02}"),
                b"application/json".to_vec(),
            )
        };
        let list: Vec<Header> = (0..count).map(header).collect();
        let reused = bench.reused(Some(&list)).await?;
        println!(
            "{:<44} {reused:>14.0}",
            format!("a list of {count} headers")
        );
    }
    Ok(())
}
