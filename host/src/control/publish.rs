//! Publishing: reads the items of a request and delivers them.

use std::collections::BTreeSet;

use bytes::Bytes;
use grip::{Item, publish};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::json;
use spin_runtime::backend::Body;

use super::{json_response, reports, unavailable};
use crate::{
    config::Limits,
    http::error_response::text_response,
    state::{Services, publisher::PublishError},
};

/// The largest body of a publish request, in bytes.
const MAX_PUBLISH_BYTES: usize = Limits::DEFAULT.max_publish_bytes;

/// Publishes the items of a request, and returns their number.
pub(super) async fn publish(
    services: &Services,
    request: Request<Incoming>,
) -> (Response<Body>, usize) {
    let wants_json = accepts_json(request.headers());
    let items = match read_items(request).await {
        Ok(items) => items,
        Err(refusal) => return (*refusal, 0),
    };
    let count = items.len();
    let channels = wants_json.then(|| {
        let channels = items.iter().map(|item| item.channel.clone());
        channels.collect::<BTreeSet<_>>()
    });
    if let Err(error) = services.publisher().publish(items).await {
        return (refusal(error), 0);
    }
    let Some(channels) = channels else {
        return (text_response(StatusCode::OK, "Published"), count);
    };
    let mut report = json!({ "published": count });
    // The items are published even if counting fails.
    if let Ok(subscribers) = reports::subscribers(services, channels.into_iter().collect()).await {
        report["subscribers"] = json!(subscribers.by_channel);
        report["hosts"] = subscribers.hosts.into();
        report["missing"] = subscribers.missing.into();
    }
    (json_response(&report), count)
}

/// Returns whether the client asks for JSON. Other publishers expect text.
fn accepts_json(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT).iter();
    let mut types = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|range| range.split(';').next());
    types.any(|range| range.trim().eq_ignore_ascii_case("application/json"))
}

async fn read_items(request: Request<Incoming>) -> Result<Vec<Item>, Box<Response<Body>>> {
    publish::parse(&read_body(request).await?).map_err(|error| {
        let text = error.to_string();
        Box::new(text_response(StatusCode::BAD_REQUEST, &text))
    })
}

/// Reads the body of a request.
///
/// # Errors
/// Returns the response to a request whose body is too large, or ends early.
pub(super) async fn read_body(request: Request<Incoming>) -> Result<Bytes, Box<Response<Body>>> {
    let refuse = |status, text: &str| Box::new(text_response(status, text));
    let body = Limited::new(request.into_body(), MAX_PUBLISH_BYTES);
    let body = body.collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            refuse(
                StatusCode::PAYLOAD_TOO_LARGE,
                &format!("the body is too large: expected at most {MAX_PUBLISH_BYTES} bytes"),
            )
        } else {
            let text = format!("the body ended early: {error}");
            refuse(StatusCode::BAD_REQUEST, &text)
        }
    })?;
    Ok(body.to_bytes())
}

/// Returns the response for items that may not have been published.
fn refusal(error: PublishError) -> Response<Body> {
    match error {
        PublishError::Invalid(error) => text_response(StatusCode::BAD_REQUEST, &error.to_string()),
        PublishError::Bus(error) => {
            unavailable(&format!("{error}: publish the same items again later"))
        }
        PublishError::Panicked(_) => {
            text_response(StatusCode::INTERNAL_SERVER_ERROR, "publish failed")
        }
    }
}
