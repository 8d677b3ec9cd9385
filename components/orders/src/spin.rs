//! The component's entry point, and the traits implemented with Spin's host interfaces.

use std::{
    cell::OnceCell,
    collections::BTreeMap,
    rc::Rc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use grip::{Item, Key, publish, signature};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use rand::{SeedableRng, rngs::SmallRng};
use spin_sdk::{
    experimental::wasi::keyvalue::{atomics, batch, store},
    http::{self, Request},
    variables,
    wasip3::{
        http::types::RequestOptions, http_compat::RequestOptionsExtension,
        random::random::get_random_u64,
    },
};

use crate::{
    auth::Authenticator,
    history::History,
    number::StoredNumber,
    orders::Orders,
    publisher::{PublishError, Publisher},
    response::Response,
    router::Router,
    storage::{Storage, StorageError},
};

/// The lifetime of the tokens that authorize publishing.
const TOKEN_LIFETIME: Duration = Duration::from_secs(60);

/// The timeout for connecting to the GRIP host, and for its response.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);

/// Handles one HTTP request.
// Exported only for wasm: native linkers reject the export's name.
#[cfg_attr(target_family = "wasm", spin_sdk::http_service)]
pub async fn handle(request: Request) -> Response {
    let settings = Settings::load().await;
    let router = Router {
        orders: Orders {
            history: History::new(KeyValueStore::default()),
            publisher: ControlPort(settings.clone()),
        },
        authenticator: &settings.authenticator,
    };
    let (head, body) = request.into_parts();
    let read_body = async |limit| match Limited::new(body, limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(format!("more than {limit} bytes")),
        Err(error) => Err(error.to_string()),
    };
    let rng = || SmallRng::seed_from_u64(get_random_u64());
    let request = Request::from_parts(head, ());
    router
        .handle(request, read_body, rng, SystemTime::now())
        .await
}

/// Settings from the component's variables.
struct Settings {
    authenticator: Authenticator,
    key: Option<Key>,
    /// The URL to publish to, or the reason why it is unknown.
    publish_url: Result<String, String>,
}

impl Settings {
    /// Reads the settings, once for each component instance.
    ///
    /// Variables are constant while an instance lives. Reading them and preparing the key costs
    /// more than handling a message.
    async fn load() -> Rc<Settings> {
        thread_local! {
            static SETTINGS: OnceCell<Rc<Settings>> = const { OnceCell::new() };
        }
        if let Some(settings) = SETTINGS.with(|cell| cell.get().cloned()) {
            return settings;
        }
        let settings = Rc::new(Settings::read().await);
        // A concurrent request may have set the cell in the meantime.
        SETTINGS.with(|cell| cell.get_or_init(|| settings).clone())
    }

    async fn read() -> Settings {
        let authenticator = match variables::get("grip_key").await {
            Ok(key) => Authenticator::new(&key),
            Err(error) => {
                Authenticator::NoKey(format!("variable grip_key cannot be read: {error}"))
            }
        };
        let publish_url = match variables::get("grip_url").await {
            Ok(url) if url.is_empty() => Err("variable grip_url is empty".into()),
            Ok(url) => Ok(format!("{}/publish/", url.trim_end_matches('/'))),
            Err(error) => Err(format!("variable grip_url cannot be read: {error}")),
        };
        Settings {
            key: authenticator.key(),
            authenticator,
            publish_url,
        }
    }
}

/// Publishes through the control port of the GRIP host.
struct ControlPort(Rc<Settings>);

impl Publisher for ControlPort {
    async fn publish(&self, items: Vec<Item>) -> Result<(), PublishError> {
        let url = self.0.publish_url.as_ref();
        let url = url.map_err(|reason| PublishError(reason.clone()))?;
        let publish_error = |reason: String| PublishError(format!("POST {url}: {reason}"));
        let body = Bytes::from(publish::to_json(&items));
        let mut request = Request::post(url)
            .header("content-type", "application/json")
            // Some GRIP hosts do not accept a chunked body.
            .header("content-length", body.len());
        if let Some(key) = &self.0.key {
            let token = signature::sign(key, "orders", SystemTime::now(), TOKEN_LIFETIME);
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request
            .extension(request_options())
            .body(Full::new(body))
            .map_err(|error| publish_error(error.to_string()))?;
        let response = http::send(request)
            .await
            .map_err(|error| publish_error(error.to_string()))?;
        let status = response.status();
        if status.is_success() {
            Ok(())
        } else {
            Err(publish_error(format!("unexpected status {status}")))
        }
    }
}

fn request_options() -> RequestOptionsExtension {
    let timeout = PUBLISH_TIMEOUT.as_nanos().try_into().ok();
    let options = RequestOptions::new();
    // A host that does not support these options applies its own timeouts.
    let _ = options.set_connect_timeout(timeout);
    let _ = options.set_first_byte_timeout(timeout);
    RequestOptionsExtension(options)
}

/// The key-value store `default`. It is opened on first use, as most requests do not need it.
#[derive(Default)]
struct KeyValueStore(OnceCell<store::Bucket>);

impl KeyValueStore {
    fn open(&self) -> Result<&store::Bucket, StorageError> {
        if let Some(bucket) = self.0.get() {
            return Ok(bucket);
        }
        let bucket = store::open("default").map_err(storage_error)?;
        Ok(self.0.get_or_init(|| bucket))
    }
}

impl Storage for KeyValueStore {
    async fn get(&self, mut keys: Vec<String>) -> Result<BTreeMap<String, Vec<u8>>, StorageError> {
        if keys.len() == 1
            && let Some(key) = keys.pop()
        {
            let value = self.open()?.get(&key).map_err(storage_error)?;
            return Ok(value.map(|value| (key, value)).into_iter().collect());
        }
        let values = batch::get_many(self.open()?, &keys).map_err(storage_error)?;
        // Hosts return pairs in any order, and absent keys either without a value or not at all.
        Ok(values
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)))
            .collect())
    }

    async fn set(&self, key: &str, value: Vec<u8>) -> Result<(), StorageError> {
        self.open()?.set(key, &value).map_err(storage_error)
    }

    async fn delete(&self, keys: Vec<String>) -> Result<(), StorageError> {
        batch::delete_many(self.open()?, &keys).map_err(storage_error)
    }

    async fn increment(&self, key: &str, delta: i64) -> Result<i64, StorageError> {
        atomics::increment(self.open()?, key, delta).map_err(storage_error)
    }

    async fn compare_and_swap(
        &self,
        key: &str,
        current: &[u8],
        new: Vec<u8>,
    ) -> Result<bool, StorageError> {
        self.swap(key, |value| (value == current).then_some(new))
    }

    async fn swap_number(&self, key: &str, current: i64, new: i64) -> Result<bool, StorageError> {
        self.swap(key, |value| {
            let stored = StoredNumber::decode(value)?;
            (stored.value == current).then(|| stored.encode(new))
        })
    }
}

impl KeyValueStore {
    /// Replaces the value of a key by the result of `replace`. Returns false if that is `None`, or
    /// if the value has changed meanwhile.
    fn swap(
        &self,
        key: &str,
        replace: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
    ) -> Result<bool, StorageError> {
        let cas = atomics::Cas::new(self.open()?, key).map_err(storage_error)?;
        // The swap compares with the value that `cas` has read. It must not start from an absent
        // key, since it could then overwrite a value.
        let value = cas.current().map_err(storage_error)?;
        let Some(new) = value.as_deref().and_then(replace) else {
            return Ok(false);
        };
        match atomics::swap(cas, &new) {
            Ok(()) => Ok(true),
            Err(atomics::CasError::CasFailed(_)) => Ok(false),
            Err(atomics::CasError::StoreError(error)) => Err(storage_error(error)),
        }
    }
}

fn storage_error(error: store::Error) -> StorageError {
    StorageError(match error {
        store::Error::NoSuchStore => "no such store".into(),
        store::Error::AccessDenied => {
            "access denied: add it to the component's key_value_stores".into()
        }
        store::Error::Other(message) => message,
    })
}
