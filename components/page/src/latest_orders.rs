//! Fetches the latest orders from the order service.

use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::future::{Either, select};
use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use spin_sdk::{http, time};

use crate::order::{Order, Orders};

/// Uses Spin's service chaining: the request never leaves the host.
const URL: &str = "http://orders.spin.internal/api/orders";

/// How long the page waits for orders before it is rendered without them.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Far above the size of the latest orders.
const MAX_RESPONSE_BYTES: usize = 1024 * 1024;

/// Fetches the latest orders, oldest first.
///
/// # Errors
/// If the service is unreachable, does not respond within [`TIMEOUT`], or responds
/// with anything but 200 and a list of orders.
pub(crate) async fn fetch() -> Result<Vec<Order>> {
    match select(pin!(get()), pin!(time::sleep(TIMEOUT))).await {
        Either::Left((orders, _)) => orders.with_context(|| format!("GET {URL}")),
        Either::Right(_) => bail!("GET {URL}: timed out after {TIMEOUT:?}"),
    }
}

async fn get() -> Result<Vec<Order>> {
    let response = http::get(URL).await?;
    if response.status() != StatusCode::OK {
        bail!("unexpected status {}", response.status());
    }
    let body = Limited::new(response.into_body(), MAX_RESPONSE_BYTES)
        .collect()
        .await
        .map_err(anyhow::Error::from_boxed)
        .context("failed to read the response")?
        .to_bytes();
    let Orders { orders } = serde_json::from_slice(&body).context("invalid list of orders")?;
    Ok(orders)
}
