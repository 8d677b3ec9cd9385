//! Reports what the host is doing, besides its metrics.

use std::time::SystemTime;

use http::{Request, Response, StatusCode};
use serde_json::json;
use spin_runtime::backend::Body;
use tokio::time::Instant;

use super::{
    bus_state, json_response,
    parameters::{page_limit, parameter},
};
use crate::{http::error_response::text_response, state::Services, telemetry::recent_log};

/// Reports the version, the timers and the hosts on the bus.
pub(super) fn status(services: &Services, started: Instant, is_ready: bool) -> Response<Body> {
    let now = humantime::format_rfc3339_millis(SystemTime::now());
    let mut status = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "status": if is_ready { "ok" } else { "starting" },
        "now": now.to_string(),
        "uptime": started.elapsed().as_secs(),
        "timers": services.timers.list(),
    });
    if let Some(bus) = &services.bus {
        status["bus"] = json!({
            "state": bus_state(services),
            "host": bus.host(),
            "hosts": bus.hosts(),
        });
    }
    json_response(&status)
}

/// Lists the channels of this host, those with the most subscribers first.
pub(super) fn channels<B>(services: &Services, request: &Request<B>) -> Response<Body> {
    let limit = match page_limit(request) {
        Ok(limit) => limit,
        Err(refusal) => return *refusal,
    };
    let prefix = parameter(request, "prefix").unwrap_or_default();
    let (channels, total) = services.channels.list(&prefix, limit);
    json_response(&json!({ "channels": channels, "total": total }))
}

/// Reports the last lines of the log.
pub(super) fn log<B>(request: &Request<B>) -> Response<Body> {
    let since = match parameter(request, "since").as_deref().map(str::parse) {
        None => 0,
        Some(Ok(number)) => number,
        Some(Err(_)) => {
            let text = "since: expected the value of `next` in a response";
            return text_response(StatusCode::BAD_REQUEST, text);
        }
    };
    json_response(&json!(recent_log::since(since)))
}
