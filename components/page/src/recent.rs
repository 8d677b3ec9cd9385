//! Asks the order service for the latest orders.

use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::future::{Either, select};
use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use spin_sdk::{http, time};

use crate::order::{Order, Orders};

/// Spin's service chaining: this never leaves the host.
const URL: &str = "http://orders.spin.internal/api/orders";

/// How long a reader waits for receipts before getting the page without them.
const PATIENCE: Duration = Duration::from_secs(2);

/// Far above what the service sends for the latest orders.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// The latest orders, oldest first.
///
/// # Errors
/// When the service cannot be reached, takes longer than two seconds, answers
/// with anything but 200, or sends what is no list of orders.
pub(crate) async fn fetch() -> Result<Vec<Order>> {
    match select(pin!(ask()), pin!(time::sleep(PATIENCE))).await {
        Either::Left((answer, _)) => answer.with_context(|| format!("GET {URL}")),
        Either::Right(_) => bail!("GET {URL}: no answer in {PATIENCE:?}"),
    }
}

async fn ask() -> Result<Vec<Order>> {
    let response = http::get(URL).await?;
    if response.status() != StatusCode::OK {
        bail!("answered {}", response.status());
    }
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES)
        .collect()
        .await
        .map_err(anyhow::Error::from_boxed)
        .context("reading the answer")?
        .to_bytes();
    let Orders { orders } = serde_json::from_slice(&body).context("reading the orders")?;
    Ok(orders)
}
