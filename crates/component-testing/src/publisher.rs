//! The control port of the GRIP host, to which components publish.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use grip::{Item, Key, publish, signature};
use http::{HeaderValue, Method, Uri, header};
use parking_lot::Mutex;
use spin_runtime::simulation::SimulatedClock;

use crate::{channels::Channels, outbound::OutboundRequest, reply::Reply};

/// The `iss` claim of the host's tokens.
const ISSUER: &str = "component-testing";
/// How long a token of the host is valid.
const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);

/// An item that a component, or the test itself, has published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// The id of the component. Empty for the test itself, and for a component that has used
    /// `socket-host:websocket/channels`.
    pub component: String,
    /// When it was published.
    pub time: SystemTime,
    /// The item.
    pub item: Item,
}

/// How publishing fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishFailure {
    /// The control port cannot be reached.
    #[error("the control port cannot be reached")]
    Unreachable,
    /// The control port responds with this status, and publishes nothing.
    #[error("publishing failed with status {0}")]
    Status(u16),
    /// The items are published, and the response is lost.
    #[error("the connection was lost before the response")]
    ResponseLost,
}

/// The control port. Clones share its state.
#[derive(Clone)]
pub(crate) struct Publisher(Arc<Inner>);

struct Inner {
    /// The URL for publishing, without a slash at the end.
    url: String,
    /// The key of the host.
    key: Key,
    clock: SimulatedClock,
    channels: Channels,
    publications: Mutex<Vec<Publication>>,
    failure: Mutex<Option<PublishFailure>>,
}

impl Publisher {
    /// Creates the control port with the URL `grip_url`.
    pub(crate) fn new(grip_url: &str, key: Key, clock: SimulatedClock, channels: Channels) -> Self {
        Self(Arc::new(Inner {
            url: format!("{}/publish", grip_url.trim_end_matches('/')),
            key,
            clock,
            channels,
            publications: Mutex::default(),
            failure: Mutex::default(),
        }))
    }

    /// Returns whether a request to this URI publishes.
    pub(crate) fn is_for(&self, uri: &Uri) -> bool {
        let uri = uri.to_string();
        let uri = uri.split('?').next().unwrap_or_default();
        uri.trim_end_matches('/') == self.0.url
    }

    /// Returns a token with which the host signs its requests.
    pub(crate) fn token(&self) -> HeaderValue {
        let token = signature::sign(&self.0.key, ISSUER, self.0.clock.now(), TOKEN_LIFETIME);
        // Tokens consist of base64url and dots.
        HeaderValue::from_str(&token).unwrap_or(HeaderValue::from_static(""))
    }

    /// Answers a request to the control port.
    pub(crate) fn receive(&self, request: &OutboundRequest) -> Reply {
        if request.method != Method::POST {
            return Reply::status(405);
        }
        if let Err(reason) = self.authorize(request) {
            return refusal(401, &reason);
        }
        let items = match publish::parse(&request.body) {
            Ok(items) => items,
            Err(error) => return refusal(400, &error.to_string()),
        };
        match self.try_publish(&request.component, items) {
            Ok(()) => Reply::ok("Published\n"),
            Err(PublishFailure::Unreachable) => Reply::refuse(),
            Err(PublishFailure::Status(status)) => Reply::status(status),
            Err(failure @ PublishFailure::ResponseLost) => Reply::error(failure.to_string()),
        }
    }

    /// Publishes items of a component.
    ///
    /// # Errors
    /// Fails if publishing is set to fail. With [`PublishFailure::ResponseLost`], the items are published
    /// nevertheless.
    pub(crate) fn try_publish(
        &self,
        component: &str,
        items: Vec<Item>,
    ) -> Result<(), PublishFailure> {
        let failure = *self.0.failure.lock();
        if matches!(failure, None | Some(PublishFailure::ResponseLost)) {
            self.publish(component, items);
        }
        failure.map_or(Ok(()), Err)
    }

    /// Checks the token. As at a control port on loopback, it may be missing.
    fn authorize(&self, request: &OutboundRequest) -> Result<(), String> {
        let Some(value) = request.headers.get(header::AUTHORIZATION) else {
            return Ok(());
        };
        let value = value.to_str().unwrap_or_default();
        let token = match value.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
            _ => "",
        };
        match signature::verify(&self.0.key, token, self.0.clock.now()) {
            Ok(_) => Ok(()),
            Err(_) if self.0.key.matches(token) => Ok(()),
            Err(error) => Err(format!("invalid token: {error}")),
        }
    }

    /// Publishes items.
    pub(crate) fn publish(&self, component: &str, items: Vec<Item>) {
        for item in items {
            self.0.publications.lock().push(Publication {
                component: component.to_owned(),
                time: self.0.clock.now(),
                item: item.clone(),
            });
            self.0.channels.publish(item);
        }
    }

    pub(crate) fn set_failure(&self, failure: Option<PublishFailure>) {
        *self.0.failure.lock() = failure;
    }

    /// Returns what was published so far.
    pub(crate) fn publications(&self) -> Vec<Publication> {
        self.0.publications.lock().clone()
    }
}

/// Returns the reply to a request that is refused.
fn refusal(status: u16, reason: &str) -> Reply {
    tracing::warn!(status, reason, "publish request refused");
    let mut response = http::Response::new(format!("{reason}\n"));
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
    response.into()
}
