//! The Spin component that serves Socket Burger's page and its assets.
//!
//! `/` is rendered with the latest orders, so the page is useful before its scripts
//! run, and without them. `/static/…` serves the files of the manifest's mounts.
//! Everything else is 404, and methods other than `GET` and `HEAD` are 405.

mod asset_refs;
mod assets;
mod comments;
mod entity_tag;
mod file_cache;
mod fingerprint;
mod latest_orders;
mod order;
mod page;
mod receipt;
mod response;

use assets::Assets;
use encoding::Encoding;
use http::{Method, header};
use response::Response;
use spin_sdk::http::Request;

thread_local! {
    /// The assets, cached for all requests that this instance serves.
    static ASSETS: Assets = Assets::new("/static").with_folder("client", "/client");
}

/// Responds to one request.
// An entry point only in wasm: linkers for other targets reject the names of its
// exports, and the tests run on other targets.
#[cfg_attr(target_family = "wasm", spin_sdk::http_service)]
pub async fn serve(request: Request) -> Response {
    let method = request.method();
    if method != Method::GET && method != Method::HEAD {
        return response::method_not_allowed();
    }
    let path = request.uri().path();
    let headers = request.headers();
    let encoding = Encoding::choose(headers.get_all(header::ACCEPT_ENCODING).iter());
    let response = if path == "/" {
        let orders = latest_orders::fetch().await.unwrap_or_else(|error| {
            eprintln!("page: rendering without orders: {error:#}");
            Vec::new()
        });
        let html = ASSETS.with(|assets| page::render(&orders, &mut assets.snapshot()));
        response::page(html, encoding)
    } else if let Some(name) = path.strip_prefix("/static/") {
        match ASSETS.with(|assets| assets.snapshot().resolve(name)) {
            Ok(Some((asset, is_versioned))) => {
                let if_none_match = headers.get_all(header::IF_NONE_MATCH);
                response::asset(&asset, is_versioned, encoding, if_none_match.iter())
            }
            Ok(None) => response::not_found(),
            Err(error) => {
                eprintln!("page: failed to read static file {name}: {error}");
                response::internal_error()
            }
        }
    } else {
        response::not_found()
    };
    response::for_method(response, method)
}
