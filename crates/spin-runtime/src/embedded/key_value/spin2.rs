//! `fermyon:spin/key-value@2`.

use wasmtime::{Result, component::Resource};

use super::{Bucket, Refused, View, all_keys, v2};
use crate::embedded::store::StoreError;

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
