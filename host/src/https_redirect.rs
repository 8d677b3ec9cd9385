//! The redirect port: redirects plain HTTP requests to the public port, which uses TLS.

use std::{net::SocketAddr, sync::Arc};

use http::{
    HeaderValue, Request, Response, StatusCode, header,
    uri::{Authority, PathAndQuery},
};
use hyper::body::Incoming;
use spin_runtime::backend::Body;

use crate::{
    http::{
        error_response::{refusal_response, text_response},
        validate::check_message,
    },
    net::{
        draining::Draining,
        listener::{Admission, Listener},
    },
    shutdown::Shutdown,
};

/// The default port of `https` URLs.
const HTTPS_PORT: u16 = 443;

/// A bound redirect port.
pub(crate) struct HttpsRedirect {
    listener: Listener,
    /// The public port.
    port: u16,
    draining: Draining,
}

impl HttpsRedirect {
    /// Redirects the requests to an address to the port `port` of the same host.
    pub(crate) fn new(listener: Listener, port: u16, shutdown: &Shutdown) -> Self {
        Self {
            listener,
            port,
            draining: Draining::gradual(shutdown),
        }
    }

    /// Returns the address, with the port that the system chose if 0 was requested.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Serves at most `max_connections` connections until the host drains.
    pub(crate) async fn serve(self, max_connections: usize) {
        let port = self.port;
        let handler = move |request: Request<Incoming>, _| async move { redirect(&request, port) };
        let admission = Admission::up_to(max_connections);
        self.listener
            .serve(Arc::new(handler), admission, self.draining)
            .await;
    }
}

/// Returns the redirect of a request. It keeps the method and the body (RFC 9110, section 15.4.9).
fn redirect<B>(request: &Request<B>, port: u16) -> Response<Body> {
    if let Err(refusal) = check_message(request) {
        return refusal_response(refusal);
    }
    let Some(location) = location(request, port) else {
        return text_response(
            StatusCode::BAD_REQUEST,
            "the Host header is missing or empty",
        );
    };
    let mut response = text_response(
        StatusCode::PERMANENT_REDIRECT,
        "use the https URL of this page",
    );
    response.headers_mut().insert(header::LOCATION, location);
    response
}

fn location<B>(request: &Request<B>, port: u16) -> Option<HeaderValue> {
    let host = match request.headers().get(header::HOST) {
        Some(host) => Authority::try_from(host.as_bytes()).ok()?,
        None => request.uri().authority()?.clone(),
    };
    let target = request.uri().path_and_query().map(PathAndQuery::as_str);
    // The target of OPTIONS may be `*`.
    let target = target.filter(|it| it.starts_with('/')).unwrap_or("/");
    let host = host.host();
    let url = match port {
        HTTPS_PORT => format!("https://{host}{target}"),
        port => format!("https://{host}:{port}{target}"),
    };
    HeaderValue::try_from(url).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location_of(host: &str, target: &str, port: u16) -> Option<String> {
        let request = Request::get(target).header(header::HOST, host).body(());
        let location = location(&request.expect("a valid request"), port)?;
        Some(location.to_str().expect("text").to_owned())
    }

    #[test]
    fn the_host_is_kept_and_the_port_replaced() {
        for (host, target, port, expected) in [
            ("example.com", "/", 443, "https://example.com/"),
            ("example.com:80", "/a?b=c", 443, "https://example.com/a?b=c"),
            ("example.com:8080", "/a", 8443, "https://example.com:8443/a"),
            ("example.com", "*", 443, "https://example.com/"),
            ("[::1]:80", "/", 3000, "https://[::1]:3000/"),
        ] {
            assert_eq!(location_of(host, target, port).as_deref(), Some(expected));
        }
        assert_eq!(location_of("a b", "/", 443), None);
        assert_eq!(location_of("", "/", 443), None);
    }
}
