//! A connection to a Redis server.

use redis::{
    AsyncConnectionConfig, Client, Cmd, FromRedisValue, Value, aio::MultiplexedConnection, cmd,
};
use tokio::sync::OwnedSemaphorePermit;

use super::{Argument, RedisError, Reply};
use crate::{
    embedded::result_size::{ResultSize, ResultTooLarge},
    limits::Limits,
};

/// A connection of a guest. Operations may run at the same time.
pub(super) struct Connection {
    connection: MultiplexedConnection,
    max_result_bytes: usize,
    _permit: OwnedSemaphorePermit,
}

impl From<redis::RedisError> for RedisError {
    fn from(error: redis::RedisError) -> Self {
        Self::Other(error.to_string())
    }
}

impl From<ResultTooLarge> for RedisError {
    fn from(error: ResultTooLarge) -> Self {
        Self::Other(error.to_string())
    }
}

impl Connection {
    /// Connects to a server. The connection holds `permit`.
    pub(super) async fn open(
        address: &str,
        limits: &Limits,
        permit: OwnedSemaphorePermit,
    ) -> Result<Self, RedisError> {
        let client = Client::open(address).map_err(|_| RedisError::InvalidAddress)?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(limits.redis_timeout))
            // Some commands wait, such as BLPOP. The request of the guest ends them.
            .set_response_timeout(None);
        let connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        Ok(Self {
            connection,
            max_result_bytes: limits.query_result_bytes,
            _permit: permit,
        })
    }

    pub(super) async fn publish(
        &self,
        channel: String,
        payload: Vec<u8>,
    ) -> Result<(), RedisError> {
        self.query(cmd("PUBLISH").arg(channel).arg(payload)).await
    }

    pub(super) async fn get(&self, key: String) -> Result<Option<Vec<u8>>, RedisError> {
        let value: Option<Vec<u8>> = self.query(cmd("GET").arg(key)).await?;
        self.check_size(value.iter().map(Vec::len))?;
        Ok(value)
    }

    pub(super) async fn set(&self, key: String, value: Vec<u8>) -> Result<(), RedisError> {
        self.query(cmd("SET").arg(key).arg(value)).await
    }

    pub(super) async fn incr(&self, key: String) -> Result<i64, RedisError> {
        self.query(cmd("INCRBY").arg(key).arg(1)).await
    }

    pub(super) async fn del(&self, keys: Vec<String>) -> Result<u32, RedisError> {
        self.query(cmd("DEL").arg(keys)).await
    }

    pub(super) async fn sadd(&self, key: String, values: Vec<String>) -> Result<u32, RedisError> {
        self.query(cmd("SADD").arg(key).arg(values)).await
    }

    pub(super) async fn smembers(&self, key: String) -> Result<Vec<String>, RedisError> {
        let members: Vec<String> = self.query(cmd("SMEMBERS").arg(key)).await?;
        let sizes = members
            .iter()
            .map(|member| size_of::<String>() + member.len());
        self.check_size(sizes)?;
        Ok(members)
    }

    pub(super) async fn srem(&self, key: String, values: Vec<String>) -> Result<u32, RedisError> {
        self.query(cmd("SREM").arg(key).arg(values)).await
    }

    /// Runs any command. The elements of nested replies are returned in one list.
    pub(super) async fn execute(
        &self,
        command: String,
        arguments: impl IntoIterator<Item = Argument>,
    ) -> Result<Vec<Reply>, RedisError> {
        let mut command = cmd(&command);
        for argument in arguments {
            match argument {
                Argument::Integer(number) => command.arg(number),
                Argument::Bytes(bytes) => command.arg(bytes),
            };
        }
        let mut replies = Vec::new();
        flatten(self.query(&command).await?, &mut replies)?;
        self.check_size(replies.iter().map(size))?;
        Ok(replies)
    }

    async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        Ok(command.query_async(&mut self.connection.clone()).await?)
    }

    fn check_size(&self, sizes: impl IntoIterator<Item = usize>) -> Result<(), ResultTooLarge> {
        let mut size = ResultSize::new(self.max_result_bytes);
        sizes.into_iter().try_for_each(|bytes| size.add(bytes))
    }
}

fn size(reply: &Reply) -> usize {
    size_of::<Reply>()
        + match reply {
            Reply::Nil | Reply::Integer(_) => 0,
            Reply::Status(text) => text.len(),
            Reply::Bytes(bytes) => bytes.len(),
        }
}

/// Appends the elements of a reply.
fn flatten(value: Value, replies: &mut Vec<Reply>) -> Result<(), RedisError> {
    replies.push(match value {
        Value::Nil => Reply::Nil,
        Value::Int(number) => Reply::Integer(number),
        Value::Boolean(flag) => Reply::Integer(flag.into()),
        Value::BulkString(bytes) => Reply::Bytes(bytes),
        Value::Double(number) => Reply::Bytes(number.to_string().into_bytes()),
        Value::BigNumber(digits) => Reply::Bytes(digits),
        Value::SimpleString(text) => Reply::Status(text),
        Value::Okay => Reply::Status("OK".to_owned()),
        Value::Array(values) | Value::Set(values) => {
            return values
                .into_iter()
                .try_for_each(|value| flatten(value, replies));
        }
        Value::ServerError(error) => return Err(redis::RedisError::from(error).into()),
        other => {
            let message = format!("a reply of this kind is not supported: {other:?}");
            return Err(RedisError::Other(message));
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_replies_become_one_list() {
        let value = Value::Array(vec![
            Value::Int(1),
            Value::Array(vec![Value::Nil, Value::BulkString(b"a".to_vec())]),
            Value::Okay,
            Value::Boolean(true),
            Value::Double(1.5),
        ]);
        let mut replies = Vec::new();
        flatten(value, &mut replies).unwrap();
        assert_eq!(
            replies,
            [
                Reply::Integer(1),
                Reply::Nil,
                Reply::Bytes(b"a".to_vec()),
                Reply::Status("OK".into()),
                Reply::Integer(1),
                Reply::Bytes(b"1.5".to_vec()),
            ]
        );
        let error = flatten(Value::Map(Vec::new()), &mut replies).unwrap_err();
        assert!(matches!(error, RedisError::Other(_)), "{error:?}");
    }
}
