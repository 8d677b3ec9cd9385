//! Tests of what is refused.

use super::*;

fn refusal(uri: &str, version: Version, hosts: &[&str]) -> Option<u16> {
    let mut request = Request::get(uri).version(version);
    for host in hosts {
        request = request.header(header::HOST, *host);
    }
    let request = request.body(()).expect("valid request");
    let checked = check_message(&request).and_then(|()| check_backend_request(&request));
    checked.err().map(|Refusal(status, _)| status.as_u16())
}

#[test]
fn exactly_one_host_is_accepted() {
    for (uri, version, hosts) in [
        ("/", Version::HTTP_11, &["burger.example"][..]),
        ("/", Version::HTTP_11, &[""]),
        ("/", Version::HTTP_10, &[]),
        (
            "http://burger.example/",
            Version::HTTP_11,
            &["Burger.Example"],
        ),
        (
            "http://burger.example/",
            Version::HTTP_11,
            &["burger.example:80"],
        ),
        (
            "http://burger.example:80/",
            Version::HTTP_2,
            &["burger.example"],
        ),
        (
            "https://burger.example/",
            Version::HTTP_2,
            &["burger.example:443"],
        ),
        ("http://[::1]:3000/", Version::HTTP_2, &["[::1]:3000"]),
        ("http://burger.example/", Version::HTTP_2, &[]),
    ] {
        assert_eq!(refusal(uri, version, hosts), None, "{uri} {hosts:?}");
    }
    for (uri, version, hosts) in [
        ("/", Version::HTTP_11, &[][..]),
        ("http://burger.example/", Version::HTTP_11, &[]),
        ("/", Version::HTTP_11, &["a", "b"]),
        ("/", Version::HTTP_11, &["a", "a"]),
        ("/", Version::HTTP_10, &["a", "a"]),
        ("http://a/", Version::HTTP_2, &["a", "a"]),
        (
            "http://burger.example/",
            Version::HTTP_11,
            &["evil.example"],
        ),
        ("http://burger.example/", Version::HTTP_2, &["evil.example"]),
        (
            "http://burger.example/",
            Version::HTTP_2,
            &["burger.example:81"],
        ),
        (
            "https://burger.example/",
            Version::HTTP_2,
            &["burger.example:80"],
        ),
        (
            "http://burger.example/",
            Version::HTTP_11,
            &["x@burger.example"],
        ),
        ("http://burger.example/", Version::HTTP_11, &[""]),
        ("http://burger.example/", Version::HTTP_11, &["a b"]),
    ] {
        assert_eq!(refusal(uri, version, hosts), Some(400), "{uri} {hosts:?}");
    }
}

#[test]
fn paths_that_escape_the_root_are_refused() {
    for path in ["/../app/internal", "/%2e%2e/app", "/a/..%2f../app"] {
        assert_eq!(refusal(path, Version::HTTP_11, &["a"]), Some(400), "{path}");
    }
    for path in ["/", "/a/../b", "/.well-known/x"] {
        assert_eq!(refusal(path, Version::HTTP_11, &["a"]), None, "{path}");
    }
}

#[test]
fn hosts_must_be_hosts() {
    for host in [
        "",
        "a",
        "a:",
        "a:65535",
        "a_b.example",
        "127.0.0.1:3000",
        "[::1]",
        "[::1]:80",
    ] {
        assert_eq!(refusal("/", Version::HTTP_11, &[host]), None, "{host}");
    }
    for host in [
        "a/b?c", "a b", "u@a", "u:p@a", "a, b", "a,", "a:99999", "a:-1", "a:+1", "a:b", "a:1:2",
        "http://a", "[::1", "[a]", "[::1]x", "::1", "a#", "a\\b", "%61", "a\"", "é",
    ] {
        let mut request = Request::get("/").body(()).expect("valid request");
        let value = HeaderValue::from_bytes(host.as_bytes()).expect("valid value");
        request.headers_mut().insert(header::HOST, value);
        let refusal = check_message(&request).expect_err(host);
        assert_eq!(refusal.0, StatusCode::BAD_REQUEST, "{host}");
    }
}

#[test]
fn targets_must_be_paths_or_urls_of_http() {
    let status = |method: Method, target: &str| {
        let request = Request::builder().method(method).uri(target);
        let request = request.header(header::HOST, "a").body(()).expect(target);
        check_message(&request)
            .err()
            .map(|Refusal(status, _)| status.as_u16())
    };
    for target in ["/", "/?q=*", "http://a/", "https://a/x"] {
        assert_eq!(status(Method::GET, target), None, "{target}");
    }
    assert_eq!(status(Method::OPTIONS, "*"), None);
    for target in [
        "*",
        "a:80",
        "a",
        "http://u:p@a/",
        "http://u@a/",
        "ftp://a/",
        "ws://a/",
        "file://a/",
    ] {
        assert_eq!(status(Method::GET, target), Some(400), "{target}");
    }
}

#[test]
fn unsupported_transfer_codings_are_refused() {
    for (coding, status) in [
        ("chunked", None),
        ("gzip, chunked", Some(501)),
        ("gzip", Some(501)),
    ] {
        let request = Request::post("/").header(header::HOST, "a");
        let request = request.header(header::TRANSFER_ENCODING, coding);
        let refusal = check_message(&request.body(()).expect("valid request"));
        assert_eq!(
            refusal.err().map(|refusal| refusal.0.as_u16()),
            status,
            "{coding}"
        );
    }
}

#[test]
fn a_length_appears_once() {
    let request = Request::post("http://a/").version(Version::HTTP_2);
    let request = request
        .header(header::CONTENT_LENGTH, "5")
        .header(header::CONTENT_LENGTH, "5");
    let refusal = check_message(&request.body(()).expect("valid request")).expect_err("refused");
    assert_eq!(refusal.0, StatusCode::BAD_REQUEST);
}

#[test]
fn methods_that_reach_no_backend_are_refused() {
    for (method, status) in [
        (Method::CONNECT, Some(501)),
        (Method::TRACE, Some(501)),
        (Method::OPTIONS, None),
    ] {
        let request = Request::builder().method(&method).uri("/").body(());
        let refusal = check_backend_request(&request.expect("valid request"));
        let refusal = refusal.err().map(|refusal| refusal.0.as_u16());
        assert_eq!(refusal, status, "{method}");
    }
}

#[test]
fn only_requests_for_websockets_have_no_body() {
    for (protocol, body, is_refused) in [
        ("websocket", "", false),
        ("websocket", "hi", true),
        ("h2c, WebSocket/13", "hi", true),
        ("h2c", "hi", false),
        ("tcp", "hi", false),
    ] {
        let request = Request::get("/").header(header::UPGRADE, protocol);
        let request = request.body(body.to_owned()).expect("valid request");
        let refusal = check_upgrade(&request);
        assert_eq!(refusal.is_err(), is_refused, "{protocol} {body:?}");
    }
}

#[test]
fn events_are_recognized_in_every_form() {
    let status = |name: &str, value: &str| {
        let request = Request::post("/").header(name, value).body(());
        let refusal = check_backend_request(&request.expect("valid request"));
        refusal.err().map(|refusal| refusal.0.as_u16())
    };
    for (name, value) in [
        ("content-type", "application/websocket-events"),
        (
            "content-type",
            "Application/WebSocket-Events; charset=utf-8",
        ),
        ("content-type", "text/plain, application/websocket-events"),
        ("content-type", "text/plain; application/websocket-events"),
        ("content_type", "application/websocket-events"),
        ("Content_Type", " application/websocket-events"),
    ] {
        assert_eq!(status(name, value), Some(403), "{name}: {value}");
    }
    for (name, value) in [
        ("content-type", "application/json"),
        ("content-type", "websocket-events"),
        ("accept", "application/websocket-events"),
    ] {
        assert_eq!(status(name, value), None, "{name}: {value}");
    }
}

#[test]
fn heads_that_are_too_large_are_refused() {
    let check = |fields: usize, bytes: usize| {
        let mut request = Request::get("/").header(header::HOST, "a");
        for index in 1..fields {
            request = request.header(format!("x-{index}"), "v".repeat(bytes));
        }
        check_message(&request.body(()).expect("valid request"))
    };
    assert_eq!(check(MAX_HEADER_FIELDS, 100), Ok(()));
    assert_eq!(check(MAX_HEADER_FIELDS + 1, 1), Err(HEAD_TOO_LARGE));
    assert_eq!(check(2, MAX_HEAD_BYTES - 100), Ok(()));
    assert_eq!(check(2, MAX_HEAD_BYTES), Err(HEAD_TOO_LARGE));
    let uri = format!("/{}", "a".repeat(MAX_HEAD_BYTES));
    assert_eq!(refusal(&uri, Version::HTTP_11, &["a"]), Some(431));
}
