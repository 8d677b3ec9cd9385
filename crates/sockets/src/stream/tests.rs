//! Tests of streams, from the point of view of a host.

use http::Request;

use super::*;
use crate::{
    Room, serve,
    testing::{block_on, request},
};

/// Subscribes to the room and the channel in the URL.
struct Follow;

impl Handler for Follow {
    async fn open(&self, connection: &mut Connection) -> Result {
        if connection.path() == "/rejected" {
            connection.reject(StatusCode::NOT_FOUND, "not found");
        }
        if let Some(name) = connection.parameter("room") {
            let room = Room::new(name).keep(200).counted();
            connection.join(&room).await?;
        }
        if let Some(channel) = connection.parameter("channel") {
            connection.subscribe(channel);
            connection.send("welcome")?;
        }
        connection.set_meta("user", "ada")
    }
}

fn get(path: &str, headers: &[(&str, &str)]) -> Response<Bytes> {
    request(&Follow, stream_request(path, headers))
}

/// Fetches the next part, as a host does: without the headers of the client.
fn get_part(path: &str, headers: &[(&str, &str)]) -> Response<Bytes> {
    let mut get = Request::get(path);
    for (name, value) in headers {
        get = get.header(*name, *value);
    }
    request(&Follow, get.body(Bytes::new()).unwrap())
}

fn stream_request(path: &str, headers: &[(&str, &str)]) -> Request<Bytes> {
    let mut request = Request::get(path).header("accept", "text/html, text/event-stream;q=0.9");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Bytes::new()).unwrap()
}

fn body(response: &Response<Bytes>) -> &str {
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], EVENT_STREAM);
    std::str::from_utf8(response.body()).unwrap()
}

fn instruct(response: &Response<Bytes>) -> Instruct {
    let headers = response.headers().iter();
    let headers = headers.map(|(name, value)| (name.as_str(), value.as_bytes()));
    Instruct::from_headers(headers).unwrap().unwrap()
}

fn item(id: u64) -> String {
    format!(
        "id: {id},room:tea\ndata: {{\"$\":\"item\",\"channel\":\"room:tea\",\"id\":{id},\"data\":{id}}}\n\n"
    )
}

fn count(count: u32, version: u32) -> String {
    format!(
        "data: {{\"$\":\"count\",\"channel\":\"room:tea\",\"count\":{count},\"version\":{version}}}\n\n"
    )
}

const OPEN: &str = "data: {\"$\":\"open\"}\n\n";

fn fill(items: u64) {
    for id in 1..=items {
        block_on(Room::new("tea").keep(200).send(id)).unwrap();
    }
}

#[test]
fn the_host_holds_a_stream() {
    fill(2);
    let response = get("/follow?room=tea&x=%26", &[]);
    assert_eq!(
        body(&response),
        format!("{OPEN}{}{}{}", item(1), item(2), count(0, 0))
    );
    let instruct = instruct(&response);
    assert_eq!(
        instruct.channels,
        [
            hold::Channel::new("room:tea").after("2"),
            hold::Channel::new("count:tea").after("0"),
        ]
    );
    let next = instruct.next.unwrap();
    assert_eq!(
        next.uri,
        "/follow?room=tea&x=%26&resume=2%2Croom%3Atea&part=1"
    );
    assert_eq!(instruct.meta["user"], "ada");

    // The host has delivered item 3, and fetches the next part.
    fill(0);
    block_on(Room::new("tea").send(3)).unwrap();
    block_on(Room::new("tea").send(4)).unwrap();
    let last = [(
        header::GRIP_LAST,
        "room:tea; last-id=3, count:tea; last-id=0",
    )];
    let response = get_part(&next.uri, &last);
    assert_eq!(body(&response), format!("{}{}", item(4), count(0, 0)));
    let next = self::instruct(&response).next.unwrap();
    assert_eq!(
        next.uri,
        "/follow?room=tea&x=%26&resume=4%2Croom%3Atea&part=1"
    );
}

#[test]
fn messages_of_the_handler_are_sent_once() {
    let response = get("/?channel=news", &[]);
    assert_eq!(body(&response), format!("{OPEN}data: welcome\n\n"));
    let first = instruct(&response);
    assert_eq!(first.channels, [hold::Channel::new("news")]);
    let last = [(header::GRIP_LAST, "news; last-id=7")];
    let response = get_part(&first.next.unwrap().uri, &last);
    assert_eq!(body(&response), "");
    let channels = instruct(&response).channels;
    assert_eq!(channels, [hold::Channel::new("news").after("7")]);
}

#[test]
fn clients_resume() {
    fill(3);
    for (path, headers) in [
        ("/?room=tea&resume=2,room:tea", &[][..]),
        ("/?room=tea", &[("last-event-id", "2,room:tea")]),
        // The highest id counts.
        (
            "/?room=tea&resume=1,room:tea",
            &[("last-event-id", "2,room:tea")],
        ),
    ] {
        let open = "data: {\"$\":\"open\",\"recovered\":true}\n\n";
        let response = get(path, headers);
        assert_eq!(body(&response), format!("{open}{}{}", item(3), count(0, 0)));
    }
    let response = get("/?room=tea&resume=9,room:tea", &[]);
    let reset = "data: {\"$\":\"open\",\"recovered\":false}\n\ndata: {\"$\":\"reset\",\"channel\":\"room:tea\"}\n\n";
    assert!(body(&response).starts_with(reset), "{response:?}");
}

#[test]
fn long_streams_are_fetched_part_by_part() {
    let long = "x".repeat(1000);
    for _ in 0..200 {
        block_on(Room::new("tea").keep(200).send(&long)).unwrap();
    }
    let (mut path, mut ids) = ("/?room=tea".to_owned(), Vec::new());
    for part in 1.. {
        let response = if part == 1 {
            get(&path, &[])
        } else {
            get_part(&path, &[])
        };
        assert!(body(&response).len() < 100_000);
        let lines = body(&response).lines();
        let found = lines.filter_map(|line| line.strip_prefix("id: ")?.strip_suffix(",room:tea"));
        ids.extend(found.map(|id| id.parse::<u64>().unwrap()));
        let instruct = instruct(&response);
        if instruct.hold.is_some() {
            assert_eq!(part, 3);
            break;
        }
        path = instruct.next.unwrap().uri;
    }
    assert_eq!(ids, (1..=200).collect::<Vec<_>>());
}

#[test]
fn without_a_host_the_client_asks_again() {
    fill(1);
    let request = stream_request(
        "/?room=tea&part=1",
        &[(header::GRIP_LAST, "room:tea; last-id=1")],
    );
    let response = block_on(serve(&Follow, request));
    let expected = format!("{OPEN}{}{}retry: 2000\n\n", item(1), count(0, 0));
    assert_eq!(body(&response), expected);
    assert!(!response.headers().contains_key("grip-hold"));
}

#[test]
fn streams_are_refused() {
    let response = get("/rejected", &[]);
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    // Another kind of request.
    let page = Request::get("/").header("accept", "text/html");
    let response = request(&Follow, page.body(Bytes::new()).unwrap());
    assert_eq!(response.status(), StatusCode::UPGRADE_REQUIRED);
}
