//! An application that has been loaded, and a request's way through it.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;
use http::{
    Request, Response, Uri,
    header::{self, HeaderValue},
    uri::{Authority, Scheme},
};
use serde::Serialize;
use tokio::time::timeout;
use wasmtime_wasi_http::handler::{
    ExpirationError, InstantiationError, ProxyHandler, TrapOrPanicError,
};

use super::{
    body,
    component::Component,
    state::Call,
    worker::{self, End, Instances, Stopped, Stub, Ticket},
};
use crate::{
    backend::{AnsweredBy, BackendError, Body, Caller, full},
    manifest::{Manifest, Target},
    outbound::service_chain_target,
    router::{Match, Router, spin_headers, strip_spin_headers},
};

/// What every host answers by itself, as Spin does.
const WELL_KNOWN: &str = "/.well-known/spin/";
/// How long a caller waits to learn why its instance ended, when it has.
const POST_MORTEM: Duration = Duration::from_secs(1);
/// What a component is told of its client when there is none, as Spin tells it.
const NOBODY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// An application: routes and the components behind them.
pub struct App {
    /// The body of `/.well-known/spin/info`.
    info: Vec<u8>,
    router: Router,
    components: BTreeMap<String, Handler>,
}

/// The application that answers now. It is exchanged as one whole: a request that has begun with
/// one ends with it.
pub struct Current(ArcSwap<App>);

impl Current {
    /// Has the application that `app` makes answer; it is given where its components will find it.
    pub fn new(app: impl FnOnce(&Weak<Self>) -> App) -> Arc<Self> {
        Arc::new_cyclic(|current| Self(ArcSwap::from_pointee(app(current))))
    }

    /// The application of this moment.
    pub fn app(&self) -> Arc<App> {
        self.0.load_full()
    }

    /// Has `app` answer from now on. Instances of the one before end with their requests.
    pub fn exchange(&self, app: App) {
        self.0.store(Arc::new(app));
    }
}

/// A component and its instances.
struct Handler {
    component: Arc<Component>,
    proxy: ProxyHandler<Instances>,
}

#[derive(Serialize)]
struct Info<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    version: &'a str,
}

impl App {
    /// An application of these components, which call one another through `current`.
    pub fn new(
        manifest: &Manifest,
        router: Router,
        components: Vec<Component>,
        current: &Weak<Current>,
    ) -> Self {
        let info = Info {
            name: &manifest.name,
            version: &manifest.version,
        };
        let handlers = components.into_iter().map(|mut component| {
            component.app = current.clone();
            let component = Arc::new(component);
            let proxy = ProxyHandler::new(Instances(component.clone()));
            (component.id.to_string(), Handler { component, proxy })
        });
        Self {
            // Two strings are always JSON.
            info: serde_json::to_vec_pretty(&info).unwrap_or_default(),
            router,
            components: handlers.collect(),
        }
    }

    /// Answers a request by its path.
    ///
    /// # Errors
    /// As the backend's.
    pub async fn call(
        &self,
        mut request: Request<Body>,
        call: Call,
    ) -> Result<Response<Body>, BackendError> {
        forget_chaining_host(&mut request);
        let path = request.uri().path();
        if let Some(page) = path.strip_prefix(WELL_KNOWN) {
            return self.well_known(page).ok_or_else(|| no_route(path));
        }
        let found = self.router.route(path).ok_or_else(|| no_route(path))?;
        self.answer(request, &found, call).await
    }

    /// Has one component answer, whatever its routes.
    ///
    /// # Errors
    /// As the backend's; [`BackendError::NoRoute`] when no trigger names the component.
    pub async fn call_component(
        &self,
        id: &str,
        request: Request<Body>,
        call: Call,
    ) -> Result<Response<Body>, BackendError> {
        let path = request.uri().path();
        let found = self
            .router
            .chain(id, path)
            .ok_or_else(|| no_route(&format!("{id}: {path}")))?;
        self.answer(request, &found, call).await
    }

    /// How many instances of each component there are.
    pub fn instances(&self) -> Vec<(Arc<str>, usize)> {
        let components = self.components.values().map(|handler| &handler.component);
        let counted = components.map(|component| {
            let free = component.permits.available_permits();
            let running = component.limits.instances.saturating_sub(free);
            (component.id.clone(), running)
        });
        counted.collect()
    }

    fn well_known(&self, page: &str) -> Option<Response<Body>> {
        match page {
            "health" => Some(Response::new(full("OK"))),
            "info" => {
                let mut response = Response::new(full(self.info.clone()));
                let json = HeaderValue::from_static("application/json");
                response.headers_mut().insert(header::CONTENT_TYPE, json);
                Some(response)
            }
            _ => None,
        }
    }

    async fn answer(
        &self,
        mut request: Request<Body>,
        found: &Match,
        call: Call,
    ) -> Result<Response<Body>, BackendError> {
        let id = match found.target() {
            Target::Component(id) => id,
            Target::Static {
                status,
                headers,
                body,
            } => {
                let mut response = Response::new(full(body.clone()));
                *response.status_mut() = *status;
                *response.headers_mut() = headers.clone();
                return Ok(response);
            }
        };
        let handler = self
            .components
            .get(id)
            .ok_or_else(|| no_route(request.uri().path()))?;
        prepare(&mut request, found, call.caller);
        handler.answer(request, found.route(), call).await
    }
}

fn no_route(path: &str) -> BackendError {
    BackendError::NoRoute {
        path: path.to_owned(),
    }
}

/// Removes a `NAME.spin.internal` by which a request from outside pretends to be another component's,
/// as Spin does.
fn forget_chaining_host(request: &mut Request<Body>) {
    let is_chaining = |host: &str| service_chain_target(&host.to_ascii_lowercase()).is_some();
    let host = request.headers().get(header::HOST);
    if host.is_some_and(|host| is_chaining(&String::from_utf8_lossy(host.as_bytes()))) {
        request.headers_mut().remove(header::HOST);
    }
    if request.uri().host().is_some_and(is_chaining) {
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = path.map(Uri::from).unwrap_or_default();
    }
}

/// Makes of a request what a component sees of it.
fn prepare(request: &mut Request<Body>, found: &Match, caller: Caller) {
    // It speaks of the connection to this host, and is in the way of a component that forwards.
    request.headers_mut().remove(header::CONNECTION);
    strip_spin_headers(request.headers_mut());
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let scheme = request.uri().scheme().cloned().unwrap_or(Scheme::HTTP);
    let target = request
        .uri()
        .path_and_query()
        .map_or("/", |target| target.as_str());
    let full_url = format!("{scheme}://{}{target}", host.unwrap_or("localhost"));
    let client = match caller {
        Caller::Client(address) => address,
        Caller::Host => NOBODY,
    };
    let headers = spin_headers(found, &full_url, client);
    // A guest learns the authority from the URI. The listener has checked the host; a name that is
    // none after all becomes the one that stands for "no name".
    if request.uri().authority().is_none() {
        let authority = host.and_then(|host| host.parse().ok());
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(scheme);
        parts.authority = Some(authority.unwrap_or(Authority::from_static("localhost")));
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    request.headers_mut().extend(headers);
}

impl Handler {
    async fn answer(
        &self,
        request: Request<Body>,
        route: &str,
        call: Call,
    ) -> Result<Response<Body>, BackendError> {
        let (ticket, stub) = worker::ticket(call);
        let limit = self.component.limits.deadline;
        let answer = self.proxy.handle(ticket, request.map(body::to_guest));
        // The stub gives the request up when the time is over, or when this future is dropped.
        let error = match timeout(limit, answer).await {
            Ok(Ok(response)) => {
                stub.settle();
                let mut response = match stub.worker() {
                    Some(worker) => response.map(|body| body::answer(body, worker.clone())),
                    None => response.map(body::from_guest),
                };
                let by = AnsweredBy(self.component.id.clone());
                response.extensions_mut().insert(by);
                return Ok(response);
            }
            Ok(Err(error)) => self.explain(error, &stub).await,
            Err(_) => self.deadline(),
        };
        match &error {
            BackendError::Failed { component, source } => tracing::error!(
                component,
                route,
                error = %format_args!("{source:#}"),
                "component failed"
            ),
            error => tracing::error!(component = %self.component.id, route, %error, "no answer"),
        }
        if !matches!(error, BackendError::Deadline { .. }) {
            stub.settle();
        }
        Err(error)
    }

    fn deadline(&self) -> BackendError {
        BackendError::Deadline {
            component: self.component.id.to_string(),
            limit: self.component.limits.deadline,
        }
    }

    fn failed(&self, source: anyhow::Error) -> BackendError {
        BackendError::Failed {
            component: self.component.id.to_string(),
            source,
        }
    }

    /// Finds out why there is no answer.
    async fn explain(&self, error: wasmtime::Error, stub: &Stub) -> BackendError {
        if let Some(error) = error.downcast_ref::<InstantiationError<Ticket>>() {
            return self.failed(anyhow::anyhow!(
                "it could not be started: {:#}",
                error.error
            ));
        }
        if error.is::<ExpirationError>() {
            return self.deadline();
        }
        // A trap ends the instance, and with it the requests that have nothing to do with it; what
        // comes back is only that. A WASI 0.2 instance always ends. Otherwise it is an answer.
        let ends = error.is::<TrapOrPanicError>() || !self.component.shares_instances();
        let Some(worker) = stub.worker().filter(|_| ends) else {
            return self.failed(error.into());
        };
        let end = timeout(POST_MORTEM, worker.ended()).await;
        match end {
            _ if worker.stopped() == Some(Stopped::Deadline) => self.deadline(),
            Ok(End::Failed(error)) => self.failed(anyhow::anyhow!("{error:#}")),
            _ => self.failed(error.into()),
        }
    }
}
