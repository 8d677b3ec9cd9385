//! The control port: where components publish, and where the host says how it is.

use std::{net::SocketAddr, sync::Arc};

use grip::publish;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::json;
use tracing::error;

use crate::{answer::answer, publication::Publication, session::Services};
use runtime::backend::{Body, full};

/// The most bytes in one publish request.
const MAX_PUBLISH: usize = 10 * 1024 * 1024;

/// Serves the control port.
pub struct Control {
    services: Arc<Services>,
    /// Publishing needs a token that the host's key has signed.
    locked: bool,
}

impl Control {
    /// A control port that asks for a token when it is `locked`.
    pub fn new(services: Arc<Services>, locked: bool) -> Self {
        Self { services, locked }
    }

    /// Answers one request.
    pub async fn handle(&self, request: Request<Incoming>, _client: SocketAddr) -> Response<Body> {
        match (request.uri().path(), request.method()) {
            ("/publish" | "/publish/", &Method::POST) => self.publish(request).await,
            ("/publish" | "/publish/", _) => not_allowed("POST"),
            ("/healthz", &Method::GET | &Method::HEAD) => self.health(),
            ("/healthz", _) => not_allowed("GET, HEAD"),
            _ => answer(
                StatusCode::NOT_FOUND,
                "the control port has POST /publish/ and GET /healthz",
            ),
        }
    }

    async fn publish(&self, request: Request<Incoming>) -> Response<Body> {
        if let Err(why) = self.authorize(request.headers()) {
            let mut refusal = answer(StatusCode::UNAUTHORIZED, why);
            refusal
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return refusal;
        }
        let body = match Limited::new(request.into_body(), MAX_PUBLISH)
            .collect()
            .await
        {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                return answer(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    &format!("a publish may have {MAX_PUBLISH} bytes at most"),
                );
            }
            Err(error) => {
                return answer(
                    StatusCode::BAD_REQUEST,
                    &format!("the body ended early: {error}"),
                );
            }
        };
        let items = match publish::parse(&body) {
            Ok(items) => items,
            Err(error) => return answer(StatusCode::BAD_REQUEST, &error.to_string()),
        };
        let publications = items.into_iter().map(Publication::new);
        let publications = match publications.collect::<Result<Vec<_>, _>>() {
            Ok(publications) => publications,
            Err(error) => return answer(StatusCode::BAD_REQUEST, &error.to_string()),
        };
        // To the end, also when the publisher is gone: what is for all must not reach some.
        let channels = self.services.channels.clone();
        let published = tokio::spawn(async move {
            for publication in publications {
                channels.publish(publication).await;
            }
        });
        if let Err(error) = published.await {
            error!("publishing failed: {error}");
            return answer(StatusCode::INTERNAL_SERVER_ERROR, "publishing failed");
        }
        answer(StatusCode::OK, "Published")
    }

    /// A token is needed on a locked port, and from a browser: a page of any origin can
    /// send a POST to loopback. One that is sent must be good everywhere.
    fn authorize(&self, headers: &HeaderMap) -> Result<(), &'static str> {
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
            Some(token) if self.services.signer.verifies(token.trim()) => Ok(()),
            Some(_) => Err("the token is not signed with this host's key, or has expired"),
            None if self.locked || from_browser => {
                Err("a token signed with this host's key is needed")
            }
            None => Ok(()),
        }
    }

    fn health(&self) -> Response<Body> {
        let services = &self.services;
        let mut response = Response::new(full(
            json!({
                "status": "ok",
                "sessions": services.sessions.len(),
                "holds": {
                    "stream": services.holds.streams(),
                    "response": services.holds.responses(),
                },
                "channels": services.channels.len(),
                "subscriptions": services.channels.subscriptions(),
            })
            .to_string(),
        ));
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        response
    }
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
    use grip::Key;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{channels::Channels, holds::Holds, sessions::Sessions, signer::Signer};
    use runtime::{
        backend::{Answer, Backend, BackendError},
        manifest::WebSocketLimits,
    };

    const KEY: &str = "a key of some length, since it has to be";

    struct Nobody;

    impl Backend for Nobody {
        fn call(&self, request: Request<Body>) -> Answer<'_> {
            let path = request.uri().path().to_owned();
            Box::pin(async { Err(BackendError::NoRoute { path }) })
        }
    }

    fn control(locked: bool) -> Control {
        let services = Services {
            backend: Arc::new(Nobody),
            channels: Channels::default(),
            sessions: Sessions::new(1),
            holds: Holds::new(1, CancellationToken::new()),
            signer: Signer::new(Key::parse(KEY).expect("a key")),
            limits: WebSocketLimits::default(),
        };
        Control::new(Arc::new(services), locked)
    }

    #[test]
    fn who_may_publish() {
        let token = Signer::new(Key::parse(KEY).expect("a key")).token();
        let token = token.to_str().expect("a token");
        let may = |locked, name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_str(value).expect("a value"));
            control(locked).authorize(&headers).is_ok()
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
}
