//! Stands in for the client in a build without the feature `redis`.

use tokio::sync::OwnedSemaphorePermit;

use super::{Argument, RedisError, Reply};
use crate::limits::Limits;

/// A connection to Redis. It is never created.
pub(super) enum Connection {}

impl Connection {
    pub(super) async fn open(
        _: &str,
        _: &Limits,
        _: OwnedSemaphorePermit,
    ) -> Result<Self, RedisError> {
        Err(RedisError::Other(
            "this host was built without Redis: build it with the cargo feature `redis`".to_owned(),
        ))
    }

    pub(super) async fn publish(&self, _: String, _: Vec<u8>) -> Result<(), RedisError> {
        match *self {}
    }

    pub(super) async fn get(&self, _: String) -> Result<Option<Vec<u8>>, RedisError> {
        match *self {}
    }

    pub(super) async fn set(&self, _: String, _: Vec<u8>) -> Result<(), RedisError> {
        match *self {}
    }

    pub(super) async fn incr(&self, _: String) -> Result<i64, RedisError> {
        match *self {}
    }

    pub(super) async fn del(&self, _: Vec<String>) -> Result<u32, RedisError> {
        match *self {}
    }

    pub(super) async fn sadd(&self, _: String, _: Vec<String>) -> Result<u32, RedisError> {
        match *self {}
    }

    pub(super) async fn smembers(&self, _: String) -> Result<Vec<String>, RedisError> {
        match *self {}
    }

    pub(super) async fn srem(&self, _: String, _: Vec<String>) -> Result<u32, RedisError> {
        match *self {}
    }

    pub(super) async fn execute(
        &self,
        _: String,
        _: impl IntoIterator<Item = Argument>,
    ) -> Result<Vec<Reply>, RedisError> {
        match *self {}
    }
}
