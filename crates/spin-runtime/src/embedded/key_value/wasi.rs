//! `wasi:keyvalue@0.2.0-draft2`.

use wasmtime::{Result, component::Resource};

use super::store::{CompareAndSwap, StoreError, Swap};
use super::{AccessDenied, OpenStore, ResultSize, View, all_keys, keyvalue};

impl From<AccessDenied> for keyvalue::store::Error {
    fn from(AccessDenied: AccessDenied) -> Self {
        Self::AccessDenied
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
    ) -> Result<Result<Resource<OpenStore>, keyvalue::store::Error>> {
        Ok(self.open(&label)?.map_err(Into::into))
    }
}

impl keyvalue::store::HostBucket for View<'_> {
    async fn get(
        &mut self,
        bucket: Resource<OpenStore>,
        key: String,
    ) -> Result<Result<Option<Vec<u8>>, keyvalue::store::Error>> {
        Ok(self.store(&bucket)?.get(key).await.map_err(Into::into))
    }

    async fn set(
        &mut self,
        bucket: Resource<OpenStore>,
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
        bucket: Resource<OpenStore>,
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
        bucket: Resource<OpenStore>,
        key: String,
    ) -> Result<Result<bool, keyvalue::store::Error>> {
        Ok(self.store(&bucket)?.exists(key).await.map_err(Into::into))
    }

    /// Returns all keys at once, as in Spin, and rejects cursors.
    async fn list_keys(
        &mut self,
        bucket: Resource<OpenStore>,
        cursor: Option<String>,
    ) -> Result<Result<keyvalue::store::KeyResponse, keyvalue::store::Error>> {
        if cursor.is_some() {
            let message = "list_keys: cursor not supported".to_owned();
            return Ok(Err(keyvalue::store::Error::Other(message)));
        }
        let store = self.store(&bucket)?;
        let size = ResultSize::new(self.max_result_bytes);
        let keys = all_keys(&*store, size).await;
        let response = keys.map(|keys| keyvalue::store::KeyResponse { keys, cursor: None });
        Ok(response.map_err(Into::into))
    }

    async fn drop(&mut self, bucket: Resource<OpenStore>) -> Result<()> {
        self.close(bucket)
    }
}

impl keyvalue::atomics::Host for View<'_> {
    async fn increment(
        &mut self,
        bucket: Resource<OpenStore>,
        key: String,
        delta: i64,
    ) -> Result<Result<i64, keyvalue::store::Error>> {
        Ok(self
            .store(&bucket)?
            .increment(key, delta)
            .await
            .map_err(Into::into))
    }

    /// On a conflict, the guest gets a new handle that expects the current value.
    async fn swap(
        &mut self,
        cas: Resource<CompareAndSwap>,
        value: Vec<u8>,
    ) -> Result<Result<(), keyvalue::atomics::CasError>> {
        use keyvalue::atomics::CasError;
        let CompareAndSwap {
            store,
            key,
            expected,
        } = self.table.delete(cas)?;
        match store.swap(key.clone(), expected, value).await {
            Ok(Swap::Done) => Ok(Ok(())),
            Ok(Swap::Changed) => match store.get(key.clone()).await {
                Ok(expected) => {
                    let retry = CompareAndSwap {
                        store,
                        key,
                        expected,
                    };
                    Ok(Err(CasError::CasFailed(self.table.push(retry)?)))
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
        bucket: Resource<OpenStore>,
        key: String,
    ) -> Result<Result<Resource<CompareAndSwap>, keyvalue::store::Error>> {
        let store = self.store(&bucket)?;
        match store.get(key.clone()).await {
            Ok(expected) => {
                let cas = CompareAndSwap {
                    store,
                    key,
                    expected,
                };
                Ok(Ok(self.table.push(cas)?))
            }
            Err(error) => Ok(Err(error.into())),
        }
    }

    /// Returns the current value, which the swap then expects.
    async fn current(
        &mut self,
        cas: Resource<CompareAndSwap>,
    ) -> Result<Result<Option<Vec<u8>>, keyvalue::store::Error>> {
        let cas = self.table.get_mut(&cas)?;
        match cas.store.get(cas.key.clone()).await {
            Ok(value) => {
                cas.expected.clone_from(&value);
                Ok(Ok(value))
            }
            Err(error) => Ok(Err(error.into())),
        }
    }

    async fn drop(&mut self, cas: Resource<CompareAndSwap>) -> Result<()> {
        self.close(cas)
    }
}

impl keyvalue::batch::Host for View<'_> {
    async fn get_many(
        &mut self,
        bucket: Resource<OpenStore>,
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
        bucket: Resource<OpenStore>,
        pairs: Vec<(String, Vec<u8>)>,
    ) -> Result<Result<(), keyvalue::store::Error>> {
        Ok(self.store(&bucket)?.set(pairs).await.map_err(Into::into))
    }

    async fn delete_many(
        &mut self,
        bucket: Resource<OpenStore>,
        keys: Vec<String>,
    ) -> Result<Result<(), keyvalue::store::Error>> {
        Ok(self.store(&bucket)?.delete(keys).await.map_err(Into::into))
    }
}
