//! `wasi:keyvalue@0.2.0-draft2`: stores, batches, atomic operations.

use wasmtime::{Result, component::Resource};

use super::{Bucket, Cas, PAGE, Refused, View, all_keys, keyvalue};
use crate::embedded::store::{StoreError, Swap};

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
