//! The key-value interfaces of guests: Spin 3 (asynchronous), Spin 2 and `wasi:keyvalue`, over [`Store`].

mod spin2;
mod spin3;
mod wasi;

use std::{collections::BTreeMap, sync::Arc};

use wasmtime::{
    Result,
    component::{HasData, Linker, Resource, ResourceTable},
};

use super::{
    bindings::{fermyon::spin::key_value as v2, spin::key_value::key_value as v3, wasi::keyvalue},
    state::Guest,
    store::{Store, StoreError},
};

/// Keys that one step of a listing reads.
const PAGE: usize = 512;

/// The stores a component may open, by label. `None`: allowed by the manifest, but there is no such store.
pub type Labels = BTreeMap<String, Option<Arc<dyn Store>>>;

/// An opened store, of any of the three interfaces.
pub struct Bucket(Arc<dyn Store>);

/// A `wasi:keyvalue` compare-and-swap in progress.
pub struct Cas {
    store: Arc<dyn Store>,
    key: String,
    /// The value that must still be there for the swap to happen.
    seen: Option<Vec<u8>>,
}

/// Adds the three interfaces to `linker`.
pub fn add_to_linker(linker: &mut Linker<Guest>) -> Result<()> {
    v3::add_to_linker::<_, KeyValue>(linker, view)?;
    v2::add_to_linker::<_, KeyValue>(linker, view)?;
    keyvalue::store::add_to_linker::<_, KeyValue>(linker, view)?;
    keyvalue::atomics::add_to_linker::<_, KeyValue>(linker, view)?;
    keyvalue::batch::add_to_linker::<_, KeyValue>(linker, view)
}

fn view(guest: &mut Guest) -> View<'_> {
    View {
        table: &mut guest.table,
        labels: &guest.component.stores,
    }
}

/// The part of a [`Guest`] that these interfaces see.
pub struct View<'a> {
    table: &'a mut ResourceTable,
    labels: &'a Labels,
}

/// Names [`View`] to wasmtime.
pub struct KeyValue;

impl HasData for KeyValue {
    type Data<'a> = View<'a>;
}

/// Why a store could not be opened.
enum Refused {
    AccessDenied,
    NoSuchStore,
}

impl View<'_> {
    fn open(&mut self, label: &str) -> Result<Result<Resource<Bucket>, Refused>> {
        match self.labels.get(label) {
            None => Ok(Err(Refused::AccessDenied)),
            Some(None) => Ok(Err(Refused::NoSuchStore)),
            Some(Some(store)) => Ok(Ok(self.table.push(Bucket(store.clone()))?)),
        }
    }

    fn store(&self, bucket: &Resource<Bucket>) -> Result<Arc<dyn Store>> {
        Ok(self.table.get(bucket)?.0.clone())
    }

    fn close<R: 'static>(&mut self, resource: Resource<R>) -> Result<()> {
        self.table.delete(resource)?;
        Ok(())
    }
}

/// Every key, read page by page.
async fn all_keys(store: &dyn Store) -> Result<Vec<String>, StoreError> {
    let mut keys: Vec<String> = Vec::new();
    loop {
        let page = store.keys(keys.last().cloned(), PAGE).await?;
        let last = page.len() < PAGE;
        keys.extend(page);
        if last {
            return Ok(keys);
        }
    }
}
