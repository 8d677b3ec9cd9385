//! The interfaces for key-value stores: `spin:key-value@3`, `fermyon:spin/key-value@2` and
//! `wasi:keyvalue`.

mod spin2;
mod spin3;
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
    store::{OpenStore, Store, StoreError, Stores},
};

/// The number of keys that are read at a time.
const PAGE_SIZE: usize = 512;

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
        log: &guest.component.log,
    }
}

/// The part of a [`Guest`] that the interfaces access.
pub(crate) struct View<'a> {
    table: &'a mut ResourceTable,
    stores: &'a Stores,
    log: &'a ComponentLog,
}

/// Tells Wasmtime the type of the [`View`].
pub(crate) struct KeyValue;

impl HasData for KeyValue {
    type Data<'a> = View<'a>;
}

/// Why a store cannot be opened.
enum OpenError {
    AccessDenied,
    NoSuchStore,
}

impl View<'_> {
    fn open(&mut self, label: &str) -> Result<Result<Resource<OpenStore>, OpenError>> {
        match self.stores.get(label) {
            None => {
                self.log.store_denied(label);
                Ok(Err(OpenError::AccessDenied))
            }
            Some(None) => Ok(Err(OpenError::NoSuchStore)),
            Some(Some(store)) => Ok(Ok(self.table.push(OpenStore(store.clone()))?)),
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
async fn all_keys(store: &dyn Store) -> Result<Vec<String>, StoreError> {
    let mut keys: Vec<String> = Vec::new();
    loop {
        let page = store.keys(keys.last().cloned(), PAGE_SIZE).await?;
        let is_last = page.len() < PAGE_SIZE;
        keys.extend(page);
        if is_last {
            return Ok(keys);
        }
    }
}
