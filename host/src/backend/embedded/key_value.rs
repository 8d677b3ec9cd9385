//! The key-value interfaces of guests: Spin 3 (asynchronous), Spin 2 and `wasi:keyvalue`, over [`Store`].

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::sync::oneshot;
use wasmtime::{
    Result, StoreContextMut,
    component::{
        Accessor, Destination, FutureReader, HasData, Linker, Resource, ResourceTable,
        StreamProducer, StreamReader, StreamResult, VecBuffer,
    },
};

use super::{
    bindings::{fermyon::spin::key_value as v2, spin::key_value::key_value as v3, wasi::keyvalue},
    state::Guest,
    store::{Pending, Store, StoreError, Swap},
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

type Host<T> = Accessor<T, KeyValue>;

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

// Spin 3.

fn store<T>(host: &Host<T>, bucket: &Resource<Bucket>) -> Result<Arc<dyn Store>> {
    host.with(|mut access| access.get().store(bucket))
}

impl From<Refused> for v3::Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::AccessDenied => Self::AccessDenied,
            Refused::NoSuchStore => Self::NoSuchStore,
        }
    }
}

impl From<StoreError> for v3::Error {
    fn from(error: StoreError) -> Self {
        Self::Other(error.0)
    }
}

impl v3::Host for View<'_> {}

impl v3::HostStore for View<'_> {
    async fn drop(&mut self, bucket: Resource<Bucket>) -> Result<()> {
        self.close(bucket)
    }
}

impl<T: Send + 'static> v3::HostStoreWithStore<T> for KeyValue {
    async fn open(host: &Host<T>, label: String) -> Result<Result<Resource<Bucket>, v3::Error>> {
        Ok(host
            .with(|mut access| access.get().open(&label))?
            .map_err(Into::into))
    }

    async fn get(
        host: &Host<T>,
        bucket: Resource<Bucket>,
        key: String,
    ) -> Result<Result<Option<Vec<u8>>, v3::Error>> {
        Ok(store(host, &bucket)?.get(key).await.map_err(Into::into))
    }

    async fn set(
        host: &Host<T>,
        bucket: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
    ) -> Result<Result<(), v3::Error>> {
        Ok(store(host, &bucket)?
            .set(vec![(key, value)])
            .await
            .map_err(Into::into))
    }

    async fn delete(
        host: &Host<T>,
        bucket: Resource<Bucket>,
        key: String,
    ) -> Result<Result<(), v3::Error>> {
        Ok(store(host, &bucket)?
            .delete(vec![key])
            .await
            .map_err(Into::into))
    }

    async fn exists(
        host: &Host<T>,
        bucket: Resource<Bucket>,
        key: String,
    ) -> Result<Result<bool, v3::Error>> {
        Ok(store(host, &bucket)?.exists(key).await.map_err(Into::into))
    }

    async fn get_keys(
        host: &Host<T>,
        bucket: Resource<Bucket>,
    ) -> Result<(StreamReader<String>, FutureReader<Result<(), v3::Error>>)> {
        let (told, outcome) = oneshot::channel();
        let keys = Keys {
            pages: Pages::new(store(host, &bucket)?),
            told: Some(told),
        };
        host.with(|mut access| {
            let stream = StreamReader::new(&mut access, keys)?;
            // A listing that is dropped before its end has had no error.
            let outcome = async move { Ok::<_, wasmtime::Error>(outcome.await.unwrap_or(Ok(()))) };
            let future = FutureReader::new(&mut access, outcome)?;
            Ok((stream, future))
        })
    }
}

/// A listing under way, and the page that is being read.
struct Pages {
    store: Arc<dyn Store>,
    page: Pending<Vec<String>>,
}

impl Pages {
    fn new(store: Arc<dyn Store>) -> Self {
        let page = store.keys(None, PAGE);
        Self { store, page }
    }
}

/// Produces the stream of `get-keys`: a page each time the guest has read the last one.
struct Keys {
    pages: Pages,
    told: Option<oneshot::Sender<Result<(), v3::Error>>>,
}

// `Pending` is not `Sync`, which nothing here needs: a producer is only ever polled.
impl<D> StreamProducer<D> for Keys {
    type Item = String;
    type Buffer = VecBuffer<String>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: StoreContextMut<'a, D>,
        mut destination: Destination<'a, Self::Item, Self::Buffer>,
        finish: bool,
    ) -> Poll<Result<StreamResult>> {
        // A read of nothing asks whether there is something to read: there may be.
        if destination.remaining(&mut store) == Some(0) {
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        if finish && self.pages.page.as_mut().poll(cx).is_pending() {
            return Poll::Ready(Ok(StreamResult::Cancelled));
        }
        let (outcome, result) = match ready!(self.pages.page.as_mut().poll(cx)) {
            Ok(page) if page.len() == PAGE => {
                self.pages.page = self.pages.store.keys(page.last().cloned(), PAGE);
                destination.set_buffer(page.into());
                return Poll::Ready(Ok(StreamResult::Completed));
            }
            Ok(page) => {
                destination.set_buffer(page.into());
                (Ok(()), StreamResult::Dropped)
            }
            Err(error) => (Err(error.into()), StreamResult::Dropped),
        };
        if let Some(told) = self.told.take() {
            // A guest that does not read the outcome has dropped its end.
            let _ = told.send(outcome);
        }
        Poll::Ready(Ok(result))
    }
}

// Spin 2.

impl From<Refused> for v2::Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::AccessDenied => Self::AccessDenied,
            Refused::NoSuchStore => Self::NoSuchStore,
        }
    }
}

impl From<StoreError> for v2::Error {
    fn from(error: StoreError) -> Self {
        Self::Other(error.0)
    }
}

impl v2::Host for View<'_> {}

impl v2::HostStore for View<'_> {
    async fn open(&mut self, label: String) -> Result<Result<Resource<Bucket>, v2::Error>> {
        Ok(self.open(&label)?.map_err(Into::into))
    }

    async fn get(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> Result<Result<Option<Vec<u8>>, v2::Error>> {
        Ok(self.store(&bucket)?.get(key).await.map_err(Into::into))
    }

    async fn set(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
    ) -> Result<Result<(), v2::Error>> {
        Ok(self
            .store(&bucket)?
            .set(vec![(key, value)])
            .await
            .map_err(Into::into))
    }

    async fn delete(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> Result<Result<(), v2::Error>> {
        Ok(self
            .store(&bucket)?
            .delete(vec![key])
            .await
            .map_err(Into::into))
    }

    async fn exists(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> Result<Result<bool, v2::Error>> {
        Ok(self.store(&bucket)?.exists(key).await.map_err(Into::into))
    }

    async fn get_keys(
        &mut self,
        bucket: Resource<Bucket>,
    ) -> Result<Result<Vec<String>, v2::Error>> {
        Ok(all_keys(&*self.store(&bucket)?).await.map_err(Into::into))
    }

    async fn drop(&mut self, bucket: Resource<Bucket>) -> Result<()> {
        self.close(bucket)
    }
}

// wasi:keyvalue.

impl From<Refused> for keyvalue::store::Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::AccessDenied => Self::AccessDenied,
            Refused::NoSuchStore => Self::NoSuchStore,
        }
    }
}

impl From<StoreError> for keyvalue::store::Error {
    fn from(error: StoreError) -> Self {
        Self::Other(error.0)
    }
}

impl keyvalue::store::Host for View<'_> {
    async fn open(
        &mut self,
        label: String,
    ) -> Result<Result<Resource<Bucket>, keyvalue::store::Error>> {
        Ok(self.open(&label)?.map_err(Into::into))
    }
}

impl keyvalue::store::HostBucket for View<'_> {
    async fn get(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> Result<Result<Option<Vec<u8>>, keyvalue::store::Error>> {
        Ok(self.store(&bucket)?.get(key).await.map_err(Into::into))
    }

    async fn set(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
    ) -> Result<Result<(), keyvalue::store::Error>> {
        Ok(self
            .store(&bucket)?
            .set(vec![(key, value)])
            .await
            .map_err(Into::into))
    }

    async fn delete(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> Result<Result<(), keyvalue::store::Error>> {
        Ok(self
            .store(&bucket)?
            .delete(vec![key])
            .await
            .map_err(Into::into))
    }

    async fn exists(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> Result<Result<bool, keyvalue::store::Error>> {
        Ok(self.store(&bucket)?.exists(key).await.map_err(Into::into))
    }

    /// A page of keys; the cursor is the last key of the page before.
    async fn list_keys(
        &mut self,
        bucket: Resource<Bucket>,
        cursor: Option<String>,
    ) -> Result<Result<keyvalue::store::KeyResponse, keyvalue::store::Error>> {
        let store = self.store(&bucket)?;
        let page = match cursor {
            // Without a cursor the answer is all of them, as in Spin, whose guests know no cursor.
            None => all_keys(&*store).await.map(|keys| (keys, None)),
            Some(after) => store.keys(Some(after), PAGE).await.map(|keys| {
                let next = (keys.len() == PAGE).then(|| keys.last().cloned()).flatten();
                (keys, next)
            }),
        };
        let response = page.map(|(keys, cursor)| keyvalue::store::KeyResponse { keys, cursor });
        Ok(response.map_err(Into::into))
    }

    async fn drop(&mut self, bucket: Resource<Bucket>) -> Result<()> {
        self.close(bucket)
    }
}

impl keyvalue::atomics::Host for View<'_> {
    async fn increment(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: i64,
    ) -> Result<Result<i64, keyvalue::store::Error>> {
        Ok(self
            .store(&bucket)?
            .increment(key, delta)
            .await
            .map_err(Into::into))
    }

    /// On a conflict the guest gets a new handle that has seen the value as it is now.
    async fn swap(
        &mut self,
        cas: Resource<Cas>,
        value: Vec<u8>,
    ) -> Result<Result<(), keyvalue::atomics::CasError>> {
        use keyvalue::atomics::CasError;
        let Cas { store, key, seen } = self.table.delete(cas)?;
        match store.swap(key.clone(), seen, value).await {
            Ok(Swap::Done) => Ok(Ok(())),
            Ok(Swap::Changed) => match store.get(key.clone()).await {
                Ok(seen) => {
                    let again = Cas { store, key, seen };
                    let again = self.table.push(again)?;
                    Ok(Err(CasError::CasFailed(again)))
                }
                Err(error) => Ok(Err(CasError::StoreError(error.into()))),
            },
            Err(error) => Ok(Err(CasError::StoreError(error.into()))),
        }
    }
}

impl keyvalue::atomics::HostCas for View<'_> {
    async fn new(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> Result<Result<Resource<Cas>, keyvalue::store::Error>> {
        let store = self.store(&bucket)?;
        match store.get(key.clone()).await {
            Ok(seen) => {
                let cas = Cas { store, key, seen };
                Ok(Ok(self.table.push(cas)?))
            }
            Err(error) => Ok(Err(error.into())),
        }
    }

    /// Reads the value, which the swap then expects.
    async fn current(
        &mut self,
        cas: Resource<Cas>,
    ) -> Result<Result<Option<Vec<u8>>, keyvalue::store::Error>> {
        let cas = self.table.get_mut(&cas)?;
        match cas.store.get(cas.key.clone()).await {
            Ok(seen) => {
                cas.seen.clone_from(&seen);
                Ok(Ok(seen))
            }
            Err(error) => Ok(Err(error.into())),
        }
    }

    async fn drop(&mut self, cas: Resource<Cas>) -> Result<()> {
        self.close(cas)
    }
}

impl keyvalue::batch::Host for View<'_> {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Result<Result<Vec<(String, Option<Vec<u8>>)>, keyvalue::store::Error>> {
        Ok(self
            .store(&bucket)?
            .get_many(keys)
            .await
            .map_err(Into::into))
    }

    async fn set_many(
        &mut self,
        bucket: Resource<Bucket>,
        pairs: Vec<(String, Vec<u8>)>,
    ) -> Result<Result<(), keyvalue::store::Error>> {
        Ok(self.store(&bucket)?.set(pairs).await.map_err(Into::into))
    }

    async fn delete_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Result<Result<(), keyvalue::store::Error>> {
        Ok(self.store(&bucket)?.delete(keys).await.map_err(Into::into))
    }
}
