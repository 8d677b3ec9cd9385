//! Components in this process, in embedded Wasmtime.
//!
//! [`Embedded::load`] compiles and links, in a [`workshop`], what a manifest names. A request then goes [`app`] (route
//! and headers) → wasmtime's `ProxyHandler` (finds or makes an instance) → [`worker`] (decides for
//! how long) → guest, and its answer comes back as a [`body`] that is read while the guest writes.

mod app;
mod bindings;
mod body;
mod client;
mod component;
mod engine;
mod files;
mod key_value;
mod outbound;
mod output;
mod sqlite;
mod state;
mod store;
mod variables;
mod worker;
mod workshop;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::Request;

use self::{
    app::{App, Current},
    component::Limits,
    state::Call,
    workshop::Workshop,
};
use crate::{
    backend::{Answer, Backend, Body, Caller},
    manifest::Manifest,
    variables::Variables,
};

/// How components are run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the default store and the logs are kept (`.spin`): created when missing.
    pub state_dir: PathBuf,
    /// Where the components' output is kept; `logs` in the state folder when `None`.
    pub log_dir: Option<PathBuf>,
    /// Added to the environment of every component, over its own.
    pub environment: BTreeMap<String, String>,
    /// The components' output goes to the log files only, not to stderr as well.
    pub quiet: bool,
    /// How long a component may take to the head of its answer, waiting for an instance included
    /// (default 30 s). Its body may take as long as somebody reads it.
    pub deadline: Duration,
    /// Linear memory of an instance, in bytes (default 512 MiB). Growing beyond it fails within
    /// the guest, which mostly ends in a trap.
    pub max_memory: usize,
    /// Instances of each component (default 500). A request that needs one more waits; that each
    /// component has its own lets one call another without waiting for itself.
    pub max_instances: usize,
    /// Requests in the life of an instance, of a WASI 0.3 component (default 128).
    pub instance_reuse: usize,
    /// Requests at once in an instance, of a WASI 0.3 component (default 16).
    pub instance_concurrency: usize,
    /// How long an instance waits for its next request (default 1 s).
    pub instance_idle: Duration,
    /// Compile for speed, and keep what was compiled on disk (default); otherwise compiling is what
    /// is quick.
    pub optimize: bool,
}

impl Options {
    /// The defaults, with state in this folder.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            log_dir: None,
            environment: BTreeMap::new(),
            quiet: false,
            deadline: Duration::from_secs(30),
            max_memory: 512 << 20,
            max_instances: 500,
            instance_reuse: 128,
            instance_concurrency: 16,
            instance_idle: Duration::from_secs(1),
            optimize: true,
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            deadline: self.deadline,
            max_memory: self.max_memory,
            instances: self.max_instances.max(1),
            reuse: self.instance_reuse.max(1),
            concurrency: self.instance_concurrency.max(1),
            idle: self.instance_idle,
        }
    }
}

/// An application whose components run in this process.
pub struct Embedded {
    current: Arc<Current>,
    /// Last, so that what the application still prints is written.
    workshop: Mutex<Workshop>,
}

impl Embedded {
    /// Compiles the components of a manifest, or takes them from the compilation cache, and makes
    /// everything they need. This takes processor time, seconds without the cache: call it off the
    /// threads that serve.
    ///
    /// # Errors
    /// Names the component and what is wrong: its file is missing (and what builds it), is no
    /// component, imports what this host does not provide, answers no requests; its files cannot be
    /// read; a template cannot be expanded. Or the state folder cannot be used.
    pub fn load(
        manifest: &Manifest,
        variables: &Variables,
        options: Options,
    ) -> anyhow::Result<Self> {
        let mut workshop = Workshop::open(manifest, options)?;
        let parts = workshop.make(manifest, variables, |_| true)?;
        Ok(Self {
            current: Current::new(|current| {
                App::new(manifest, parts.router, parts.components, current)
            }),
            workshop: Mutex::new(workshop),
        })
    }

    /// Exchanges the application for what the manifest says now: requests that come from here on
    /// find the new one, those under way end with the old one, whose instances then go. Only the
    /// files of components in `fresh`, and of those that are new, are read again, and only what has
    /// changed is compiled: the others keep the code that they had, whatever their files hold. When
    /// `only_code` can be another and none is, the application stays, with its instances.
    /// `ready` is called when nothing can go wrong any more, before the first request finds the new
    /// one. Gives the ids of the components whose code is another. As [`Self::load`], this takes time.
    ///
    /// # Errors
    /// As [`Self::load`]; everything then stays as it was.
    pub fn exchange(
        &self,
        manifest: &Manifest,
        variables: &Variables,
        fresh: &BTreeSet<String>,
        only_code: bool,
        ready: impl FnOnce(),
    ) -> anyhow::Result<Vec<String>> {
        // Held until the end, so that exchanges do not overtake one another. What a panic left in
        // it are whole entries.
        let mut workshop = self.workshop.lock().unwrap_or_else(PoisonError::into_inner);
        let parts = workshop.make(manifest, variables, |id| fresh.contains(id))?;
        if only_code && parts.changed.is_empty() {
            return Ok(parts.changed);
        }
        let current = Arc::downgrade(&self.current);
        let app = App::new(manifest, parts.router, parts.components, &current);
        ready();
        self.current.exchange(app);
        Ok(parts.changed)
    }
}

impl Backend for Embedded {
    fn call(&self, request: Request<Body>) -> Answer<'_> {
        let caller = request.extensions().get().copied().unwrap_or(Caller::Host);
        let app = self.current.app();
        Box::pin(async move { app.call(request, Call { caller, depth: 0 }).await })
    }

    fn instances(&self) -> Vec<(Arc<str>, usize)> {
        self.current.app().instances()
    }
}
