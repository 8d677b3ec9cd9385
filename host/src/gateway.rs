//! The gateway: checks each request of a client and decides what handles it.
//!
//! A request is passed through to another server, opens a WebSocket, or is forwarded to the
//! backend. Before that, the gateway removes headers by which a client could impersonate the host,
//! and hides the private routes.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use spin_runtime::{
    PrivateRoutes, Routes,
    backend::{Backend as _, Body, Caller, Client, RequestBodyError},
};
use tracing::{Instrument as _, debug_span};

use crate::{
    cache::Lookup,
    dev::reload::Reload,
    http::{
        error_response::{
            backend_error_response, internal_error, not_found, refusal_response,
            request_body_error_response, text_response,
        },
        forwarded,
        headers::{
            join_cookies, normalize_length, remove_private_headers, remove_underscore_spellings,
        },
        target::to_origin_form,
        validate::{HEAD_TOO_LARGE, check_backend_request, check_message, check_upgrade},
    },
    metrics::{backend::metered, registry::Dropped},
    net::{
        connections::Connections,
        draining::Draining,
        listener::{Admission, Listener, RefusalCounters},
        request_body::prefetch,
        trusted_proxies::TrustedProxies,
    },
    proxy,
    shutdown::Shutdown,
    state::Services,
    telemetry::{
        Telemetry,
        backend::traced,
        panics::{self, Panicked},
    },
    upstream::{
        passthrough::PassthroughRoute,
        tunnel::{self, Tunnels},
    },
    ws::handshake,
};

/// The path at which load balancers ask for the health of an application.
const SPIN_HEALTH: &str = "/.well-known/spin/health";

/// Handles the requests of clients.
pub(crate) struct Gateway {
    rules: ArcSwap<Rules>,
    tunnels: Arc<Tunnels>,
    /// Injects the reload script into pages; only with `--watch`.
    reload: Option<Arc<Reload>>,
    /// The value of `Strict-Transport-Security`.
    hsts: Option<HeaderValue>,
    trusted_proxies: TrustedProxies,
    telemetry: Telemetry,
    shutdown: Shutdown,
}

/// How requests of clients are handled. A reload replaces it.
#[derive(Clone)]
pub(crate) struct Rules {
    /// The backend, and the limits of new sessions.
    pub(crate) services: Arc<Services>,
    /// Routes that get 404.
    pub(crate) private: PrivateRoutes,
    /// Routes whose upgrades are tunneled.
    pub(crate) passthroughs: Arc<Routes<PassthroughRoute>>,
}

impl Rules {
    /// Returns rules without private routes and passthroughs.
    pub(crate) fn none(services: Arc<Services>) -> anyhow::Result<Self> {
        Ok(Self {
            services,
            private: PrivateRoutes::default(),
            passthroughs: Arc::new(Routes::new([])?),
        })
    }
}

impl Gateway {
    /// Creates a gateway. `reload` injects its script into pages. With `hsts`, browsers use TLS for
    /// that time after each response. Behind `trusted_proxies`, limits by address apply to the
    /// addresses that they forward.
    pub(crate) fn new(
        rules: Rules,
        tunnels: Arc<Tunnels>,
        reload: Option<Arc<Reload>>,
        hsts: Option<Duration>,
        trusted_proxies: TrustedProxies,
        shutdown: Shutdown,
    ) -> Self {
        let hsts = hsts.map(|time| format!("max-age={}", time.as_secs()));
        Self {
            telemetry: rules.services.telemetry.clone(),
            rules: ArcSwap::from_pointee(rules),
            tunnels,
            reload,
            hsts: hsts.and_then(|value| HeaderValue::try_from(value).ok()),
            trusted_proxies,
            shutdown,
        }
    }

    /// Returns the current rules.
    pub(crate) fn rules(&self) -> Arc<Rules> {
        self.rules.load_full()
    }

    /// Replaces the rules for the requests that follow.
    pub(crate) fn set_rules(&self, rules: Rules) {
        self.rules.store(Arc::new(rules));
    }

    /// Serves the public port until the host drains.
    pub(crate) async fn serve(self: Arc<Self>, listener: Listener, max_connections: usize) {
        let metrics = self.rules().services.metrics.clone();
        let admission = Admission {
            connections: Connections::new(metrics.connections.clone(), max_connections),
            addresses: Some(self.rules().services.addresses.clone()),
            refused: RefusalCounters {
                full: metrics.dropped(Dropped::Full),
                address: metrics.dropped(Dropped::AddressConnections),
                proxy_header: metrics.dropped(Dropped::ProxyHeader),
                tls_handshake: metrics.dropped(Dropped::TlsHandshake),
                accept: metrics.dropped(Dropped::Accept),
            },
        };
        let draining = Draining::gradual(&self.shutdown);
        let reload = self.reload.clone();
        let handler = move |request: Request<Incoming>, client| {
            let span =
                debug_span!("request", method = %request.method(), path = request.uri().path());
            self.clone().respond(request, client).instrument(span)
        };
        listener.serve(Arc::new(handler), admission, draining).await;
        if let Some(reload) = reload {
            reload.closed().await;
        }
    }

    /// Returns the response to a request of a client, which is observed until the response has ended. A
    /// panic fails only this request.
    async fn respond(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        mut client: Client,
    ) -> Response<Body> {
        client.limited_address =
            forwarded::limited_address(request.headers(), client, &self.trusted_proxies);
        let observed = self.telemetry.observe(&mut request, client);
        let response = panics::catch(self.handle(request, client)).await;
        let mut response = response.unwrap_or_else(|Panicked| internal_error());
        if let Some(value) = self.hsts.as_ref().filter(|_| client.is_secure) {
            let headers = response.headers_mut();
            headers
                .entry(header::STRICT_TRANSPORT_SECURITY)
                .or_insert_with(|| value.clone());
        }
        match observed {
            Some(observed) => observed.respond(response),
            None => response,
        }
    }

    /// Handles one request of a client.
    async fn handle(&self, mut request: Request<Incoming>, client: Client) -> Response<Body> {
        let checked = check_message(&request)
            .and_then(|()| check_backend_request(&request))
            .and_then(|()| check_upgrade(&request));
        if let Err(refusal) = checked {
            let reason = if refusal == HEAD_TOO_LARGE {
                Dropped::LargeHead
            } else {
                Dropped::Invalid
            };
            self.rules().services.metrics.dropped(reason).inc();
            return refusal_response(refusal);
        }
        to_origin_form(&mut request);
        // The reload endpoint takes precedence over the routes of the application.
        let reload = self.reload.as_ref();
        if let Some(response) = reload.and_then(|reload| reload.handle(&mut request)) {
            return response;
        }
        if self.shutdown.stop.is_cancelled() && request.uri().path() == SPIN_HEALTH {
            return text_response(StatusCode::SERVICE_UNAVAILABLE, "stopping");
        }
        let rules = self.rules();
        if rules.private.matches(request.uri().path()) {
            return not_found();
        }
        remove_private_headers(request.headers_mut());
        remove_underscore_spellings(request.headers_mut());
        join_cookies(request.headers_mut());
        normalize_length(request.headers_mut());
        request.extensions_mut().insert(Caller::Client(client));
        if let Some(passthrough) = rules.passthroughs.find(request.uri().path()) {
            let upstream = &passthrough.upstream;
            if let Some(protocols) = tunnel::requested_protocols(&request) {
                let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
                let guard = match handshake::admit(&rules.services, client) {
                    Ok(guard) => guard,
                    Err(refusal) => return *refusal,
                };
                let tunnel = self.tunnels.open(upstream, request, &protocols, guard);
                // Boxed, because it is large and most requests do not need it.
                return Box::pin(tunnel).await;
            }
            // Not signed: the key is shared with the application, and this is another server.
            if passthrough.forwards_plain_requests {
                let request = match prefetch_body(&rules.services, request).await {
                    Ok(request) => request,
                    Err(response) => return response,
                };
                let metrics = &rules.services.metrics;
                let response = traced(&self.telemetry.tracer, request, |request| {
                    metered(upstream.call(request), metrics, upstream.name())
                });
                let response = response.await;
                return response.unwrap_or_else(|error| backend_error_response(&error));
            }
        }
        if handshake::is_upgrade(&request) {
            return handshake::open(&rules.services, request, client).await;
        }
        let script = reload.and_then(|reload| reload.prepare(&mut request));
        let request = match prefetch_body(&rules.services, request).await {
            Ok(request) => request,
            Err(response) => return response,
        };
        let (parts, body) = request.into_parts();
        let lookup = match rules.services.cache.get() {
            Some(cache) => cache.look_up(&parts, !body.is_end_stream()).await,
            None => Lookup::Forward(None),
        };
        let response = match lookup {
            Lookup::Respond(response) => response,
            Lookup::Forward(cache) => {
                let request = Request::from_parts(parts, body);
                proxy::forward(&rules.services, request, cache).await
            }
        };
        match script {
            Some(script) => script.inject(response),
            None => response,
        }
    }
}

/// Receives the start of a request's body. Otherwise returns the response for the client.
async fn prefetch_body(
    services: &Services,
    request: Request<Incoming>,
) -> Result<Request<Body>, Response<Body>> {
    let max_bytes = services.limits.max_request_body_bytes as u64;
    prefetch(request, max_bytes).await.map_err(|error| {
        let reason = match error {
            RequestBodyError::TooLarge { .. } => Dropped::LargeBody,
            RequestBodyError::TooSlow => Dropped::SlowBody,
            RequestBodyError::Malformed | RequestBodyError::Incomplete => Dropped::Invalid,
        };
        services.metrics.dropped(reason).inc();
        request_body_error_response(error)
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use grip::Key;
    use http::StatusCode;
    use http_body_util::{Empty, StreamBody};
    use hyper::{
        body::Frame,
        client::conn::{http1, http2},
    };
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use prometheus_client::metrics::gauge::Gauge;
    use spin_runtime::backend::{Backend, BodyError, ResponseFuture, full};
    use tokio::io::{DuplexStream, duplex};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        config::HostConfig,
        http::signer::Signer,
        net::connection::{self, ConnectionHandle},
    };

    /// Panics for `/panic`, and in the body of its response for `/body`.
    struct Panicking;

    impl Backend for Panicking {
        fn call(&self, request: Request<Body>) -> ResponseFuture<'_> {
            Box::pin(async move {
                let body = match request.uri().path() {
                    "/panic" => panic!("on purpose"),
                    "/body" => {
                        let frames = futures_util::stream::poll_fn(
                            |_| -> std::task::Poll<Option<Result<Frame<Bytes>, BodyError>>> {
                                panic!("on purpose")
                            },
                        );
                        StreamBody::new(frames).boxed_unsync()
                    }
                    _ => full("fine"),
                };
                Ok(Response::new(body))
            })
        }
    }

    /// Returns a connection to a gateway.
    fn connect() -> TokioIo<DuplexStream> {
        let (client, server) = duplex(64 * 1024);
        let key = Key::parse("a key that is long enough for tokens").unwrap();
        let (config, shutdown) = (HostConfig::default(), Shutdown::default());
        let drain = shutdown.drain.clone();
        let signer = Signer::new(key);
        let services = Services::new(Arc::new(Panicking), "test", signer, &config, drain.clone());
        let services = Arc::new(services);
        let tunnels = Arc::new(Tunnels::new(1, drain, services.metrics.clone()));
        let rules = Rules::none(services).unwrap();
        let trusted_proxies = TrustedProxies::default();
        let gateway = Gateway::new(rules, tunnels, None, None, trusted_proxies, shutdown);
        let gateway = Arc::new(gateway);
        tokio::spawn(async move {
            let handler = |request| {
                let client = Client::plain(([127, 0, 0, 1], 4000).into());
                gateway.clone().respond(request, client)
            };
            let handle = ConnectionHandle::new(&Gauge::default(), CancellationToken::new());
            let draining = Draining::at_once(CancellationToken::new());
            let builder = connection::builder();
            connection::serve(TokioIo::new(server), &builder, &draining, handle, handler).await
        });
        TokioIo::new(client)
    }

    fn get(path: &str) -> Request<Empty<Bytes>> {
        let request = Request::get(path).header("host", "a");
        request.body(Empty::new()).unwrap()
    }

    #[tokio::test]
    async fn a_panic_fails_one_request_of_an_http1_connection() {
        let (mut sender, connection) = http1::handshake(connect()).await.unwrap();
        tokio::spawn(connection);
        let response = sender.send_request(get("/panic")).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        drop(response);
        sender.ready().await.unwrap();
        let response = sender.send_request(get("/")).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "fine");
        // The head is sent already, so the connection ends.
        sender.ready().await.unwrap();
        let failed = async {
            let response = sender.send_request(get("/body")).await?;
            response.into_body().collect().await
        };
        failed.await.unwrap_err();
    }

    #[tokio::test]
    async fn a_panic_fails_one_request_of_an_http2_connection() {
        let handshake = http2::handshake(TokioExecutor::new(), connect());
        let (mut sender, connection) = handshake.await.unwrap();
        tokio::spawn(connection);
        let response = sender.send_request(get("http://a/panic")).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let failed = async {
            let response = sender.send_request(get("http://a/body")).await?;
            response.into_body().collect().await
        };
        failed.await.unwrap_err();
        let response = sender.send_request(get("http://a/")).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "fine");
    }
}
