//! `fermyon:spin/redis@2`.

use wasmtime::{Result, component::Resource};

use super::{Argument, OpenConnection, RedisError, Reply, View, open, v2};

impl From<RedisError> for v2::Error {
    fn from(error: RedisError) -> Self {
        match error {
            RedisError::InvalidAddress => Self::InvalidAddress,
            RedisError::TooManyConnections => Self::TooManyConnections,
            RedisError::Other(message) => Self::Other(message),
        }
    }
}

impl From<v2::RedisParameter> for Argument {
    fn from(parameter: v2::RedisParameter) -> Self {
        match parameter {
            v2::RedisParameter::Int64(number) => Self::Integer(number),
            v2::RedisParameter::Binary(bytes) => Self::Bytes(bytes),
        }
    }
}

impl From<Reply> for v2::RedisResult {
    fn from(reply: Reply) -> Self {
        match reply {
            Reply::Nil => Self::Nil,
            Reply::Status(text) => Self::Status(text),
            Reply::Integer(number) => Self::Int64(number),
            Reply::Bytes(bytes) => Self::Binary(bytes),
        }
    }
}

impl v2::Host for View<'_> {}

impl v2::HostConnection for View<'_> {
    async fn open(
        &mut self,
        address: String,
    ) -> Result<Result<Resource<OpenConnection>, v2::Error>> {
        match open(self.component, &address).await {
            Ok(connection) => Ok(Ok(self.insert(connection)?)),
            Err(error) => Ok(Err(error.into())),
        }
    }

    async fn publish(
        &mut self,
        connection: Resource<OpenConnection>,
        channel: String,
        payload: Vec<u8>,
    ) -> Result<Result<(), v2::Error>> {
        let connection = self.connection(&connection)?;
        Ok(connection
            .publish(channel, payload)
            .await
            .map_err(Into::into))
    }

    async fn get(
        &mut self,
        connection: Resource<OpenConnection>,
        key: String,
    ) -> Result<Result<Option<Vec<u8>>, v2::Error>> {
        let connection = self.connection(&connection)?;
        Ok(connection.get(key).await.map_err(Into::into))
    }

    async fn set(
        &mut self,
        connection: Resource<OpenConnection>,
        key: String,
        value: Vec<u8>,
    ) -> Result<Result<(), v2::Error>> {
        let connection = self.connection(&connection)?;
        Ok(connection.set(key, value).await.map_err(Into::into))
    }

    async fn incr(
        &mut self,
        connection: Resource<OpenConnection>,
        key: String,
    ) -> Result<Result<i64, v2::Error>> {
        let connection = self.connection(&connection)?;
        Ok(connection.incr(key).await.map_err(Into::into))
    }

    async fn del(
        &mut self,
        connection: Resource<OpenConnection>,
        keys: Vec<String>,
    ) -> Result<Result<u32, v2::Error>> {
        let connection = self.connection(&connection)?;
        Ok(connection.del(keys).await.map_err(Into::into))
    }

    async fn sadd(
        &mut self,
        connection: Resource<OpenConnection>,
        key: String,
        values: Vec<String>,
    ) -> Result<Result<u32, v2::Error>> {
        let connection = self.connection(&connection)?;
        Ok(connection.sadd(key, values).await.map_err(Into::into))
    }

    async fn smembers(
        &mut self,
        connection: Resource<OpenConnection>,
        key: String,
    ) -> Result<Result<Vec<String>, v2::Error>> {
        let connection = self.connection(&connection)?;
        Ok(connection.smembers(key).await.map_err(Into::into))
    }

    async fn srem(
        &mut self,
        connection: Resource<OpenConnection>,
        key: String,
        values: Vec<String>,
    ) -> Result<Result<u32, v2::Error>> {
        let connection = self.connection(&connection)?;
        Ok(connection.srem(key, values).await.map_err(Into::into))
    }

    async fn execute(
        &mut self,
        connection: Resource<OpenConnection>,
        command: String,
        arguments: Vec<v2::RedisParameter>,
    ) -> Result<Result<Vec<v2::RedisResult>, v2::Error>> {
        let connection = self.connection(&connection)?;
        let arguments = arguments.into_iter().map(Into::into);
        let replies = connection.execute(command, arguments).await;
        Ok(replies
            .map(|replies| replies.into_iter().map(Into::into).collect())
            .map_err(Into::into))
    }

    async fn drop(&mut self, connection: Resource<OpenConnection>) -> Result<()> {
        self.close(connection)
    }
}
