//! Responses, which may still be open.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use spin_runtime::backend::{Body, BodyError};
use tokio::sync::Notify;

/// The most bytes of a body that are kept.
const MAX_BODY_BYTES: usize = 64 << 20;

/// A response to a client.
///
/// It is *open* while its body can still grow. That is the case for a component that takes longer
/// than a minute for its body, and for responses that a component has asked the GRIP host to hold:
/// they change when something is published, or when time passes.
#[derive(Clone)]
pub struct Response(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    head: Option<(StatusCode, HeaderMap)>,
    body: Vec<u8>,
    /// The part of the body that [`Response::take_text`] has returned.
    taken: usize,
    /// Nothing more happens until something is published, or until a time.
    is_held: bool,
    has_ended: bool,
    error: Option<String>,
}

impl Response {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared {
            state: Mutex::default(),
            changed: Notify::new(),
        }))
    }

    /// Returns the status.
    ///
    /// # Panics
    /// Panics if the response is held and has none yet.
    pub fn status(&self) -> StatusCode {
        self.head().0
    }

    /// Returns whether the response has a status. A response that is held until something is published
    /// has none until then.
    pub fn has_status(&self) -> bool {
        self.0.state.lock().head.is_some()
    }

    /// Returns the headers.
    ///
    /// # Panics
    /// Panics if the response is held and has none yet.
    pub fn headers(&self) -> HeaderMap {
        self.head().1
    }

    /// Returns the value of a header. Invalid UTF-8 is replaced.
    ///
    /// # Panics
    /// Panics if the response is held and has no headers yet.
    pub fn header(&self, name: &str) -> Option<String> {
        let headers = self.headers();
        let value = headers.get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    }

    /// Returns the body, as far as it has arrived.
    pub fn body(&self) -> Bytes {
        Bytes::copy_from_slice(&self.0.state.lock().body)
    }

    /// Returns the body as text, as far as it has arrived. Invalid UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.state.lock().body).into_owned()
    }

    /// Returns the text that has arrived since the last call.
    pub fn take_text(&self) -> String {
        let mut state = self.0.state.lock();
        let text = String::from_utf8_lossy(&state.body[state.taken..]).into_owned();
        state.taken = state.body.len();
        text
    }

    /// Parses the body as JSON.
    ///
    /// # Panics
    /// Panics if the body is not the JSON of a `T`.
    pub fn json<T: DeserializeOwned>(&self) -> T {
        let parsed = serde_json::from_slice(&self.0.state.lock().body);
        parsed.unwrap_or_else(|error| panic!("invalid JSON: {error}, in {self:?}"))
    }

    /// Returns whether the body can still grow.
    pub fn is_open(&self) -> bool {
        !self.0.state.lock().has_ended
    }

    /// Returns why the body ended early, if it did.
    pub fn error(&self) -> Option<String> {
        self.0.state.lock().error.clone()
    }

    fn head(&self) -> (StatusCode, HeaderMap) {
        let head = self.0.state.lock().head.clone();
        head.expect(
            "the response is held and has no status yet: publish to one of its channels, or \
             advance the time",
        )
    }

    pub(crate) fn set_head(&self, status: StatusCode, headers: HeaderMap) {
        self.update(|state| state.head = Some((status, headers)));
    }

    pub(crate) fn append(&self, bytes: &[u8]) {
        self.update(|state| state.body.extend_from_slice(bytes));
    }

    /// Appends a body, as it arrives.
    ///
    /// # Errors
    /// Fails if the body ends early, or is larger than [`MAX_BODY_BYTES`].
    pub(crate) async fn append_body(&self, mut body: Body) -> Result<(), BodyError> {
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                self.append(&data);
            }
            if self.0.state.lock().body.len() > MAX_BODY_BYTES {
                return Err(format!("more than {MAX_BODY_BYTES} bytes").into());
            }
        }
        Ok(())
    }

    /// Receives a whole response, as it arrives.
    pub(crate) async fn receive(&self, response: http::Response<Body>) {
        let (parts, body) = response.into_parts();
        self.set_head(parts.status, parts.headers);
        let result = self.append_body(body).await;
        self.end(result.err().map(|error| error.to_string()));
    }

    /// Marks the response as held.
    pub(crate) fn hold(&self) {
        self.update(|state| state.is_held = true);
    }

    pub(crate) fn end(&self, error: Option<String>) {
        self.update(|state| {
            state.has_ended = true;
            state.error = error;
        });
    }

    fn update(&self, update: impl FnOnce(&mut State)) {
        update(&mut self.0.state.lock());
        self.0.changed.notify_waiters();
    }

    /// Waits until the response has a head, or is held.
    pub(crate) async fn started(&self) {
        self.wait(|state| state.head.is_some() || state.is_held)
            .await;
    }

    /// Waits until the response has ended, or is held.
    pub(crate) async fn settled(&self) {
        self.wait(|state| state.has_ended || state.is_held).await;
    }

    async fn wait(&self, condition: impl Fn(&State) -> bool) {
        loop {
            let changed = self.0.changed.notified();
            if condition(&self.0.state.lock()) {
                return;
            }
            changed.await;
        }
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.state.lock();
        f.debug_struct("Response")
            .field("status", &state.head.as_ref().map(|(status, _)| status))
            .field("headers", &state.head.as_ref().map(|(_, headers)| headers))
            .field("body", &String::from_utf8_lossy(&state.body))
            .field("is_open", &!state.has_ended)
            .field("error", &state.error)
            .finish()
    }
}
