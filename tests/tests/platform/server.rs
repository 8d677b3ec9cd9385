//! A server that runs components by Wasmtime's `ProxyHandler`, as `wasmtime serve` does.

use std::{
    convert::Infallible,
    future::pending,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use anyhow::{Result, anyhow};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tests::wasm;
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::task::AbortOnDropHandle;
use wasmtime::{
    Store, StoreContextMut,
    component::{Component, GuestTaskId, Linker},
};
use wasmtime_wasi_http::{
    WasiBody, WasiHttpView,
    handler::{
        HandlerState, Instance, Proxy, ProxyHandler, ShouldAccept, WorkerExpiration, WorkerState,
        WorkerStatus,
    },
    p3::bindings::ServicePre,
};

use crate::{
    compose::with_adapter,
    engine::engine,
    wasi::{Data, add_to_linker},
};

/// The components, which are compiled once for all platforms.
static COMPONENTS: LazyLock<Result<Components, String>> =
    LazyLock::new(|| Components::compile().map_err(|error| format!("{error:?}")));

struct Components {
    page: ServicePre<Data>,
    orders: ServicePre<Data>,
}

impl Components {
    fn compile() -> Result<Self> {
        let engine = engine()?;
        let mut linker = Linker::new(&engine);
        add_to_linker(&mut linker)?;
        let compile = |wasm: &[u8]| {
            let component = Component::new(&engine, wasm)?;
            anyhow::Ok(ServicePre::new(linker.instantiate_pre(&component)?)?)
        };
        Ok(Self {
            // It needs no interface of Spin.
            page: compile(&std::fs::read(wasm("page"))?)?,
            orders: compile(&with_adapter("orders")?)?,
        })
    }
}

/// A running platform with Socket Burger. Stopped on drop.
pub struct Platform {
    /// Its address.
    pub address: SocketAddr,
    routes: Arc<Routes>,
    _task: AbortOnDropHandle<()>,
}

/// The components by the paths that they serve.
struct Routes {
    page: Service,
    orders: Service,
}

impl Platform {
    /// Serves the components on a free port, with a configuration.
    pub async fn start(config: &[(&str, &str)]) -> Result<Self> {
        let components = COMPONENTS.as_ref().map_err(|error| anyhow!("{error}"))?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let config: Vec<_> = config
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let routes = Arc::new(Routes {
            page: Service::new(&components.page, address, &config),
            orders: Service::new(&components.orders, address, &config),
        });
        let serving = tokio::spawn(serve(listener, routes.clone()));
        Ok(Self {
            address,
            routes,
            _task: AbortOnDropHandle::new(serving),
        })
    }

    /// Returns how many instances of the order service there have been.
    pub fn order_services(&self) -> usize {
        let state = self.routes.orders.handler.state();
        state.instances.load(Ordering::Relaxed)
    }
}

async fn serve(listener: TcpListener, routes: Arc<Routes>) {
    while let Ok((stream, _)) = listener.accept().await {
        // Nagle's algorithm would delay responses.
        let _ = stream.set_nodelay(true);
        let routes = routes.clone();
        let service = service_fn(move |request| {
            let routes = routes.clone();
            async move { Ok::<_, Infallible>(routes.handle(request).await) }
        });
        tokio::spawn(async move {
            // The proxy handles errors of connections.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

impl Routes {
    async fn handle(&self, request: Request<Incoming>) -> Response<WasiBody> {
        let path = request.uri().path();
        let is_for_orders = path.starts_with("/api/") || path.starts_with("/internal/");
        let service = if is_for_orders {
            &self.orders
        } else {
            &self.page
        };
        service.handle(request).await.unwrap_or_else(|error| {
            eprintln!("request failed: {error:?}");
            let mut response = Response::new(Empty::new().map_err(Into::into).boxed_unsync());
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        })
    }
}

/// A component that serves requests, one after the other.
///
/// One instance serves them all, because Wasmtime's store lives only as long as the instance that has
/// opened it. `ProxyHandler` creates another one for a request that comes while no instance is ready.
struct Service {
    handler: ProxyHandler<Instances>,
    turns: Arc<Turns>,
}

/// Lets a request through when the instance is ready for it.
struct Turns {
    ready: Semaphore,
    /// Whether the instance has started the request that took the last turn.
    has_started: AtomicBool,
}

impl Service {
    fn new(
        component: &ServicePre<Data>,
        platform: SocketAddr,
        config: &[(String, String)],
    ) -> Self {
        let turns = Arc::new(Turns {
            ready: Semaphore::new(1),
            has_started: AtomicBool::new(false),
        });
        Self {
            handler: ProxyHandler::new(Instances {
                component: component.clone(),
                platform,
                config: config.to_vec(),
                instances: AtomicUsize::new(0),
                turns: turns.clone(),
            }),
            turns,
        }
    }

    async fn handle(&self, request: Request<Incoming>) -> wasmtime::Result<Response<WasiBody>> {
        self.turns.ready.acquire().await?.forget();
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        self.handler.handle((), request).await
    }
}

/// Creates the instances of a component.
struct Instances {
    component: ServicePre<Data>,
    platform: SocketAddr,
    config: Vec<(String, String)>,
    /// The number created so far.
    instances: AtomicUsize,
    turns: Arc<Turns>,
}

impl HandlerState for Instances {
    type StoreData = Data;
    type WorkerExpiration = Never;
    type WorkerState = Worker;

    async fn instantiate(&self) -> wasmtime::Result<Instance<Data, Never, Worker>> {
        self.instances.fetch_add(1, Ordering::Relaxed);
        let data = Data::new(self.platform, &self.config)?;
        let mut store = Store::new(self.component.engine(), data);
        let service = self.component.instantiate_async(&mut store).await?;
        Ok(Instance {
            store,
            proxy: Proxy::P3(service),
            view: Data::http,
            expiration: Never,
            state: Worker(self.turns.clone()),
        })
    }
}

/// An instance that lives as long as the platform.
struct Never;

impl WorkerExpiration for Never {
    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>, _: WorkerStatus, _: Instant) -> Poll<()> {
        Poll::Pending
    }
}

/// An instance that serves one request at a time.
struct Worker(Arc<Turns>);

impl Worker {
    /// Lets the next request through, if the previous one has ended.
    fn next_turn(&self) {
        if self.0.has_started.swap(false, Ordering::Relaxed) {
            self.0.ready.add_permits(1);
        }
    }
}

impl WorkerState for Worker {
    type StoreData = Data;
    type RequestData = ();

    /// Called when the instance is ready for a request.
    fn should_accept_request(&self, concurrent: usize, _: usize) -> ShouldAccept {
        if concurrent > 0 {
            return ShouldAccept::No;
        }
        self.next_turn();
        ShouldAccept::Yes
    }

    fn on_request_start(
        &self,
        _: StoreContextMut<'_, Data>,
        (): (),
        _: GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + Sync>> {
        self.0.has_started.store(true, Ordering::Relaxed);
        // The proxy has a timeout.
        Box::pin(pending())
    }

    fn drop(&self, _: Store<Data>, result: wasmtime::Result<()>) {
        if let Err(error) = result {
            eprintln!("an instance failed: {error:?}");
        }
        self.next_turn();
    }
}
