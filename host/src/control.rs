//! The control port: where components publish, and where the host says how it is.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use grip::publish;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::{
    http::{error_response::answer, signer::Signer},
    metrics::registry,
    pubsub::publication::{InvalidItem, Publication},
    state::Services,
};
use spin_runtime::backend::{Body, full};

/// The most bytes in one publish request.
const MAX_PUBLISH: usize = 10 * 1024 * 1024;

/// Serves the control port.
pub(crate) struct Control {
    /// Missing while the host starts.
    services: OnceLock<Arc<Services>>,
    /// Publishing needs a token that the host's key has signed.
    locked: bool,
    /// Cancelled when the host stops.
    stop: CancellationToken,
}

impl Control {
    /// A control port that asks for a token when it is `locked`, of a host that starts.
    pub(crate) fn new(locked: bool, stop: CancellationToken) -> Self {
        Self {
            services: OnceLock::new(),
            locked,
            stop,
        }
    }

    /// Says from now on that the host is ready, and publishes.
    pub(crate) fn serve(&self, services: Arc<Services>) {
        // There is one start.
        let _ = self.services.set(services);
    }

    /// Answers one request.
    pub(crate) async fn handle(
        &self,
        request: Request<Incoming>,
        _client: SocketAddr,
    ) -> Response<Body> {
        let (path, method) = (request.uri().path(), request.method());
        match path {
            "/publish" | "/publish/" if method != Method::POST => return not_allowed("POST"),
            "/healthz" | "/readyz" | "/metrics"
                if method != Method::GET && method != Method::HEAD =>
            {
                return not_allowed("GET, HEAD");
            }
            "/publish" | "/publish/" | "/healthz" | "/readyz" | "/metrics" => {}
            _ => {
                return answer(
                    StatusCode::NOT_FOUND,
                    "the control port has POST /publish/, GET /healthz, GET /readyz and GET /metrics",
                );
            }
        }
        let Some(services) = self.services.get() else {
            return match path {
                "/healthz" => json(json!({ "status": "starting" })),
                _ => answer(StatusCode::SERVICE_UNAVAILABLE, "starting"),
            };
        };
        match path {
            "/healthz" => health(services),
            "/readyz" if self.stop.is_cancelled() => {
                answer(StatusCode::SERVICE_UNAVAILABLE, "stopping")
            }
            "/readyz" => answer(StatusCode::OK, "ready"),
            "/metrics" => metrics(services),
            _ => self.publish(services, request).await,
        }
    }

    async fn publish(&self, services: &Services, request: Request<Incoming>) -> Response<Body> {
        let (response, items) = self.published(services, request).await;
        let status = response.status().as_u16();
        services.metrics.publish(status, items);
        response
    }

    /// Publishes what a request asks for, and says how many items went out.
    async fn published(
        &self,
        services: &Services,
        request: Request<Incoming>,
    ) -> (Response<Body>, usize) {
        let publications = match self.publications(services, request).await {
            Ok(publications) => publications,
            Err(refusal) => return (*refusal, 0),
        };
        let items = publications.len();
        // To the end, also when the publisher is gone: what is for all must not reach some.
        let channels = services.channels.clone();
        let published = tokio::spawn(async move {
            let mut publications = publications.into_iter().peekable();
            while let Some(publication) = publications.next() {
                let channel = publication.channel.clone();
                channels.publish(publication).await;
                // Who is on both channels gets the items in their order.
                if publications
                    .peek()
                    .is_some_and(|next| next.channel != channel)
                {
                    channels.settled(&channel).await;
                }
            }
        });
        if let Err(error) = published.await {
            error!("publishing failed: {error}");
            let failure = answer(StatusCode::INTERNAL_SERVER_ERROR, "publishing failed");
            return (failure, 0);
        }
        (answer(StatusCode::OK, "Published"), items)
    }

    /// Reads what a request publishes.
    async fn publications(
        &self,
        services: &Services,
        request: Request<Incoming>,
    ) -> Result<Vec<Publication>, Box<Response<Body>>> {
        let refuse = |status, text: &str| Err(Box::new(answer(status, text)));
        if let Err(why) = self.authorize(&services.signer, request.headers()) {
            let mut refusal = answer(StatusCode::UNAUTHORIZED, why);
            refusal
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return Err(Box::new(refusal));
        }
        let body = match Limited::new(request.into_body(), MAX_PUBLISH)
            .collect()
            .await
        {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                return refuse(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    &format!("a publish may have {MAX_PUBLISH} bytes at most"),
                );
            }
            Err(error) => {
                return refuse(
                    StatusCode::BAD_REQUEST,
                    &format!("the body ended early: {error}"),
                );
            }
        };
        let items = match publish::parse(&body) {
            Ok(items) => items,
            Err(error) => return refuse(StatusCode::BAD_REQUEST, &error.to_string()),
        };
        let publications = items.into_iter().map(Publication::new);
        match publications.collect() {
            Ok(publications) => Ok(publications),
            Err(error) => {
                let error: InvalidItem = error;
                refuse(StatusCode::BAD_REQUEST, &error.to_string())
            }
        }
    }

    /// A token is needed on a locked port, and from a browser: a page of any origin can
    /// send a POST to loopback. One that is sent must be good everywhere.
    fn authorize(&self, signer: &Signer, headers: &HeaderMap) -> Result<(), &'static str> {
        let token = headers.get(header::AUTHORIZATION).map(|value| {
            value
                .to_str()
                .ok()
                .and_then(|value| value.split_once(' '))
                .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
                .map_or("", |(_, token)| token)
        });
        let from_browser =
            headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site");
        match token {
            Some(token) if signer.verifies(token.trim()) => Ok(()),
            Some(_) => Err("the token is not signed with this host's key, or has expired"),
            None if self.locked || from_browser => {
                Err("a token signed with this host's key is needed")
            }
            None => Ok(()),
        }
    }
}

fn health(services: &Services) -> Response<Body> {
    json(json!({
        "status": "ok",
        "sessions": services.sessions.len(),
        "holds": {
            "stream": services.holds.streams(),
            "response": services.holds.responses(),
        },
        "channels": services.channels.len(),
        "subscriptions": services.channels.subscriptions(),
    }))
}

fn metrics(services: &Services) -> Response<Body> {
    typed(
        registry::CONTENT_TYPE,
        services.metrics.text(&services.snapshot()),
    )
}

fn json(value: Value) -> Response<Body> {
    typed("application/json", value.to_string())
}

fn typed(content_type: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(full(text));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn not_allowed(methods: &'static str) -> Response<Body> {
    let mut refusal = answer(
        StatusCode::METHOD_NOT_ALLOWED,
        &format!("the methods here are {methods}"),
    );
    refusal
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static(methods));
    refusal
}

#[cfg(test)]
mod tests {
    use grip::{Item, Key};
    use spin_runtime::{
        backend::{Answer, AnsweredBy, Backend, BackendError, empty},
        manifest::WebSocketLimits,
    };

    use super::*;
    use crate::{
        metrics::close_reason::CloseReason, net::frame, pubsub::filter::Filters, ws::outbox::Outbox,
    };

    const KEY: &str = "a key of some length, since it has to be";

    #[test]
    fn who_may_publish() {
        let signer = Signer::new(Key::parse(KEY).expect("a key"));
        let token = signer.token();
        let token = token.to_str().expect("a token");
        let may = |locked, name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_str(value).expect("a value"));
            Control::new(locked, CancellationToken::new())
                .authorize(&signer, &headers)
                .is_ok()
        };
        for locked in [true, false] {
            assert!(may(locked, "authorization", &format!("Bearer {token}")));
            assert!(may(locked, "authorization", &format!("bearer  {token}")));
            assert!(may(locked, "authorization", &format!("Bearer {KEY}")));
            for wrong in ["Bearer", "Bearer ", "Bearer x", "Basic eDp5", KEY, token] {
                assert!(!may(locked, "authorization", wrong), "{wrong}");
            }
            assert!(!may(locked, "origin", "http://localhost:3000"));
            assert!(!may(locked, "sec-fetch-site", "same-site"));
        }
        assert!(may(false, "x-nothing", "") && !may(true, "x-nothing", ""));
    }

    /// Answers `/`, as a component, and nothing else.
    struct Backends;

    impl Backend for Backends {
        fn call(&self, request: Request<Body>) -> Answer<'_> {
            let path = request.uri().path().to_owned();
            Box::pin(async move {
                if path != "/" {
                    return Err(BackendError::NoRoute { path });
                }
                let mut response = Response::new(empty());
                response.extensions_mut().insert(AnsweredBy("page".into()));
                Ok(response)
            })
        }

        fn instances(&self) -> Vec<(Arc<str>, usize)> {
            vec![("page".into(), 3)]
        }
    }

    fn services() -> Services {
        let key = Key::parse(KEY).expect("a key");
        let (signer, stop) = (Signer::new(key), CancellationToken::new());
        let limits = WebSocketLimits::default();
        Services::new(Arc::new(Backends), "own", signer, limits, stop)
    }

    fn item(id: Option<&str>) -> Publication {
        let item = Item::ws_text("c", "hello");
        let item = match id {
            Some(id) => item.with_id(id, None),
            None => item,
        };
        Publication::new(item).expect("an item")
    }

    #[tokio::test]
    async fn metrics_count_what_happens() {
        let services = services();
        for path in ["/", "/", "/nowhere"] {
            let request = Request::get(path).body(empty()).expect("a request");
            let _ = services.backend.call(request).await;
        }
        let outbox = Outbox::new(1000);
        let _registration = services.sessions.register(outbox.clone());
        let channels = &services.channels;
        let _subscribed = channels.subscribe("c", outbox.clone(), Filters::default());
        let _twice = channels.subscribe("c", outbox.clone(), Filters::default());
        for id in [None, Some("1"), Some("1")] {
            channels.publish(item(id)).await;
        }
        outbox.close(frame::close(frame::AWAY, ""), CloseReason::Shutdown);
        let metrics = &services.metrics;
        metrics.ended(CloseReason::Slow);
        metrics.publish(200, 3);
        metrics.timer("/tick", true);
        metrics.timer("/tick", false);
        metrics.received.add(1, 5);
        let text = metrics.text(&services.snapshot());
        for line in [
            "socket_host_build_info{version=\"0.1.0\"} 1",
            "socket_host_sessions{state=\"closing\"} 1",
            "socket_host_sessions{state=\"open\"} 0",
            "socket_host_channels 1",
            "socket_host_subscriptions 2",
            "socket_host_instances{component=\"page\"} 3",
            // Of three publications one had been there; each of the others went to two.
            "socket_host_published_messages_total 4",
            "socket_host_published_bytes_total 28",
            "socket_host_dropped_total{reason=\"duplicate\"} 1",
            "socket_host_dropped_total{reason=\"full\"} 0",
            "socket_host_sessions_ended_total{reason=\"slow\"} 1",
            "socket_host_sessions_ended_total{reason=\"client\"} 0",
            "socket_host_publishes_total{status=\"200\"} 1",
            "socket_host_items_total 3",
            "socket_host_timer_runs_total{timer=\"/tick\",outcome=\"failure\"} 1",
            "socket_host_received_bytes_total 5",
            "socket_host_backend_requests_total{component=\"page\",status=\"200\"} 2",
            "socket_host_backend_requests_total{component=\"own\",status=\"no-route\"} 1",
            "socket_host_backend_seconds_count{component=\"page\"} 2",
            "# EOF",
        ] {
            assert!(
                text.lines().any(|told| told == line),
                "{line} is not in\n{text}"
            );
        }
    }
}
