//! Tests of published items: what is read and written, errors, and round trips.

use proptest::prelude::*;

use super::*;

fn parse_one(json: &str) -> Item {
    let mut items = parse(json.as_bytes()).unwrap();
    assert_eq!(items.len(), 1);
    items.remove(0)
}

#[test]
fn items_are_written_in_wire_format() {
    assert_eq!(
        to_json(&[Item::ws_text("orders", "{}")]),
        r#"{"items":[{"channel":"orders","formats":{"ws-message":{"content":"{}"}}}]}"#
    );
    assert_eq!(
        to_json(&[Item::ws_text("a", "x")
            .and_stream("y")
            .with_id("2", Some("1".into()))]),
        r#"{"items":[{"channel":"a","formats":{"http-stream":{"content":"y"},"ws-message":{"content":"x"}},"id":"2","prev-id":"1"}]}"#
    );
    let response = HttpResponse::ok("text/plain", "z");
    assert_eq!(
        to_json(&[
            Item::stream("a", &b"\xff"[..]).and_response(response),
            Item::stream_end("b")
        ]),
        r#"{"items":[{"channel":"a","formats":{"http-response":{"body":"z","code":200,"headers":[["Content-Type","text/plain"]]},"http-stream":{"content-bin":"/w=="}}},{"channel":"b","formats":{"http-stream":{"action":"close"}}}]}"#
    );
}

#[test]
fn formats_are_nested_or_direct() {
    let nested = r#"{"items":[{"channel":"a","meta":{"sender":"b"},"size":9,"no-seq":true,"formats":{"ws-message":{"content":"x"}}}]}"#;
    let direct = r#"{"items":[{"channel":"a","meta":{"sender":"b"},"size":9,"no-seq":true,"ws-message":{"content":"x"}}]}"#;
    let item = parse_one(nested);
    assert_eq!(item, parse_one(direct));
    assert_eq!(item.meta["sender"], "b");
    assert_eq!((item.size, item.no_seq), (Some(9), true));
    assert_eq!(parse(br#"{"items":[]}"#).unwrap(), []);
}

#[test]
fn all_kinds_of_content_are_read() {
    let ws = |json: &str| {
        let item = parse_one(&format!(
            r#"{{"items":[{{"channel":"a","ws-message":{json}}}]}}"#
        ));
        item.ws_message.unwrap().action
    };
    let data = Bytes::from_static(b"\xff");
    assert_eq!(
        ws(r#"{"content":"x"}"#),
        WsAction::Send(Message::Text("x".into()))
    );
    assert_eq!(
        ws(r#"{"content-bin":"/w=="}"#),
        WsAction::Send(Message::Binary(data))
    );
    assert_eq!(
        ws(r#"{"content":"x","type":"binary"}"#),
        WsAction::Send(Message::Binary("x".into()))
    );
    assert_eq!(
        ws(r#"{"content-bin":"eA==","type":"text"}"#),
        WsAction::Send(Message::Text("x".into()))
    );
    assert_eq!(
        ws(r#"{"content":"","type":"ping"}"#),
        WsAction::Send(Message::Ping(Bytes::new()))
    );
    assert_eq!(ws(r#"{"action":"refresh"}"#), WsAction::Refresh);
    assert_eq!(
        ws(r#"{"action":"close","code":4000,"reason":"so"}"#),
        WsAction::Close {
            code: Some(4000),
            reason: Some("so".into())
        }
    );

    let item = parse_one(
        r#"{"items":[{"channel":"a","http-stream":{"action":"close"},
            "http-response":{"headers":{"A":"b"},"body-bin":"eA==","content-filters":["f"]}}]}"#,
    );
    assert_eq!(item.http_stream, Some(StreamAction::Close.into()));
    let expected = HttpResponse {
        code: 200,
        reason: None,
        headers: vec![("A".into(), "b".into())],
        body: "x".into(),
    };
    let format = item.http_response.unwrap();
    assert_eq!(format.action, ResponseAction::Send(expected));
    assert_eq!(format.filters, ["f"]);
}

#[test]
fn errors_name_path_and_expectation() {
    let error = |json: &str| parse(json.as_bytes()).unwrap_err().to_string();
    assert_eq!(
        error("{"),
        "body: invalid JSON: EOF while parsing an object at line 1 column 1"
    );
    assert_eq!(error("[]"), "body: expected an object");
    assert_eq!(error("{}"), "body: missing field `items`");
    assert_eq!(error(r#"{"items":[1]}"#), "items[0]: expected an object");
    assert_eq!(
        error(r#"{"items":[{"channel":"a","ws-message":{"content":"x"}},{"ws-message":{}}]}"#),
        "items[1]: missing field `channel`"
    );
    let in_item = |rest: &str| error(&format!(r#"{{"items":[{{"channel":"a",{rest}}}]}}"#));
    for (rest, text) in [
        (r#""id":1"#, "items[0].id: expected a string"),
        (
            r#""x":1"#,
            "items[0]: missing a format: ws-message, http-stream or http-response",
        ),
        (
            r#""formats":{}"#,
            "items[0].formats: missing a format: ws-message, http-stream or http-response",
        ),
        (r#""formats":[]"#, "items[0].formats: expected an object"),
        (
            r#""formats":{"ws-message":1}"#,
            "items[0].formats.ws-message: expected an object",
        ),
        (
            r#""ws-message":{}"#,
            "items[0].ws-message: missing content or content-bin",
        ),
        (
            r#""ws-message":{"content":1}"#,
            "items[0].ws-message.content: expected a string",
        ),
        (
            r#""ws-message":{"content-bin":"/w=="},"meta":{"a":1}"#,
            "items[0].meta: expected an object of strings",
        ),
        (
            r#""formats":{"ws-message":{"content":"x"}},"size":-1"#,
            "items[0].size: expected a whole number, 0 or more",
        ),
        (
            r#""ws-message":{"content":"x"},"no-seq":1"#,
            "items[0].no-seq: expected true or false",
        ),
        (
            r#""ws-message":{"content":"x","type":"y"}"#,
            "items[0].ws-message.type: expected \"text\", \"binary\", \"ping\" or \"pong\"",
        ),
        (
            r#""ws-message":{"content-bin":"/w==","type":"text"}"#,
            "items[0].ws-message.content-bin: expected UTF-8 in a text message",
        ),
        (
            r#""ws-message":{"action":"x"}"#,
            "items[0].ws-message.action: unknown variant `x`, expected one of `send`, `close`, `refresh`, `hint`",
        ),
        (
            r#""ws-message":{"action":"close","code":999}"#,
            "items[0].ws-message.code: expected a code that can be sent: 1000 to 1003, 1007 to 1014, or 3000 to 4999",
        ),
        (
            r#""ws-message":{"action":"close","code":1005}"#,
            "items[0].ws-message.code: expected a code that can be sent: 1000 to 1003, 1007 to 1014, or 3000 to 4999",
        ),
        (
            r#""ws-message":{"action":"close","code":"1006"}"#,
            "items[0].ws-message.code: expected a code that can be sent: 1000 to 1003, 1007 to 1014, or 3000 to 4999",
        ),
        (
            r#""ws-message":{"action":"close","code":1015}"#,
            "items[0].ws-message.code: expected a code that can be sent: 1000 to 1003, 1007 to 1014, or 3000 to 4999",
        ),
        (
            r#""ws-message":{"action":"close","code":2000}"#,
            "items[0].ws-message.code: expected a code that can be sent: 1000 to 1003, 1007 to 1014, or 3000 to 4999",
        ),
        (
            r#""ws-message":{"action":"close","code":"x"}"#,
            "items[0].ws-message.code: expected a code that can be sent: 1000 to 1003, 1007 to 1014, or 3000 to 4999",
        ),
        (
            r#""ws-message":{"action":"hint","content-filters":[1]}"#,
            "items[0].ws-message.content-filters: expected a list of strings",
        ),
        (
            r#""http-stream":{}"#,
            "items[0].http-stream: missing content or content-bin",
        ),
        (
            r#""http-stream":{"action":"refresh"}"#,
            "items[0].http-stream.action: unknown variant `refresh`, expected one of `send`, `close`, `hint`",
        ),
        (
            r#""http-response":{"code":99}"#,
            "items[0].http-response.code: expected a whole number, 100 to 999",
        ),
        (
            r#""http-response":{"headers":[["a"]]}"#,
            "items[0].http-response.headers: expected an object of strings or a list of pairs of strings",
        ),
        (
            r#""http-response":{"body":1}"#,
            "items[0].http-response.body: expected a string",
        ),
        (
            r#""http-response":{"code":204}"#,
            "items[0].http-response: missing body or body-bin",
        ),
        (
            r#""http-response":{"body-patch":[{"op":"remove","path":"/a"}]}"#,
            "items[0].http-response.body-patch: unsupported: publish the whole body",
        ),
        (
            r#""http-response":{"action":"close"}"#,
            "items[0].http-response.action: unknown variant `close`, expected `send` or `hint`",
        ),
    ] {
        assert_eq!(in_item(rest), text);
    }
    assert_eq!(
        in_item(r#""ws-message":{"content-bin":"!"}"#),
        "items[0].ws-message.content-bin: invalid base64: Invalid symbol 33, offset 0."
    );
    let ping = format!(
        r#""ws-message":{{"type":"ping","content":"{}"}}"#,
        "x".repeat(126)
    );
    assert_eq!(
        in_item(&ping),
        "items[0].ws-message.content: expected at most 125 bytes in a ping or pong"
    );
}

fn data() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..=125).prop_map(Bytes::from)
}

fn ws_action() -> impl Strategy<Value = WsAction> {
    prop_oneof![
        any::<String>().prop_map(|text| WsAction::Send(Message::Text(text.into()))),
        data().prop_map(|data| WsAction::Send(Message::Binary(data))),
        data().prop_map(|data| WsAction::Send(Message::Ping(data))),
        data().prop_map(|data| WsAction::Send(Message::Pong(data))),
        (prop::option::of(3000u16..5000), any::<Option<String>>())
            .prop_map(|(code, reason)| WsAction::Close { code, reason }),
        Just(WsAction::Refresh),
        Just(WsAction::Hint),
    ]
}

fn stream_action() -> impl Strategy<Value = StreamAction> {
    prop_oneof![
        data().prop_map(StreamAction::Send),
        any::<String>().prop_map(|text| StreamAction::Send(text.into())),
        Just(StreamAction::Close),
        Just(StreamAction::Hint),
    ]
}

fn response_action() -> impl Strategy<Value = ResponseAction> {
    let send = (
        100u16..1000,
        any::<Option<String>>(),
        any::<Vec<(String, String)>>(),
        data(),
    )
        .prop_map(|(code, reason, headers, body)| {
            ResponseAction::Send(HttpResponse {
                code,
                reason,
                headers,
                body,
            })
        });
    prop_oneof![send, Just(ResponseAction::Hint)]
}

fn format<A: std::fmt::Debug>(
    action: impl Strategy<Value = A>,
) -> impl Strategy<Value = Option<Format<A>>> {
    let filters = prop::collection::vec(any::<String>(), 0..3);
    prop::option::of((action, filters).prop_map(|(action, filters)| Format { action, filters }))
}

fn item() -> impl Strategy<Value = Item> {
    let formats = (
        format(ws_action()),
        format(stream_action()),
        format(response_action()),
    )
        .prop_filter("an item has a format", |(a, b, c)| {
            a.is_some() || b.is_some() || c.is_some()
        });
    let ids = (any::<Option<String>>(), any::<Option<String>>());
    let meta = prop::collection::btree_map(any::<String>(), any::<String>(), 0..3);
    (
        ".+",
        ids,
        formats,
        meta,
        any::<Option<u64>>(),
        any::<bool>(),
    )
        .prop_map(
            |(
                channel,
                (id, prev_id),
                (ws_message, http_stream, http_response),
                meta,
                size,
                no_seq,
            )| Item {
                channel,
                id,
                prev_id,
                ws_message,
                http_stream,
                http_response,
                meta,
                size,
                no_seq,
            },
        )
}

/// JSON with the protocol's keys in arbitrary places.
fn nearly_items() -> impl Strategy<Value = Value> {
    let key = prop::sample::select(vec![
        "items",
        "channel",
        "formats",
        "ws-message",
        "http-stream",
        "http-response",
        "content",
        "content-bin",
        "type",
        "action",
        "code",
        "reason",
        "headers",
        "body",
        "body-bin",
        "meta",
        "size",
        "id",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop::sample::select(vec!["", "a", "close", "ping", "eA=="]).prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::vec((key.clone().prop_map(String::from), inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

#[test]
fn fields_of_the_item_are_not_read_inside_formats() {
    let json = r#"{"items":[{"channel":"a","formats":{"ws-message":{"content":"x"},"no-seq":1}}]}"#;
    let items = parse(json.as_bytes()).unwrap();
    assert!(!items[0].no_seq && items[0].ws_message.is_some());
}

proptest! {
    #[test]
    fn parse_reverses_to_json(items in prop::collection::vec(item(), 0..4)) {
        prop_assert_eq!(parse(to_json(&items).as_bytes()).unwrap(), items);
    }

    #[test]
    fn parse_never_panics(body in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = parse(&body);
    }

    #[test]
    fn errors_name_the_item(item in nearly_items()) {
        let body = serde_json::json!({ "items": [item] });
        if let Err(error) = parse(body.to_string().as_bytes()) {
            prop_assert!(error.path.starts_with("items[0]"), "{}", error);
        }
    }
}
