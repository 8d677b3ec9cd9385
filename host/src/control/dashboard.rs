//! The dashboard: a page that shows what the host is doing, and acts on channels and WebSockets.
//!
//! It consists of static files. Everything else it requests from the control port, under the rules of
//! [`access`](super::access), and only while it is open.

use http::{HeaderName, HeaderValue, Response, header};
use spin_runtime::backend::{Body, full};

/// Only what this host serves, and nothing inline. No page may contain this one.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// A file of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct File {
    path: &'static str,
    content_type: &'static str,
    content: &'static str,
}

/// Lists files of the folder `dashboard`.
macro_rules! files {
    ($($path:literal: $content_type:ident $name:literal,)*) => {
        &[$(File {
            path: $path,
            content_type: $content_type,
            content: include_str!(concat!("dashboard/", $name)),
        }),*]
    };
}

const FILES: &[File] = files! {
    "/": HTML "index.html",
    "/dashboard/style.css": CSS "style.css",
    "/dashboard/icon.svg": SVG "icon.svg",
    "/dashboard/main.js": JS "main.js",
    "/dashboard/api.js": JS "api.js",
    "/dashboard/channels.js": JS "channels.js",
    "/dashboard/charts.js": JS "charts.js",
    "/dashboard/dom.js": JS "dom.js",
    "/dashboard/figures.js": JS "figures.js",
    "/dashboard/log.js": JS "log.js",
    "/dashboard/metrics.js": JS "metrics.js",
    "/dashboard/sessions.js": JS "sessions.js",
    "/dashboard/timers.js": JS "timers.js",
};

impl File {
    /// Returns the file with this path.
    pub(super) fn find(path: &str) -> Option<Self> {
        FILES.iter().find(|file| file.path == path).copied()
    }

    /// Returns the response with this file.
    pub(super) fn response(self) -> Response<Body> {
        let mut response = Response::new(full(self.content));
        let headers = response.headers_mut();
        for (name, value) in [
            (header::CONTENT_TYPE, self.content_type),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::X_FRAME_OPTIONS, "DENY"),
            (header::REFERRER_POLICY, "no-referrer"),
            // The files are those of this version of the host.
            (header::CACHE_CONTROL, "no-store"),
            (
                HeaderName::from_static("cross-origin-opener-policy"),
                "same-origin",
            ),
            (
                HeaderName::from_static("cross-origin-resource-policy"),
                "same-origin",
            ),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}
