//! Normalizes the targets of requests, which differ between HTTP/1.1 and HTTP/2.

use http::{HeaderValue, Request, Uri, header, uri::Authority};

/// Converts the target of a request to origin form (`/path?query`), and moves its host to `Host`.
///
/// In HTTP/2, the target contains the host (RFC 9113, section 8.3.1). In HTTP/1.1, it may. The scheme
/// of the target is dropped: only the connection shows whether a request was encrypted.
pub(crate) fn to_origin_form<B>(request: &mut Request<B>) {
    let host = request.uri().authority().map(Authority::as_str);
    let host = host.and_then(|host| HeaderValue::from_str(host).ok());
    if let Some(host) = host {
        request.headers_mut().entry(header::HOST).or_insert(host);
        let target = request.uri().path_and_query().cloned();
        *request.uri_mut() = target.map(Uri::from).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_moves_from_the_target_to_the_header() {
        for (target, host, expected) in [
            ("https://a.example:1/b?c", None, ("/b?c", "a.example:1")),
            ("http://a.example", None, ("/", "a.example")),
            (
                "http://a.example/",
                Some("A.example:80"),
                ("/", "A.example:80"),
            ),
            ("/b?c", Some("d"), ("/b?c", "d")),
        ] {
            let mut request = Request::get(target);
            if let Some(host) = host {
                request = request.header(header::HOST, host);
            }
            let mut request = request.body(()).expect("a valid request");
            to_origin_form(&mut request);
            let found = (request.uri().to_string(), &request.headers()[header::HOST]);
            assert_eq!(
                found,
                (expected.0.to_owned(), &HeaderValue::from_static(expected.1))
            );
        }
    }
}
