//! Held responses.

use std::time::Duration;

use component_testing::{
    Reply, TestApp, TestAppBuilder,
    grip::{Item, publish::HttpResponse},
    http::Response,
};

use crate::probe;

const PATH: &str = "/forward?url=http://script.test/hold";

/// Returns the probe with a backend that responds with these headers and this body.
fn backend(headers: &'static [(&'static str, &'static str)], body: &'static str) -> TestAppBuilder {
    probe()
        .allowed_outbound_host("http://script.test")
        .outbound(move |request| {
            assert!(request.headers.contains_key("grip-sig"));
            let mut response = Response::builder();
            for (name, value) in headers {
                response = response.header(*name, *value);
            }
            Reply::from(response.body(body).unwrap())
        })
}

fn app(headers: &'static [(&'static str, &'static str)], body: &'static str) -> TestApp {
    backend(headers, body).build().unwrap()
}

#[test]
fn a_stream_gets_what_is_published() {
    let app = app(
        &[
            ("grip-hold", "stream"),
            ("grip-channel", "news"),
            ("grip-keep-alive", "beat\\n; format=cstring; timeout=20"),
            ("content-type", "text/plain"),
        ],
        "start\n",
    );
    let response = app.get(PATH);
    assert!(response.is_open());
    assert_eq!(response.status(), 200);
    assert_eq!(
        response.header("content-type").as_deref(),
        Some("text/plain")
    );
    assert_eq!(response.header("grip-hold"), None);
    assert_eq!(response.take_text(), "start\n");
    app.publish(Item::stream("news", "one\n"));
    assert_eq!(response.take_text(), "one\n");
    app.advance(Duration::from_secs(20));
    assert_eq!(response.take_text(), "beat\n");
    app.publish(Item::stream_end("news"));
    assert!(!response.is_open());
}

#[test]
fn a_stream_continues_at_its_link() {
    let app = probe()
        .allowed_outbound_host("http://script.test")
        .outbound(|request| {
            let last = request.headers.get("grip-last");
            let last = last.map_or("none", |last| last.to_str().unwrap());
            let body = format!("[{last}]");
            let channel = match last {
                "none" => "news; prev-id=1",
                "news; last-id=\"1\"" => "news; prev-id=3",
                _ => "news; prev-id=4",
            };
            let response = Response::builder()
                .header("grip-hold", "stream")
                .header("grip-channel", channel)
                .header("grip-link", format!("<{PATH}>; rel=next; timeout=60"))
                .body(body)
                .unwrap();
            Reply::from(response)
        })
        .build()
        .unwrap();
    let response = app.get(PATH);
    assert_eq!(response.take_text(), "[none]");
    // Item 2 was lost.
    app.publish(Item::stream("news", "3").with_id("3", Some("2".into())));
    assert_eq!(response.take_text(), "[news; last-id=\"1\"]");
    app.publish(Item::stream("news", "4").with_id("4", Some("3".into())));
    assert_eq!(response.take_text(), "4");
    app.advance(Duration::from_secs(60));
    assert_eq!(response.take_text(), "[news; last-id=\"4\"]");
}

#[test]
fn a_response_waits_for_a_publication_or_its_timeout() {
    let headers = &[
        ("grip-hold", "response"),
        ("grip-channel", "news"),
        ("grip-timeout", "30"),
    ];
    let app = app(headers, "nothing new");
    let response = app.get(PATH);
    assert!(response.is_open() && !response.has_status());
    app.publish(Item::response(
        "news",
        HttpResponse::ok("text/plain", "news"),
    ));
    assert_eq!(
        (response.status().as_u16(), response.text().as_str()),
        (200, "news")
    );
    assert!(!response.is_open());

    let response = app.get(PATH);
    app.advance(Duration::from_secs(29));
    assert!(!response.has_status());
    app.advance(Duration::from_secs(1));
    assert_eq!(response.text(), "nothing new");
}

#[test]
fn a_stream_of_endless_parts_ends() {
    const LINK: &str = "</forward?url=http://script.test/hold>; rel=next";
    let app = app(&[("grip-link", LINK)], "part ");
    let response = app.get(PATH);
    assert!(response.error().is_some() && response.text().starts_with("part part "));
    assert!(
        app.failures()[0].error.contains("parts"),
        "{:?}",
        app.failures()
    );
}

#[test]
fn a_response_that_is_out_of_date_is_fetched_again() {
    let headers = &[
        ("grip-hold", "response"),
        ("grip-channel", "news; prev-id=1"),
    ];
    let app = app(headers, "old");
    app.publish(Item::stream("news", "").with_id("2", None));
    let response = app.get(PATH);
    // The second response repeats the id, so it is accepted.
    let requests = app.outbound_requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[1].headers["grip-last"], "news; last-id=\"1\"");
    app.advance(Duration::from_secs(55));
    assert_eq!(response.text(), "old");
}

#[test]
fn invalid_instructions_are_a_502() {
    let app = app(&[("grip-hold", "sometimes")], "");
    assert_eq!(app.get(PATH).status(), 502);
    assert!(
        app.failures()[0].error.contains("Grip-Hold"),
        "{:?}",
        app.failures()
    );
}
