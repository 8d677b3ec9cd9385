//! Tests of the host's table in a manifest.

use std::time::Duration;

use http::Method;
use proptest::prelude::*;

use super::*;

/// A manifest with one component on one route.
const APPLICATION: &str = "spin_manifest_version = 2\n[application]\nname = \"test\"\n\
    [[trigger.http]]\nroute = \"/\"\ncomponent = \"page\"\n[component.page]\nsource = \"page.wasm\"\n";

fn parse_for(usage: ManifestUse, table: &str) -> Result<AppConfig, ManifestError> {
    let text = format!("{APPLICATION}{table}");
    let read = |tools: &ToolTables<'_>| read_tool(tools, usage);
    Manifest::parse_with_tools(&text, "/app/spin.toml", usage, read).map(AppConfig::new)
}

fn parse(table: &str) -> Result<AppConfig, ManifestError> {
    parse_for(ManifestUse::Embedded, table)
}

/// Checks that each problem contains its fragments.
#[track_caller]
fn assert_problems(table: &str, expected: &[&[&str]]) {
    let error = parse(table).expect_err(table).to_string();
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{error}");
    for (line, fragments) in lines.iter().zip(expected) {
        for fragment in *fragments {
            assert!(line.contains(fragment), "{line:?} lacks {fragment:?}");
        }
    }
}

#[test]
fn the_manifest_of_this_repository_is_valid() {
    let config = AppConfig::load(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap();
    assert_eq!(config.manifest.name, "socket-burger");
    let source = config.manifest.components["orders"].source.file();
    assert!(source.unwrap().is_absolute());
    assert_eq!(config.manifest.warnings, [""; 0]);
    assert_eq!(config.host.private, ["/internal/..."]);
    let second = Duration::from_secs;
    let timer = Timer {
        target: TimerTarget::Request {
            method: Method::POST,
            path: "/internal/orders".to_owned(),
        },
        schedule: TimerSchedule::Every(second(2)..=second(6)),
    };
    assert_eq!(config.host.timers, [timer]);
    assert_eq!(config.host.limits, Limits::DEFAULT);
    assert_eq!(config.host.allowed_origins, AllowedOrigins::default());
}

#[test]
fn timers_have_a_pause_or_a_cron_expression() {
    let timer = |keys: &str| {
        format!("[[application.tool.socket-host.timer]]\nrequest = \"POST /\"\n{keys}\n")
    };
    let config = parse(&timer("cron = \"0 30 4 * * *\"")).unwrap();
    let descriptions: Vec<_> = config.timers().iter().map(describe).collect();
    assert_eq!(descriptions, ["POST / at 0 30 4 * * * (cron)"]);
    let trigger = "[[trigger.cron]]\ncomponent = \"page\"\ncron_expression = \"@daily\"\n";
    let config = parse(&(trigger.to_owned() + &*timer("every = \"90s\""))).unwrap();
    let descriptions: Vec<_> = config.timers().iter().map(describe).collect();
    assert_eq!(
        descriptions,
        ["POST / every 1m 30s", "component page at @daily (cron)"]
    );
    let invalid = [
        "",
        "every = \"5s\"\ncron = \"@daily\"",
        "cron = \"* * * * *\"",
        "cron = \"0 0 0 31 4 *\"",
        "cron = 5",
        "crom = \"@daily\"",
    ];
    assert_problems(
        &invalid.map(timer).concat(),
        &[
            &["timer[0]", "`every` or `cron` is missing"],
            &["timer[1].cron", "not both"],
            &["timer[2].cron", "seconds in front"],
            &["timer[3].cron", "matches no time"],
            &["timer[4].cron", "expected a string"],
            &["timer[5]", "`every` or `cron` is missing"],
            &["timer[5].crom", "did you mean `cron`"],
        ],
    );
}

fn describe(timer: &Timer) -> String {
    format!("{} {}", timer.target, timer.schedule)
}

#[test]
fn cron_triggers_are_ignored_with_an_upstream() {
    let trigger = "[[trigger.cron]]\ncomponent = \"page\"\ncron_expression = \"never\"\n";
    let config = parse_for(ManifestUse::Upstream, trigger).unwrap();
    assert_eq!(config.timers(), []);
    let [warning] = &config.manifest.warnings[..] else {
        panic!("{:?}", config.manifest.warnings)
    };
    assert!(warning.contains("trigger.cron"), "{warning}");
}

#[test]
fn a_manifest_without_the_table_gets_the_defaults() {
    assert_eq!(parse("").unwrap().host, HostConfig::default());
    assert_eq!(AppConfig::absent().host, HostConfig::default());
}

#[test]
fn a_manifest_for_an_upstream_may_have_the_table_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spin.toml");
    let text = "spin_manifest_version = 2\napplication.name = \"test\"\n\
                [application.tool.socket-host]\nprivate = [\"/internal/...\"]\n\
                timer = [{ request = \"POST /tick\", every = \"5s\" }]\n";
    std::fs::write(&path, text).unwrap();
    let config = AppConfig::load_with(&path, ManifestUse::Upstream).unwrap();
    assert_eq!(config.host.private, ["/internal/..."]);
    assert_eq!(config.host.timers.len(), 1);
    assert_eq!(config.manifest.warnings, [""; 0]);
    let error = AppConfig::load(&path).unwrap_err().to_string();
    assert!(error.contains("`trigger` is missing"), "{error}");
}

#[test]
fn routes_in_a_foreign_notation_are_warnings() {
    let config = parse(
        "[[trigger.http]]\nroute = \"/...\"\nstatic_response = {}\n\
         [application.tool.socket-host]\n\
         private = [\"/internal/{id}\", \"/internal/*\", \"/hidden/:id\"]\n\
         passthrough = [{ route = \"/hmr/<id>\", upstream = \"http://127.0.0.1:1\" }]\n",
    )
    .unwrap();
    let warnings = config.manifest.warnings;
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    for spelling in ["/hmr/:id", "/internal/:id", "/internal/..."] {
        let found = warnings.iter().any(|warning| warning.ends_with(spelling));
        assert!(found, "no {spelling} in {warnings:?}");
    }
}

#[test]
fn every_key_is_read() {
    let config = parse(
        r#"
        [application.tool.socket-host]
        private = ["/internal/...", "/:tenant/secret"]
        timer = [{ request = "GET /a?b=c", every = "5s" }]
        [application.tool.socket-host.websocket]
        allowed-origins = ["*", "same-origin", "HTTPS://Example.com:443/"]
        max-message-size = "1MiB"
        max-outgoing-buffer = 100
        max-incoming-buffer = "2kB"
        max-connections = 7
        max-response-events = "3MiB"
        ping-interval = "off"
        max-connections-per-address = 8
        max-handshakes-per-address = 9
        max-messages-per-second = "off"
        [application.tool.socket-host.http]
        max-connections-per-address = 10
        max-request-body = "1kB"
        [application.tool.socket-host.cache]
        max-size = "2MiB"
        max-response-size = 1000
        "#,
    )
    .unwrap();
    let second = Duration::from_secs;
    assert_eq!(config.host.private, ["/internal/...", "/:tenant/secret"]);
    let every = TimerSchedule::Every(second(5)..=second(5));
    assert_eq!(config.host.timers[0].schedule, every);
    let origins = AllowedOrigins {
        any: true,
        same_origin: true,
        exact: vec!["https://example.com".to_owned()],
    };
    assert_eq!(config.host.allowed_origins, origins);
    let cache = CacheLimits {
        max_bytes: 2 << 20,
        max_response_bytes: 1000,
    };
    assert_eq!(config.host.cache, Some(cache));
    let limits = Limits {
        max_message_bytes: 1 << 20,
        max_outgoing_buffer_bytes: 100,
        max_incoming_buffer_bytes: 2000,
        max_connections: 7,
        max_response_events_bytes: 3 << 20,
        ping_interval: None,
        max_holds_per_address: 8,
        max_handshakes_per_address: Some(9),
        max_messages_per_second: None,
        max_connections_per_address: 10,
        max_request_body_bytes: 1000,
        ..Limits::DEFAULT
    };
    assert_eq!(config.host.limits, limits);
    // Neither private route matches a trigger, and no route serves the timer.
    let warnings = &config.manifest.warnings;
    assert_eq!(warnings.len(), 3, "{warnings:?}");
}

#[test]
fn instances_of_named_components_are_reused() {
    let table = "[application.tool.socket-host.websocket]\ninstance-reuse = [\"page\", \"pge\"]\n";
    let config = parse(table).unwrap();
    assert!(config.manifest.components["page"].reuses_websocket_instances);
    let [warning] = &config.manifest.warnings[..] else {
        panic!("{:?}", config.manifest.warnings)
    };
    let expected = "instance-reuse \"pge\" has no effect: no such component (did you mean `page`?)";
    assert_eq!(warning, expected);
    assert_problems(
        "[application.tool.socket-host.websocket]\ninstance-reuse = true\n",
        &[&["instance-reuse", "array"]],
    );
}

#[test]
fn problems_are_reported_with_line_and_key() {
    assert_problems(
        "[application.tool.socket-host]\n\
         privat = [\"/x\"]\n\
         private = [\"x\", \"/*/y\"]\n\
         timer = [{ request = \"POST x\", every = \"6s..2s\" }, { every = 1 }]\n\
         [application.tool.socket-host.websocket]\n\
         max_message_size = 1\n\
         allowed-origins = [\"example.com\"]\n\
         max-connections = 0\n\
         max-outgoing-buffer = \"big\"\n\
         ping-interval = \"soon\"\n\
         max-handshakes-per-address = 0\n\
         max-messages-per-second = \"many\"\n\
         [application.tool.socket-host.http]\n\
         max-connections-per-address = -1\n\
         max-request-body = \"2GiB\"\n",
        &[
            &[
                "spin.toml:10",
                "socket-host.privat: unknown key (did you mean `private`?); expected one of private, timer, passthrough, channels, cache, websocket, http",
            ],
            &["spin.toml:11", "private[0]", "starts with `/`"],
            &["spin.toml:11", "private[1]", "wildcard"],
            &["spin.toml:12", "timer[0].every", "ends before it starts"],
            &[
                "spin.toml:12",
                "timer[0].request",
                "the path must start with `/`",
            ],
            &["spin.toml:12", "timer[1]", "`request` is missing"],
            &[
                "spin.toml:12",
                "timer[1].every",
                "expected a string, found an integer",
            ],
            &[
                "spin.toml:14",
                "websocket.max_message_size: unknown key (did you mean `max-message-size`?)",
            ],
            &["spin.toml:15", "allowed-origins[0]", "same-origin"],
            &["spin.toml:16", "max-connections", "at least 1"],
            &["spin.toml:17", "max-outgoing-buffer", "64KiB"],
            &["spin.toml:18", "ping-interval", "off"],
            &[
                "spin.toml:19",
                "max-handshakes-per-address",
                "from 1 to 1000000, or \"off\"",
            ],
            &["spin.toml:20", "max-messages-per-second", "\"off\""],
            &["spin.toml:22", "max-connections-per-address", "at least 1"],
            &["spin.toml:23", "max-request-body", "1GiB"],
        ],
    );
}

#[test]
fn the_cache_has_bounds() {
    let cache = |keys: &str| {
        let table = format!("[application.tool.socket-host.cache]\n{keys}\n");
        parse(&table).unwrap().host.cache.unwrap()
    };
    assert_eq!(parse("").unwrap().host.cache, None);
    assert_eq!(cache(""), CacheLimits::DEFAULT);
    let small = cache("max-size = \"1MiB\"");
    assert_eq!(small.max_response_bytes, 1 << 20);
    let problems = [
        (
            "max_size = 1",
            "cache.max_size: unknown key (did you mean `max-size`?)",
        ),
        (
            "max-size = 0",
            "cache.max-size: expected a size from 1 byte to 1GiB",
        ),
        ("max-size = true", "cache.max-size: expected a string"),
        (
            "max-size = 1000\nmax-response-size = 1001",
            "cache.max-response-size: expected at most the size of the cache, which is `max-size`",
        ),
    ];
    for (keys, problem) in problems {
        let table = format!("[application.tool.socket-host.cache]\n{keys}\n");
        assert_problems(&table, &[&["spin.toml:", problem]]);
    }
    assert_problems(
        "[application.tool.socket-host]\ncache = true\n",
        &[&["spin.toml:10", "socket-host.cache", "expected a table"]],
    );
}

#[test]
fn problems_of_the_table_and_of_the_manifest_come_in_one_error() {
    assert_problems(
        "build = { command = 1 }\n[application.tool.socket-host]\nprivate = 1\n[extra]\n",
        &[
            &["spin.toml:9", "component.page.build.command"],
            &["spin.toml:11", "socket-host.private", "expected an array"],
            &["spin.toml:12", "extra", "unknown key"],
        ],
    );
}

#[test]
fn a_response_has_room_for_the_largest_message() {
    let max_response = |keys: &str| {
        let table = format!("[application.tool.socket-host.websocket]\n{keys}\n");
        parse(&table).unwrap().host.limits.max_response_events_bytes
    };
    assert_eq!(max_response(""), 1_000_000);
    assert_eq!(max_response("max-message-size = \"512KiB\""), 1_000_000);
    assert!(max_response("max-message-size = \"64MiB\"") > 64 << 20);
    let both = "max-message-size = \"64MiB\"\nmax-response-events = 500";
    assert_eq!(max_response(both), 500);
}

#[test]
fn sizes_are_limited() {
    for size in [
        "0",
        "-1",
        "\"2GiB\"",
        "1073741825",
        "\"99999999999999999999GiB\"",
    ] {
        assert_problems(
            &format!("[application.tool.socket-host.websocket]\nmax-message-size = {size}\n"),
            &[&["max-message-size", "from 1 byte to 1GiB"]],
        );
    }
}

#[test]
fn passthroughs_need_an_upstream_when_components_are_embedded() {
    let text = "[[application.tool.socket-host.passthrough]]\nroute = \"/_next/webpack-hmr\"\nupstream = \"http://localhost:3001/\"\n\
         [[application.tool.socket-host.passthrough]]\nroute = \"/raw/...\"\n";
    let config = parse_for(ManifestUse::Upstream, text).unwrap();
    let passthrough = |route: &str, upstream: Option<&str>| Passthrough {
        route: route.to_owned(),
        upstream: upstream.map(|url| url.parse().unwrap()),
    };
    assert_eq!(
        config.host.passthroughs,
        [
            passthrough("/_next/webpack-hmr", Some("http://localhost:3001")),
            passthrough("/raw/...", None),
        ]
    );
    assert_problems(
        text,
        &[&["passthrough[1]: `upstream` is missing", "--upstream"]],
    );
}

#[test]
fn problems_of_passthroughs_are_reported() {
    let entry = |text: &str| format!("[[application.tool.socket-host.passthrough]]\n{text}\n");
    let text = [
        "upstream = \"http://a\"",
        "route = \"/x\"\nupstream = \"localhost:1\"",
        "route = \"x\"\nupstream = \"http://a\"",
        "route = \"/*/x\"\nupstream = 7",
        "route = \"/y/:a\"\nupstream = \"http://a\"\nupstraem = 1",
        "route = \"/y/:b\"\nupstream = \"http://a\"",
    ]
    .map(entry)
    .concat();
    assert_problems(
        &text,
        &[
            &["passthrough[0]", "`route` is missing"],
            &["passthrough[1].upstream", "http://127.0.0.1:3001"],
            &["passthrough[2].route", "starts with `/`"],
            &["passthrough[3].route", "wildcard"],
            &["passthrough[3].upstream", "expected a string"],
            &[
                "passthrough[4].upstraem",
                "unknown key (did you mean `upstream`?)",
            ],
            &["passthrough[5]", "same paths as the route on line"],
        ],
    );
}

proptest! {
    #[test]
    fn any_value_is_read_or_reported_with_its_line(
        key in "application\\.tool\\.socket-host(\\.private|\\.timer|\\.passthrough|\\.websocket(\\.allowed-origins|\\.max-message-size|\\.max-connections|\\.ping-interval)?)?",
        value in "(1|-9223372036854775808|0x10|1\\.5|true|\"\"|\"x\"|\"\\*\"|\\[\\]|\\[1\\]|\\[\"\"\\]|\\[\\[\\]\\]|\\[\\{\\}\\]|\\{\\}|\\{ http = 1 \\}|\\{ http = \\[1\\] \\}|1979-05-27)",
    ) {
        let text = format!("spin_manifest_version = 2\n{key} = {value}\napplication.name = \"x\"\n");
        let usage = ManifestUse::Embedded;
        let read = |tools: &ToolTables<'_>| read_tool(tools, usage);
        if let Err(error) = Manifest::parse_with_tools(&text, "spin.toml", usage, read) {
            prop_assert!(error.problems.iter().all(|problem| problem.line.is_some()), "{}", error);
        }
    }
}
