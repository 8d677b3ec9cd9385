//! Runs components in this process, in embedded Wasmtime.
//!
//! The [`loader`] compiles and links the components of a manifest into an [`app`]. A request then
//! passes through the app, which picks a component and adds Spin's headers, and reaches the [`guest`]
//! in an [`exclusive`] instance, or in one that requests share: Wasmtime's `ProxyHandler` finds or
//! creates it under the policy of [`instances`]. Its response has a [`body`] that is read while the
//! guest writes it.

mod app;
mod bindings;
mod body;
mod call;
mod capacity;
mod client;
mod compile;
mod component;
mod component_log;
mod compute;
mod cron_call;
mod denied;
mod engine;
mod exclusive;
mod failure;
mod files;
mod guest;
mod idle_instances;
mod instance;
mod instances;
mod key_value;
mod linker;
mod loader;
mod memory_limit;
mod options;
#[cfg(feature = "redis")]
mod outbound_redis;
mod outgoing;
mod output;
mod permissions;
mod result_size;
pub mod simulation;
mod slot;
mod sockets;
mod source;
mod sqlite;
mod storage;
mod stubs;
mod uploads;
mod variables;
mod wasi_http;
mod wasm_format;
mod websocket;
mod worker;

use std::{collections::BTreeSet, sync::Arc};

use anyhow::Context as _;
use http::Request;
use parking_lot::Mutex;

use self::{
    app::CurrentApp,
    call::{Call, LocalCalls as _},
    loader::AppLoader,
};
use crate::{
    backend::{Backend, BackendError, Body, CronFuture, Failures, ResponseFuture},
    manifest::Manifest,
    variables::Variables,
    websocket::{FramesCall, Opening, Pending},
};

pub use options::{EmbeddedOptions, FolderError};
pub use output::LogRotation;
pub use sqlite::SqliteStatement;

/// Runs the components of an application in this process.
///
/// A new runtime has no application. [`Self::replace`] loads the first one and every later one.
/// Without an application, each request fails with
/// [`BackendError::NoRoute`](crate::backend::BackendError::NoRoute).
pub struct Embedded {
    current: Arc<CurrentApp>,
    /// The last field, because dropping it flushes the output of the components.
    loader: Mutex<AppLoader>,
}

/// An application that is served, but whose components are not compiled yet.
pub struct Prepared(loader::Prepared);

/// What may have changed since the application was loaded.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// The ids of the components whose wasm file is read again. Other components keep their code,
    /// whatever their file contains. The files of new components are always read.
    pub code: BTreeSet<String>,
    /// Whether nothing else has changed. If the code turns out to be the same, the running
    /// application and its instances are kept.
    pub only_code: bool,
}

impl Embedded {
    /// Creates a runtime without an application.
    ///
    /// # Errors
    /// Fails if a thread cannot be started.
    pub fn new(options: EmbeddedOptions) -> anyhow::Result<Self> {
        Ok(Self {
            current: Arc::default(),
            loader: Mutex::new(AppLoader::new(options)?),
        })
    }

    /// Loads an application and replaces the current one.
    ///
    /// Later requests go to the new application. Requests in progress finish in the old one, whose
    /// instances are then dropped. `ready` is called when nothing can fail anymore, before the
    /// first request reaches the new application. Returns the ids of the components whose code has
    /// changed.
    ///
    /// This compiles components, which can take seconds. Do not call it on a thread that serves
    /// requests.
    ///
    /// # Errors
    /// Fails if a component cannot be loaded: its file is missing or is not a component, it imports
    /// an interface that is not provided, it does not export what its triggers call, its files
    /// cannot be read, a template cannot be expanded, or it names an unknown store or database.
    /// Also fails if the state folder cannot be used, or if one of
    /// [`EmbeddedOptions::sqlite_statements`] fails. The current application then keeps running.
    pub fn replace(
        &self,
        manifest: &Manifest,
        variables: &Variables,
        changes: &Changes,
        ready: impl FnOnce(),
    ) -> anyhow::Result<Vec<String>> {
        let manifest = &manifest.served();
        // Locked until the end, so that concurrent calls take effect in order.
        let mut loader = self.loader.lock();
        let loaded = loader.load(manifest, variables, &changes.code, &self.current)?;
        if changes.only_code && loaded.changed.is_empty() && self.current.is_loaded() {
            return Ok(loaded.changed);
        }
        ready();
        self.current.replace(loaded.app);
        Ok(loaded.changed)
    }

    /// Loads the first application except for the code of its components, and serves it.
    ///
    /// Requests to a component wait until [`Self::compile`] has compiled it, as long as the timeout of
    /// a request allows. Everything else is served at once.
    ///
    /// This reads files, and downloads components. Do not call it on a thread that serves requests.
    ///
    /// # Errors
    /// Fails like [`Self::replace`], except for what is wrong with the code of a component: then
    /// [`Self::compile`] fails. Also fails if an application has been loaded already.
    pub fn prepare(&self, manifest: &Manifest, variables: &Variables) -> anyhow::Result<Prepared> {
        let manifest = &manifest.served();
        let mut loader = self.loader.lock();
        let prepared = loader.prepare(manifest, variables, &self.current)?;
        self.current.replace(prepared.app.clone());
        Ok(Prepared(prepared))
    }

    /// Compiles the components of an application. Each can be called as soon as it is compiled, or
    /// with [fast compilation](EmbeddedOptions::optimize), when all are. Does nothing if the
    /// application was replaced meanwhile.
    ///
    /// This can take seconds, like [`Self::replace`].
    ///
    /// With [`EmbeddedOptions::optimize`], the contents of the files are not kept in memory. The next
    /// [`Self::replace`] reads all of them again, and takes each component as changed.
    ///
    /// # Errors
    /// Fails if a component cannot run: its file is not a valid component, it imports an interface that
    /// is not provided, or it does not export what its triggers call. Requests to components that are
    /// not compiled then fail.
    pub fn compile(&self, prepared: Prepared) -> anyhow::Result<()> {
        let Prepared(prepared) = prepared;
        let mut loader = self.loader.lock();
        let result = if self.current.is(&prepared.app) {
            loader.compile(&prepared)
        } else {
            Ok(())
        };
        // After a success, this does nothing.
        prepared.app.abandon();
        result
    }

    /// Sets keys of the default key-value store of the current application.
    ///
    /// # Errors
    /// Fails if no component may open the store, or if it cannot be written.
    pub async fn set_keys(&self, pairs: Vec<(String, Vec<u8>)>) -> anyhow::Result<()> {
        let store = self.loader.lock().default_store();
        let store = store.context("no component may open the default key-value store")?;
        Ok(store.set(pairs).await?)
    }
}

impl Backend for Embedded {
    fn call(&self, request: Request<Body>) -> ResponseFuture<'_> {
        let call = Call::of(&request);
        self.current.call(request, call)
    }

    fn call_cron<'a>(&'a self, component: &'a str, timestamp: u64) -> CronFuture<'a> {
        Box::pin(self.current.call_cron(component, timestamp))
    }

    fn starting<'a>(&self, path: &'a str) -> Option<Pending<'a, Result<(), BackendError>>> {
        let starting = self.current.starting(path)?;
        Some(Box::pin(starting))
    }

    fn websocket_component(&self, path: &str) -> Option<Arc<str>> {
        self.current.websocket_component(path)
    }

    fn open_websocket<'a>(
        &'a self,
        token: Arc<str>,
        request: Request<Body>,
    ) -> Pending<'a, Result<Opening, BackendError>> {
        let call = Call::of(&request);
        Box::pin(self.current.open_websocket(token, request, call))
    }

    fn receive_frames(&self, call: FramesCall) -> Pending<'_, Result<(), BackendError>> {
        Box::pin(self.current.receive_frames(call))
    }

    fn instances(&self) -> Vec<(Arc<str>, usize)> {
        self.current.instances()
    }

    fn failures(&self) -> Vec<Failures> {
        self.current.failures()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::{backend::empty, manifest::ManifestUse};

    fn load(app: &Embedded, body: &str) -> Vec<String> {
        let text = format!(
            "spin_manifest_version = 2\napplication.name = \"test\"\n\
             trigger.http = [{{ route = \"/\", static_response = {{ body = {body:?} }} }}]\n"
        );
        let manifest = Manifest::parse(&text, "/app/spin.toml", ManifestUse::Embedded).unwrap();
        let variables = Variables::new(&manifest, &[], Default::default(), |_| None).unwrap();
        let changes = Changes {
            only_code: true,
            ..Changes::default()
        };
        app.replace(&manifest, &variables, &changes, || {}).unwrap()
    }

    async fn get(app: &Embedded) -> Result<String, BackendError> {
        let request = Request::get("/").body(empty()).unwrap();
        let body = app.call(request).await?.into_body();
        let bytes = body.collect().await.unwrap().to_bytes();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    #[tokio::test]
    async fn requests_have_no_route_until_an_application_is_loaded() {
        let state = tempfile::tempdir().unwrap();
        let app = Embedded::new(EmbeddedOptions::new(state.path())).unwrap();
        let error = get(&app).await.unwrap_err();
        assert!(matches!(error, BackendError::NoRoute { .. }), "{error}");
        assert!(app.instances().is_empty());
        assert_eq!(load(&app, "first"), [""; 0]);
        assert_eq!(get(&app).await.unwrap(), "first");
        // Only the code can have changed, and it has not.
        assert_eq!(load(&app, "second"), [""; 0]);
        assert_eq!(get(&app).await.unwrap(), "first");
    }
}
