//! `spin:key-value@3`, whose functions are asynchronous and whose listing is a stream.

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

use super::store::{KeyPage, Pending, Store, StoreError};
use super::{AccessDenied, KeyValue, OpenStore, View, v3};

type Host<T> = Accessor<T, KeyValue>;

fn store<T>(host: &Host<T>, bucket: &Resource<OpenStore>) -> Result<Arc<dyn Store>> {
    host.with(|mut access| access.get().store(bucket))
}

impl From<AccessDenied> for v3::Error {
    fn from(AccessDenied: AccessDenied) -> Self {
        Self::AccessDenied
    }
}

impl From<StoreError> for v3::Error {
    fn from(error: StoreError) -> Self {
        Self::Other(error.0)
    }
}

impl v3::Host for View<'_> {}

impl v3::HostStore for View<'_> {
    async fn drop(&mut self, bucket: Resource<OpenStore>) -> Result<()> {
        self.close(bucket)
    }
}

impl<T: Send + 'static> v3::HostStoreWithStore<T> for KeyValue {
    async fn open(host: &Host<T>, label: String) -> Result<Result<Resource<OpenStore>, v3::Error>> {
        Ok(host
            .with(|mut access| access.get().open(&label))?
            .map_err(Into::into))
    }

    async fn get(
        host: &Host<T>,
        bucket: Resource<OpenStore>,
        key: String,
    ) -> Result<Result<Option<Vec<u8>>, v3::Error>> {
        Ok(store(host, &bucket)?.get(key).await.map_err(Into::into))
    }

    async fn set(
        host: &Host<T>,
        bucket: Resource<OpenStore>,
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
        bucket: Resource<OpenStore>,
        key: String,
    ) -> Result<Result<(), v3::Error>> {
        Ok(store(host, &bucket)?
            .delete(vec![key])
            .await
            .map_err(Into::into))
    }

    async fn exists(
        host: &Host<T>,
        bucket: Resource<OpenStore>,
        key: String,
    ) -> Result<Result<bool, v3::Error>> {
        Ok(store(host, &bucket)?.exists(key).await.map_err(Into::into))
    }

    async fn get_keys(
        host: &Host<T>,
        bucket: Resource<OpenStore>,
    ) -> Result<(StreamReader<String>, FutureReader<Result<(), v3::Error>>)> {
        let (sender, outcome) = oneshot::channel();
        let store = store(host, &bucket)?;
        let keys = Keys {
            page: Some(store.keys(None)),
            store,
            outcome: Some(sender),
        };
        host.with(|mut access| {
            let stream = StreamReader::new(&mut access, keys)?;
            // A stream that is dropped early has not failed.
            let outcome = async move { Ok::<_, wasmtime::Error>(outcome.await.unwrap_or(Ok(()))) };
            let future = FutureReader::new(&mut access, outcome)?;
            Ok((stream, future))
        })
    }
}

/// Produces the stream of `get-keys`. Reads a page whenever the guest has read the previous one.
struct Keys {
    store: Arc<dyn Store>,
    /// The next page. `None` after the last one.
    page: Option<Pending<KeyPage>>,
    /// Receives the result of the whole listing.
    outcome: Option<oneshot::Sender<Result<(), v3::Error>>>,
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
        // A read of zero items asks whether the stream is ready.
        if destination.remaining(&mut store) == Some(0) {
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        let Some(pending) = &mut self.page else {
            return Poll::Ready(Ok(StreamResult::Dropped));
        };
        let page = match pending.as_mut().poll(cx) {
            Poll::Ready(page) => page,
            Poll::Pending if finish => return Poll::Ready(Ok(StreamResult::Cancelled)),
            Poll::Pending => return Poll::Pending,
        };
        let (keys, outcome) = match page {
            Ok(page) => {
                self.page = page.next.map(|next| self.store.keys(Some(next)));
                (page.keys, Ok(()))
            }
            Err(error) => {
                self.page = None;
                (Vec::new(), Err(error.into()))
            }
        };
        if self.page.is_none()
            && let Some(sender) = self.outcome.take()
        {
            // Fails if the guest has dropped its end.
            let _ = sender.send(outcome);
        }
        if keys.is_empty() {
            return Poll::Ready(Ok(StreamResult::Dropped));
        }
        // The stream ends with the next read, as the guest may not take all of these keys at once.
        destination.set_buffer(keys.into());
        Poll::Ready(Ok(StreamResult::Completed))
    }
}
