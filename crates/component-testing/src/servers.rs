//! The servers that components send requests to: the GRIP host's control port, and fakes of a test.

use std::sync::Arc;

use http::Request;
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use spin_runtime::{
    backend::Body,
    simulation::{ServerError, ServerFuture, Servers, SimulatedClock},
};

use crate::{
    outbound::{Fake, OutboundRequest},
    publisher::Publisher,
    reply::Reply,
    shuffle::Shuffle,
};

/// The servers. Clones share the list of requests.
#[derive(Clone)]
pub(crate) struct SimulatedServers(Arc<Inner>);

struct Inner {
    clock: SimulatedClock,
    publisher: Publisher,
    fake: Option<Fake>,
    shuffle: Shuffle,
    requests: Mutex<Vec<OutboundRequest>>,
}

impl SimulatedServers {
    pub(crate) fn new(
        clock: SimulatedClock,
        publisher: Publisher,
        fake: Option<Fake>,
        shuffle: Shuffle,
    ) -> Self {
        Self(Arc::new(Inner {
            clock,
            publisher,
            fake,
            shuffle,
            requests: Mutex::default(),
        }))
    }

    /// Returns the requests so far, without those to the control port.
    pub(crate) fn requests(&self) -> Vec<OutboundRequest> {
        self.0.requests.lock().clone()
    }
}

impl Servers for SimulatedServers {
    fn send(&self, component: &str, request: Request<Body>) -> ServerFuture {
        let (inner, component) = (self.0.clone(), component.to_owned());
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map_err(|error| {
                ServerError::Other(format!("the body of the request failed: {error}"))
            })?;
            let request = OutboundRequest {
                component,
                time: inner.clock.now(),
                method: parts.method,
                uri: parts.uri,
                headers: parts.headers,
                body: body.to_bytes(),
            };
            inner.shuffle.delay().await;
            if inner.publisher.is_for(&request.uri) {
                return inner.publisher.receive(&request).send().await;
            }
            let reply = match &inner.fake {
                Some(fake) => fake(&request),
                None => Reply::error(format!(
                    "no fake server for {}: pass one to TestAppBuilder::outbound",
                    request.uri
                )),
            };
            inner.requests.lock().push(request);
            reply.send().await
        })
    }
}
