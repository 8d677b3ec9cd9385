//! What the cache does with the response to a request that it forwards.

use std::sync::Arc;

use http::{HeaderMap, Response, header};
use http_body::Body as _;
use spin_runtime::backend::Body;

use super::{
    entry::Head, fetch::Fetch, fill::Fill, key::Key, resources::Resources, status::ForwardReason,
};

/// A request that the cache forwards to the backend.
pub(crate) struct Forward(pub(super) Purpose);

pub(super) enum Purpose {
    /// The response is passed on.
    Pass(ForwardReason),
    /// The response may be stored.
    Fetch(ForwardReason, Fetch),
    /// The request changes the resource, so what is stored for it is removed.
    Change(Arc<Resources>, Key),
}

impl Forward {
    /// Stores a response if it never changes, and returns it for the client. `request` are the headers
    /// of the request.
    pub(crate) fn store(self, request: &HeaderMap, response: Response<Body>) -> Response<Body> {
        let Self(Purpose::Fetch(reason, fetch)) = self else {
            let mut response = response;
            self.pass(&mut response);
            return response;
        };
        let (mut parts, body) = response.into_parts();
        let delay = fetch.started.elapsed();
        let Some(head) = Head::new(request, &parts, delay) else {
            let mut response = Response::from_parts(parts, body);
            Self(Purpose::Fetch(reason, fetch)).pass(&mut response);
            return response;
        };
        let length = content_length(&parts.headers, &body);
        let body = match Fill::new(fetch, head, length) {
            Ok(fill) => {
                reason.append_to(&mut parts.headers, true);
                fill.start(body)
            }
            Err(fetch) => {
                reason.append_to(&mut parts.headers, false);
                fetch.decline();
                body
            }
        };
        Response::from_parts(parts, body)
    }

    /// Handles a response that is not stored.
    pub(crate) fn pass(self, response: &mut Response<Body>) {
        let status = response.status();
        match self.0 {
            Purpose::Pass(reason) => reason.append_to(response.headers_mut(), false),
            Purpose::Fetch(reason, fetch) => {
                reason.append_to(response.headers_mut(), false);
                if status.is_server_error() {
                    fetch.fail();
                } else {
                    fetch.decline();
                }
            }
            // RFC 9111, section 4.4.
            Purpose::Change(resources, key) => {
                if status.is_success() || status.is_redirection() {
                    resources.invalidate(&key);
                }
            }
        }
    }
}

/// Returns the length of a content, if it is known.
fn content_length(headers: &HeaderMap, body: &Body) -> Option<u64> {
    let declared = headers.get(header::CONTENT_LENGTH);
    let declared = declared.and_then(|value| value.to_str().ok()?.parse().ok());
    declared.or(body.size_hint().exact())
}
