//! Plain requests: sends them to the application, and the response to the client.

use std::sync::Arc;

use http::HeaderMap;
use spin_runtime::backend::{Body, Caller};

use crate::{
    failure::error_response,
    grip_response::{self, GripResponse},
    hold,
    host::Host,
    request::ClientRequest,
    response::Response,
};

/// Serves a request of a client.
pub(crate) async fn serve(host: Arc<Host>, request: ClientRequest, client: Response) {
    if let Some(refusal) = host.refuse(&request) {
        return client.receive(refusal).await;
    }
    let fetched = grip_response::fetch(&host, &request, &HeaderMap::new()).await;
    let GripResponse { instruct, response } = fetched;
    match instruct {
        Some(instruct) if instruct.hold.is_some() || instruct.next.is_some() => {
            hold::run(host, request, client, instruct, response).await;
        }
        _ => send(&host, &request, &client, response).await,
    }
}

/// Serves a request of the host itself, for a timer. The response is not held.
pub(crate) async fn serve_host(host: &Host, request: &ClientRequest, client: &Response) {
    let mut to_backend = request.to_backend();
    to_backend.extensions_mut().insert(Caller::Host);
    host.sign(to_backend.headers_mut());
    let response = host.call(to_backend).await;
    let response = response.unwrap_or_else(|error| error_response(&error));
    send(host, request, client, response).await;
}

/// Sends a response to a client while its body arrives.
async fn send(
    host: &Host,
    request: &ClientRequest,
    client: &Response,
    response: http::Response<Body>,
) {
    client.receive(response).await;
    if let Some(error) = client.error() {
        host.fail(request.uri.path(), error);
    }
}
