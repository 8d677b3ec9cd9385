//! The adapter by itself, on Wasmtime's interfaces.

use anyhow::{Context as _, Result, bail, ensure};
use tests::wasm;
use wasmtime::{
    Store,
    component::{Component, Linker, ResourceAny},
};

use self::bindings::{
    Adapter,
    exports::{
        spin::variables::variables,
        wasi::keyvalue0_2_0_draft2::{atomics::CasError, store::Error},
    },
};
use crate::{
    engine::engine,
    wasi::{Data, add_to_linker},
};

mod bindings {
    wasmtime::component::bindgen!({
        path: "../components/adapter/wit",
        world: "adapter",
        exports: { default: async },
    });
}

/// An instance of the adapter, with the configuration `grip_url`.
struct Fixture {
    store: Store<Data>,
    adapter: Adapter,
}

impl Fixture {
    async fn new() -> Result<Self> {
        let engine = engine()?;
        let component = Component::from_file(&engine, wasm("adapter"))?;
        let mut linker = Linker::new(&engine);
        add_to_linker(&mut linker)?;
        let variables = [("grip_url".to_owned(), "http://host".to_owned())];
        let platform = ([127, 0, 0, 1], 0).into();
        let mut store = Store::new(&engine, Data::new(platform, &variables)?);
        let adapter = Adapter::instantiate_async(&mut store, &component, &linker).await?;
        Ok(Self { store, adapter })
    }

    async fn open(&mut self, name: &str) -> Result<Result<ResourceAny, Error>> {
        let stores = self.adapter.wasi_keyvalue0_2_0_draft2_store();
        Ok(stores.call_open(&mut self.store, name).await?)
    }

    async fn default_store(&mut self) -> Result<ResourceAny> {
        self.open("default").await?.context("the default store")
    }

    async fn get(&mut self, store: ResourceAny, key: &str) -> Result<Option<String>> {
        let buckets = self.adapter.wasi_keyvalue0_2_0_draft2_store().bucket();
        let value = buckets.call_get(&mut self.store, store, key).await??;
        Ok(value.map(String::from_utf8).transpose()?)
    }

    async fn set(&mut self, store: ResourceAny, key: &str, value: &str) -> Result<()> {
        let buckets = self.adapter.wasi_keyvalue0_2_0_draft2_store().bucket();
        let value = value.as_bytes();
        Ok(buckets
            .call_set(&mut self.store, store, key, value)
            .await??)
    }
}

#[tokio::test]
async fn variables_are_those_of_the_configuration() -> Result<()> {
    let Fixture { mut store, adapter } = Fixture::new().await?;
    let get = async |accessor: &wasmtime::component::Accessor<Data>, name: &str| {
        let variables = adapter.spin_variables_variables();
        variables.call_get(accessor, name.to_owned()).await
    };
    let (url, other) = store
        .run_concurrent(async |accessor| {
            wasmtime::error::Ok((
                get(accessor, "grip_url").await?,
                get(accessor, "other").await?,
            ))
        })
        .await??;
    ensure!(matches!(&url, Ok(url) if url == "http://host"), "{url:?}");
    let is_undefined = matches!(&other, Err(variables::Error::Undefined(name)) if name == "other");
    ensure!(is_undefined, "{other:?}");
    Ok(())
}

#[tokio::test]
async fn a_store_keeps_its_values_while_the_instance_lives() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let first = fixture.default_store().await?;
    fixture.set(first, "one", "1").await?;
    let second = fixture.default_store().await?;
    ensure!(fixture.get(second, "one").await?.as_deref() == Some("1"));
    let other = fixture.open("other").await?;
    ensure!(matches!(other, Err(Error::NoSuchStore)), "{other:?}");

    let Fixture { store, adapter } = &mut fixture;
    let buckets = adapter.wasi_keyvalue0_2_0_draft2_store().bucket();
    ensure!(buckets.call_exists(&mut *store, first, "one").await??);
    let listed = buckets.call_list_keys(&mut *store, first, None).await??;
    ensure!(
        listed.keys == ["one"] && listed.cursor.is_none(),
        "{listed:?}"
    );
    let invalid = buckets
        .call_list_keys(&mut *store, first, Some("x"))
        .await?;
    ensure!(matches!(invalid, Err(Error::Other(_))), "{invalid:?}");
    buckets.call_delete(&mut *store, second, "one").await??;
    ensure!(!buckets.call_exists(&mut *store, first, "one").await??);

    let batch = adapter.wasi_keyvalue0_2_0_draft2_batch();
    let pairs = ["a", "b"].map(|key| (key.to_owned(), key.to_uppercase().into_bytes()));
    batch.call_set_many(&mut *store, first, &pairs).await??;
    let keys = ["b", "none", "a", "b"].map(str::to_owned);
    let found = batch.call_get_many(&mut *store, first, &keys).await??;
    let expected = [Some("B"), None, Some("A"), Some("B")];
    let expected = keys.iter().cloned().zip(expected);
    let expected: Vec<_> = expected
        .map(|(key, value)| (key, value.map(|value| value.as_bytes().to_vec())))
        .collect();
    ensure!(found == expected, "{found:?}");
    batch.call_delete_many(&mut *store, first, &keys).await??;
    ensure!(!buckets.call_exists(&mut *store, first, "a").await??);
    Ok(())
}

#[tokio::test]
async fn numbers_are_incremented() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let bucket = fixture.default_store().await?;
    let Fixture { store, adapter } = &mut fixture;
    let atomics = adapter.wasi_keyvalue0_2_0_draft2_atomics();
    for (delta, expected) in [(0, 0), (2, 2), (40, 42)] {
        let sum = atomics
            .call_increment(&mut *store, bucket, "n", delta)
            .await??;
        ensure!(sum == expected, "{sum}, not {expected}");
    }
    // Neither negative numbers nor those beyond the platform's.
    for delta in [-1, i64::MAX] {
        let sum = atomics
            .call_increment(&mut *store, bucket, "n", delta)
            .await?;
        ensure!(matches!(sum, Err(Error::Other(_))), "{delta}: {sum:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_value_that_has_changed_is_not_swapped() -> Result<()> {
    let mut fixture = Fixture::new().await?;
    let bucket = fixture.default_store().await?;
    fixture.set(bucket, "key", "old").await?;
    let Fixture { store, adapter } = &mut fixture;
    let atomics = adapter.wasi_keyvalue0_2_0_draft2_atomics();
    let cas = atomics.cas();
    let late = cas.call_new(&mut *store, bucket, "key").await??;
    let early = cas.call_new(&mut *store, bucket, "key").await??;
    let current = cas.call_current(&mut *store, early).await??;
    ensure!(current == Some(b"old".to_vec()), "{current:?}");
    let swapped = atomics.call_swap(&mut *store, early, b"new").await?;
    ensure!(swapped.is_ok(), "{swapped:?}");
    let retry = match atomics.call_swap(&mut *store, late, b"lost").await? {
        Err(CasError::CasFailed(retry)) => retry,
        other => bail!("{other:?}"),
    };
    let current = cas.call_current(&mut *store, retry).await??;
    ensure!(current == Some(b"new".to_vec()), "{current:?}");
    let swapped = atomics.call_swap(&mut *store, retry, b"newest").await?;
    ensure!(swapped.is_ok(), "{swapped:?}");
    ensure!(fixture.get(bucket, "key").await?.as_deref() == Some("newest"));
    Ok(())
}
