//! Dispatches HTTP requests to a handler.

use bytes::Bytes;
use grip::header;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, request::Parts};

use crate::{Error, Handler, configuration::Unauthorized, events, hold, platform, stream};

/// Handles a request, whatever kind it is of. [`export!`](crate::export) calls this.
///
/// Components that also handle requests by other means call it for those that belong to a handler:
/// events of WebSockets, and requests for a stream of server-sent events. Others go to
/// [`Handler::request`].
pub async fn serve(handler: &impl Handler, request: Request<Bytes>) -> Response<Bytes> {
    let (head, body) = request.into_parts();
    if has_events(&head) {
        return match platform::authenticate(&head.headers).await {
            Ok(()) => events::respond(handler, &head, body).await,
            Err(error) => refuse(error),
        };
    }
    if stream::is_requested(&head) {
        // Without a host, the stream ends, and the client asks again.
        let is_held = match platform::authenticate(&head.headers).await {
            Ok(()) => true,
            Err(Unauthorized::Token(_)) => false,
            Err(error) => return refuse(error),
        };
        return stream::respond(handler, &head, is_held).await;
    }
    let headers = head.headers.clone();
    match handler.request(Request::from_parts(head, body)).await {
        Ok(response) if hold::is_hold(&response) => match platform::authenticate(&headers).await {
            Ok(()) => response,
            Err(error) => refuse(error),
        },
        Ok(response) => response,
        Err(error) => failure("handle a request", &error),
    }
}

/// Checks that the GRIP host has sent a request with these headers.
///
/// [`serve`] does so by itself where it matters. Other requests that only the host may send are those
/// of timers.
pub async fn authenticate(headers: &HeaderMap) -> Result<(), Unauthorized> {
    platform::authenticate(headers).await
}

/// Whether a request has the events of a WebSocket.
fn has_events(head: &Parts) -> bool {
    head.method == Method::POST
        && content_type(&head.headers).is_some_and(header::is_websocket_events)
}

fn content_type(headers: &HeaderMap) -> Option<&str> {
    headers.get("content-type")?.to_str().ok()
}

/// Responds to a request that only the GRIP host may send.
fn refuse(error: Unauthorized) -> Response<Bytes> {
    match error {
        Unauthorized::Token(reason) => text_response(StatusCode::FORBIDDEN, &reason),
        Unauthorized::Configuration(error) => failure("verify the GRIP host", &error.into()),
    }
}

/// Logs an error and returns a response that does not reveal it.
pub(crate) fn failure(what: &str, error: &Error) -> Response<Bytes> {
    log_failure(what, error);
    let message = "internal error: see the component's log";
    text_response(StatusCode::INTERNAL_SERVER_ERROR, message)
}

pub(crate) fn log_failure(what: &str, error: &Error) {
    eprintln!("failed to {what}: {error:#}");
}

/// Returns a plain-text response with one line.
pub(crate) fn text_response(status: StatusCode, message: &str) -> Response<Bytes> {
    let body = Bytes::from(format!("{message}\n"));
    let length = HeaderValue::from(body.len());
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert("content-type", text);
    headers.insert("content-length", length);
    response
}
