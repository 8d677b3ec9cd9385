//! Tests of hold instructions, as headers and as JSON.

use proptest::{collection::vec, option, prelude::*};

use super::*;

fn headers(headers: &[(&str, &str)]) -> Result<Option<Instruct>, InstructError> {
    let headers = headers
        .iter()
        .map(|(name, value)| (*name, value.as_bytes()));
    Instruct::from_headers(headers)
}

fn read(pairs: &[(&str, &str)]) -> Instruct {
    headers(pairs).unwrap().unwrap()
}

fn error(name: &str, value: &str) -> String {
    headers(&[(name, value)]).unwrap_err().to_string()
}

fn channel(name: &str, prev_id: Option<&str>, filters: &[&str]) -> Channel {
    Channel {
        name: name.into(),
        prev_id: prev_id.map(Into::into),
        filters: filters.iter().map(|&filter| filter.into()).collect(),
    }
}

fn keep_alive(value: &str) -> KeepAlive {
    read(&[("Grip-Keep-Alive", value)]).keep_alive.unwrap()
}

#[test]
fn response_without_instructions_is_none() {
    let plain = [
        ("Content-Type", "text/plain"),
        ("X-Grip-Hold", "x"),
        ("Grip-Sig", "x"),
    ];
    assert_eq!(headers(&plain), Ok(None));
    assert_eq!(headers(&[]), Ok(None));
}

#[test]
fn headers_of_other_libraries_are_read() {
    let stream = read(&[
        ("content-type", "text/plain"),
        ("grip-hold", "stream"),
        ("GRIP-CHANNEL", "apple; prev-id=item1; filter=f1"),
        (
            "Grip-Channel",
            "banana; Filter=f2, cherry;filter=f1;filter=\"f2\" ; new=1",
        ),
        ("Grip-Timeout", " 120 "),
        (
            "Grip-Set-Meta",
            "foo=bar, bar=\"a, \\\"b\\\"\"; ignored=1, empty",
        ),
        ("Grip-Expose-Headers", "Content-Type, x-a"),
        ("Grip-Expose-Headers", "X-B"),
        ("Grip-Status", "404 Not Here"),
    ]);
    let expected = Instruct {
        timeout: Some(120),
        meta: [("foo", "bar"), ("bar", "a, \"b\""), ("empty", "")]
            .map(|(name, value)| (name.into(), value.into()))
            .into(),
        status: Some(Status {
            code: 404,
            reason: Some("Not Here".into()),
        }),
        expose_headers: ["Content-Type", "x-a", "X-B"].map(Into::into).into(),
        ..Instruct::stream([
            channel("apple", Some("item1"), &["f1"]),
            channel("banana", None, &["f2"]),
            channel("cherry", None, &["f1", "f2"]),
        ])
    };
    assert_eq!(stream, expected);
    // `@fanoutio/grip` writes this for a response that only has a link.
    assert_eq!(read(&[("Grip-Channel", "")]), Instruct::default());
    let response = read(&[("Grip-Hold", "response"), ("Grip-Channel", "a/ b")]);
    assert_eq!(response, Instruct::response([Channel::new("a/ b")]));
}

#[test]
fn first_of_repeated_values_counts() {
    let repeated = read(&[
        ("Grip-Hold", "response"),
        ("Grip-Hold", "nonsense"),
        ("Grip-Status", "201"),
        ("Grip-Status", "404"),
        ("Grip-Timeout", "1"),
        ("Grip-Timeout", "2"),
        ("Grip-Keep-Alive", "a; timeout=1; timeout=2"),
        ("Grip-Keep-Alive", "b"),
        ("Grip-Channel", "c; prev-id=1; prev-id=2"),
    ]);
    assert_eq!(repeated.hold, Some(HoldMode::Response));
    assert_eq!(
        repeated.status,
        Some(Status {
            code: 201,
            reason: None
        })
    );
    assert_eq!(repeated.timeout, Some(1));
    assert_eq!(repeated.keep_alive.unwrap().timeout, Some(1));
    assert_eq!(repeated.channels, [channel("c", Some("1"), &[])]);
}

#[test]
fn keep_alive_formats_are_decoded() {
    let content = |value: &str| keep_alive(value).content;
    assert_eq!(content("ping\\n"), "ping\\n");
    assert_eq!(content("a, b \"c; format=raw"), "a, b \"c");
    assert_eq!(content(":\\n\\n; format=cstring"), ":\n\n");
    assert_eq!(
        content("\\\\\\r\\x3b\\xfF; format=\"cstring\""),
        &b"\\\r;\xff"[..]
    );
    assert_eq!(content("a\\tb; format=cstring"), "a\tb");
    assert_eq!(content("Oi/w; format=base64"), &b":/\xf0"[..]);
    let full = keep_alive("x; timeout=10; mode=interval; other");
    assert_eq!(
        (full.timeout, full.mode),
        (Some(10), KeepAliveMode::Interval)
    );
    assert_eq!(keep_alive("x; mode=idle").mode, KeepAliveMode::Idle);
    assert_eq!(keep_alive("x").mode, KeepAliveMode::Idle);
}

#[test]
fn links_are_parsed() {
    let link = |value: &str| {
        let read = read(&[("Grip-Link", value)]);
        let next = read.next.map(|next| (next.uri, next.timeout));
        (next, read.gone)
    };
    let next = |uri: &str, timeout| (Some((uri.to_owned(), timeout)), None);
    assert_eq!(link("</a?b=c>; rel=next"), next("/a?b=c", None));
    assert_eq!(
        link("</a,b;c>; timeout=9; REL=\"next\""),
        next("/a,b;c", Some(9))
    );
    assert_eq!(
        link("</x>; rel=prev, <a>; rel=next, <b>; rel=gone"),
        (Some(("a".into(), None)), Some("b".into()))
    );
    assert_eq!(
        link("<a>; rel=next, <b>; rel=next; timeout=0"),
        next("b", Some(0))
    );
    assert_eq!(link("<a>"), (None, None));
    // Other relations are ignored, even without angle brackets.
    assert_eq!(link("/x; rel=prev, , <a>; rel=next,"), next("a", None));
}

#[test]
fn header_errors_name_header_and_expectation() {
    for (name, value, message) in [
        ("Grip-Hold", "Stream", "expected \"stream\" or \"response\""),
        (
            "Grip-Channel",
            "; prev-id=1",
            "missing the name of the channel",
        ),
        (
            "Grip-Channel",
            "a; prev-id=\"1",
            "unterminated quoted string",
        ),
        (
            "Grip-Timeout",
            "-1",
            "expected whole seconds, 0 to 4294967295",
        ),
        (
            "Grip-Timeout",
            "+1",
            "expected whole seconds, 0 to 4294967295",
        ),
        (
            "Grip-Timeout",
            "4294967296",
            "expected whole seconds, 0 to 4294967295",
        ),
        (
            "Grip-Set-Meta",
            "=a",
            "expected NAME=\"VALUE\", with a non-empty name",
        ),
        ("Grip-Set-Meta", "a=\"b", "unterminated quoted string"),
        (
            "Grip-Status",
            "",
            "invalid code: expected a whole number, 200 to 999",
        ),
        (
            "Grip-Status",
            "101",
            "invalid code: expected a whole number, 200 to 999",
        ),
        (
            "Grip-Status",
            "+404",
            "invalid code: expected a whole number, 200 to 999",
        ),
        (
            "Grip-Link",
            "/a; rel=next",
            "expected <URI>; rel=next; timeout=SECONDS",
        ),
        ("Grip-Link", "<>; rel=next", "invalid URI \"\""),
        ("Grip-Link", "<a b>; rel=gone", "invalid URI \"a b\""),
        (
            "Grip-Link",
            "<a>; rel=next; timeout=x",
            "invalid timeout: expected whole seconds, 0 to 4294967295",
        ),
        ("Grip-Keep-Alive", "", "missing data to send"),
        (
            "Grip-Keep-Alive",
            "a; format=hex",
            "invalid format: expected \"raw\", \"cstring\" or \"base64\"",
        ),
        (
            "Grip-Keep-Alive",
            "a; mode=x",
            "invalid mode: expected \"idle\" or \"interval\"",
        ),
        (
            "Grip-Keep-Alive",
            "a; timeout=",
            "invalid timeout: expected whole seconds, 0 to 4294967295",
        ),
    ] {
        assert_eq!(error(name, value), format!("{name}: {message}"), "{value}");
        // Errors have the name in the protocol's case.
        assert!(error(&name.to_lowercase(), value).starts_with(name));
    }
    for escape in ["\\", "\\q", "\\x", "\\x1", "\\x1g", "\\x+1", "\\xé"] {
        let message = error("Grip-Keep-Alive", &format!("a{escape}; format=cstring"));
        assert!(message.contains("invalid escape"), "{escape}: {message}");
    }
    let message = error("Grip-Keep-Alive", "?; format=base64");
    assert!(
        message.starts_with("Grip-Keep-Alive: invalid base64: "),
        "{message}"
    );
    let bytes = [("Grip-Channel", &b"\xff"[..])];
    let message = Instruct::from_headers(bytes).unwrap_err().to_string();
    assert_eq!(message, "Grip-Channel: expected UTF-8");
}

#[test]
fn json_is_read() {
    let json = br#"{
        "hold": {
            "mode": "stream", "timeout": 120, "more": 1, "meta": {"foo": "bar"},
            "channels": [{"name": "apple, b", "prev-id": "1", "filters": ["f"]}, {"name": "c"}],
            "keep-alive": {"content-bin": "/w==", "timeout": 5, "mode": "interval"}
        },
        "response": {
            "code": 201, "reason": "Made", "headers": {"A": "b"}, "body": "x", "body-bin": null
        }
    }"#;
    let instruct = Instruct::default().with_json(json).unwrap();
    let expected = Instruct {
        timeout: Some(120),
        meta: [("foo".into(), "bar".into())].into(),
        keep_alive: Some(KeepAlive {
            content: Bytes::from_static(b"\xff"),
            timeout: Some(5),
            mode: KeepAliveMode::Interval,
        }),
        response: Some(HttpResponse {
            code: 201,
            reason: Some("Made".into()),
            headers: vec![("A".into(), "b".into())],
            body: "x".into(),
        }),
        ..Instruct::stream([channel("apple, b", Some("1"), &["f"]), Channel::new("c")])
    };
    assert_eq!(instruct, expected);
    // Some libraries write numbers as strings.
    let json = br#"{"hold":{"channels":[],"timeout":"9"},"response":{"code":"404"}}"#;
    let instruct = Instruct::default().with_json(json).unwrap();
    assert_eq!(
        (instruct.timeout, instruct.response.unwrap().code),
        (Some(9), 404)
    );
}

#[test]
fn json_is_added_to_headers() {
    let from_headers = read(&[
        ("Grip-Status", "404 Gone Fishing"),
        ("Grip-Hold", "stream"),
        ("Grip-Timeout", "9"),
        ("Grip-Channel", "a"),
        ("Grip-Set-Meta", "x=1, y=1"),
        ("Grip-Link", "</next>; rel=next"),
    ]);
    let json = br#"{"hold":{"channels":[{"name":"b"}],"meta":{"y":"2"}}}"#;
    let both = from_headers.clone().with_json(json).unwrap();
    assert_eq!(both.hold, Some(HoldMode::Response));
    assert_eq!(both.timeout, Some(9));
    assert_eq!(both.channels, [Channel::new("a"), Channel::new("b")]);
    let meta: Vec<_> = both.meta.iter().map(|(k, v)| (&**k, &**v)).collect();
    assert_eq!(meta, [("x", "1"), ("y", "2")]);
    assert_eq!(both.next.unwrap().uri, "/next");
    assert_eq!(both.status, None);
    let response = both.response.unwrap();
    assert_eq!(
        (response.code, response.reason.as_deref()),
        (404, Some("Gone Fishing"))
    );
    // The reason of the header does not apply to another code.
    let other = from_headers
        .with_json(br#"{"response":{"code":500}}"#)
        .unwrap();
    let response = other.response.unwrap();
    assert_eq!((response.code, response.reason), (500, None));
    assert_eq!(other.hold, Some(HoldMode::Stream));
}

#[test]
fn json_errors_name_path_and_expectation() {
    for (json, message) in [
        ("[]", "instruct: expected an object"),
        (r#"{"hold":1}"#, "instruct.hold: expected an object"),
        (r#"{"hold":{}}"#, "instruct.hold: missing field `channels`"),
        (
            r#"{"hold":{"mode":"x","channels":[]}}"#,
            "instruct.hold.mode: unknown variant `x`, expected `stream` or `response`",
        ),
        (
            r#"{"hold":{"channels":[{"name":"a"},{"name":""}]}}"#,
            "instruct.hold.channels[1].name: expected a non-empty string",
        ),
        (
            r#"{"hold":{"channels":[{"name":"a","filters":"f"}]}}"#,
            "instruct.hold.channels[0].filters: expected a list of strings",
        ),
        (
            r#"{"hold":{"channels":[],"timeout":1.5}}"#,
            "instruct.hold.timeout: expected whole seconds, 0 to 4294967295",
        ),
        (
            r#"{"hold":{"channels":[],"timeout":""}}"#,
            "instruct.hold.timeout: expected whole seconds, 0 to 4294967295",
        ),
        (
            r#"{"hold":{"channels":[],"timeout":"+1"}}"#,
            "instruct.hold.timeout: expected whole seconds, 0 to 4294967295",
        ),
        (
            r#"{"hold":{"channels":[],"keep-alive":{"content":""}}}"#,
            "instruct.hold.keep-alive: missing content or content-bin, not empty",
        ),
        (
            r#"{"hold":{"channels":[],"keep-alive":{"content":"a","mode":"x"}}}"#,
            "instruct.hold.keep-alive.mode: unknown variant `x`, expected `idle` or `interval`",
        ),
        (
            r#"{"hold":{"channels":[],"meta":{"a":1}}}"#,
            "instruct.hold.meta: expected an object of strings",
        ),
        (
            r#"{"response":""}"#,
            "instruct.response: expected an object",
        ),
        (
            r#"{"response":{"code":199}}"#,
            "instruct.response.code: expected a whole number, 200 to 999",
        ),
    ] {
        let error = Instruct::default().with_json(json.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), message, "{json}");
    }
    let error = Instruct::default().with_json(b"{").unwrap_err().to_string();
    assert!(error.starts_with("body: invalid JSON: "), "{error}");
}

#[test]
fn instructions_are_written_in_wire_format() {
    let instruct = Instruct::stream([channel("a", Some("1"), &["f"]), Channel::new("b")])
        .with_keep_alive(":\n\n", 20)
        .with_next("/a?b", 60);
    let headers = instruct.to_headers().unwrap();
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| (*name, &**value))
        .collect();
    assert_eq!(
        headers,
        [
            ("Grip-Hold", "stream"),
            ("Grip-Channel", "a; prev-id=\"1\"; filter=\"f\""),
            ("Grip-Channel", "b"),
            ("Grip-Keep-Alive", ":\\n\\n; format=cstring; timeout=20"),
            ("Grip-Link", "</a?b>; rel=next; timeout=60"),
        ]
    );
    let (headers, body) = instruct.to_json().unwrap();
    assert_eq!(
        headers[0],
        ("Content-Type", "application/grip-instruct".into())
    );
    assert_eq!(
        headers[1..],
        [("Grip-Link", "</a?b>; rel=next; timeout=60".into())]
    );
    assert_eq!(
        body,
        r#"{"hold":{"channels":[{"filters":["f"],"name":"a","prev-id":"1"},{"name":"b"}],"keep-alive":{"content":":\n\n","timeout":20},"mode":"stream"}}"#
    );
}

#[test]
fn last_ids_are_read_and_written() {
    let read = |values: &[&str]| {
        let values = values.iter().map(|value| value.as_bytes());
        Channel::from_grip_last(values).map_err(|error| error.to_string())
    };
    assert_eq!(read(&[]), Ok(vec![]));
    assert_eq!(
        read(&["a; last-id=1, b; Last-Id=\"2, 3\"", "c; prev-id=4"]),
        Ok(vec![
            Channel::new("a").after("1"),
            Channel::new("b").after("2, 3"),
            Channel::new("c")
        ])
    );
    let error = read(&["; last-id=1"]).unwrap_err();
    assert_eq!(error, "Grip-Last: missing the name of the channel");
    let written = |channel: Channel| channel.to_grip_last().map_err(|error| error.to_string());
    assert_eq!(written(Channel::new("a")), Ok(None));
    let value = "a; last-id=\"1\"".to_owned();
    assert_eq!(written(channel("a", Some("1"), &["f"])), Ok(Some(value)));
    let error = written(Channel::new("a,b").after("1")).unwrap_err();
    assert_eq!(
        error,
        "Grip-Last: \"a,b\" is not allowed in a header: use the JSON form"
    );
}

#[test]
fn values_that_do_not_fit_in_headers_are_rejected() {
    for name in [
        "",
        " a",
        "a\t",
        "a,b",
        "a;b",
        "\"a\"",
        "a\nGrip-Hold: stream",
    ] {
        let error = Instruct::stream([Channel::new(name)])
            .to_headers()
            .unwrap_err();
        let message =
            format!("Grip-Channel: {name:?} is not allowed in a header: use the JSON form");
        assert_eq!(error.to_string(), message);
    }
    let assert_rejected = |instruct: Instruct, path: &str| {
        assert_eq!(instruct.to_headers().unwrap_err().path, path);
    };
    let empty = Instruct::default;
    assert_rejected(
        Instruct::stream([Channel::new("a").after("1\r\n")]),
        "Grip-Channel",
    );
    assert_rejected(empty().with_keep_alive("", 1), "Grip-Keep-Alive");
    assert_rejected(empty().with_next("a b", 1), "Grip-Link");
    assert_rejected(empty().with_next("a,b", 1), "Grip-Link");
    let meta = [("a=".into(), "".into())].into();
    assert_rejected(Instruct { meta, ..empty() }, "Grip-Set-Meta");
    for (code, reason) in [(100, None), (1000, None), (200, Some("a\r\n".into()))] {
        let status = Some(Status { code, reason });
        assert_rejected(Instruct { status, ..empty() }, "Grip-Status");
    }
    let response = HttpResponse {
        code: 199,
        reason: None,
        headers: vec![],
        body: "".into(),
    };
    let error = Instruct {
        response: Some(response),
        ..empty()
    }
    .to_json()
    .unwrap_err();
    assert_eq!(error.path, "instruct.response.code");
}

#[test]
fn timeouts_have_defaults_and_minimums() {
    let seconds = Duration::from_secs;
    let hold = |timeout| {
        Instruct {
            timeout,
            ..Instruct::default()
        }
        .hold_timeout()
    };
    assert_eq!([None, Some(0), Some(9)].map(hold), [55, 5, 9].map(seconds));
    let interval = |timeout| {
        KeepAlive {
            timeout,
            ..keep_alive("x")
        }
        .interval()
    };
    assert_eq!(
        [None, Some(0), Some(9)].map(interval),
        [55, 1, 9].map(seconds)
    );
    let idle_timeout = |timeout| {
        NextLink {
            uri: "a".into(),
            timeout,
        }
        .idle_timeout()
    };
    assert_eq!(
        [None, Some(0), Some(9)].map(idle_timeout),
        [120, 0, 9].map(seconds)
    );
}

#[test]
fn only_exposed_headers_reach_the_client() {
    let all = Instruct::default();
    assert!(all.exposes("Content-Type"));
    assert!(all.exposes("Grip"));
    assert!(!all.exposes("grip-anything"));
    let some = read(&[("Grip-Expose-Headers", "content-type, Grip-Hold")]);
    assert!(some.exposes("Content-Type"));
    assert!(!some.exposes("Content-Length"));
    assert!(!some.exposes("Grip-Hold"));
}

/// Text for a quoted string in a header.
fn value() -> impl Strategy<Value = String> {
    "[ -~é€]{0,9}"
}

/// Text for an unquoted value in a header.
fn name() -> impl Strategy<Value = String> {
    "[a-z!/:.<>\\\\é€]([a-z !/:.<>\\\\é€]{0,6}[a-z/:é])?"
}

fn uri() -> impl Strategy<Value = String> {
    "[a-z:/?&=%.é-]{1,12}"
}

fn content() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 1..9).prop_map(Bytes::from)
}

prop_compose! {
    /// Instructions that both forms can express. They have a hold, because the JSON form
    /// has channels only there.
    fn instruct()(
        mode in prop_oneof![Just(HoldMode::Stream), Just(HoldMode::Response)],
        channels in vec((name(), option::of(value()), vec(value(), 0..3)), 0..4),
        timeout in any::<Option<u32>>(),
        keep_alive in option::of((content(), any::<Option<u32>>(), any::<bool>())),
        meta in vec((name(), value()), 0..3),
        expose_headers in vec("[A-Za-z-]{1,9}", 0..3),
        next in option::of((uri(), any::<Option<u32>>())),
        gone in option::of(uri()),
    ) -> Instruct {
        let channels = channels.into_iter();
        Instruct {
            hold: Some(mode),
            channels: channels
                .map(|(name, prev_id, filters)| Channel { name, prev_id, filters })
                .collect(),
            timeout,
            keep_alive: keep_alive.map(|(content, timeout, interval)| KeepAlive {
                content,
                timeout,
                mode: if interval { KeepAliveMode::Interval } else { KeepAliveMode::Idle },
            }),
            meta: meta.into_iter().collect(),
            expose_headers,
            next: next.map(|(uri, timeout)| NextLink { uri, timeout }),
            gone,
            status: None,
            response: None,
        }
    }
}

prop_compose! {
    fn status()(code in STATUS_CODES, reason in option::of(name())) -> Status {
        Status { code, reason }
    }
}

prop_compose! {
    fn response()(
        Status { code, reason } in status(),
        headers in vec((any::<String>(), any::<String>()), 0..3),
        body in vec(any::<u8>(), 0..9),
    ) -> HttpResponse {
        HttpResponse { code, reason, headers, body: body.into() }
    }
}

fn from_pairs(headers: &[(&'static str, String)]) -> Option<Instruct> {
    let headers = headers
        .iter()
        .map(|(name, value)| (*name, value.as_bytes()));
    Instruct::from_headers(headers).unwrap()
}

proptest! {
    #[test]
    fn from_headers_reverses_to_headers(
        instruct in instruct(),
        status in option::of(status()),
        hold: bool,
    ) {
        let hold = instruct.hold.filter(|_| hold);
        let instruct = Instruct { hold, status, ..instruct };
        let headers = instruct.to_headers().unwrap();
        for (_, value) in &headers {
            prop_assert!(!value.contains(|c: char| c.is_ascii_control()), "{:?}", value);
        }
        prop_assert_eq!(from_pairs(&headers).unwrap_or_default(), instruct);
    }

    #[test]
    fn repeated_headers_can_be_joined(instruct in instruct()) {
        let headers = instruct.to_headers().unwrap();
        let joined = |wanted: &str| {
            let values = headers.iter().filter(|(name, _)| *name == wanted);
            values.map(|(_, value)| &**value).collect::<Vec<_>>().join(", ")
        };
        let lists = ["Grip-Channel", "Grip-Set-Meta", "Grip-Expose-Headers", "Grip-Link"];
        let lists = lists.map(|name| (name, joined(name)));
        let others = headers.iter().filter(|(name, _)| lists.iter().all(|(list, _)| list != name));
        // An empty list counts as absent.
        let all: Vec<_> = others.chain(&lists).cloned().collect();
        let read = from_pairs(&all.into_iter().filter(|(_, v)| !v.is_empty()).collect::<Vec<_>>());
        prop_assert_eq!(read.unwrap_or_default(), instruct);
    }

    #[test]
    fn with_json_reverses_to_json(
        instruct in instruct(),
        names in vec(any::<String>().prop_filter("a name", |name| !name.is_empty()), 4),
        response in response(),
        hold: bool,
    ) {
        // The JSON form allows any name.
        let channels = instruct.channels.into_iter().zip(names);
        let channels = channels.map(|(channel, name)| Channel { name, ..channel });
        let without_hold = Instruct {
            expose_headers: instruct.expose_headers.clone(),
            next: instruct.next.clone(),
            gone: instruct.gone.clone(),
            response: Some(response.clone()),
            ..Instruct::default()
        };
        let instruct = if hold {
            Instruct {
                channels: channels.collect(),
                response: Some(response),
                ..instruct
            }
        } else {
            without_hold
        };
        let (headers, body) = instruct.to_json().unwrap();
        let from_headers = from_pairs(&headers).unwrap_or_default();
        prop_assert_eq!(from_headers.with_json(body.as_bytes()), Ok(instruct));
    }

    #[test]
    fn keep_alive_content_can_be_any_bytes(content in content()) {
        let written = Instruct::default().with_keep_alive(content.clone(), 1);
        let read = from_pairs(&written.to_headers().unwrap()).unwrap();
        prop_assert_eq!(read.keep_alive.unwrap().content, content);
    }

    #[test]
    fn from_headers_never_panics(
        name in "Grip-(Hold|Channel|Timeout|Keep-Alive|Set-Meta|Status|Expose-Headers|Link)",
        value in "[a-z0-9 ,;=<>\"\\\\é]{0,30}|<a>; rel=(next|gone).{0,9}|a; (prev-id|format|mode)=.{0,9}",
    ) {
        let _ = headers(&[(&name, &value)]);
    }

    #[test]
    fn with_json_never_panics(
        json in "\\{\"(hold|response)\":\\{(\"(mode|channels|keep-alive|meta|code|headers|body-bin)\":(1|\"a\"|\\[\\]|\\{\\}|null),?){0,3}\\}\\}|.{0,20}",
    ) {
        let _ = Instruct::default().with_json(json.as_bytes());
    }
}
