//! A loaded application and the path of a request through it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwapOption;
use http::{
    Request, Response, StatusCode, Uri,
    header::{self, HeaderValue},
    uri::{Authority, Scheme},
};
use serde::Serialize;
use tokio::time::{Instant, error::Elapsed, timeout, timeout_at};
use wasmtime_wasi_http::handler::{
    ExpirationError, InstantiationError, ProxyHandler, TrapOrPanicError,
};

use super::{
    body,
    call::{Call, LocalCalls, TraceHeaders},
    capacity::{WaitingRequest, WaitingRequests},
    compile::{Exports, Pre},
    component::Component,
    exclusive::{ExclusiveInstances, StartError},
    failure::FailureReason,
    instances::Instances,
    slot::Slot,
    uploads::{self, StartedBody, UploadSlot, UploadSlots},
    worker::{self, CallerGuard, Exit, RequestToken, StopReason},
};
use crate::{
    allowed_hosts::service_chain_target,
    backend::{
        BackendError, Body, Busy, Caller, Failures, RequestBodyError, ResponseFuture, ServedBy,
        UnfinishedBody, full,
    },
    manifest::{Manifest, Target, WELL_KNOWN},
    router::{Match, Router},
    spin_headers,
    websocket::{FramesCall, Opening},
};

/// How long a failed request waits to learn why its instance exited.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);
/// The client address for requests without a client, as in Spin.
const NO_CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// An application: its routes and its components.
pub(crate) struct App {
    /// The body of `/.well-known/spin/info`.
    info: Vec<u8>,
    router: Router,
    /// The components, by id.
    slots: BTreeMap<String, Slot>,
}

/// The application that receives new requests, if one has been loaded.
///
/// It is replaced as a whole: a request stays with the application that it started in.
#[derive(Default)]
pub(crate) struct CurrentApp(ArcSwapOption<App>);

impl CurrentApp {
    pub(crate) fn is_loaded(&self) -> bool {
        self.0.load().is_some()
    }

    /// Sends new requests to `app`.
    pub(crate) fn replace(&self, app: Arc<App>) {
        self.0.store(Some(app));
    }

    /// Returns whether new requests go to `app`.
    pub(crate) fn is(&self, app: &Arc<App>) -> bool {
        let current = self.0.load();
        current.as_ref().is_some_and(|it| Arc::ptr_eq(it, app))
    }

    /// Returns a future that waits until the component of a path is compiled, unless it is.
    pub(crate) fn starting<'a>(
        &self,
        path: &'a str,
    ) -> Option<impl Future<Output = Result<(), BackendError>> + use<'a>> {
        let app = self.0.load();
        let app = app.as_ref()?;
        if app.slot_of(path)?.0.compiled().is_some() {
            return None;
        }
        let app = app.clone();
        Some(async move {
            match app.slot_of(path) {
                Some((slot, _)) => slot.wait(&Call::of_host()).await.map(drop),
                None => Ok(()),
            }
        })
    }

    /// Calls a component by its id for an event of a cron trigger.
    pub(crate) async fn call_cron(&self, id: &str, timestamp: u64) -> Result<(), BackendError> {
        let app = self.0.load_full();
        let slot = app.as_ref().and_then(|app| app.slots.get(id));
        let slot = slot.ok_or_else(|| no_route(id))?;
        let handlers = slot.wait(&Call::of_host()).await?;
        let cron = handlers.cron.as_ref().ok_or_else(|| no_route(id))?;
        cron.call(timestamp).await
    }

    /// Returns the id of the component that handles the WebSockets of a path by typed frames, if it is
    /// compiled.
    pub(crate) fn websocket_component(&self, path: &str) -> Option<Arc<str>> {
        let app = self.0.load();
        let (slot, _) = app.as_ref()?.slot_of(path)?;
        let has_handler = slot.compiled()?.websocket.is_some();
        has_handler.then(|| slot.component().id.clone())
    }

    /// Passes an upgrade request to the component that the routes select.
    pub(crate) async fn open_websocket(
        &self,
        token: Arc<str>,
        mut request: Request<Body>,
        call: Call,
    ) -> Result<Opening, BackendError> {
        let app = self.0.load_full();
        remove_service_chaining_host(&mut request);
        let path = request.uri().path();
        let found = app.as_ref().and_then(|app| app.slot_of(path));
        let (slot, found) = found.ok_or_else(|| no_route(path))?;
        let handlers = slot.wait(&call).await?;
        let handler = handlers.websocket.as_ref().ok_or_else(|| no_route(path))?;
        prepare_request(&mut request, &found, call.caller);
        handler.clone().open(token, request, call).await
    }

    /// Passes frames of a WebSocket to its component.
    pub(crate) async fn receive_frames(&self, call: FramesCall) -> Result<(), BackendError> {
        let app = self.0.load_full();
        let FramesCall {
            component,
            token,
            frames,
            caller,
            trace,
        } = call;
        let slot = app.as_ref().and_then(|app| app.slots.get(&*component));
        let slot = slot.ok_or_else(|| no_route(&component))?;
        let context = Call {
            caller,
            depth: 0,
            trace: TraceHeaders::of(&trace),
            // An open WebSocket must not lose frames.
            waits: true,
        };
        let handler = slot.wait(&context).await?.websocket.as_ref();
        let handler = handler.ok_or_else(|| no_route(&component))?;
        handler.receive(&token, frames, context).await
    }

    /// Returns the number of instances of each component.
    pub(crate) fn instances(&self) -> Vec<(Arc<str>, usize)> {
        self.0
            .load()
            .as_ref()
            .map_or_else(Vec::new, |app| app.instances())
    }

    /// Returns how often each component failed.
    pub(crate) fn failures(&self) -> Vec<Failures> {
        let app = self.0.load();
        let components = app.iter().flat_map(|app| app.components());
        components
            .flat_map(|component| component.log.failures())
            .collect()
    }
}

impl LocalCalls for CurrentApp {
    fn call(&self, request: Request<Body>, call: Call) -> ResponseFuture<'_> {
        let app = self.0.load_full();
        Box::pin(async move {
            match app {
                Some(app) => app.call(request, call).await,
                None => Err(no_route(request.uri().path())),
            }
        })
    }

    fn call_component<'a>(
        &'a self,
        id: &'a str,
        request: Request<Body>,
        call: Call,
    ) -> ResponseFuture<'a> {
        let app = self.0.load_full();
        Box::pin(async move {
            match app {
                Some(app) => app.call_component(id, request, call).await,
                None => Err(no_route(request.uri().path())),
            }
        })
    }
}

/// Passes HTTP requests to the instances of a component.
pub(crate) struct Handler {
    component: Arc<Component>,
    pre: Pre,
    dispatch: Dispatch,
    /// Bounds the requests whose body is still arriving.
    uploads: Arc<UploadSlots>,
    /// Bounds the requests that wait for an instance.
    waiting: WaitingRequests,
}

/// The instances of a component.
enum Dispatch {
    /// Each instance serves one request at a time.
    Exclusive(ExclusiveInstances),
    /// Requests share instances.
    Shared(ProxyHandler<Instances>),
}

#[derive(Serialize)]
struct Info<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    version: &'a str,
}

impl App {
    /// Creates an application whose components are not compiled yet.
    pub(crate) fn new(manifest: &Manifest, router: Router, components: Vec<Component>) -> Self {
        let info = Info {
            name: &manifest.name,
            version: &manifest.version,
        };
        let slots = components
            .into_iter()
            .map(|component| (component.id.to_string(), Slot::new(component, manifest)));
        Self {
            // Serializing two strings cannot fail.
            info: serde_json::to_vec_pretty(&info).unwrap_or_default(),
            router,
            slots: slots.collect(),
        }
    }

    /// Lets a component be called, by its id.
    pub(crate) fn set_compiled(&self, id: &str, exports: Exports) {
        if let Some(slot) = self.slots.get(id) {
            slot.set_compiled(exports);
        }
    }

    /// Fails the requests that wait for components.
    pub(crate) fn abandon(&self) {
        self.slots.values().for_each(Slot::abandon);
    }

    /// Serves a request by its path.
    async fn call(
        &self,
        mut request: Request<Body>,
        call: Call,
    ) -> Result<Response<Body>, BackendError> {
        remove_service_chaining_host(&mut request);
        let path = request.uri().path();
        if let Some(page) = path.strip_prefix(WELL_KNOWN) {
            return self.well_known(page).ok_or_else(|| no_route(path));
        }
        let found = self.router.route(path).ok_or_else(|| no_route(path))?;
        self.serve(request, &found, call).await
    }

    /// Serves a request by the id of a component. Fails with [`BackendError::NoRoute`] if no
    /// trigger names the component.
    async fn call_component(
        &self,
        id: &str,
        request: Request<Body>,
        call: Call,
    ) -> Result<Response<Body>, BackendError> {
        let path = request.uri().path();
        let found = self
            .router
            .service_chain(id, path)
            .ok_or_else(|| no_route(&format!("{id}: {path}")))?;
        self.serve(request, &found, call).await
    }

    /// Returns the component that the routes select for a path, if it is one.
    fn slot_of(&self, path: &str) -> Option<(&Slot, Match)> {
        if path.starts_with(WELL_KNOWN) {
            return None;
        }
        let found = self.router.route(path)?;
        let Target::Component(id) = found.target() else {
            return None;
        };
        Some((self.slots.get(id)?, found))
    }

    fn components(&self) -> impl Iterator<Item = &Arc<Component>> {
        self.slots.values().map(Slot::component)
    }

    fn instances(&self) -> Vec<(Arc<str>, usize)> {
        let counts = self.components().map(|component| {
            let free = component.permits.available_permits();
            let limit = component.limits.instances_per_component;
            (component.id.clone(), limit.saturating_sub(free))
        });
        counts.collect()
    }

    /// Returns the response to load balancers: requests should not come yet if some would wait.
    fn health(&self) -> Response<Body> {
        if self.slots.values().all(|slot| slot.compiled().is_some()) {
            return Response::new(full("OK"));
        }
        let mut response = Response::new(full("starting"));
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response
    }

    fn well_known(&self, page: &str) -> Option<Response<Body>> {
        match page {
            "health" => Some(self.health()),
            "info" => {
                let mut response = Response::new(full(self.info.clone()));
                let json = HeaderValue::from_static("application/json");
                response.headers_mut().insert(header::CONTENT_TYPE, json);
                Some(response)
            }
            _ => None,
        }
    }

    async fn serve(
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
        let slot = self.slots.get(id);
        let slot = slot.ok_or_else(|| no_route(request.uri().path()))?;
        let handlers = slot.wait(&call).await?;
        let Some(handler) = &handlers.http else {
            if handlers.websocket.is_some() {
                return Ok(upgrade_required());
            }
            return Err(no_route(request.uri().path()));
        };
        prepare_request(&mut request, found, call.caller);
        handler.serve(request, found.route(), call).await
    }
}

/// Returns the response of a component that handles WebSockets alone to any other request.
fn upgrade_required() -> Response<Body> {
    let mut response = Response::new(full("this route accepts WebSockets only"));
    *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
    let websocket = HeaderValue::from_static("websocket");
    response.headers_mut().insert(header::UPGRADE, websocket);
    response
}

fn no_route(path: &str) -> BackendError {
    BackendError::NoRoute {
        path: path.to_owned(),
    }
}

/// Removes a `NAME.spin.internal` host, with which a request from outside would pose as one of
/// another component. Spin does the same.
fn remove_service_chaining_host(request: &mut Request<Body>) {
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

/// Turns a request into the form in which a component receives it.
fn prepare_request(request: &mut Request<Body>, found: &Match, caller: Caller) {
    // It applies to the connection to this host, and would break a component that forwards.
    request.headers_mut().remove(header::CONNECTION);
    spin_headers::remove(request.headers_mut());
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let (client, scheme) = match caller {
        Caller::Client(client) => (client.address, client.scheme()),
        Caller::Host => (NO_CLIENT, Scheme::HTTP),
    };
    let target = request
        .uri()
        .path_and_query()
        .map_or("/", |target| target.as_str());
    let full_url = format!("{scheme}://{}{target}", host.unwrap_or("localhost"));
    // A guest gets the authority from the URI. The listener has validated the host, so the
    // fallback only covers requests without one.
    if request.uri().authority().is_none() {
        let authority = host.and_then(|host| host.parse().ok());
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(scheme);
        parts.authority = Some(authority.unwrap_or(Authority::from_static("localhost")));
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    spin_headers::set(request.headers_mut(), found, &full_url, client);
}

impl Handler {
    pub(crate) fn new(component: Arc<Component>, pre: Pre) -> Self {
        let limits = &component.limits;
        let instances = Instances::new(component.clone(), pre.clone());
        let can_share = pre.reuses_instances() && limits.concurrent_requests_per_instance > 1;
        Self {
            dispatch: if can_share {
                Dispatch::Shared(ProxyHandler::new(instances))
            } else {
                Dispatch::Exclusive(ExclusiveInstances::new(instances))
            },
            uploads: UploadSlots::new(pre.max_requests(limits), limits),
            waiting: WaitingRequests::new(limits.waiting_requests),
            component,
            pre,
        }
    }

    async fn serve(
        &self,
        request: Request<Body>,
        route: &str,
        call: Call,
    ) -> Result<Response<Body>, BackendError> {
        let unfinished = request.extensions().get::<UnfinishedBody>().copied();
        let mut request = request.map(StartedBody::from);
        let slot = match unfinished {
            Some(UnfinishedBody { has_started }) => {
                if !has_started {
                    // Nothing to read yet, so an instance would only wait.
                    request.body_mut().start().await?;
                }
                Some(self.acquire_upload_slot(call.caller).await?)
            }
            None => None,
        };
        let waits = call.waits;
        let waiting = self.admit(&call).inspect_err(|_| self.log_busy(route))?;
        let (token, guard) = worker::request_token(call, waiting);
        let shared = token.shared.clone();
        let request = request.map(|body| uploads::to_guest(body, shared, slot));
        let response = async {
            match &self.dispatch {
                // Boxed, because it is large and the other one does not need it.
                Dispatch::Exclusive(instances) => Box::pin(instances.handle(token, request)).await,
                Dispatch::Shared(instances) => {
                    let response = instances.handle(token, request).await?;
                    Ok(match guard.worker() {
                        Some(worker) => response.map(|body| body::response(body, worker.clone())),
                        None => response.map(body::from_guest),
                    })
                }
            }
        };
        // The guard cancels the request on a timeout, or when this future is dropped.
        let error = match self.with_deadline(response, &guard, waits).await {
            Ok(Ok(mut response)) => {
                guard.settle();
                let component = ServedBy(self.component.id.clone());
                response.extensions_mut().insert(component);
                return Ok(response);
            }
            Ok(Err(error)) => self.find_cause(error, &guard).await,
            // The guest waits for its client.
            Err(_) if guard.upload().is_awaited => RequestBodyError::TooSlow.into(),
            // No instance has accepted it.
            Err(_)
                if self.component.permits.available_permits() == 0 && guard.cancel_unaccepted() =>
            {
                self.component.busy(Busy::Requests)
            }
            Err(_) => self.timed_out(),
        };
        let error = match guard.upload().error {
            Some(error) => error.into(),
            None => error,
        };
        match &error {
            BackendError::RequestBody(error) => {
                tracing::debug!(component = %self.component.id, route, %error, "request failed");
            }
            BackendError::Busy { .. } => self.log_busy(route),
            BackendError::Failed { component, source } => self.component.log.failed.log(|| {
                tracing::error!(
                    component,
                    route,
                    reason = guard.worker().and_then(|worker| worker.failure()).map(FailureReason::name),
                    error = %format_args!("{source:#}"),
                    "component failed"
                );
            }),
            error => self.component.log.request_failed.log(|| {
                tracing::error!(component = %self.component.id, route, %error, "request failed");
            }),
        }
        match error {
            BackendError::Deadline { .. } => self.component.log.count(FailureReason::Timeout),
            BackendError::Busy { .. } => {}
            _ => guard.settle(),
        }
        Err(error)
    }

    /// Counts a request that waits for an instance, unless too many do.
    fn admit(&self, call: &Call) -> Result<WaitingRequest, BackendError> {
        if call.waits {
            return Ok(self.waiting.add());
        }
        let instances = self.component.permits.available_permits();
        let room = self.pre.requests_of(instances, &self.component.limits);
        self.component.admit(&self.waiting, room)
    }

    fn log_busy(&self, route: &str) {
        self.component.log.busy.log(|| {
            tracing::warn!(component = %self.component.id, route, "request refused: too many requests");
        });
    }

    /// Waits for a slot for a request whose body is still arriving.
    async fn acquire_upload_slot(&self, caller: Caller) -> Result<UploadSlot, BackendError> {
        let client = match caller {
            Caller::Client(client) => client.limited_address,
            Caller::Host => None,
        };
        let slot = self.uploads.acquire(client);
        let slot = timeout(self.component.limits.request_timeout, slot).await;
        slot.ok()
            .flatten()
            .ok_or_else(|| self.component.busy(Busy::Uploads))
    }

    /// Waits for a response until the request times out. A body that is still arriving postpones
    /// that, and so does the wait for an instance if the request may wait.
    async fn with_deadline<T>(
        &self,
        response: impl Future<Output = T>,
        guard: &CallerGuard,
        waits: bool,
    ) -> Result<T, Elapsed> {
        let limit = self.component.limits.request_timeout;
        let mut response = std::pin::pin!(response);
        let mut deadline = Instant::now() + limit;
        loop {
            let result = timeout_at(deadline, &mut response).await;
            let accepted = guard.accepted_at().filter(|_| waits);
            match accepted.max(guard.upload().last_read) {
                Some(last) if result.is_err() && last + limit > deadline => deadline = last + limit,
                _ => return result,
            }
        }
    }

    fn timed_out(&self) -> BackendError {
        BackendError::Deadline {
            component: self.component.id.to_string(),
            limit: self.component.limits.request_timeout,
        }
    }

    fn failed(&self, source: anyhow::Error) -> BackendError {
        BackendError::Failed {
            component: self.component.id.to_string(),
            source,
        }
    }

    /// Finds out why a request failed.
    async fn find_cause(&self, error: wasmtime::Error, guard: &CallerGuard) -> BackendError {
        if let Some(error) = error.downcast_ref::<InstantiationError<RequestToken>>() {
            return self.failed(anyhow::anyhow!(
                "instance failed to start: {:#}",
                error.error
            ));
        }
        if let Some(error) = error.downcast_ref::<StartError>() {
            return self.failed(anyhow::anyhow!("instance failed to start: {error}"));
        }
        if error.is::<ExpirationError>() {
            return self.timed_out();
        }
        // A trap ends the instance with all of its requests, and this error may be about another
        // one. The exit of the instance has the cause. An instance of a WASI 0.2 component always
        // exits. Any other error is the guest's response.
        let exits = error.is::<TrapOrPanicError>() || !self.pre.reuses_instances();
        let Some(worker) = guard.worker().filter(|_| exits) else {
            self.count_missing_response(guard);
            return self.failed(error.into());
        };
        let exit = timeout(EXIT_TIMEOUT, worker.exited()).await;
        match exit {
            _ if worker.stop_reason() == Some(StopReason::TimedOut) => self.timed_out(),
            Ok(Exit::Failed(error)) => self.failed(anyhow::anyhow!("{error:#}")),
            _ => {
                self.count_missing_response(guard);
                self.failed(error.into())
            }
        }
    }

    /// Counts a request to which the guest returned an error, unless it is that of its client.
    fn count_missing_response(&self, guard: &CallerGuard) {
        if guard.upload().error.is_none() {
            self.component.log.count(FailureReason::NoResponse);
        }
    }
}
