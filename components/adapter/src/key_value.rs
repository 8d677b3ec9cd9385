//! `wasi:keyvalue@0.2.0-draft2` by means of `wasi:keyvalue@0.2.0-draft`.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    rc::Rc,
};

use crate::{
    Adapter,
    bindings::{
        exports::wasi::keyvalue0_2_0_draft2::{
            atomics::{self, CasError, GuestCas},
            batch,
            store::{self, BucketBorrow, Error, GuestBucket, KeyResponse},
        },
        wasi::keyvalue0_2_0_draft::{
            atomics as platform_atomics, batch as platform_batch, store as platform,
        },
    },
};

/// Spin's name for the store of an application that has only one.
const DEFAULT_STORE: &str = "default";

/// Wasmtime's name for its only store.
const UNNAMED_STORE: &str = "";

thread_local! {
    /// The stores that are open, by name.
    ///
    /// They stay open as long as the instance lives. In Wasmtime, each opened bucket is a store of its
    /// own: what is written through one is not seen through another.
    static OPEN: RefCell<BTreeMap<String, Rc<platform::Bucket>>> = const { RefCell::new(BTreeMap::new()) };
}

/// Opens a store of the platform.
fn open(name: String) -> Result<Rc<platform::Bucket>, platform::Error> {
    if let Some(bucket) = OPEN.with_borrow(|open| open.get(&name).cloned()) {
        return Ok(bucket);
    }
    let bucket = match platform::open(&name) {
        Err(platform::Error::NoSuchStore) if name == DEFAULT_STORE => {
            platform::open(UNNAMED_STORE)?
        }
        result => result?,
    };
    let bucket = Rc::new(bucket);
    OPEN.with_borrow_mut(|open| open.insert(name, bucket.clone()));
    Ok(bucket)
}

impl From<platform::Error> for Error {
    fn from(error: platform::Error) -> Self {
        match error {
            platform::Error::NoSuchStore => Self::NoSuchStore,
            platform::Error::AccessDenied => Self::AccessDenied,
            platform::Error::Other(message) => Self::Other(message),
        }
    }
}

impl store::Guest for Adapter {
    type Bucket = Bucket;

    fn open(name: String) -> Result<store::Bucket, Error> {
        Ok(store::Bucket::new(Bucket(open(name)?)))
    }
}

/// An open store.
pub struct Bucket(Rc<platform::Bucket>);

impl GuestBucket for Bucket {
    fn get(&self, key: String) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.0.get(&key)?)
    }

    fn set(&self, key: String, value: Vec<u8>) -> Result<(), Error> {
        Ok(self.0.set(&key, &value)?)
    }

    fn delete(&self, key: String) -> Result<(), Error> {
        Ok(self.0.delete(&key)?)
    }

    fn exists(&self, key: String) -> Result<bool, Error> {
        Ok(self.0.exists(&key)?)
    }

    /// A cursor of the platform is a number, and one of Spin is its text.
    fn list_keys(&self, cursor: Option<String>) -> Result<KeyResponse, Error> {
        let cursor = cursor.map(|cursor| cursor.parse()).transpose();
        let cursor = cursor.map_err(|_| Error::Other("invalid cursor".into()))?;
        let response = self.0.list_keys(cursor)?;
        Ok(KeyResponse {
            keys: response.keys,
            cursor: response.cursor.map(|cursor| cursor.to_string()),
        })
    }
}

impl batch::Guest for Adapter {
    fn get_many(
        bucket: BucketBorrow<'_>,
        keys: Vec<String>,
    ) -> Result<Vec<(String, Option<Vec<u8>>)>, Error> {
        let found = platform_batch::get_many(&bucket.get::<Bucket>().0, &keys)?;
        // The platform does not say which keys are absent.
        let found: HashMap<_, _> = found.into_iter().flatten().collect();
        let pairs = keys.into_iter().map(|key| {
            let value = found.get(&key).cloned();
            (key, value)
        });
        Ok(pairs.collect())
    }

    fn set_many(bucket: BucketBorrow<'_>, pairs: Vec<(String, Vec<u8>)>) -> Result<(), Error> {
        Ok(platform_batch::set_many(&bucket.get::<Bucket>().0, &pairs)?)
    }

    fn delete_many(bucket: BucketBorrow<'_>, keys: Vec<String>) -> Result<(), Error> {
        Ok(platform_batch::delete_many(
            &bucket.get::<Bucket>().0,
            &keys,
        )?)
    }
}

impl atomics::Guest for Adapter {
    type Cas = Cas;

    fn increment(bucket: BucketBorrow<'_>, key: String, delta: i64) -> Result<i64, Error> {
        let delta = u64::try_from(delta)
            .map_err(|_| Error::Other("this platform cannot decrement a number".into()))?;
        let sum = platform_atomics::increment(&bucket.get::<Bucket>().0, &key, delta)?;
        i64::try_from(sum).map_err(|_| Error::Other("the number is too large".into()))
    }

    /// Compares and then sets, because the platform cannot do both in one step. No other request to
    /// this instance comes in between, but another instance may.
    fn swap(cas: atomics::Cas, value: Vec<u8>) -> Result<(), CasError> {
        let Cas {
            bucket,
            key,
            expected,
        } = cas.into_inner();
        let set = || {
            let current = bucket.get(&key)?;
            if current != expected {
                return Ok(Err(current));
            }
            bucket.set(&key, &value).map(Ok)
        };
        match set() {
            Ok(Ok(())) => Ok(()),
            Ok(Err(current)) => {
                let retry = Cas {
                    bucket,
                    key,
                    expected: current,
                };
                Err(CasError::CasFailed(atomics::Cas::new(retry)))
            }
            Err(error) => Err(CasError::StoreError(Error::from(error))),
        }
    }
}

/// A compare-and-swap that has read the value to compare with.
pub struct Cas {
    bucket: Rc<platform::Bucket>,
    key: String,
    expected: Option<Vec<u8>>,
}

impl GuestCas for Cas {
    fn new(bucket: BucketBorrow<'_>, key: String) -> Result<atomics::Cas, Error> {
        let bucket = bucket.get::<Bucket>().0.clone();
        let expected = bucket.get(&key)?;
        Ok(atomics::Cas::new(Self {
            bucket,
            key,
            expected,
        }))
    }

    fn current(&self) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.expected.clone())
    }
}
