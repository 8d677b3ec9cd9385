//! Socket Burger as it is, behind either proxy: its components run where nobody holds a
//! connection or calls them on a timer, as on any platform for Spin components.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, OnceLock},
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
    backend::{Backend, Body, Caller, full},
};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinSet};

use crate::{
    backend::{READINESS, readiness},
    case::{Case, cases, same},
    client::{self, Held, Socket},
    proxy::{KEY, Proxy},
};

cases! {
    websocket
    stream
}

/// The platform with the components, behind a proxy of its own.
struct Kitchen {
    /// Where the platform listens.
    address: SocketAddr,
    proxy: Proxy,
    _platform: JoinSet<()>,
    _folders: [TempDir; 2],
}

/// What requests go to, once it is there: it must know the proxy, and the proxy it.
type App = Arc<OnceLock<Embedded>>;

impl Kitchen {
    async fn open(case: &Case) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let app = App::default();
        let mut platform = JoinSet::new();
        platform.spawn(serve(listener, app.clone()));
        let proxy = case.own_proxy(address).await?;

        let (folder, state) = (tests::closed_burger(), tempfile::tempdir()?);
        let manifest = Manifest::load(folder.path(), ManifestUse::Embedded)?;
        let given = [
            ("grip_url".into(), format!("http://{}", proxy.control)),
            ("grip_key".into(), KEY.into()),
        ];
        let variables = Variables::new(&manifest, &given, Default::default(), |_| None)?;
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
        ensure!(app.set(loaded).is_ok(), "there is one application");
        Ok(Self {
            address,
            proxy,
            _platform: platform,
            _folders: [folder, state],
        })
    }

    /// Has an order made as the platform's own timers would, straight by the component: a proxy
    /// lets nobody pass for the host. Gives its id.
    async fn make(&self) -> Result<u64> {
        let key = Key::parse(KEY)?;
        let (now, minute) = (SystemTime::now(), Duration::from_secs(60));
        let token = grip::signature::sign(&key, "timer", now, minute);
        let request = client::request("POST", "/internal/orders", &[("grip-sig", &token)], "")?;
        let answer = client::send(self.address, request).await?;
        ensure!(answer.status == 201, "{answer:?}");
        let order: Value = serde_json::from_str(&answer.text())?;
        let id = order["id"].as_u64();
        id.with_context(|| format!("an id in {order}"))
    }
}

/// What a platform does: requests to components, and nothing else.
async fn serve(listener: TcpListener, app: App) {
    let mut connections = JoinSet::new();
    while let Ok((stream, client)) = listener.accept().await {
        let app = app.clone();
        let service = service_fn(move |request| {
            let app = app.clone();
            async move { Ok::<_, Infallible>(answer(&app, request, client).await) }
        });
        connections.spawn(async move {
            let builder = auto::Builder::new(TokioExecutor::new());
            // Its end is the proxy's business.
            let _ = builder
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(app: &App, request: Request<Incoming>, client: SocketAddr) -> Response<Body> {
    if let Some(part) = request.uri().path().strip_prefix(READINESS) {
        return readiness(request.method(), part)
            .response
            .map(|body| body.map_err(|never| match never {}).boxed_unsync());
    }
    let Some(app) = app.get() else {
        return failure(StatusCode::SERVICE_UNAVAILABLE);
    };
    let mut request = request.map(|body| body.map_err(Into::into).boxed_unsync());
    request.extensions_mut().insert(Caller::Client(client));
    let answer = app.call(request).await;
    answer.unwrap_or_else(|_| failure(StatusCode::INTERNAL_SERVER_ERROR))
}

fn failure(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(full("no answer"));
    *response.status_mut() = status;
    response
}

/// The next order that a socket gets, and its id.
async fn order(socket: &mut Socket, event: &str) -> Result<Value> {
    let text = socket.text().await?;
    let message: Value = serde_json::from_str(&text)?;
    ensure!(message["event"] == event, "{text}, not {event}");
    Ok(message["detail"]["order"].clone())
}

async fn websocket(case: &Case) -> Result<()> {
    let kitchen = Kitchen::open(case).await?;
    let origin = format!("http://{}", kitchen.proxy.public);
    let headers = [("origin", origin.as_str())];
    let upgrade = client::upgrade(kitchen.proxy.public, "/api/ws", &headers)?;
    let mut socket = client::shake(kitchen.proxy.public, upgrade)
        .await?
        .accepted()?;
    socket.send(r#"{"event":"ping"}"#).await?;
    socket.expect(r#"{"event":"pong"}"#).await?;
    // Pushpin may be told of the subscription a little later.
    let first = loop {
        kitchen.make().await?;
        let received = order(&mut socket, "order-received");
        match tokio::time::timeout(Duration::from_secs(1), received).await {
            Ok(received) => break received?["id"].as_u64().context("an id")?,
            Err(_) => continue,
        }
    };
    let second = kitchen.make().await?;
    let received = loop {
        let received = order(&mut socket, "order-received").await?;
        // Those that were given up above, on a slow machine.
        if received["id"].as_u64() >= Some(second) {
            break received;
        }
    };
    same("id", received["id"].as_u64(), Some(second))?;
    ensure!(
        first < second && received["status"] == "received",
        "{received}"
    );
    let fire = format!(r#"{{"event":"order-status","detail":{{"id":{second},"status":"fired"}}}}"#);
    socket.send(&fire).await?;
    let updated = order(&mut socket, "order-updated").await?;
    same("id", updated["id"].as_u64(), Some(second))?;
    same("status", updated["status"].as_str(), Some("fired"))?;
    socket.close(1000, "").await?;
    same(
        "close",
        socket.closed().await?.map(|(code, _)| code),
        Some(1000),
    )
}

/// Each order once, in order, also those that are made while a part is fetched.
async fn stream(case: &Case) -> Result<()> {
    let kitchen = Kitchen::open(case).await?;
    let before = kitchen.make().await?;
    let path = format!("/api/orders/stream?after={before}");
    kitchen.make().await?;
    let request = client::request("GET", &path, &[], "")?;
    let mut stream = client::hold(kitchen.proxy.public, request).await?;
    same(
        "type",
        stream.header("content-type"),
        Some("text/event-stream"),
    )?;
    for _ in 0..10 {
        kitchen.make().await?;
    }
    for id in before + 1..=before + 11 {
        same("id", next_id(&mut stream).await?, id)?;
    }
    Ok(())
}

/// The id of the next server-sent event that has one.
async fn next_id(stream: &mut Held) -> Result<u64> {
    loop {
        let line = stream.line().await?;
        if let Some(id) = line.strip_prefix("id: ") {
            return Ok(id.trim().parse()?);
        }
    }
}
