//! The component's entry point.

use std::time::SystemTime;

use http_body_util::{BodyExt, LengthLimitError, Limited};
use rand::{SeedableRng, rngs::SmallRng};
use spin_sdk::{http::Request, wasip3::random::random::get_random_u64};

use crate::{orders::Orders, response::Response, router::Router};

/// Handles one HTTP request.
// Exported only for wasm: native linkers reject the export's name.
#[cfg_attr(target_family = "wasm", spin_sdk::http_service)]
pub async fn handle(request: Request) -> Response {
    let router = Router {
        orders: Orders::default(),
    };
    let (head, body) = request.into_parts();
    let read_body = async |limit| match Limited::new(body, limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(format!("more than {limit} bytes")),
        Err(error) => Err(error.to_string()),
    };
    let rng = || SmallRng::seed_from_u64(get_random_u64());
    let request = Request::from_parts(head, ());
    router
        .handle(request, read_body, rng, SystemTime::now())
        .await
}
