//! Routes requests to the modules that serve them, and checks who sent them.

use std::{future::Future, time::SystemTime};

use bytes::Bytes;
use encoding::Encoding;
use http_body_util::Full;
use rand::Rng;
use sockets::{
    authenticate,
    store::{Entry, StoreError},
};
use spin_sdk::http::{HeaderMap, Method, Request, StatusCode};

use crate::{
    event_stream,
    history::UpdateError,
    orders::Orders,
    query::{Query, parse_number},
    response::{self, Response},
    update,
    websocket::Socket,
};

/// The maximum size of the WebSocket events in one request.
const MAX_EVENTS_BYTES: usize = 1 << 20;

/// Serves HTTP requests.
#[derive(Debug)]
pub(crate) struct Router {
    pub(crate) orders: Orders,
}

impl Router {
    /// Handles one request.
    ///
    /// `read_body` and `rng` are called only by routes that need them. `read_body` takes the
    /// maximum size of the body in bytes. A HEAD is handled like a GET, and the host drops the
    /// body.
    pub(crate) async fn handle<B, F, R: Rng>(
        &self,
        request: Request<()>,
        read_body: B,
        rng: impl FnOnce() -> R,
        now: SystemTime,
    ) -> Response
    where
        B: FnOnce(usize) -> F,
        F: Future<Output = Result<Bytes, String>>,
    {
        let headers = request.headers();
        let is_get = matches!(*request.method(), Method::GET | Method::HEAD);
        let is_post = *request.method() == Method::POST;
        match request.uri().path() {
            "/api/orders" if is_get => self.list(&request).await,
            "/api/orders" => response::method_not_allowed("GET, HEAD"),
            event_stream::PATH if is_get => self.stream(&request).await,
            event_stream::PATH => response::method_not_allowed("GET, HEAD"),
            "/api/ws" if is_post && has_websocket_events(headers) => {
                match read_body(MAX_EVENTS_BYTES).await {
                    Ok(body) => self.websocket(request.map(|()| body)).await,
                    Err(message) => bad_body(&message),
                }
            }
            "/api/ws" if is_get => {
                let message = "upgrade required: open a WebSocket through a GRIP host";
                response::text(StatusCode::UPGRADE_REQUIRED, message)
            }
            "/api/ws" if is_post => {
                let message = format!("content-type: expected {}", grip::header::WEBSOCKET_EVENTS);
                response::text(StatusCode::UNSUPPORTED_MEDIA_TYPE, &message)
            }
            "/api/ws" => response::method_not_allowed("GET, HEAD, POST"),
            "/internal/orders" => match authenticate(headers).await {
                Ok(()) if is_post => self.create(&mut rng(), now).await,
                Ok(()) => response::method_not_allowed("POST"),
                Err(error) => response::text(StatusCode::FORBIDDEN, error.reason()),
            },
            path => match order_path(path) {
                Some((id, None)) if is_get => self.get(id).await,
                Some((_, None)) => response::method_not_allowed("GET, HEAD"),
                Some((id, Some("status"))) if is_post => match update::check_headers(&request) {
                    Ok(()) => {
                        let body = read_body(update::MAX_BODY_BYTES).await;
                        self.update(id, body).await
                    }
                    Err((status, reason)) => response::text(status, reason),
                },
                Some((_, Some("status"))) => response::method_not_allowed("POST"),
                _ => response::text(StatusCode::NOT_FOUND, "not found"),
            },
        }
    }

    async fn list(&self, request: &Request<()>) -> Response {
        let query = match Query::parse(request.uri().query().unwrap_or_default()) {
            Ok(query) => query,
            Err(message) => return response::text(StatusCode::BAD_REQUEST, &message),
        };
        let history = &self.orders.history;
        let orders = match query {
            Query::Latest { limit } => history.latest(limit).await,
            Query::After { id, limit } => history.after(id, limit).await,
        };
        match orders {
            Ok(orders) => {
                // The stored orders are JSON already.
                let orders: Vec<Vec<u8>> = orders.into_iter().map(|order| order.value).collect();
                let body = [&br#"{"orders":["#[..], &orders.join(&b','), b"]}"].concat();
                let accepted = request.headers().get_all("accept-encoding").iter();
                response::compressed_json(StatusCode::OK, body, Encoding::choose(accepted))
            }
            Err(error) => history_error(error),
        }
    }

    /// Serves the event stream. The response is held open if the GRIP host sent the request.
    async fn stream(&self, request: &Request<()>) -> Response {
        let query = request.uri().query().unwrap_or_default();
        let after = match event_stream::parse_position(query, request.headers()) {
            Ok(after) => after,
            Err(message) => return response::text(StatusCode::BAD_REQUEST, &message),
        };
        let hold =
            *request.method() == Method::GET && authenticate(request.headers()).await.is_ok();
        match event_stream::respond(&self.orders.history, after, hold).await {
            Ok(response) => response,
            Err(error) => history_error(error),
        }
    }

    async fn get(&self, id: u64) -> Response {
        match self.orders.history.get(id).await {
            Ok(Some(Entry { value, .. })) => response::json(StatusCode::OK, value),
            Ok(None) => response::text(StatusCode::NOT_FOUND, &format!("order {id} not found")),
            Err(error) => history_error(error),
        }
    }

    async fn update(&self, id: u64, body: Result<Bytes, String>) -> Response {
        let body = match body {
            Ok(body) => body,
            Err(message) => return bad_body(&message),
        };
        let status = match update::parse_body(&body) {
            Ok(status) => status,
            Err(message) => return bad_body(message),
        };
        match self.orders.update(id, status).await {
            Ok(order) => response::order(StatusCode::OK, &order),
            Err(UpdateError::Store(error)) => history_error(error),
            Err(error @ UpdateError::NotFound(_)) => {
                response::text(StatusCode::NOT_FOUND, &error.to_string())
            }
            Err(error @ UpdateError::InvalidTransition { .. }) => {
                response::text(StatusCode::CONFLICT, &error.to_string())
            }
        }
    }

    async fn create(&self, rng: &mut impl Rng, now: SystemTime) -> Response {
        match self.orders.create(rng, now).await {
            Ok(order) => response::order(StatusCode::CREATED, &order),
            Err(error) => history_error(error),
        }
    }

    async fn websocket(&self, request: Request<Bytes>) -> Response {
        let response = sockets::serve(&Socket(&self.orders), request).await;
        response.map(Full::new)
    }
}

fn bad_body(message: &str) -> Response {
    response::text(StatusCode::BAD_REQUEST, &format!("body: {message}"))
}

/// Splits `/api/orders/ID` or `/api/orders/ID/REST` into the id and the rest.
fn order_path(path: &str) -> Option<(u64, Option<&str>)> {
    let path = path.strip_prefix("/api/orders/")?;
    let (id, rest) = match path.split_once('/') {
        Some((id, rest)) => (id, Some(rest)),
        None => (path, None),
    };
    Some((parse_number(id)?, rest))
}

fn has_websocket_events(headers: &HeaderMap) -> bool {
    let content_type = headers.get("content-type");
    let content_type = content_type.and_then(|value| value.to_str().ok());
    content_type.is_some_and(grip::header::is_websocket_events)
}

/// Logs an error and returns a response that does not reveal it.
fn history_error(error: StoreError) -> Response {
    eprintln!("failed to access orders: error={error}");
    let message = "orders unavailable: see the component's log";
    response::text(StatusCode::INTERNAL_SERVER_ERROR, message)
}

#[cfg(test)]
mod tests;
