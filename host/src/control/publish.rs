//! Publishing: reads the items of a request and delivers them.

use std::{collections::BTreeSet, error::Error as _, sync::Arc};

use grip::{Item, publish};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::json;
use spin_runtime::backend::Body;
use tokio::task::JoinError;
use tracing::{error, field, warn};

use super::{json_response, reports, unavailable};
use crate::{
    bus::Bus,
    config::Limits,
    http::error_response::text_response,
    pubsub::{
        channels::Channels,
        publication::{InvalidItem, Publication},
    },
    state::Services,
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
    let published = match &services.bus {
        Some(bus) => publish_on_bus(bus, items).await,
        None => publish_here(&services.channels, items).await,
    };
    if let Err(refusal) = published {
        return (*refusal, 0);
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
    publish::parse(&body.to_bytes())
        .map_err(|error| refuse(StatusCode::BAD_REQUEST, &error.to_string()))
}

/// Publishes items to the clients of this host.
async fn publish_here(channels: &Channels, items: Vec<Item>) -> Result<(), Box<Response<Body>>> {
    let publications = items.into_iter().map(Publication::new);
    let publications: Vec<_> = publications
        .collect::<Result<_, _>>()
        .map_err(invalid_item)?;
    // A task, which completes even if the publisher disconnects: an item must not reach only some of
    // its subscribers.
    let channels = channels.clone();
    let published = tokio::spawn(async move {
        let mut publications = publications.into_iter().peekable();
        while let Some(publication) = publications.next() {
            let channel = publication.channel.clone();
            channels.publish(publication).await;
            // A subscriber of both channels receives the items in their order.
            if publications
                .peek()
                .is_some_and(|next| next.channel != channel)
            {
                channels.wait_delivered(&channel).await;
            }
        }
    });
    published.await.map_err(publish_failed)
}

/// Publishes items to the clients of all hosts.
async fn publish_on_bus(bus: &Arc<Bus>, items: Vec<Item>) -> Result<(), Box<Response<Body>>> {
    for item in &items {
        Publication::new(item.clone()).map_err(invalid_item)?;
    }
    // A task, which completes even if the publisher disconnects.
    let publisher = bus.clone();
    let published = tokio::spawn(async move { publisher.publish(&items).await });
    let published = published.await.map_err(publish_failed)?;
    published.map_err(|error| {
        bus.log_failure(|| {
            let cause = error.source().map(field::display);
            warn!(%error, cause, "publish failed");
        });
        let text = format!("{error}: publish the same items again later");
        Box::new(unavailable(&text))
    })
}

fn invalid_item(error: InvalidItem) -> Box<Response<Body>> {
    Box::new(text_response(StatusCode::BAD_REQUEST, &error.to_string()))
}

fn publish_failed(error: JoinError) -> Box<Response<Body>> {
    error!(%error, "publish failed");
    Box::new(text_response(
        StatusCode::INTERNAL_SERVER_ERROR,
        "publish failed",
    ))
}
