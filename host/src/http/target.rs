//! The target of a request, in one form for HTTP/1.1 and HTTP/2.

use http::{HeaderValue, Request, Uri, header, uri::Authority};

/// Reduces the target of a request to its path and query, and names the host in `Host` alone.
///
/// HTTP/2 has the host in the target (RFC 9113, section 8.3.1), and HTTP/1.1 may have it there as
/// well. The scheme of a target is the client's claim; that of its connection counts.
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
