//! The interfaces for key-value stores: `spin:key-value@3`, `fermyon:spin/key-value@2` and
//! `wasi:keyvalue`.

mod file_lock;
#[cfg(feature = "redis")]
mod redis_store;
mod spin2;
mod spin3;
mod sqlite_store;
mod store;
mod wasi;

use std::sync::Arc;

use wasmtime::{
    Result,
    component::{HasData, Linker, Resource, ResourceTable},
};

use super::{
    bindings::{fermyon::spin::key_value as v2, spin::key_value::key_value as v3, wasi::keyvalue},
    component_log::ComponentLog,
    guest::Guest,
    result_size::ResultSize,
};

#[cfg(feature = "redis")]
pub(super) use redis_store::RedisStore;
pub(crate) use sqlite_store::StoreFile;
pub(crate) use store::Stores;
pub use store::{CompareAndSwap, Cursor, KeyPage, OpenStore, Pending, Store, StoreError, Swap};

/// Adds the interfaces to a linker.
pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> Result<()> {
    v3::add_to_linker::<_, KeyValue>(linker, view)?;
    v2::add_to_linker::<_, KeyValue>(linker, view)?;
    keyvalue::store::add_to_linker::<_, KeyValue>(linker, view)?;
    keyvalue::atomics::add_to_linker::<_, KeyValue>(linker, view)?;
    keyvalue::batch::add_to_linker::<_, KeyValue>(linker, view)
}

fn view(guest: &mut Guest) -> View<'_> {
    View {
        table: &mut guest.table,
        stores: &guest.component.stores,
        max_result_bytes: guest.component.limits.query_result_bytes,
        log: &guest.component.log,
    }
}

/// The part of a [`Guest`] that the interfaces access.
pub(crate) struct View<'a> {
    table: &'a mut ResourceTable,
    stores: &'a Stores,
    max_result_bytes: usize,
    log: &'a ComponentLog,
}

/// Tells Wasmtime the type of the [`View`].
pub(crate) struct KeyValue;

impl HasData for KeyValue {
    type Data<'a> = View<'a>;
}

/// A store cannot be opened, because the component was not granted its label.
struct AccessDenied;

impl View<'_> {
    fn open(&mut self, label: &str) -> Result<Result<Resource<OpenStore>, AccessDenied>> {
        match self.stores.get(label) {
            None => {
                self.log.store_denied(label);
                Ok(Err(AccessDenied))
            }
            Some(store) => Ok(Ok(self.table.push(OpenStore(store.clone()))?)),
        }
    }

    fn store(&self, resource: &Resource<OpenStore>) -> Result<Arc<dyn Store>> {
        Ok(self.table.get(resource)?.0.clone())
    }

    fn close<R: 'static>(&mut self, resource: Resource<R>) -> Result<()> {
        self.table.delete(resource)?;
        Ok(())
    }
}

/// Reads all keys, page by page.
async fn all_keys(store: &dyn Store, mut size: ResultSize) -> Result<Vec<String>, StoreError> {
    let mut keys: Vec<String> = Vec::new();
    let mut page = store.keys(None).await?;
    loop {
        for key in &page.keys {
            size.add(size_of::<String>() + key.len())?;
        }
        keys.append(&mut page.keys);
        match page.next {
            Some(cursor) => page = store.keys(Some(cursor)).await?,
            None => break,
        }
    }
    // A store that changes meanwhile may return a key twice.
    keys.sort_unstable();
    keys.dedup();
    Ok(keys)
}
