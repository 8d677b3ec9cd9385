//! The routes: which request asks for what, and who may.

use std::{future::Future, time::SystemTime};

use bytes::Bytes;
use encoding::Encoding;
use grip::{Limits, event};
use rand::Rng;
use spin_sdk::http::{HeaderMap, Method, Request, StatusCode};

use crate::{
    announce::Announce,
    change::{self, MAX_CHANGE},
    gate::Gate,
    history::{HistoryError, UpdateError},
    kitchen::Kitchen,
    query::{Query, parse_number},
    reply::{self, Reply},
    socket,
    storage::Storage,
    stream,
};

/// The most bytes of WebSocket events that one request can have.
pub const MAX_EVENTS: usize = 1 << 20;

/// All that it takes to answer requests.
#[derive(Debug)]
pub struct Service<'a, S, A> {
    /// Where the orders are.
    pub kitchen: Kitchen<S, A>,
    /// Who is let in where not all are.
    pub gate: &'a Gate,
}

impl<S: Storage, A: Announce> Service<'_, S, A> {
    /// Answers one request. Its body and the random source are asked for only where
    /// there is use for them, the body with the most bytes that it can have.
    ///
    /// The answer to a HEAD is that to a GET: the host leaves the body out.
    pub async fn answer<B, F, R: Rng>(
        &self,
        request: Request<()>,
        body: B,
        rng: impl FnOnce() -> R,
        now: SystemTime,
    ) -> Reply
    where
        B: FnOnce(usize) -> F,
        F: Future<Output = Result<Bytes, String>>,
    {
        let is_get = matches!(*request.method(), Method::GET | Method::HEAD);
        let is_post = *request.method() == Method::POST;
        match request.uri().path() {
            "/api/orders" if is_get => self.list(&request).await,
            "/api/orders" => reply::method_not_allowed("GET, HEAD"),
            stream::PATH if is_get => self.stream(&request, now).await,
            stream::PATH => reply::method_not_allowed("GET, HEAD"),
            "/api/ws" if is_post && has_events(request.headers()) => {
                match self.gate.admit(request.headers(), now) {
                    Ok(()) => self.websocket(body(MAX_EVENTS).await).await,
                    Err(reason) => reply::text(StatusCode::FORBIDDEN, &reason),
                }
            }
            "/api/ws" if is_get => {
                let message = "this is a WebSocket, to be opened through a GRIP host";
                reply::text(StatusCode::UPGRADE_REQUIRED, message)
            }
            "/api/ws" if is_post => {
                let message = format!("content-type: expected {}", grip::header::WEBSOCKET_EVENTS);
                reply::text(StatusCode::UNSUPPORTED_MEDIA_TYPE, &message)
            }
            "/api/ws" => reply::method_not_allowed("GET, HEAD, POST"),
            "/internal/orders" => match self.gate.admit(request.headers(), now) {
                Ok(()) if is_post => self.make(&mut rng(), now).await,
                Ok(()) => reply::method_not_allowed("POST"),
                Err(reason) => reply::text(StatusCode::FORBIDDEN, &reason),
            },
            path => match order_path(path) {
                Some((id, None)) if is_get => self.order(id).await,
                Some((_, None)) => reply::method_not_allowed("GET, HEAD"),
                Some((id, Some("status"))) if is_post => match change::admit(&request) {
                    Ok(()) => self.change(id, body(MAX_CHANGE).await).await,
                    Err((status, reason)) => reply::text(status, reason),
                },
                Some((_, Some("status"))) => reply::method_not_allowed("POST"),
                _ => reply::text(StatusCode::NOT_FOUND, "there is nothing here"),
            },
        }
    }

    async fn list(&self, request: &Request<()>) -> Reply {
        let query = match Query::parse(request.uri().query().unwrap_or_default()) {
            Ok(query) => query,
            Err(message) => return reply::text(StatusCode::BAD_REQUEST, &message),
        };
        let history = &self.kitchen.history;
        let orders = match query {
            Query::Latest { limit } => history.latest(limit).await,
            Query::After { id, limit } => history.after(id, limit).await,
        };
        match orders {
            // They are in JSON already.
            Ok(orders) => {
                let body = [&br#"{"orders":["#[..], &orders.join(&b','), b"]}"].concat();
                let accepted = request.headers().get_all("accept-encoding").iter();
                reply::packed_json(StatusCode::OK, body, Encoding::choose(accepted))
            }
            Err(error) => unavailable(error),
        }
    }

    /// To be held where the request shows that a GRIP host sent it, and can hold it.
    async fn stream(&self, request: &Request<()>, now: SystemTime) -> Reply {
        let query = request.uri().query().unwrap_or_default();
        let after = match stream::after(query, request.headers()) {
            Ok(after) => after,
            Err(message) => return reply::text(StatusCode::BAD_REQUEST, &message),
        };
        let held =
            *request.method() == Method::GET && self.gate.admit(request.headers(), now).is_ok();
        match stream::answer(&self.kitchen.history, after, held).await {
            Ok(reply) => reply,
            Err(error) => unavailable(error),
        }
    }

    async fn order(&self, id: u64) -> Reply {
        match self.kitchen.history.order(id).await {
            Ok(Some(order)) => reply::json(StatusCode::OK, order),
            Ok(None) => reply::text(StatusCode::NOT_FOUND, &format!("there is no order {id}")),
            Err(error) => unavailable(error),
        }
    }

    async fn change(&self, id: u64, body: Result<Bytes, String>) -> Reply {
        let bad = |message: &str| reply::text(StatusCode::BAD_REQUEST, &format!("body: {message}"));
        let status = match body {
            Err(message) => return bad(&message),
            Ok(body) => match change::parse(&body) {
                Err(message) => return bad(message),
                Ok(status) => status,
            },
        };
        match self.kitchen.update(id, status).await {
            Ok(order) => reply::order(StatusCode::OK, &order),
            Err(UpdateError::History(error)) => unavailable(error),
            Err(error @ UpdateError::Unknown(_)) => {
                reply::text(StatusCode::NOT_FOUND, &error.to_string())
            }
            Err(error @ UpdateError::Impossible { .. }) => {
                reply::text(StatusCode::CONFLICT, &error.to_string())
            }
        }
    }

    async fn make(&self, rng: &mut impl Rng, now: SystemTime) -> Reply {
        match self.kitchen.make(rng, now).await {
            Ok(order) => reply::order(StatusCode::CREATED, &order),
            Err(error) => unavailable(error),
        }
    }

    async fn websocket(&self, body: Result<Bytes, String>) -> Reply {
        let bad = |message: &str| reply::text(StatusCode::BAD_REQUEST, message);
        match body {
            Err(message) => bad(&format!("body: {message}")),
            Ok(body) => match event::decode_all(body, Limits::default()) {
                Err(error) => bad(&format!("body: {error}")),
                Ok(events) => socket::answer(events, &self.kitchen).await,
            },
        }
    }
}

/// The id in `/api/orders/ID`, and what comes after it in `/api/orders/ID/…`.
fn order_path(path: &str) -> Option<(u64, Option<&str>)> {
    let rest = path.strip_prefix("/api/orders/")?;
    let (id, rest) = match rest.split_once('/') {
        Some((id, rest)) => (id, Some(rest)),
        None => (rest, None),
    };
    Some((parse_number(id)?, rest))
}

fn has_events(headers: &HeaderMap) -> bool {
    let content_type = headers.get("content-type");
    let content_type = content_type.and_then(|value| value.to_str().ok());
    content_type.is_some_and(grip::header::is_websocket_events)
}

fn unavailable(error: HistoryError) -> Reply {
    eprintln!("orders are not available: error={error}");
    let message = "the orders are not available: see the component's log";
    reply::text(StatusCode::INTERNAL_SERVER_ERROR, message)
}

#[cfg(test)]
mod tests;
