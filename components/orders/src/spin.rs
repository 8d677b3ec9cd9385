//! Spin's side of the service: the entry point, the store, the variables, the way to the host.

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
    announce::{Announce, AnnounceError},
    gate::Gate,
    history::History,
    kitchen::Kitchen,
    reply::Reply,
    service::Service,
    storage::{Storage, StorageError},
};

/// How long a token that this component signs is valid.
const TOKEN_LIFETIME: Duration = Duration::from_secs(60);

/// How long the GRIP host may take to accept a connection, and to answer.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers one request: what Spin calls.
///
/// Exported only from wasm: the name of the export is none that a native linker takes.
#[cfg_attr(target_family = "wasm", spin_sdk::http_service)]
pub async fn handle(request: Request) -> Reply {
    let settings = settings().await;
    let service = Service {
        kitchen: Kitchen {
            history: History::new(Bucket::default()),
            announcer: ControlPort(settings.clone()),
        },
        gate: &settings.gate,
    };
    let (head, body) = request.into_parts();
    let body = async |limit| match Limited::new(body, limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(format!("more than {limit} bytes")),
        Err(error) => Err(error.to_string()),
    };
    let rng = || SmallRng::seed_from_u64(get_random_u64());
    let request = Request::from_parts(head, ());
    service.answer(request, body, rng, SystemTime::now()).await
}

/// What the variables say.
struct Settings {
    gate: Gate,
    key: Option<Key>,
    /// Where to publish, or why that is not known.
    publish: Result<String, String>,
}

/// The settings, read once for each instance: variables do not change while it lives,
/// and asking for them, like preparing the key, costs more than answering a message.
async fn settings() -> Rc<Settings> {
    thread_local! {
        static SETTINGS: OnceCell<Rc<Settings>> = const { OnceCell::new() };
    }
    if let Some(settings) = SETTINGS.with(|cell| cell.get().cloned()) {
        return settings;
    }
    let gate = match variables::get("grip_key").await {
        Ok(key) => Gate::new(&key),
        Err(error) => Gate::Shut(format!("the variable grip_key cannot be read: {error}")),
    };
    let publish = match variables::get("grip_url").await {
        Ok(url) if url.is_empty() => Err("the variable grip_url is empty".into()),
        Ok(url) => Ok(format!("{}/publish/", url.trim_end_matches('/'))),
        Err(error) => Err(format!("the variable grip_url cannot be read: {error}")),
    };
    let settings = Rc::new(Settings {
        key: gate.key(),
        gate,
        publish,
    });
    // Another request of this instance may have been first.
    SETTINGS.with(|cell| cell.get_or_init(|| settings).clone())
}

/// The control port of the GRIP host.
struct ControlPort(Rc<Settings>);

impl Announce for ControlPort {
    async fn announce(&self, items: Vec<Item>) -> Result<(), AnnounceError> {
        let url = self.0.publish.as_ref();
        let url = url.map_err(|problem| AnnounceError(problem.clone()))?;
        let error = |problem: String| AnnounceError(format!("POST {url}: {problem}"));
        let body = Bytes::from(publish::to_json(&items));
        let mut request = Request::post(url)
            .header("content-type", "application/json")
            // Not every GRIP host reads a body in chunks.
            .header("content-length", body.len());
        if let Some(key) = &self.0.key {
            let token = signature::sign(key, "orders", SystemTime::now(), TOKEN_LIFETIME);
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.extension(timeouts()).body(Full::new(body));
        let request = request.map_err(|problem| error(problem.to_string()))?;
        let response = http::send(request).await;
        let response = response.map_err(|problem| error(problem.to_string()))?;
        match response.status() {
            status if status.is_success() => Ok(()),
            status => Err(error(format!("answered {status}"))),
        }
    }
}

fn timeouts() -> RequestOptionsExtension {
    let timeout = PUBLISH_TIMEOUT.as_nanos().try_into().ok();
    let options = RequestOptions::new();
    // A host that does not support them has its own.
    let _ = options.set_connect_timeout(timeout);
    let _ = options.set_first_byte_timeout(timeout);
    RequestOptionsExtension(options)
}

/// The key-value store `default`, opened when it is first used: most messages need none.
#[derive(Default)]
struct Bucket(OnceCell<store::Bucket>);

impl Bucket {
    fn open(&self) -> Result<&store::Bucket, StorageError> {
        if let Some(bucket) = self.0.get() {
            return Ok(bucket);
        }
        let bucket = store::open("default").map_err(failed)?;
        Ok(self.0.get_or_init(|| bucket))
    }
}

impl Storage for Bucket {
    async fn get(&self, mut keys: Vec<String>) -> Result<BTreeMap<String, Vec<u8>>, StorageError> {
        if keys.len() == 1
            && let Some(key) = keys.pop()
        {
            let value = self.open()?.get(&key).map_err(failed)?;
            return Ok(value.map(|value| (key, value)).into_iter().collect());
        }
        let found = batch::get_many(self.open()?, &keys).map_err(failed)?;
        // In any order; keys that do not exist may be there without a value, or not at all.
        let found = found
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)));
        Ok(found.collect())
    }

    async fn set(&self, key: &str, value: Vec<u8>) -> Result<(), StorageError> {
        self.open()?.set(key, &value).map_err(failed)
    }

    async fn delete(&self, keys: Vec<String>) -> Result<(), StorageError> {
        batch::delete_many(self.open()?, &keys).map_err(failed)
    }

    async fn increment(&self, key: &str, delta: i64) -> Result<i64, StorageError> {
        atomics::increment(self.open()?, key, delta).map_err(failed)
    }

    async fn swap(&self, key: &str, from: &[u8], to: Vec<u8>) -> Result<bool, StorageError> {
        let cas = atomics::Cas::new(self.open()?, key).map_err(failed)?;
        // The swap is from what this reads: from an absent key, it may overwrite.
        if cas.current().map_err(failed)?.as_deref() != Some(from) {
            return Ok(false);
        }
        match atomics::swap(cas, &to) {
            Ok(()) => Ok(true),
            Err(atomics::CasError::CasFailed(_)) => Ok(false),
            Err(atomics::CasError::StoreError(error)) => Err(failed(error)),
        }
    }
}

fn failed(error: store::Error) -> StorageError {
    StorageError(match error {
        store::Error::NoSuchStore => "there is no such store".into(),
        store::Error::AccessDenied => {
            "access denied: the component's key_value_stores must name it".into()
        }
        store::Error::Other(message) => message,
    })
}
