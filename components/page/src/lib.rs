//! The Spin component that serves Socket Burger's page and its assets.
//!
//! `/` is rendered with the latest orders already in it, so that the page says
//! something before, and without, any script. `/static/…` are the files of the
//! manifest's mount. Everything else is 404, and every method but `GET` and
//! `HEAD` is 405.

pub mod assets;
pub mod entity_tag;
pub mod files;
pub mod fingerprint;
pub mod lean;
pub mod order;
pub mod receipt;
pub mod reference;
pub mod reply;

mod page;
mod recent;

use assets::Assets;
use encoding::Encoding;
use http::{Method, header};
use reply::Reply;
use spin_sdk::http::Request;

thread_local! {
    /// What this instance has read of `static/`; an instance serves many requests.
    static ASSETS: Assets = Assets::new("/static");
}

/// Answers one request.
// Only as wasm is this an entry point: linkers for other targets refuse the
// names of its exports, and the tests run on other targets.
#[cfg_attr(target_family = "wasm", spin_sdk::http_service)]
pub async fn serve(request: Request) -> Reply {
    let method = request.method();
    if method != Method::GET && method != Method::HEAD {
        return reply::method_not_allowed();
    }
    let path = request.uri().path();
    let headers = request.headers();
    let encoding = Encoding::choose(headers.get_all(header::ACCEPT_ENCODING).iter());
    let reply = if path == "/" {
        let orders = recent::fetch().await.unwrap_or_else(|error| {
            eprintln!("page: rendered without orders: {error:#}");
            Vec::new()
        });
        let html = ASSETS.with(|assets| page::render(&orders, &mut assets.look()));
        reply::page(html, encoding)
    } else if let Some(name) = path.strip_prefix("/static/") {
        match ASSETS.with(|assets| assets.look().asked_for(name)) {
            Ok(Some((asset, is_fixed))) => {
                let known = headers.get_all(header::IF_NONE_MATCH);
                reply::asset(&asset, is_fixed, encoding, known.iter())
            }
            Ok(None) => reply::not_found(),
            Err(error) => {
                eprintln!("page: reading static file {name}: {error}");
                reply::internal_error()
            }
        }
    } else {
        reply::not_found()
    };
    reply::for_method(reply, method)
}
