//! Socket Burger behind either proxy. Its components run on a plain platform for Spin components,
//! which neither holds connections nor has timers.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use grip::Key;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use serde_json::Value;
use spin_runtime::{
    Changes, Embedded, EmbeddedOptions, Limits, Manifest, ManifestUse, Variables,
    backend::{Backend, Body, Caller, Client, full},
};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinSet};

use crate::{
    backend::{READINESS, readiness},
    case::{Case, cases, ensure_eq},
    client::{self, HeldResponse, Socket},
    proxy::{KEY, Proxy},
};

cases! {
    websocket
    stream
    ;
    differs:
    pings
}

/// The components on a platform, behind their own proxy.
struct Kitchen {
    /// The address of the platform.
    address: SocketAddr,
    /// The number of requests that the components have got.
    calls: Arc<AtomicUsize>,
    proxy: Proxy,
    _platform: JoinSet<()>,
    _folders: [TempDir; 2],
}

/// The application. Set after the start of the proxy: each needs the other's address.
type App = Arc<OnceLock<Embedded>>;

impl Kitchen {
    async fn open(case: &Case) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (app, calls) = (App::default(), Arc::<AtomicUsize>::default());
        let mut platform = JoinSet::new();
        platform.spawn(serve(listener, app.clone(), calls.clone()));
        let proxy = case.start_proxy(address).await?;

        let (folder, state) = (tests::burger_without_timer(), tempfile::tempdir()?);
        let manifest = Manifest::load(folder.path(), ManifestUse::Embedded)?;
        let provided = [
            ("grip_url".into(), format!("http://{}", proxy.control)),
            ("grip_key".into(), KEY.into()),
        ];
        let variables = Variables::new(&manifest, &provided, Default::default(), |_| None)?;
        let options = EmbeddedOptions {
            quiet: true,
            limits: Limits {
                instances_per_component: 20,
                ..Limits::DEFAULT
            },
            ..EmbeddedOptions::new(state.path())
        };
        let load = move || {
            let app = Embedded::new(options)?;
            app.replace(&manifest, &variables, &Changes::default(), || {})?;
            anyhow::Ok(app)
        };
        let loaded = tokio::task::spawn_blocking(load).await??;
        ensure!(app.set(loaded).is_ok(), "the application was set twice");
        Ok(Self {
            address,
            calls,
            proxy,
            _platform: platform,
            _folders: [folder, state],
        })
    }

    /// Creates an order and returns its id. Calls the component directly, as the platform's own
    /// timers would: a proxy rejects forged signatures.
    async fn create_order(&self) -> Result<u64> {
        let key = Key::parse(KEY)?;
        let (now, minute) = (SystemTime::now(), Duration::from_secs(60));
        let token = grip::signature::sign(&key, "timer", now, minute);
        let request = client::request("POST", "/internal/orders", &[("grip-sig", &token)], "")?;
        let response = client::send(self.address, request).await?;
        ensure!(response.status == 201, "{response:?}");
        let order: Value = serde_json::from_str(&response.text())?;
        let id = order["id"].as_u64();
        id.with_context(|| format!("no id in {order}"))
    }
}

/// Passes requests to the components.
async fn serve(listener: TcpListener, app: App, calls: Arc<AtomicUsize>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, client)) = listener.accept().await {
        let (app, calls) = (app.clone(), calls.clone());
        let service = service_fn(move |request| {
            let (app, calls) = (app.clone(), calls.clone());
            async move { Ok::<_, Infallible>(handle(&app, &calls, request, client).await) }
        });
        connections.spawn(async move {
            let builder = auto::Builder::new(TokioExecutor::new());
            // The proxy handles connection errors.
            let _ = builder
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn handle(
    app: &App,
    calls: &AtomicUsize,
    request: Request<Incoming>,
    client: SocketAddr,
) -> Response<Body> {
    if let Some(part) = request.uri().path().strip_prefix(READINESS) {
        return readiness(request.method(), part)
            .response
            .map(|body| body.map_err(|never| match never {}).boxed_unsync());
    }
    let Some(app) = app.get() else {
        return failure(StatusCode::SERVICE_UNAVAILABLE);
    };
    calls.fetch_add(1, Relaxed);
    let mut request = request.map(|body| body.map_err(Into::into).boxed_unsync());
    request
        .extensions_mut()
        .insert(Caller::Client(Client::plain(client)));
    let response = app.call(request).await;
    response.unwrap_or_else(|_| failure(StatusCode::INTERNAL_SERVER_ERROR))
}

fn failure(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(full("no response"));
    *response.status_mut() = status;
    response
}

/// Returns the order in the next event of a socket.
async fn order(socket: &mut Socket, event: &str) -> Result<Value> {
    let text = socket.text().await?;
    let message: Value = serde_json::from_str(&text)?;
    ensure!(message["event"] == event, "{text}, expected {event}");
    Ok(message["detail"]["order"].clone())
}

/// Opens a WebSocket as the page does.
async fn open_socket(proxy: &Proxy) -> Result<Socket> {
    let origin = format!("http://{}", proxy.public);
    let headers = [("origin", origin.as_str())];
    let upgrade = client::upgrade(proxy.public, "/api/ws", &headers)?;
    client::handshake(proxy.public, upgrade).await?.accepted()
}

/// The component leaves its pings to a host that offers this, and otherwise answers them.
async fn pings(case: &Case) -> Result<()> {
    let kitchen = Kitchen::open(case).await?;
    let mut socket = open_socket(&kitchen.proxy).await?;
    let before = kitchen.calls.load(Relaxed);
    for _ in 0..3 {
        socket.send(r#"{"event":"ping"}"#).await?;
        socket.expect(r#"{"event":"pong"}"#).await?;
    }
    let calls = kitchen.calls.load(Relaxed) - before;
    ensure_eq("calls", calls, case.differ(3, 0))
}

async fn websocket(case: &Case) -> Result<()> {
    let kitchen = Kitchen::open(case).await?;
    let mut socket = open_socket(&kitchen.proxy).await?;
    socket.send(r#"{"event":"ping"}"#).await?;
    socket.expect(r#"{"event":"pong"}"#).await?;
    // Pushpin's processes may learn of the subscription a little later.
    let first = loop {
        kitchen.create_order().await?;
        let received = order(&mut socket, "order-received");
        match tokio::time::timeout(Duration::from_secs(1), received).await {
            Ok(received) => break received?["id"].as_u64().context("an id")?,
            Err(_) => continue,
        }
    };
    let second = kitchen.create_order().await?;
    let received = loop {
        let received = order(&mut socket, "order-received").await?;
        // Skips orders of attempts above that timed out, on a slow machine.
        if received["id"].as_u64() >= Some(second) {
            break received;
        }
    };
    ensure_eq("id", received["id"].as_u64(), Some(second))?;
    ensure!(
        first < second && received["status"] == "received",
        "{received}"
    );
    let fire = format!(r#"{{"event":"order-status","detail":{{"id":{second},"status":"fired"}}}}"#);
    socket.send(&fire).await?;
    let updated = order(&mut socket, "order-updated").await?;
    ensure_eq("id", updated["id"].as_u64(), Some(second))?;
    ensure_eq("status", updated["status"].as_str(), Some("fired"))?;
    socket.close(1000, "").await?;
    ensure_eq(
        "close",
        socket.closed().await?.map(|(code, _)| code),
        Some(1000),
    )
}

/// Each order is received once and in order, even if created while a part is being fetched.
async fn stream(case: &Case) -> Result<()> {
    let kitchen = Kitchen::open(case).await?;
    let before = kitchen.create_order().await?;
    let path = format!("/api/orders/stream?after={before}");
    kitchen.create_order().await?;
    let request = client::request("GET", &path, &[], "")?;
    let mut stream = client::hold(kitchen.proxy.public, request).await?;
    ensure_eq(
        "type",
        stream.header("content-type"),
        Some("text/event-stream"),
    )?;
    for _ in 0..10 {
        kitchen.create_order().await?;
    }
    for id in before + 1..=before + 11 {
        ensure_eq("id", next_id(&mut stream).await?, id)?;
    }
    Ok(())
}

/// Returns the id of the next server-sent event that has one.
async fn next_id(stream: &mut HeldResponse) -> Result<u64> {
    loop {
        let line = stream.line().await?;
        if let Some(id) = line.strip_prefix("id: ") {
            return Ok(id.trim().parse()?);
        }
    }
}
