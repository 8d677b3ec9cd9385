//! Tests of control messages: what is read and written, errors, and round trips.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

#[test]
fn messages_are_written_in_wire_format() {
    assert_eq!(
        ControlMessage::subscribe("orders").into_event(),
        Event::text(r#"c:{"channel":"orders","type":"subscribe"}"#)
    );
    assert_eq!(
        ControlMessage::subscribe_after("orders", "117").to_json(),
        r#"{"channel":"orders","prev-id":"117","type":"subscribe"}"#
    );
    assert_eq!(
        ControlMessage::subscribe_recent("orders", 1).to_json(),
        r#"{"channel":"orders","recover":1,"type":"subscribe"}"#
    );
    assert_eq!(ControlMessage::Detach.to_json(), r#"{"type":"detach"}"#);
    assert_eq!(
        ControlMessage::keep_alive(Message::Ping(Bytes::new()), 30).to_json(),
        r#"{"content-bin":"","message-type":"ping","timeout":30,"type":"keep-alive"}"#
    );
    let info = Map::from_iter([("name".to_owned(), "Ada".into())]);
    assert_eq!(
        ControlMessage::presence("orders", info).to_json(),
        r#"{"channel":"orders","info":{"name":"Ada"},"type":"presence"}"#
    );
    assert_eq!(
        ControlMessage::user("ada", Some(60)).to_json(),
        r#"{"expires":60,"id":"ada","type":"user"}"#
    );
    assert_eq!(content("{}"), Event::text("m:{}"));
}

#[test]
fn messages_of_other_libraries_are_read() {
    let parse = |json: &str| ControlMessage::parse(json.as_bytes()).unwrap();
    assert_eq!(
        parse(r#"{"type":"subscribe","channel":"a","filters":["skip-self"],"later":1}"#),
        ControlMessage::Subscribe {
            channel: "a".into(),
            filters: vec!["skip-self".into()],
            prev_id: None,
            recover: None,
            presence: None,
        }
    );
    assert_eq!(
        parse(r#"{"type":"keep-alive","content":"hi","timeout":20,"mode":"interval"}"#),
        ControlMessage::KeepAlive {
            message: Some(Message::Text("hi".into())),
            timeout: Some(20),
            mode: KeepAliveMode::Interval,
        }
    );
    assert_eq!(
        parse(r#"{"type":"send-delayed","content-bin":"/w==","message-type":"binary"}"#),
        ControlMessage::SendDelayed {
            message: Message::Binary(Bytes::from_static(b"\xff")),
            timeout: None
        }
    );
    assert_eq!(
        parse(r#"{"type":"set-meta","name":"user","value":null}"#),
        ControlMessage::SetMeta {
            name: "user".into(),
            value: None
        }
    );
}

#[test]
fn errors_name_field_and_expectation() {
    let error = |json: &str| ControlMessage::parse(json.as_bytes()).unwrap_err();
    assert_eq!(
        error(r#"{"type":"dance"}"#),
        ControlError::UnknownType("dance".into())
    );
    assert_eq!(error(r#"[]"#), ControlError::MissingType);
    assert_eq!(error(r#"{"type":1}"#), ControlError::MissingType);
    assert!(matches!(error("{"), ControlError::Json(_)));
    for (json, text) in [
        (
            r#"{"type":"subscribe"}"#,
            "control message subscribe: missing field `channel`",
        ),
        (
            r#"{"type":"subscribe","channel":""}"#,
            "control message subscribe.channel: expected a non-empty string",
        ),
        (
            r#"{"type":"subscribe","channel":3}"#,
            "control message subscribe.channel: expected a non-empty string",
        ),
        (
            r#"{"type":"subscribe","channel":"a","filters":[1]}"#,
            "control message subscribe.filters: expected a list of strings",
        ),
        (
            r#"{"type":"subscribe","channel":"a","prev-id":""}"#,
            "control message subscribe.prev-id: expected a non-empty string",
        ),
        (
            r#"{"type":"subscribe","channel":"a","recover":-1}"#,
            "control message subscribe.recover: expected a whole number, 0 to 4294967295",
        ),
        (
            r#"{"type":"subscribe","channel":"a","presence":{"info":1}}"#,
            "control message subscribe.presence.info: expected an object",
        ),
        (
            r#"{"type":"presence","channel":"a","events":1}"#,
            "control message presence.events: expected true or false",
        ),
        (
            r#"{"type":"user","id":""}"#,
            "control message user.id: expected a non-empty string",
        ),
        (
            r#"{"type":"keep-alive","timeout":-1}"#,
            "control message keep-alive.timeout: expected whole seconds, 0 to 4294967295",
        ),
        (
            r#"{"type":"keep-alive","mode":"x"}"#,
            "control message keep-alive.mode: unknown variant `x`, expected `idle` or `interval`",
        ),
        (
            r#"{"type":"keep-alive","content":"x","message-type":"x"}"#,
            "control message keep-alive.message-type: expected \"text\", \"binary\", \"ping\" or \"pong\"",
        ),
        (
            r#"{"type":"send-delayed"}"#,
            "control message send-delayed: missing content or content-bin",
        ),
        (
            r#"{"type":"send-delayed","content-bin":"/w==","message-type":"text"}"#,
            "control message send-delayed.content-bin: expected UTF-8 in a text message",
        ),
    ] {
        assert_eq!(error(json).to_string(), text);
    }
}

fn message() -> impl Strategy<Value = Message> {
    let short = || prop::collection::vec(any::<u8>(), 0..=125).prop_map(Bytes::from);
    prop_oneof![
        any::<String>().prop_map(|text| Message::Text(text.into())),
        short().prop_map(Message::Binary),
        short().prop_map(Message::Ping),
        short().prop_map(Message::Pong),
    ]
}

fn presence() -> impl Strategy<Value = Presence> {
    (prop::option::of(".+"), any::<bool>()).prop_map(|(name, events)| Presence {
        info: name
            .map(|name| (name.clone(), name.into()))
            .into_iter()
            .collect(),
        events,
    })
}

fn control() -> impl Strategy<Value = ControlMessage> {
    let mode = prop_oneof![Just(KeepAliveMode::Idle), Just(KeepAliveMode::Interval)];
    prop_oneof![
        Just(ControlMessage::Detach),
        Just(ControlMessage::FlushDelayed),
        (
            ".+",
            any::<Vec<String>>(),
            prop::option::of(".+"),
            any::<Option<u32>>(),
            prop::option::of(presence()),
        )
            .prop_map(|(channel, filters, prev_id, recover, presence)| {
                ControlMessage::Subscribe {
                    channel,
                    filters,
                    prev_id,
                    recover,
                    presence,
                }
            }),
        (".+", presence())
            .prop_map(|(channel, presence)| ControlMessage::Presence { channel, presence }),
        (".+", any::<Option<u32>>()).prop_map(|(id, expires)| ControlMessage::User { id, expires }),
        ".+".prop_map(|channel| ControlMessage::Unsubscribe { channel }),
        ".+".prop_map(|id| ControlMessage::Session { id }),
        (".+", any::<Option<String>>())
            .prop_map(|(name, value)| ControlMessage::SetMeta { name, value }),
        (prop::option::of(message()), any::<Option<u32>>(), mode).prop_map(
            |(message, timeout, mode)| ControlMessage::KeepAlive {
                message,
                timeout,
                mode
            }
        ),
        (message(), any::<Option<u32>>())
            .prop_map(|(message, timeout)| ControlMessage::SendDelayed { message, timeout }),
        (".+", any::<Option<String>>())
            .prop_map(|(request, response)| ControlMessage::AutoResponse { request, response }),
    ]
}

/// The types of all messages. Without an entry here, a new variant does not compile.
fn kind(message: &ControlMessage) -> &'static str {
    match message {
        ControlMessage::Subscribe { .. } => "subscribe",
        ControlMessage::Unsubscribe { .. } => "unsubscribe",
        ControlMessage::Detach => "detach",
        ControlMessage::Session { .. } => "session",
        ControlMessage::SetMeta { .. } => "set-meta",
        ControlMessage::KeepAlive { .. } => "keep-alive",
        ControlMessage::SendDelayed { .. } => "send-delayed",
        ControlMessage::FlushDelayed => "flush-delayed",
        ControlMessage::Presence { .. } => "presence",
        ControlMessage::User { .. } => "user",
        ControlMessage::AutoResponse { .. } => "auto-response",
    }
}

const KINDS: [&str; 11] = [
    "subscribe",
    "unsubscribe",
    "detach",
    "session",
    "set-meta",
    "keep-alive",
    "send-delayed",
    "flush-delayed",
    "presence",
    "user",
    "auto-response",
];

#[test]
fn every_kind_is_documented_and_fuzzed() {
    let page = include_str!("../../../../docs/grip.md");
    let (_, section) = page.split_once("\n### Control messages\n").unwrap();
    let documented: Vec<_> = section
        .lines()
        .skip_while(|line| !line.starts_with("| `"))
        .map_while(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    assert_eq!(documented, KINDS);
    for kind in KINDS {
        let seed = format!("{}/fuzz/corpus/control/{kind}", env!("CARGO_MANIFEST_DIR"));
        assert!(std::fs::exists(&seed).unwrap(), "{seed}");
    }
}

proptest! {
    #[test]
    fn type_is_the_name_of_the_variant(control in control()) {
        let json: Value = serde_json::from_str(&control.to_json()).unwrap();
        prop_assert_eq!(&json["type"], kind(&control));
        prop_assert!(KINDS.contains(&kind(&control)));
    }

    #[test]
    fn parse_reverses_to_json(control in control()) {
        prop_assert_eq!(ControlMessage::parse(control.to_json().as_bytes()).unwrap(), control);
    }

    #[test]
    fn parse_never_panics(json in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = ControlMessage::parse(&json);
    }

    #[test]
    fn fields_of_wrong_types_never_panic(
        kind in prop::sample::select(KINDS.to_vec()),
        field in prop::sample::select(vec!["channel", "filters", "id", "name", "value", "timeout", "mode", "content", "content-bin", "message-type", "presence", "info", "events", "expires"]),
        value in prop::sample::select(vec!["1", "-1", "1e99", "\"\"", "\"x\"", "[]", "[\"a\"]", "[[]]", "{}", "null", "true"]),
    ) {
        let json = format!(r#"{{"type":"{kind}","{field}":{value},"name":"n"}}"#);
        let _ = ControlMessage::parse(json.as_bytes());
    }
}
