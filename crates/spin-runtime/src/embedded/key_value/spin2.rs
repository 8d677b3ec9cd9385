//! `fermyon:spin/key-value@2`.

use wasmtime::{Result, component::Resource};

use super::store::StoreError;
use super::{AccessDenied, OpenStore, ResultSize, View, all_keys, v2};

impl From<AccessDenied> for v2::Error {
    fn from(AccessDenied: AccessDenied) -> Self {
        Self::AccessDenied
    }
}

impl From<StoreError> for v2::Error {
    fn from(error: StoreError) -> Self {
        Self::Other(error.0)
    }
}

impl v2::Host for View<'_> {}

impl v2::HostStore for View<'_> {
    async fn open(&mut self, label: String) -> Result<Result<Resource<OpenStore>, v2::Error>> {
        Ok(self.open(&label)?.map_err(Into::into))
    }

    async fn get(
        &mut self,
        bucket: Resource<OpenStore>,
        key: String,
    ) -> Result<Result<Option<Vec<u8>>, v2::Error>> {
        Ok(self.store(&bucket)?.get(key).await.map_err(Into::into))
    }

    async fn set(
        &mut self,
        bucket: Resource<OpenStore>,
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
        bucket: Resource<OpenStore>,
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
        bucket: Resource<OpenStore>,
        key: String,
    ) -> Result<Result<bool, v2::Error>> {
        Ok(self.store(&bucket)?.exists(key).await.map_err(Into::into))
    }

    async fn get_keys(
        &mut self,
        bucket: Resource<OpenStore>,
    ) -> Result<Result<Vec<String>, v2::Error>> {
        let store = self.store(&bucket)?;
        let size = ResultSize::new(self.max_result_bytes);
        Ok(all_keys(&*store, size).await.map_err(Into::into))
    }

    async fn drop(&mut self, bucket: Resource<OpenStore>) -> Result<()> {
        self.close(bucket)
    }
}
