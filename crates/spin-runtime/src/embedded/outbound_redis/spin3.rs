//! `spin:redis@3`, whose functions are asynchronous.

use std::sync::Arc;

use wasmtime::{
    Result,
    component::{Accessor, Resource},
};

use super::{Argument, Connection, OpenConnection, Redis, RedisError, Reply, View, open, v3};

type Host<T> = Accessor<T, Redis>;

fn connection<T>(host: &Host<T>, connection: &Resource<OpenConnection>) -> Result<Arc<Connection>> {
    host.with(|mut access| access.get().connection(connection))
}

impl From<RedisError> for v3::Error {
    fn from(error: RedisError) -> Self {
        match error {
            RedisError::InvalidAddress => Self::InvalidAddress,
            RedisError::TooManyConnections => Self::TooManyConnections,
            RedisError::Other(message) => Self::Other(message),
        }
    }
}

impl From<v3::RedisParameter> for Argument {
    fn from(parameter: v3::RedisParameter) -> Self {
        match parameter {
            v3::RedisParameter::Int64(number) => Self::Integer(number),
            v3::RedisParameter::Binary(bytes) => Self::Bytes(bytes),
        }
    }
}

impl From<Reply> for v3::RedisResult {
    fn from(reply: Reply) -> Self {
        match reply {
            Reply::Nil => Self::Nil,
            Reply::Status(text) => Self::Status(text),
            Reply::Integer(number) => Self::Int64(number),
            Reply::Bytes(bytes) => Self::Binary(bytes),
        }
    }
}

impl v3::Host for View<'_> {}

impl v3::HostConnection for View<'_> {
    async fn drop(&mut self, connection: Resource<OpenConnection>) -> Result<()> {
        self.close(connection)
    }
}

impl<T: Send + 'static> v3::HostConnectionWithStore<T> for Redis {
    async fn open(
        host: &Host<T>,
        address: String,
    ) -> Result<Result<Resource<OpenConnection>, v3::Error>> {
        let component = host.with(|mut access| access.get().component.clone());
        match open(&component, &address).await {
            Ok(connection) => host.with(|mut access| Ok(Ok(access.get().insert(connection)?))),
            Err(error) => Ok(Err(error.into())),
        }
    }

    async fn publish(
        host: &Host<T>,
        resource: Resource<OpenConnection>,
        channel: String,
        payload: Vec<u8>,
    ) -> Result<Result<(), v3::Error>> {
        let connection = connection(host, &resource)?;
        Ok(connection
            .publish(channel, payload)
            .await
            .map_err(Into::into))
    }

    async fn get(
        host: &Host<T>,
        resource: Resource<OpenConnection>,
        key: String,
    ) -> Result<Result<Option<Vec<u8>>, v3::Error>> {
        let connection = connection(host, &resource)?;
        Ok(connection.get(key).await.map_err(Into::into))
    }

    async fn set(
        host: &Host<T>,
        resource: Resource<OpenConnection>,
        key: String,
        value: Vec<u8>,
    ) -> Result<Result<(), v3::Error>> {
        let connection = connection(host, &resource)?;
        Ok(connection.set(key, value).await.map_err(Into::into))
    }

    async fn incr(
        host: &Host<T>,
        resource: Resource<OpenConnection>,
        key: String,
    ) -> Result<Result<i64, v3::Error>> {
        let connection = connection(host, &resource)?;
        Ok(connection.incr(key).await.map_err(Into::into))
    }

    async fn del(
        host: &Host<T>,
        resource: Resource<OpenConnection>,
        keys: Vec<String>,
    ) -> Result<Result<u32, v3::Error>> {
        let connection = connection(host, &resource)?;
        Ok(connection.del(keys).await.map_err(Into::into))
    }

    async fn sadd(
        host: &Host<T>,
        resource: Resource<OpenConnection>,
        key: String,
        values: Vec<String>,
    ) -> Result<Result<u32, v3::Error>> {
        let connection = connection(host, &resource)?;
        Ok(connection.sadd(key, values).await.map_err(Into::into))
    }

    async fn smembers(
        host: &Host<T>,
        resource: Resource<OpenConnection>,
        key: String,
    ) -> Result<Result<Vec<String>, v3::Error>> {
        let connection = connection(host, &resource)?;
        Ok(connection.smembers(key).await.map_err(Into::into))
    }

    async fn srem(
        host: &Host<T>,
        resource: Resource<OpenConnection>,
        key: String,
        values: Vec<String>,
    ) -> Result<Result<u32, v3::Error>> {
        let connection = connection(host, &resource)?;
        Ok(connection.srem(key, values).await.map_err(Into::into))
    }

    async fn execute(
        host: &Host<T>,
        resource: Resource<OpenConnection>,
        command: String,
        arguments: Vec<v3::RedisParameter>,
    ) -> Result<Result<Vec<v3::RedisResult>, v3::Error>> {
        let connection = connection(host, &resource)?;
        let arguments = arguments.into_iter().map(Into::into);
        let replies = connection.execute(command, arguments).await;
        Ok(replies
            .map(|replies| replies.into_iter().map(Into::into).collect())
            .map_err(Into::into))
    }
}
