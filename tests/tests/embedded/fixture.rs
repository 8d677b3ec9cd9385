//! The fixture application in the embedded runtime, and requests to it.

use std::{
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use spin_runtime::{
    Changes, Embedded, EmbeddedOptions, Manifest, ManifestUse, Variables,
    backend::{self, Backend as _, BackendError, Body, Caller, Client},
};
use tempfile::TempDir;
use tests::wasm;
use tracing::{Dispatch, subscriber::NoSubscriber};

/// The client's address in these tests.
const CLIENT: &str = "192.0.2.7:4321";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// Returns a manifest with the probe component, which may use the default store. `extra` is appended
/// to its table.
pub fn manifest(extra: &str) -> Manifest {
    let probe = wasm("probe");
    parse(&format!(
        "source = {probe:?}\nkey_value_stores = [\"default\"]\n{extra}"
    ))
}

/// Returns a manifest with this `[component.probe]` table.
pub fn parse(component: &str) -> Manifest {
    application(&format!(
        "[[trigger.http]]\nroute = \"/probe/...\"\ncomponent = \"probe\"\n\
         [component.probe]\n{component}\n"
    ))
}

/// Returns a manifest with these triggers and components.
pub fn application(rest: &str) -> Manifest {
    parse_text(&format!(
        "spin_manifest_version = 2\napplication.name = \"one\"\n{rest}"
    ))
}

/// Reads the text of a manifest in the folder of the fixtures.
pub fn parse_text(text: &str) -> Manifest {
    Manifest::parse(text, folder().join("spin.toml"), ManifestUse::Embedded).unwrap()
}

/// Returns the error with which a manifest with this component fails to load.
#[track_caller]
pub fn load_error(component: &str) -> String {
    error_of(&parse(component))
}

/// Returns the error with which a manifest fails to load.
#[track_caller]
pub fn error_of(manifest: &Manifest) -> String {
    load_error_with(manifest, |_| {})
}

/// Returns the error with which a manifest fails to load with modified options.
#[track_caller]
pub fn load_error_with(manifest: &Manifest, edit: impl FnOnce(&mut EmbeddedOptions)) -> String {
    let state = tempfile::tempdir().unwrap();
    let mut options = EmbeddedOptions::new(state.path());
    edit(&mut options);
    match load(manifest, options) {
        Ok(_) => panic!("the manifest loads"),
        Err(error) => format!("{error:#}"),
    }
}

/// Percent-encodes a query parameter.
pub fn encode(text: &str) -> String {
    let encode = |byte: u8| {
        if byte.is_ascii_alphanumeric() {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    };
    text.bytes().map(encode).collect()
}

fn load(manifest: &Manifest, mut options: EmbeddedOptions) -> anyhow::Result<Embedded> {
    // Tests run concurrently and share the address space.
    options.limits.instances_per_component = options.limits.instances_per_component.min(20);
    let variables = Variables::new(manifest, &[], Default::default(), |_| None)?;
    let app = Embedded::new(options)?;
    app.replace(manifest, &variables, &Changes::default(), || {})?;
    Ok(app)
}

/// A loaded application and its state folder.
pub struct Fixture {
    app: Embedded,
    manifest: Manifest,
    options: EmbeddedOptions,
    pub state: Arc<TempDir>,
}

/// Headers, as printed by the probe.
pub type Headers = std::collections::BTreeMap<String, String>;

impl Fixture {
    /// Loads `fixtures/spin.toml` with default options.
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// Loads `fixtures/spin.toml` with modified options.
    pub fn with(edit: impl FnOnce(&mut EmbeddedOptions)) -> Self {
        // Checks that they are built.
        wasm("probe");
        wasm("probe02");
        let manifest = Manifest::load(folder(), ManifestUse::Embedded).unwrap();
        Self::at(&manifest, tempfile::tempdir().unwrap(), edit)
    }

    /// Loads another manifest with default options.
    pub fn of(manifest: &Manifest) -> Self {
        Self::at(manifest, tempfile::tempdir().unwrap(), |_| {})
    }

    pub fn at(
        manifest: &Manifest,
        state: TempDir,
        edit: impl FnOnce(&mut EmbeddedOptions),
    ) -> Self {
        let mut options = EmbeddedOptions::new(state.path());
        options.quiet = true;
        edit(&mut options);
        let app = load(manifest, options.clone()).unwrap();
        Self {
            app,
            manifest: manifest.clone(),
            options,
            state: state.into(),
        }
    }

    /// Returns the application.
    pub fn app(&self) -> &Embedded {
        &self.app
    }

    /// Replaces the manifest and returns the components whose code has changed. The code of the
    /// components in `fresh` is read again.
    pub fn replace(&self, manifest: &Manifest, fresh: &[&str]) -> anyhow::Result<Vec<String>> {
        self.replace_with_hook(manifest, fresh, false, || {})
    }

    /// Like [`Fixture::replace`]. With `only_code`, nothing else has changed. `ready` is called just
    /// before the replacement.
    pub fn replace_with_hook(
        &self,
        manifest: &Manifest,
        fresh: &[&str],
        only_code: bool,
        ready: impl FnOnce(),
    ) -> anyhow::Result<Vec<String>> {
        let variables = Variables::new(manifest, &[], Default::default(), |_| None)?;
        let changes = Changes {
            code: fresh.iter().map(|id| (*id).to_owned()).collect(),
            only_code,
        };
        self.app.replace(manifest, &variables, &changes, ready)
    }

    /// Returns the current components.
    pub fn components(&self) -> Vec<String> {
        self.instances().into_iter().map(|(id, _)| id).collect()
    }

    /// Returns the current components and their numbers of instances.
    pub fn instances(&self) -> Vec<(String, usize)> {
        let instances = self.app.instances().into_iter();
        instances.map(|(id, n)| (id.to_string(), n)).collect()
    }

    /// Loads the application again, as after a restart.
    pub fn restart(self) -> Self {
        drop(self.app);
        let app = load(&self.manifest, self.options.clone()).unwrap();
        Self { app, ..self }
    }

    /// Loads the application a second time, with the same state.
    pub fn second_host(&self) -> Self {
        let app = load(&self.manifest, self.options.clone()).unwrap();
        Self {
            app,
            manifest: self.manifest.clone(),
            options: self.options.clone(),
            state: self.state.clone(),
        }
    }

    /// Stops the application and returns its state folder.
    pub fn close(self) -> Arc<TempDir> {
        self.state
    }

    /// Calls a component for an event of a cron trigger.
    pub async fn call_cron(&self, id: &str, timestamp: u64) -> Result<(), BackendError> {
        self.app.call_cron(id, timestamp).await
    }

    pub async fn call(&self, request: Request<Body>) -> Result<Response<Body>, BackendError> {
        self.app.call(request).await
    }

    /// Sends a request and returns the complete response, whose body must be text.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<String>, BackendError> {
        let (head, body) = self.app.call(request).await?.into_parts();
        let body = body.collect().await.expect("a complete body").to_bytes();
        let text = String::from_utf8(body.into()).expect("a body of text");
        Ok(Response::from_parts(head, text))
    }

    /// Sends a GET request, which must succeed, and returns the body.
    #[track_caller]
    pub fn ok(&self, path: &str) -> impl Future<Output = String> {
        let caller = std::panic::Location::caller();
        async move {
            match self.send(get(path)).await {
                Ok(response) if response.status() == StatusCode::OK => response.into_body(),
                other => panic!("{caller}: {path}: {other:?}"),
            }
        }
    }

    pub async fn status(&self, path: &str) -> StatusCode {
        self.send(get(path)).await.unwrap().status()
    }
}

pub fn get(path: &str) -> Request<Body> {
    request("GET", path, "")
}

pub fn post(path: &str, body: impl Into<Bytes>) -> Request<Body> {
    request("POST", path, body)
}

/// Builds a request as the listener passes it on.
pub fn request(method: &str, path: &str, body: impl Into<Bytes>) -> Request<Body> {
    let client: SocketAddr = CLIENT.parse().unwrap();
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "example.com:3000")
        .extension(Caller::Client(Client::plain(client)))
        .body(backend::full(body))
        .unwrap()
}

/// Runs `work` on a single-threaded runtime and returns the log.
pub fn logged(work: impl Future<Output = ()>) -> String {
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    // While there is only one subscriber, a log statement that another test reaches first would be
    // disabled for all threads, as that test has none.
    static OTHER: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::default()));
    LazyLock::force(&OTHER);

    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tracing::subscriber::with_default(subscriber, || runtime.block_on(work));
    let bytes = log.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

/// Starts a server that responds with a description of the request.
pub async fn server() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|request: Request<hyper::body::Incoming>| async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                let host = head.headers["host"].to_str().unwrap_or_default();
                let body = String::from_utf8_lossy(&body);
                let text = format!("{} {} at {host}: {body}", head.method, head.uri);
                Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::from(text))))
            });
            let serving = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            tokio::spawn(async move {
                let _ = serving
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    address
}
