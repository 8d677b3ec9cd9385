//! Tests of instructions: what others write, what is refused and why, and round trips.

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
fn no_grip_is_none() {
    let plain = [
        ("Content-Type", "text/plain"),
        ("X-Grip-Hold", "x"),
        ("Grip-Sig", "x"),
    ];
    assert_eq!(headers(&plain), Ok(None));
    assert_eq!(headers(&[]), Ok(None));
}

#[test]
fn reads_what_libraries_write() {
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
    // No channel at all: so writes `@fanoutio/grip` where there is only a link.
    assert_eq!(read(&[("Grip-Channel", "")]), Instruct::default());
    let response = read(&[("Grip-Hold", "response"), ("Grip-Channel", "a/ b")]);
    assert_eq!(response, Instruct::response([Channel::new("a/ b")]));
}

#[test]
fn the_first_of_several_values_counts() {
    let twice = read(&[
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
    assert_eq!(twice.hold, Some(HoldMode::Response));
    assert_eq!(
        twice.status,
        Some(Status {
            code: 201,
            reason: None
        })
    );
    assert_eq!(twice.timeout, Some(1));
    assert_eq!(twice.keep_alive.unwrap().timeout, Some(1));
    assert_eq!(twice.channels, [channel("c", Some("1"), &[])]);
}

#[test]
fn keep_alives() {
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
fn links() {
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
    // Nothing of it is about a host.
    assert_eq!(link("/x; rel=prev, , <a>; rel=next,"), next("a", None));
}

#[test]
fn says_which_header_is_wrong_and_how() {
    for (name, value, message) in [
        ("Grip-Hold", "Stream", "must be \"stream\" or \"response\""),
        (
            "Grip-Channel",
            "; prev-id=1",
            "must have the channel's name",
        ),
        (
            "Grip-Channel",
            "a; prev-id=\"1",
            "a quoted string has no end",
        ),
        (
            "Grip-Timeout",
            "-1",
            "must be whole seconds, 0 to 4294967295",
        ),
        (
            "Grip-Timeout",
            "+1",
            "must be whole seconds, 0 to 4294967295",
        ),
        (
            "Grip-Timeout",
            "4294967296",
            "must be whole seconds, 0 to 4294967295",
        ),
        (
            "Grip-Set-Meta",
            "=a",
            "must be NAME=\"VALUE\", and the name not empty",
        ),
        ("Grip-Set-Meta", "a=\"b", "a quoted string has no end"),
        (
            "Grip-Status",
            "",
            "the code must be a whole number, 200 to 999",
        ),
        (
            "Grip-Status",
            "101",
            "the code must be a whole number, 200 to 999",
        ),
        (
            "Grip-Status",
            "+404",
            "the code must be a whole number, 200 to 999",
        ),
        (
            "Grip-Link",
            "/a; rel=next",
            "must be <URI>; rel=next; timeout=SECONDS",
        ),
        ("Grip-Link", "<>; rel=next", "\"\" is not a URI"),
        ("Grip-Link", "<a b>; rel=gone", "\"a b\" is not a URI"),
        (
            "Grip-Link",
            "<a>; rel=next; timeout=x",
            "timeout must be whole seconds, 0 to 4294967295",
        ),
        ("Grip-Keep-Alive", "", "must have the data to send"),
        (
            "Grip-Keep-Alive",
            "a; format=hex",
            "format must be \"raw\", \"cstring\" or \"base64\"",
        ),
        (
            "Grip-Keep-Alive",
            "a; mode=x",
            "mode must be \"idle\" or \"interval\"",
        ),
        (
            "Grip-Keep-Alive",
            "a; timeout=",
            "timeout must be whole seconds, 0 to 4294967295",
        ),
    ] {
        assert_eq!(error(name, value), format!("{name}: {message}"), "{value}");
        // The name as the protocol has it, however it was written.
        assert!(error(&name.to_lowercase(), value).starts_with(name));
    }
    for bad in ["\\", "\\q", "\\x", "\\x1", "\\x1g", "\\x+1", "\\xé"] {
        let message = error("Grip-Keep-Alive", &format!("a{bad}; format=cstring"));
        assert!(
            message.contains("an escape must be one of"),
            "{bad}: {message}"
        );
    }
    let message = error("Grip-Keep-Alive", "?; format=base64");
    assert!(
        message.starts_with("Grip-Keep-Alive: is not base64: "),
        "{message}"
    );
    let bytes = [("Grip-Channel", &b"\xff"[..])];
    let message = Instruct::from_headers(bytes).unwrap_err().to_string();
    assert_eq!(message, "Grip-Channel: must be UTF-8");
}

#[test]
fn reads_json() {
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
    // Some libraries write numbers as text.
    let json = br#"{"hold":{"channels":[],"timeout":"9"},"response":{"code":"404"}}"#;
    let instruct = Instruct::default().with_json(json).unwrap();
    assert_eq!(
        (instruct.timeout, instruct.response.unwrap().code),
        (Some(9), 404)
    );
}

#[test]
fn json_comes_on_top_of_headers() {
    let said = read(&[
        ("Grip-Status", "404 Gone Fishing"),
        ("Grip-Hold", "stream"),
        ("Grip-Timeout", "9"),
        ("Grip-Channel", "a"),
        ("Grip-Set-Meta", "x=1, y=1"),
        ("Grip-Link", "</next>; rel=next"),
    ]);
    let json = br#"{"hold":{"channels":[{"name":"b"}],"meta":{"y":"2"}}}"#;
    let both = said.clone().with_json(json).unwrap();
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
    // A code of its own has a reason of its own.
    let other = said.with_json(br#"{"response":{"code":500}}"#).unwrap();
    let response = other.response.unwrap();
    assert_eq!((response.code, response.reason), (500, None));
    assert_eq!(other.hold, Some(HoldMode::Stream));
}

#[test]
fn says_where_json_is_wrong_and_how() {
    for (json, message) in [
        ("[]", "instruct: must be an object"),
        (r#"{"hold":1}"#, "instruct.hold: must be an object"),
        (r#"{"hold":{}}"#, "instruct.hold.channels: must be a list"),
        (
            r#"{"hold":{"mode":"x","channels":[]}}"#,
            "instruct.hold.mode: must be \"stream\" or \"response\"",
        ),
        (
            r#"{"hold":{"channels":[{"name":"a"},{"name":""}]}}"#,
            "instruct.hold.channels[1].name: must be there, and not empty",
        ),
        (
            r#"{"hold":{"channels":[{"name":"a","filters":"f"}]}}"#,
            "instruct.hold.channels[0].filters: must be a list of strings",
        ),
        (
            r#"{"hold":{"channels":[],"timeout":1.5}}"#,
            "instruct.hold.timeout: must be whole seconds, 0 to 4294967295",
        ),
        (
            r#"{"hold":{"channels":[],"timeout":""}}"#,
            "instruct.hold.timeout: must be whole seconds, 0 to 4294967295",
        ),
        (
            r#"{"hold":{"channels":[],"timeout":"+1"}}"#,
            "instruct.hold.timeout: must be whole seconds, 0 to 4294967295",
        ),
        (
            r#"{"hold":{"channels":[],"keep-alive":{"content":""}}}"#,
            "instruct.hold.keep-alive.content: this or content-bin must be there, and not empty",
        ),
        (
            r#"{"hold":{"channels":[],"keep-alive":{"content":"a","mode":"x"}}}"#,
            "instruct.hold.keep-alive.mode: must be \"idle\" or \"interval\"",
        ),
        (
            r#"{"hold":{"channels":[],"meta":{"a":1}}}"#,
            "instruct.hold.meta: must be an object of strings",
        ),
        (r#"{"response":""}"#, "instruct.response: must be an object"),
        (
            r#"{"response":{"code":199}}"#,
            "instruct.response.code: must be a whole number, 200 to 999",
        ),
    ] {
        let error = Instruct::default().with_json(json.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), message, "{json}");
    }
    let error = Instruct::default().with_json(b"{").unwrap_err().to_string();
    assert!(
        error.starts_with("body: is not JSON, as its type says: "),
        "{error}"
    );
}

#[test]
fn is_written_as_the_protocol_has_it() {
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
fn last_ids() {
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
    assert_eq!(error, "Grip-Last: must have the channel's name");
    let written = |channel: Channel| channel.to_grip_last().map_err(|error| error.to_string());
    assert_eq!(written(Channel::new("a")), Ok(None));
    let value = "a; last-id=\"1\"".to_owned();
    assert_eq!(written(channel("a", Some("1"), &["f"])), Ok(Some(value)));
    let error = written(Channel::new("a,b").after("1")).unwrap_err();
    assert_eq!(
        error,
        "Grip-Last: \"a,b\" cannot stand in a header: use JSON"
    );
}

#[test]
fn what_no_header_can_hold_is_refused() {
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
        let message = format!("Grip-Channel: {name:?} cannot stand in a header: use JSON");
        assert_eq!(error.to_string(), message);
    }
    let refused = |instruct: Instruct, place: &str| {
        assert_eq!(instruct.to_headers().unwrap_err().place, place);
    };
    let empty = Instruct::default;
    refused(
        Instruct::stream([Channel::new("a").after("1\r\n")]),
        "Grip-Channel",
    );
    refused(empty().with_keep_alive("", 1), "Grip-Keep-Alive");
    refused(empty().with_next("a b", 1), "Grip-Link");
    refused(empty().with_next("a,b", 1), "Grip-Link");
    let meta = [("a=".into(), "".into())].into();
    refused(Instruct { meta, ..empty() }, "Grip-Set-Meta");
    for (code, reason) in [(100, None), (1000, None), (200, Some("a\r\n".into()))] {
        let status = Some(Status { code, reason });
        refused(Instruct { status, ..empty() }, "Grip-Status");
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
    assert_eq!(error.place, "instruct.response.code");
}

#[test]
fn times() {
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
    let quiet = |timeout| {
        NextLink {
            uri: "a".into(),
            timeout,
        }
        .quiet()
    };
    assert_eq!(
        [None, Some(0), Some(9)].map(quiet),
        [120, 0, 9].map(seconds)
    );
}

#[test]
fn which_headers_the_client_gets() {
    let all = Instruct::default();
    assert!(all.exposes("Content-Type"));
    assert!(all.exposes("Grip"));
    assert!(!all.exposes("grip-anything"));
    let some = read(&[("Grip-Expose-Headers", "content-type, Grip-Hold")]);
    assert!(some.exposes("Content-Type"));
    assert!(!some.exposes("Content-Length"));
    assert!(!some.exposes("Grip-Hold"));
}

/// Text for where a header has a quoted string.
fn value() -> impl Strategy<Value = String> {
    "[ -~é€]{0,9}"
}

/// Text for where a header has none.
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
    /// All that both forms can say. There is always a hold: JSON has no place for
    /// channels outside of one.
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
    fn reading_headers_undoes_writing(
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
    fn one_header_of_several_says_the_same(instruct in instruct()) {
        let headers = instruct.to_headers().unwrap();
        let joined = |wanted: &str| {
            let values = headers.iter().filter(|(name, _)| *name == wanted);
            values.map(|(_, value)| &**value).collect::<Vec<_>>().join(", ")
        };
        let lists = ["Grip-Channel", "Grip-Set-Meta", "Grip-Expose-Headers", "Grip-Link"];
        let lists = lists.map(|name| (name, joined(name)));
        let others = headers.iter().filter(|(name, _)| lists.iter().all(|(list, _)| list != name));
        // An empty list is as good as none.
        let all: Vec<_> = others.chain(&lists).cloned().collect();
        let read = from_pairs(&all.into_iter().filter(|(_, v)| !v.is_empty()).collect::<Vec<_>>());
        prop_assert_eq!(read.unwrap_or_default(), instruct);
    }

    #[test]
    fn reading_json_undoes_writing(
        instruct in instruct(),
        names in vec(any::<String>().prop_filter("a name", |name| !name.is_empty()), 4),
        response in response(),
        hold: bool,
    ) {
        // Here names may be anything.
        let channels = instruct.channels.into_iter().zip(names);
        let channels = channels.map(|(channel, name)| Channel { name, ..channel });
        let beside = Instruct {
            expose_headers: instruct.expose_headers.clone(),
            next: instruct.next.clone(),
            gone: instruct.gone.clone(),
            response: Some(response.clone()),
            ..Instruct::default()
        };
        let instruct = match hold {
            true => Instruct {
                channels: channels.collect(),
                response: Some(response),
                ..instruct
            },
            false => beside,
        };
        let (headers, body) = instruct.to_json().unwrap();
        let said = from_pairs(&headers).unwrap_or_default();
        prop_assert_eq!(said.with_json(body.as_bytes()), Ok(instruct));
    }

    #[test]
    fn any_bytes_keep_alive(content in content()) {
        let written = Instruct::default().with_keep_alive(content.clone(), 1);
        let read = from_pairs(&written.to_headers().unwrap()).unwrap();
        prop_assert_eq!(read.keep_alive.unwrap().content, content);
    }

    #[test]
    fn no_header_panics(
        name in "Grip-(Hold|Channel|Timeout|Keep-Alive|Set-Meta|Status|Expose-Headers|Link)",
        value in "[a-z0-9 ,;=<>\"\\\\é]{0,30}|<a>; rel=(next|gone).{0,9}|a; (prev-id|format|mode)=.{0,9}",
    ) {
        let _ = headers(&[(&name, &value)]);
    }

    #[test]
    fn no_json_panics(
        json in "\\{\"(hold|response)\":\\{(\"(mode|channels|keep-alive|meta|code|headers|body-bin)\":(1|\"a\"|\\[\\]|\\{\\}|null),?){0,3}\\}\\}|.{0,20}",
    ) {
        let _ = Instruct::default().with_json(json.as_bytes());
    }
}
