//! An application under test.

use std::{
    collections::BTreeMap,
    fmt,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use grip::Item;
use http::{Method, Request};
use tempfile::TempDir;
use tokio::{
    task::{JoinHandle, JoinSet},
    time::timeout,
};

use crate::{
    failure::Failure,
    host::Host,
    log::{ComponentLogs, Warnings},
    manifest::{self, Timer},
    outbound::OutboundRequest,
    publisher::{Publication, PublishFailure},
    request::ClientRequest,
    response::Response,
    runtime::Runtime,
    serve,
    servers::SimulatedServers,
    store::Store,
    timers,
    websocket::{self, WebSocket},
};

/// How long a call waits for the body of a component's own response. It arrives later then.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// What an application consists of.
pub(crate) struct Parts {
    pub(crate) host: Arc<Host>,
    pub(crate) stores: BTreeMap<String, Store>,
    pub(crate) servers: SimulatedServers,
    pub(crate) logs: ComponentLogs,
    pub(crate) timers: Vec<Timer>,
    pub(crate) folder: TempDir,
}

/// An application in a simulated world.
///
/// All methods run on the thread of the test. They return when everything that they have caused
/// waits for a time, or has ended. They block, so a test must not be an `async` function.
pub struct TestApp {
    host: Arc<Host>,
    stores: BTreeMap<String, Store>,
    servers: SimulatedServers,
    logs: ComponentLogs,
    warnings: Warnings,
    timers: Vec<Timer>,
    /// Dropped before the folder, which it may use.
    runtime: Rc<Runtime>,
    _folder: TempDir,
}

impl TestApp {
    pub(crate) fn new(runtime: Rc<Runtime>, warnings: Warnings, parts: Parts) -> Self {
        Self {
            host: parts.host,
            stores: parts.stores,
            servers: parts.servers,
            logs: parts.logs,
            warnings,
            timers: parts.timers,
            runtime,
            _folder: parts.folder,
        }
    }

    /// Sends a GET.
    ///
    /// # Panics
    /// Panics if `path` is not a path with an optional query.
    pub fn get(&self, path: &str) -> Response {
        self.request(request(Method::GET, path, ""))
    }

    /// Sends a POST.
    ///
    /// # Panics
    /// Panics if `path` is not a path with an optional query.
    pub fn post(&self, path: &str, body: impl Into<Bytes>) -> Response {
        self.request(request(Method::POST, path, body))
    }

    /// Sends a request, and waits for the response and its body.
    ///
    /// A response that the host holds is returned at once. So is one whose body takes longer than a
    /// minute.
    pub fn request<B: Into<Bytes>>(&self, request: Request<B>) -> Response {
        let request = ClientRequest::new(request);
        let response = Response::new();
        self.runtime.run(async {
            let task = self.spawn(request, &response);
            settled(task, &response).await;
        });
        response
    }

    /// Sends requests at the same time, and waits for all responses, which are in the order of the
    /// requests.
    ///
    /// The seed decides in which order they make progress.
    pub fn concurrently<B: Into<Bytes>>(
        &self,
        requests: impl IntoIterator<Item = Request<B>>,
    ) -> Vec<Response> {
        let requests: Vec<_> = requests.into_iter().map(ClientRequest::new).collect();
        self.runtime.run(async {
            let mut responses = Vec::new();
            let mut waiting = JoinSet::new();
            for request in requests {
                let response = Response::new();
                let task = self.spawn(request, &response);
                responses.push(response.clone());
                waiting.spawn(async move { settled(task, &response).await });
            }
            waiting.join_all().await;
            responses
        })
    }

    /// Opens a WebSocket on a path.
    ///
    /// # Errors
    /// Returns the response if the component does not accept it.
    ///
    /// # Panics
    /// Panics if `path` is not a path with an optional query.
    pub fn websocket(&self, path: &str) -> Result<WebSocket, Response> {
        self.open_websocket(request(Method::GET, path, ""))
    }

    /// Opens a WebSocket with the path and the headers of a request.
    ///
    /// # Errors
    /// Returns the response if the component does not accept it.
    pub fn open_websocket<B: Into<Bytes>>(
        &self,
        request: Request<B>,
    ) -> Result<WebSocket, Response> {
        let request = ClientRequest::new(request);
        let host = self.host.clone();
        let opened = self.runtime.run(async {
            match websocket::open(host, request).await {
                Ok(opened) => Ok(opened),
                Err(refusal) => {
                    let response = Response::new();
                    response.receive(refusal).await;
                    Err(response)
                }
            }
        });
        Ok(WebSocket::new(self.runtime.clone(), opened?))
    }

    /// Returns the time of the application.
    pub fn now(&self) -> SystemTime {
        let _context = self.runtime.enter();
        self.host.clock.now()
    }

    /// Lets time pass, rounded up to milliseconds. What is due in the meantime happens at its time.
    pub fn advance(&self, duration: Duration) {
        self.runtime.advance(duration);
    }

    /// Runs everything that does not wait for a time.
    pub fn settle(&self) {
        self.runtime.settle();
    }

    /// Calls a timer of the manifest now, by its path, or sends another request as timers do, such as
    /// `POST /internal/orders`. Private paths can be requested.
    ///
    /// # Panics
    /// Panics if there is no timer with this path, and `timer` is not a method and a path.
    pub fn run_timer(&self, timer: &str) -> Response {
        let known = self.timers.iter().find(|known| known.path == timer);
        let (method, path) = match known {
            Some(known) => (known.method.clone(), known.path.clone()),
            None => manifest::parse_target(timer).unwrap_or_else(|reason| {
                panic!("{reason}; the manifest has no timer with the path {timer:?}")
            }),
        };
        let response = Response::new();
        self.runtime
            .run(timers::call(&self.host, method, &path, &response));
        response
    }

    /// Calls a component, by its id, as a cron trigger does that is due now.
    ///
    /// # Errors
    /// Fails if the component handles no such events, fails, or returns an error.
    pub fn run_cron(&self, component: &str) -> Result<(), String> {
        self.runtime.run(timers::call_cron(&self.host, component))
    }

    /// Returns a key-value store by its label.
    ///
    /// # Panics
    /// Panics if no component may open it.
    pub fn store(&self, label: &str) -> &Store {
        self.stores.get(label).unwrap_or_else(|| {
            let known: Vec<_> = self.stores.keys().collect();
            panic!("no component may open the key-value store {label:?}; known: {known:?}")
        })
    }

    /// Returns the requests that components have sent to servers, without those that publish.
    pub fn outbound_requests(&self) -> Vec<OutboundRequest> {
        self.servers.requests()
    }

    /// Returns what was published so far.
    pub fn publications(&self) -> Vec<Publication> {
        self.host.publisher.publications()
    }

    /// Publishes an item, as another server may do.
    pub fn publish(&self, item: Item) {
        self.runtime.run(async {
            self.host.publisher.publish("", vec![item]);
        });
    }

    /// Makes components fail to publish from now on, by requests and by
    /// `socket-host:websocket/channels`.
    pub fn fail_publishes(&self, failure: PublishFailure) {
        self.host.publisher.set_failure(Some(failure));
    }

    /// Lets components publish again.
    pub fn accept_publishes(&self) {
        self.host.publisher.set_failure(None);
    }

    /// Returns what a component has written to its standard output and standard error.
    pub fn log(&self, component: &str) -> String {
        self.logs.of(component)
    }

    /// Returns the calls that failed: traps, timeouts, and responses that the host cannot follow.
    pub fn failures(&self) -> Vec<Failure> {
        self.host.failures()
    }

    /// Returns the warnings and errors that the host has logged, such as a denied request.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.lines()
    }

    fn spawn(&self, request: ClientRequest, response: &Response) -> JoinHandle<()> {
        tokio::spawn(serve::serve(self.host.clone(), request, response.clone()))
    }
}

impl fmt::Debug for TestApp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestApp")
            .field("now", &self.now())
            .field("stores", &self.stores)
            .field("failures", &self.failures())
            .finish_non_exhaustive()
    }
}

/// Waits until a response is complete or held, or its body takes too long.
async fn settled(task: JoinHandle<()>, response: &Response) {
    let received = async {
        response.started().await;
        // A response that is not complete then is still open.
        let _ = timeout(BODY_TIMEOUT, response.settled()).await;
    };
    tokio::select! {
        biased;
        served = task => {
            if let Err(error) = served {
                std::panic::resume_unwind(error.into_panic());
            }
        }
        () = received => {}
    }
}

fn request<B: Into<Bytes>>(method: Method, path: &str, body: B) -> Request<Bytes> {
    let mut request = Request::new(body.into());
    *request.method_mut() = method;
    *request.uri_mut() = path
        .parse()
        .unwrap_or_else(|error| panic!("invalid path {path:?}: {error}"));
    request
}
