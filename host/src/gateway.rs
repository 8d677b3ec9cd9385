//! The gateway: checks each request of a client and decides what handles it.
//!
//! A request is passed through to another server, opens a WebSocket, or is forwarded to the
//! backend. Before that, the gateway removes headers by which a client could impersonate the host,
//! and hides the private routes.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use http::{HeaderValue, Request, Response, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use spin_runtime::{
    PrivateRoutes, Routes,
    backend::{Backend as _, Body, Caller, Client},
};
use tracing::{Instrument as _, debug_span};

use crate::{
    dev::reload::Reload,
    http::{
        error_response::{
            backend_error_response, not_found, refusal_response, request_body_error_response,
        },
        headers::{join_cookies, remove_private_headers, remove_underscore_spellings},
        target::to_origin_form,
        validate::{check_backend_request, check_message},
    },
    metrics::{backend::metered, registry::Dropped},
    net::{
        connections::Connections,
        listener::{Listener, RefusalCounters},
        request_body::prefetch,
    },
    proxy,
    shutdown::Shutdown,
    state::Services,
    upstream::{
        passthrough::PassthroughRoute,
        tunnel::{self, Tunnels},
    },
    ws::handshake,
};

/// Handles the requests of clients.
pub(crate) struct Gateway {
    rules: ArcSwap<Rules>,
    tunnels: Arc<Tunnels>,
    /// Injects the reload script into pages; only with `--watch`.
    reload: Option<Arc<Reload>>,
    /// The value of `Strict-Transport-Security`.
    hsts: Option<HeaderValue>,
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
    /// that time after each response.
    pub(crate) fn new(
        rules: Rules,
        tunnels: Arc<Tunnels>,
        reload: Option<Arc<Reload>>,
        hsts: Option<Duration>,
        shutdown: Shutdown,
    ) -> Self {
        let hsts = hsts.map(|time| format!("max-age={}", time.as_secs()));
        Self {
            rules: ArcSwap::from_pointee(rules),
            tunnels,
            reload,
            hsts: hsts.and_then(|value| HeaderValue::try_from(value).ok()),
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
        let connections = Connections::new(metrics.connections.clone(), max_connections);
        let refused = RefusalCounters {
            full: metrics.dropped(Dropped::Full),
            tls_handshake: metrics.dropped(Dropped::TlsHandshake),
            accept: metrics.dropped(Dropped::Accept),
        };
        let drain = self.shutdown.drain.clone();
        let reload = self.reload.clone();
        let handler = move |request: Request<Incoming>, client| {
            let span =
                debug_span!("request", method = %request.method(), path = request.uri().path());
            let gateway = self.clone();
            let handle = async move {
                let mut response = gateway.handle(request, client).await;
                if let Some(value) = gateway.hsts.as_ref().filter(|_| client.is_secure) {
                    let headers = response.headers_mut();
                    headers
                        .entry(header::STRICT_TRANSPORT_SECURITY)
                        .or_insert_with(|| value.clone());
                }
                response
            };
            handle.instrument(span)
        };
        listener
            .serve(Arc::new(handler), connections, refused, drain)
            .await;
        if let Some(reload) = reload {
            reload.closed().await;
        }
    }

    /// Handles one request of a client.
    async fn handle(&self, mut request: Request<Incoming>, client: Client) -> Response<Body> {
        let checked = check_message(&request).and_then(|()| check_backend_request(&request));
        if let Err(refusal) = checked {
            return refusal_response(refusal);
        }
        to_origin_form(&mut request);
        // The reload endpoint takes precedence over the routes of the application.
        let reload = self.reload.as_ref();
        if let Some(response) = reload.and_then(|reload| reload.handle(&mut request)) {
            return response;
        }
        let rules = self.rules();
        if rules.private.matches(request.uri().path()) {
            return not_found();
        }
        remove_private_headers(request.headers_mut());
        remove_underscore_spellings(request.headers_mut());
        join_cookies(request.headers_mut());
        request.extensions_mut().insert(Caller::Client(client));
        if let Some(passthrough) = rules.passthroughs.find(request.uri().path()) {
            let upstream = &passthrough.upstream;
            if let Some(protocols) = tunnel::requested_protocols(&request) {
                let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
                return self.tunnels.open(upstream, request, &protocols).await;
            }
            // Not signed: the key is shared with the application, and this is another server.
            if passthrough.forwards_plain_requests {
                let request = match prefetch(request).await {
                    Ok(request) => request,
                    Err(error) => return request_body_error_response(error),
                };
                let response = upstream.call(request);
                let metrics = &rules.services.metrics;
                let response = metered(response, metrics, upstream.name()).await;
                return response.unwrap_or_else(|error| backend_error_response(&error));
            }
        }
        if handshake::is_upgrade(&request) {
            return handshake::open(&rules.services, request, client).await;
        }
        let script = reload.and_then(|reload| reload.prepare(&mut request));
        let request = match prefetch(request).await {
            Ok(request) => request,
            Err(error) => return request_body_error_response(error),
        };
        let response = proxy::forward(&rules.services, request).await;
        match script {
            Some(script) => script.inject(response),
            None => response,
        }
    }
}
