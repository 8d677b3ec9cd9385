//! Lists the WebSockets of this host, and acts on one of them.

use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde_json::json;
use spin_runtime::backend::Body;
use tracing::info;
use uuid::Uuid;

use super::{
    json_response,
    parameters::{close_parameters, page_limit, parameter},
    publish::read_body,
    reports::ask,
};
use crate::{
    bus::query::{Answer, Query},
    http::error_response::text_response,
    state::{Services, sessions::SessionAction},
};

/// What a request asks of a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Close,
    Send,
    Refresh,
}

/// Lists the WebSockets of this host, the newest first, in pages.
pub(super) fn list<B>(services: &Services, request: &Request<B>) -> Response<Body> {
    let limit = match page_limit(request) {
        Ok(limit) => limit,
        Err(refusal) => return *refusal,
    };
    let before = match parameter(request, "before").as_deref().map(str::parse) {
        None => None,
        Some(Ok(before)) => Some(before),
        Some(Err(_)) => {
            let text = "before: expected the value of `next` in a response";
            return text_response(StatusCode::BAD_REQUEST, text);
        }
    };
    json_response(&json!(services.sessions.page(before, limit)))
}

/// Acts on the WebSocket with this id, on whichever host it is.
pub(super) async fn act(
    services: &Services,
    request: Request<Incoming>,
    connection: &str,
    operation: Operation,
) -> Response<Body> {
    let Ok(connection) = connection.parse::<Uuid>() else {
        let text = "expected the id of a connection, as GET /sessions/ lists it";
        return text_response(StatusCode::BAD_REQUEST, text);
    };
    let action = match action(request, operation).await {
        Ok(action) => action,
        Err(refusal) => return *refusal,
    };
    let is_found = services.sessions.act(&connection, &action);
    let (is_found, missing) = match &services.bus {
        Some(_) if !is_found => {
            let connection = connection.to_string();
            match ask(services, Query::Session { connection, action }).await {
                Ok(answers) => {
                    let mut found = answers.answers.iter().map(|(_, answer)| answer);
                    let is_found = found.any(|answer| matches!(answer, Answer::Session(true)));
                    (is_found, answers.missing)
                }
                Err(refusal) => return *refusal,
            }
        }
        _ => (is_found, 0),
    };
    if is_found {
        info!(%connection, ?operation, "session operation requested");
        return json_response(&json!({ "connection": connection.to_string() }));
    }
    let text = match missing {
        0 => "no WebSocket has this id: it may have ended".to_owned(),
        missing => {
            format!("no WebSocket has this id. Hosts that have not answered: {missing}")
        }
    };
    text_response(StatusCode::NOT_FOUND, &text)
}

/// Reads what is to be done.
async fn action(
    request: Request<Incoming>,
    operation: Operation,
) -> Result<SessionAction, Box<Response<Body>>> {
    Ok(match operation {
        Operation::Close => {
            let (code, reason) = close_parameters(&request)?;
            SessionAction::Close { code, reason }
        }
        Operation::Refresh => SessionAction::Refresh,
        Operation::Send => {
            let content_type = request.headers().get(header::CONTENT_TYPE);
            let is_binary =
                content_type.is_some_and(|it| it.as_bytes() == b"application/octet-stream");
            let content = read_body(request).await?;
            if is_binary {
                SessionAction::SendBinary(content.into())
            } else {
                let text = String::from_utf8(content.into()).map_err(|_| {
                    let text =
                        "expected text in UTF-8, or the content type application/octet-stream";
                    Box::new(text_response(StatusCode::BAD_REQUEST, text))
                })?;
                SessionAction::SendText(text)
            }
        }
    })
}
