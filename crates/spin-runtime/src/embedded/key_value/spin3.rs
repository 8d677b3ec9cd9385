//! `spin:key-value@3`: asynchronous, its listing a stream.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::sync::oneshot;
use wasmtime::{
    Result, StoreContextMut,
    component::{
        Accessor, Destination, FutureReader, Resource, StreamProducer, StreamReader, StreamResult,
        VecBuffer,
    },
};

use super::{Bucket, KeyValue, PAGE, Refused, View, v3};
use crate::embedded::store::{Pending, Store, StoreError};

type Host<T> = Accessor<T, KeyValue>;

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
        let store = store(host, &bucket)?;
        let keys = Keys {
            page: store.keys(None, PAGE),
            store,
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

/// Produces the stream of `get-keys`: a page each time the guest has read the last one.
struct Keys {
    store: Arc<dyn Store>,
    /// The page that is being read.
    page: Pending<Vec<String>>,
    /// Where the outcome of it all goes.
    told: Option<oneshot::Sender<Result<(), v3::Error>>>,
}

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
        let page = match self.page.as_mut().poll(cx) {
            Poll::Ready(page) => page,
            Poll::Pending if finish => return Poll::Ready(Ok(StreamResult::Cancelled)),
            Poll::Pending => return Poll::Pending,
        };
        let (outcome, result) = match page {
            Ok(page) if page.len() == PAGE => {
                self.page = self.store.keys(page.last().cloned(), PAGE);
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
