//! The operations on a store, and how they send their results.

use rusqlite::{Connection, Transaction};
use tokio::sync::oneshot;

use super::statements::{delete, exists, get, increment, keys, set, swap};
use crate::embedded::{
    key_value::store::{Cursor, KeyPage, StoreError, Swap, pair_size},
    result_size::ResultSize,
};

/// An operation on a store.
pub(super) enum Operation {
    Get(String, Reply<Option<Vec<u8>>>),
    Exists(String, Reply<bool>),
    Set(Vec<(String, Vec<u8>)>, Reply<()>),
    Delete(Vec<String>, Reply<()>),
    GetMany(Vec<String>, Reply<Vec<(String, Option<Vec<u8>>)>>),
    Keys(Option<Cursor>, Reply<KeyPage>),
    Increment(String, i64, Reply<i64>),
    Swap {
        key: String,
        expected: Option<Vec<u8>>,
        value: Vec<u8>,
        reply: Reply<Swap>,
    },
}

pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;
/// Sends the result of an operation, given the result of the commit.
pub(super) type SendResult = Box<dyn FnOnce(Result<(), StoreError>)>;

impl Operation {
    /// Returns whether the operation needs the write lock.
    pub(super) fn writes(&self) -> bool {
        !matches!(
            self,
            Self::Get(..) | Self::Exists(..) | Self::GetMany(..) | Self::Keys(..)
        )
    }

    /// Runs the operation in the transaction of its batch.
    pub(super) fn apply(
        self,
        transaction: &mut Transaction<'_>,
        store: &str,
        mut size: ResultSize,
    ) -> SendResult {
        fn later<T: 'static>(reply: Reply<T>, result: rusqlite::Result<T>) -> SendResult {
            later_or_error(reply, result.map_err(StoreError::from))
        }
        fn later_or_error<T: 'static>(
            reply: Reply<T>,
            result: Result<T, StoreError>,
        ) -> SendResult {
            Box::new(move |committed| {
                // Fails if the caller has dropped the operation.
                let _ = reply.send(committed.and(result));
            })
        }
        match self {
            Self::Get(key, reply) => {
                let mut get = || {
                    let value = get(transaction, store, &key)?;
                    size.add(pair_size("", value.as_ref()))?;
                    Ok(value)
                };
                later_or_error(reply, get())
            }
            Self::Exists(key, reply) => later(reply, exists(transaction, store, &key)),
            Self::Set(pairs, reply) => later(
                reply,
                all_or_nothing(transaction, |inner| {
                    pairs
                        .iter()
                        .try_for_each(|(key, value)| set(inner, store, key, value))
                }),
            ),
            Self::Delete(keys, reply) => later(
                reply,
                all_or_nothing(transaction, |inner| {
                    keys.iter().try_for_each(|key| delete(inner, store, key))
                }),
            ),
            Self::GetMany(keys, reply) => {
                let pairs = keys.into_iter().map(|key| {
                    let value = get(transaction, store, &key)?;
                    size.add(pair_size(&key, value.as_ref()))?;
                    Ok((key, value))
                });
                let result = pairs.collect();
                later_or_error(reply, result)
            }
            Self::Keys(cursor, reply) => later(reply, keys(transaction, store, cursor)),
            Self::Increment(key, delta, reply) => {
                later_or_error(reply, increment(transaction, store, &key, delta))
            }
            Self::Swap {
                key,
                expected,
                value,
                reply,
            } => later(
                reply,
                swap(transaction, store, &key, expected.as_deref(), &value),
            ),
        }
    }

    /// Sends an error as the result.
    pub(super) fn fail(self, error: &StoreError) {
        fn send<T>(reply: Reply<T>, error: &StoreError) {
            let _ = reply.send(Err(error.clone()));
        }
        match self {
            Self::Get(_, reply) => send(reply, error),
            Self::Exists(_, reply) => send(reply, error),
            Self::Set(_, reply) | Self::Delete(_, reply) => send(reply, error),
            Self::GetMany(_, reply) => send(reply, error),
            Self::Keys(_, reply) => send(reply, error),
            Self::Increment(_, _, reply) => send(reply, error),
            Self::Swap { reply, .. } => send(reply, error),
        }
    }
}

/// Runs the statements of one operation. A failure undoes them without affecting other operations
/// of the batch.
fn all_or_nothing(
    transaction: &mut Transaction<'_>,
    run: impl FnOnce(&Connection) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let savepoint = transaction.savepoint()?;
    run(&savepoint)?;
    savepoint.commit()
}
