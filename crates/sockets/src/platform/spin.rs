//! Spin's interfaces.

use std::{
    cell::OnceCell,
    collections::BTreeMap,
    rc::Rc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use grip::{Item, publish, signature};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use spin_sdk::{
    experimental::wasi::keyvalue::{atomics, batch, store},
    http::{FromRequest, IntoResponse},
    variables,
    wasip3::{
        clocks::monotonic_clock,
        http::types::{ErrorCode, RequestOptions},
        http_compat::RequestOptionsExtension,
    },
};

use crate::{
    Handler, PublishError,
    configuration::{self, Settings, Unauthorized, fingerprint, manifest_lines},
    events::MAX_EVENTS_BYTES,
    serve::{serve, text_response},
    store::{DEFAULT, Storage, StoreError},
};

/// The lifetime of the tokens that authorize publishing.
const TOKEN_LIFETIME: Duration = Duration::from_secs(60);

/// The timeout for connecting to the GRIP host, and for its response.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);

/// The pause before another look at the store.
const PAUSE: Duration = Duration::from_millis(10);

/// The issuer in the tokens of publishers.
const ISSUER: &str = "sockets";

/// Handles a request of the platform. `name` is that of the component's package.
pub async fn handle(
    name: &'static str,
    handler: &impl Handler,
    request: spin_sdk::wasip3::http::types::Request,
) -> Result<spin_sdk::wasip3::http::types::Response, ErrorCode> {
    configuration::set_component(name);
    let request = spin_sdk::http::Request::from_request(request)?;
    let (head, body) = request.into_parts();
    let response = match Limited::new(body, MAX_EVENTS_BYTES).collect().await {
        Ok(body) => serve(handler, Request::from_parts(head, body.to_bytes())).await,
        Err(error) if error.is::<LengthLimitError>() => {
            let message = format!("body: more than {MAX_EVENTS_BYTES} bytes");
            text_response(StatusCode::PAYLOAD_TOO_LARGE, &message)
        }
        Err(error) => text_response(StatusCode::BAD_REQUEST, &format!("body: {error}")),
    };
    response.map(Full::new).into_response()
}

/// Checks that the GRIP host sent a request with these headers.
pub(crate) async fn authenticate(headers: &HeaderMap) -> Result<(), Unauthorized> {
    settings().await.authenticate(headers, SystemTime::now())
}

/// Returns what identifies the run of the host: it has a new key in each, unless its user sets one.
pub(crate) async fn run() -> String {
    if cfg!(feature = "sip-016") {
        // A handler of typed frames cannot read variables.
        return String::new();
    }
    let key = settings().await.key();
    key.as_ref().map(fingerprint).unwrap_or_default()
}

/// Publishes through the control port of the GRIP host, or through the function of a host that passes
/// typed frames.
pub(crate) async fn publish(items: Vec<Item>) -> Result<(), PublishError> {
    #[cfg(feature = "sip-016")]
    if crate::typed::is_current() {
        return crate::typed::publish(items);
    }
    let settings = settings().await;
    let url = settings.url();
    let url = url.map_err(|error| PublishError(error.to_string()))?;
    let url = format!("{url}/publish/");
    let body = Bytes::from(publish::to_json(&items));
    let mut request = Request::post(&url)
        .header("content-type", "application/json")
        // Some GRIP hosts do not accept a chunked body.
        .header("content-length", body.len());
    if let Some(key) = settings.key() {
        let token = signature::sign(&key, ISSUER, SystemTime::now(), TOKEN_LIFETIME);
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.extension(request_options()).body(Full::new(body));
    let request = request.map_err(|error| PublishError(format!("POST {url}: {error}")))?;
    match spin_sdk::http::send(request).await {
        Ok(response) if response.status().is_success() => Ok(()),
        Ok(response) => {
            let status: Response<()> = response.map(drop);
            let status = status.status();
            Err(PublishError(format!(
                "POST {url}: unexpected status {status}"
            )))
        }
        Err(ErrorCode::HttpRequestDenied) => {
            let lines = manifest_lines();
            Err(PublishError(format!(
                "POST {url}: the component may not connect to the GRIP host\n\
                 spin.toml needs these lines:\n\n{lines}"
            )))
        }
        Err(error) => Err(PublishError(format!("POST {url}: {error}"))),
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

/// Returns the settings, which are read once for each component instance.
///
/// Variables are constant while an instance lives. Reading them and preparing the key costs more
/// than handling a message.
async fn settings() -> Rc<Settings> {
    thread_local! {
        static SETTINGS: OnceCell<Rc<Settings>> = const { OnceCell::new() };
    }
    if let Some(settings) = SETTINGS.with(|cell| cell.get().cloned()) {
        return settings;
    }
    let variable = async |name: &str| {
        let value = variables::get(name).await;
        value.map_err(|error| error.to_string())
    };
    let (url, key) = (variable("grip_url").await, variable("grip_key").await);
    let settings = Rc::new(Settings::new(url, key));
    // A concurrent request may have set the cell in the meantime.
    SETTINGS.with(|cell| cell.get_or_init(|| settings).clone())
}

/// Waits for a short time.
pub(crate) async fn pause() {
    #[cfg(feature = "sip-016")]
    if crate::typed::is_current() {
        return std::thread::sleep(PAUSE);
    }
    let pause = PAUSE.as_nanos().try_into().unwrap_or(u64::MAX);
    monotonic_clock::wait_for(pause).await;
}

/// A key-value store of Spin. It is opened on first use.
#[derive(Clone, Debug)]
pub struct Store {
    label: String,
    bucket: OnceCell<Rc<store::Bucket>>,
}

impl Store {
    /// Returns the store with this label.
    pub fn open(label: &str) -> Store {
        Store {
            label: label.to_owned(),
            bucket: OnceCell::new(),
        }
    }

    fn bucket(&self) -> Result<&store::Bucket, StoreError> {
        if let Some(bucket) = self.bucket.get() {
            return Ok(bucket);
        }
        let bucket = store::open(&self.label).map_err(|error| self.error(error))?;
        Ok(self.bucket.get_or_init(|| Rc::new(bucket)))
    }

    fn error(&self, error: store::Error) -> StoreError {
        let label = &self.label;
        let problem = match error {
            store::Error::NoSuchStore => "no such store".into(),
            store::Error::AccessDenied => format!(
                "access denied: add {label:?} to the component's key_value_stores in spin.toml"
            ),
            store::Error::Other(message) => message,
        };
        StoreError::Unavailable {
            label: label.clone(),
            problem,
        }
    }
}

impl Default for Store {
    fn default() -> Store {
        Store::open(DEFAULT)
    }
}

impl Storage for Store {
    async fn get(&self, mut keys: Vec<String>) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
        if keys.len() == 1
            && let Some(key) = keys.pop()
        {
            let value = self.bucket()?.get(&key);
            let value = value.map_err(|error| self.error(error))?;
            return Ok(value.map(|value| (key, value)).into_iter().collect());
        }
        let values = batch::get_many(self.bucket()?, &keys).map_err(|error| self.error(error))?;
        // Hosts return pairs in any order, and absent keys either without a value or not at all.
        Ok(values
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)))
            .collect())
    }

    async fn set(&self, key: &str, value: Vec<u8>) -> Result<(), StoreError> {
        let set = self.bucket()?.set(key, &value);
        set.map_err(|error| self.error(error))
    }

    async fn delete(&self, keys: Vec<String>) -> Result<(), StoreError> {
        batch::delete_many(self.bucket()?, &keys).map_err(|error| self.error(error))
    }

    async fn increment(&self, key: &str, delta: i64) -> Result<i64, StoreError> {
        atomics::increment(self.bucket()?, key, delta).map_err(|error| self.error(error))
    }

    async fn replace(
        &self,
        key: &str,
        replacement: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
    ) -> Result<bool, StoreError> {
        let cas = atomics::Cas::new(self.bucket()?, key).map_err(|error| self.error(error))?;
        // The swap compares with the value that `cas` has read. It must not start from an absent
        // key, since it could then overwrite a value.
        let value = cas.current().map_err(|error| self.error(error))?;
        let Some(new) = value.as_deref().and_then(replacement) else {
            return Ok(false);
        };
        match atomics::swap(cas, &new) {
            Ok(()) => Ok(true),
            Err(atomics::CasError::CasFailed(_)) => Ok(false),
            Err(atomics::CasError::StoreError(error)) => Err(self.error(error)),
        }
    }
}
