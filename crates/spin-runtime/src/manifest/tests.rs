//! The manifest, read whole.

use std::fs;

use proptest::prelude::*;

use super::*;

const HEAD: &str = "spin_manifest_version = 2\n[application]\nname = \"test\"\n";

fn parse(rest: &str) -> Result<Manifest, ManifestError> {
    Manifest::parse(&format!("{HEAD}{rest}"), "/app/spin.toml")
}

/// One component on one route, and whatever else.
fn served(rest: &str) -> String {
    format!(
        "[[trigger.http]]\nroute = \"/\"\ncomponent = \"page\"\n[component.page]\nsource = \"page.wasm\"\n{rest}"
    )
}

/// The problems as text, each of which must hold its fragments.
#[track_caller]
fn refused(rest: &str, expected: &[&[&str]]) {
    let error = parse(rest).expect_err(rest).to_string();
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{error}");
    for (line, fragments) in lines.iter().zip(expected) {
        for fragment in *fragments {
            assert!(line.contains(fragment), "{line:?} lacks {fragment:?}");
        }
    }
}

#[test]
fn the_application_of_this_repository_is_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let manifest = Manifest::load(&path).unwrap();
    assert_eq!(manifest.name, "socket-burger");
    assert_eq!(manifest.warnings, [""; 0]);
    assert_eq!(manifest.host.private, ["/internal/..."]);
    let second = Duration::from_secs;
    let timer = Timer {
        method: Method::POST,
        path: "/internal/orders".to_owned(),
        least: second(2),
        most: second(6),
    };
    assert_eq!(manifest.host.timers, [timer]);
    assert_eq!(manifest.host.websocket, WebSocketLimits::default());
    assert!(manifest.components["orders"].source.is_absolute());
}

#[test]
fn everything_spin_knows_is_read() {
    let text = r#"
        spin_manifest_version = 2

        [application]
        name = "all"
        version = "1.2.3"
        description = "about"
        authors = ["me <me@example.com>"]
        targets = ["spin-up:3.3", { url = "https://example.com/env.toml" }]
        trigger.http = { base = "/" }
        tool.other = { anything = [1, 2.5, true] }

        [variables]
        plain = { default = "x", description = "about" }
        needed = { required = true, secret = true }

        [[trigger.http]]
        id = "front"
        route = "/"
        component = "page"
        executor = { type = "http" }

        [[trigger.http]]
        route = { private = true }
        component = "HTTP-proxy"

        [[trigger.http]]
        route = "/inline/:name/..."
        component = { source = "inline.wasm" }

        [[trigger.http]]
        route = "/old/"
        static_response = { status_code = 301, headers = { location = "/", "X-A" = "b" }, body = "moved" }

        [component.page]
        source = "target/page.wasm"
        description = "about"
        files = ["a.txt", "assets/**/*", { source = "static", destination = "www//./x/" }]
        exclude_files = ["**/*.map"]
        allowed_outbound_hosts = ["https://{{ plain }}", "http://HTTP-proxy.spin.internal"]
        allowed_http_hosts = ["example.com"]
        key_value_stores = ["default", "my_store", "my-store"]
        sqlite_databases = ["default"]
        ai_models = ["llama2-chat"]
        environment = { A = "b" }
        variables = { x = "{{ plain }}-{{ needed }}" }
        targets = []
        dependencies_inherit_configuration = false
        dependencies = {}
        tool = { other = { key = 1 } }

        [component.page.build]
        command = ["one", "two"]
        workdir = "page"
        watch = ["src/**/*.rs"]
        environment = { C = "d" }

        [component.page.profile.debug]
        source = "debug.wasm"
        environment = { A = "c" }
        dependencies = {}
        build = { command = "debug" }

        [component.HTTP-proxy]
        source = "/abs/proxy.wasm"
        build.command = "make"
    "#;
    let manifest = Manifest::parse(text, "/app/spin.toml").unwrap();
    assert_eq!(manifest.root, Path::new("/app"));
    assert_eq!(manifest.path, Path::new("/app/spin.toml"));
    assert_eq!(manifest.version, "1.2.3");
    assert_eq!(manifest.variables["plain"].default.as_deref(), Some("x"));
    assert_eq!(
        manifest.variables["needed"],
        Variable {
            default: None,
            secret: true
        }
    );

    let routes: Vec<_> = manifest
        .triggers
        .iter()
        .map(|trigger| trigger.route.clone())
        .collect();
    let path = |path: &str| Route::Path(path.to_owned());
    assert_eq!(
        routes,
        [
            path("/"),
            Route::Private,
            path("/inline/:name/..."),
            path("/old/")
        ]
    );
    let Target::Static {
        status,
        headers,
        body,
    } = &manifest.triggers[3].target
    else {
        panic!("{:?}", manifest.triggers[3]);
    };
    assert_eq!(
        (status.as_u16(), headers["x-a"].as_bytes(), body.as_str()),
        (301, &b"b"[..], "moved")
    );
    let Target::Component(inline) = &manifest.triggers[2].target else {
        panic!("{:?}", manifest.triggers[2]);
    };
    assert_eq!(inline, "http-trigger1-component");
    assert_eq!(
        manifest.components[inline].source,
        Path::new("/app/inline.wasm")
    );

    let page = &manifest.components["page"];
    assert_eq!(page.source, Path::new("/app/target/page.wasm"));
    let placed = Files::Placed {
        source: "/app/static".into(),
        destination: "/www/x".to_owned(),
    };
    let glob = |glob: &str| Files::Glob(glob.to_owned());
    assert_eq!(page.files, [glob("a.txt"), glob("assets/**/*"), placed]);
    assert_eq!(
        page.allowed_outbound_hosts,
        [
            "https://{{ plain }}",
            "http://HTTP-proxy.spin.internal",
            "http://example.com",
            "https://example.com"
        ]
    );
    assert_eq!(page.environment["A"], "b");
    assert_eq!(page.variables["x"], "{{ plain }}-{{ needed }}");
    let build = page.build.as_ref().unwrap();
    assert_eq!(build.commands, ["one", "two"]);
    assert_eq!(build.workdir, Path::new("/app/page"));
    assert_eq!(build.environment["C"], "d");
    let proxy = &manifest.components["HTTP-proxy"];
    assert_eq!(proxy.source, Path::new("/abs/proxy.wasm"));
    assert_eq!(proxy.build.as_ref().unwrap().workdir, Path::new("/app"));
}

#[test]
fn our_table_is_read() {
    let manifest = parse(&served(
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
        ping-interval = "off"
        "#,
    ))
    .unwrap();
    assert_eq!(manifest.host.private, ["/internal/...", "/:tenant/secret"]);
    assert_eq!(manifest.host.timers[0].least, Duration::from_secs(5));
    let limits = WebSocketLimits {
        allowed_origins: AllowedOrigins {
            any: true,
            same_origin: true,
            exact: vec!["https://example.com".to_owned()],
        },
        max_message_size: 1 << 20,
        max_outgoing_buffer: 100,
        max_incoming_buffer: 2000,
        max_connections: 7,
        ping_interval: None,
    };
    assert_eq!(manifest.host.websocket, limits);
    // Neither private route covers a trigger's, and nothing serves the timer.
    assert_eq!(manifest.warnings.len(), 3, "{:?}", manifest.warnings);
}

#[test]
fn slips_in_our_table_are_named() {
    refused(
        &served(
            "[application.tool.socket-host]\n\
             privat = [\"/x\"]\n\
             private = [\"x\", \"/*/y\"]\n\
             timer = [{ request = \"POST x\", every = \"6s..2s\" }, { every = 1 }]\n\
             [application.tool.socket-host.websocket]\n\
             max_message_size = 1\n\
             allowed-origins = [\"example.com\"]\n\
             max-connections = 0\n\
             max-outgoing-buffer = \"big\"\n\
             ping-interval = \"soon\"\n",
        ),
        &[
            &[
                "spin.toml:10",
                "socket-host.privat: unknown key (did you mean `private`?); expected one of private, timer, passthrough, websocket",
            ],
            &["spin.toml:11", "private[0]", "starts with `/`"],
            &["spin.toml:11", "private[1]", "wildcard"],
            &["spin.toml:12", "timer[0].every", "ends before it starts"],
            &[
                "spin.toml:12",
                "timer[0].request",
                "the path starts with `/`",
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
        ],
    );
}

#[test]
fn passthroughs_name_a_route_and_a_server() {
    let text = served(
        "[[application.tool.socket-host.passthrough]]\nroute = \"/_next/webpack-hmr\"\nupstream = \"http://localhost:3001/\"\n\
         [[application.tool.socket-host.passthrough]]\nroute = \"/raw/...\"\n",
    );
    let text = format!("{HEAD}{text}");
    let manifest = Manifest::parse_for_upstream(&text, "/app/spin.toml").unwrap();
    let passthrough = |route: &str, upstream: Option<&str>| Passthrough {
        route: route.to_owned(),
        upstream: upstream.map(|url| url.parse().unwrap()),
    };
    assert_eq!(
        manifest.host.passthrough,
        [
            passthrough("/_next/webpack-hmr", Some("http://localhost:3001")),
            passthrough("/raw/...", None),
        ]
    );
    // Here, where the components are run, there is no server behind the second.
    let error = Manifest::parse(&text, "/app/spin.toml")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("passthrough[1]: `upstream` is missing"),
        "{error}"
    );
    assert!(error.contains("--upstream"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn slips_in_passthroughs_are_named() {
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
    refused(
        &served(&text),
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

#[test]
fn unknown_keys_are_named_wherever_they_stand() {
    refused(
        "[[trigger.http]]\nroute = \"/\"\ncomponent = \"page\"\nrout = 1\n[component.page]\nsource = \"x\"\nsources = \"y\"\n\
         build = { command = \"x\", comand = 1 }\n[extra]\n",
        &[
            &[
                "/app/spin.toml:7: trigger.http[0].rout: unknown key (did you mean `route`?); expected one of id, route,",
            ],
            &[
                "/app/spin.toml:10: component.page.sources: unknown key (did you mean `source`?); expected one of source, description, files",
            ],
            &[
                "/app/spin.toml:11: component.page.build.comand: unknown key (did you mean `command`?)",
            ],
            &["/app/spin.toml:12: extra: unknown key; expected one of spin_manifest_version"],
        ],
    );
}

#[test]
fn versions_are_told_apart() {
    let version = |line: &str| {
        let error = Manifest::parse(line, "spin.toml").unwrap_err();
        assert_eq!(error.problems.len(), 1, "{error}");
        error.to_string()
    };
    assert!(version("").contains("`spin_manifest_version` is missing"));
    assert!(version("spin_manifest_version = \"1\"").contains("spin doctor"));
    assert!(
        version("\nspin_manifest_version = 3")
            .contains("spin.toml:2: spin_manifest_version: this version")
    );
    assert!(version("spin_manifest_version = true").contains("expected an integer"));
}

#[test]
fn broken_toml_names_every_line() {
    let error =
        Manifest::parse("spin_manifest_version = 2\na = \nb = [1,\n", "x/spin.toml").unwrap_err();
    assert!(error.problems.len() >= 2, "{error}");
    assert!(error.to_string().starts_with("x/spin.toml:2: "), "{error}");
}

#[test]
fn triggers_are_checked() {
    refused("", &[&["`trigger` is missing", "[[trigger.http]]"]]);
    refused(
        "[trigger]\nhttp = []\n",
        &[&["trigger:", "nothing to serve"]],
    );
    refused(
        &served(
            "[[trigger.http]]\nroute = \"/page\"\ncomponent = \"pag\"\n[[trigger.redis]]\nchannel = \"c\"\ncomponent = \"page\"\n",
        ),
        &[
            &[
                "spin.toml:11: trigger.http[1].component",
                "no [component.pag] (did you mean `page`?)",
            ],
            &[
                "spin.toml:12: trigger.redis",
                "only trigger.http",
                "--upstream",
            ],
        ],
    );
    refused(
        &served(
            "[[trigger.http]]\nroute = \"\"\nstatic_response = {}\n\
             [[trigger.http]]\nroute = \"/:a/x\"\nstatic_response = {}\n\
             [[trigger.http]]\nroute = \"/:b/x/\"\nstatic_response = {}\n",
        ),
        &[
            &["trigger.http[1]", "that of trigger.http[0] (line 4)"],
            &["trigger.http[3]", "that of trigger.http[2] (line 12)"],
        ],
    );
    refused(
        &served(
            "[[trigger.http]]\ncomponent = \"page\"\n\
             [[trigger.http]]\nroute = \"/b\"\n\
             [[trigger.http]]\nroute = \"/c\"\ncomponent = \"page\"\nstatic_response = {}\n\
             [[trigger.http]]\nroute = { private = false }\ncomponent = \"page\"\n\
             [[trigger.http]]\nroute = \"/*/e\"\ncomponent = 1\n\
             [[trigger.http]]\nroute = \"/f\"\ncomponent = \"page\"\nexecutor = { type = \"wagi\", argv = \"x\" }\n\
             [[trigger.http]]\nroute = \"/g\"\ncomponent = \"page\"\ndependencies = { middleware = [] }\n\
             [[trigger.http]]\nroute = \"/h\"\nstatic_response = { status_code = 99, headers = { \"a b\" = \"c\", d = \"\\n\" } }\n",
        ),
        &[
            &["trigger.http[1]", "`route` is missing"],
            &["trigger.http[2]", "`component` is missing"],
            &["trigger.http[3].static_response", "not both"],
            &["trigger.http[4].route.private", "expected true"],
            &["trigger.http[5].route", "no route"],
            &["trigger.http[5].component", "found an integer"],
            &["trigger.http[6].executor.type", "wagi"],
            &["trigger.http[7].dependencies", "not composed"],
            &[
                "trigger.http[8].static_response.headers.\"a b\"",
                "name of a header",
            ],
            &["trigger.http[8].static_response.headers.d", "visible ASCII"],
            &["trigger.http[8].static_response.status_code", "200 to 999"],
        ],
    );
}

#[test]
fn components_are_checked() {
    refused(
        &served("[component.other]\n"),
        &[&["spin.toml:9: component.other", "`source` is missing"]],
    );
    refused(
        &served(
            "files = [\"assets/\", \"..\", 1, { source = \"x\" }, { source = \"x\", destination = \"/a/../b\" }]\n\
             allowed_outbound_hosts = [\"example.com\", \"https://{{ nope }}\", \"https://{{ open\"]\n\
             key_value_stores = [\"b@d\"]\n\
             variables = { Up = \"x\", a = \"{{ nope }}\" }\n\
             dependencies = { \"a:b\" = \"1.0\" }\n\
             environment = { A = 1 }\n\
             build = { workdir = \"/abs\" }\n\
             [component.bad_id]\n\
             source = { url = \"https://example.com/x.wasm\", digest = \"sha256:x\" }\n\
             [component.b]\n\
             source = { registry = \"r\", package = \"a:b\" }\n",
        ),
        &[
            &["spin.toml:9", "files[0]", "names no file"],
            &["spin.toml:9", "files[1]", "names no file"],
            &["spin.toml:9", "files[2]", "found an integer"],
            &["spin.toml:9", "files[3]", "`destination` is missing"],
            &["spin.toml:9", "files[4].destination", "`..`"],
            &["spin.toml:10", "allowed_outbound_hosts[0]", "SCHEME://HOST"],
            &[
                "spin.toml:10",
                "allowed_outbound_hosts[1]",
                "unknown variable \"nope\"",
                "[variables]",
            ],
            &["spin.toml:10", "allowed_outbound_hosts[2]", "never closed"],
            &["spin.toml:11", "key_value_stores[0]", "kebab-case"],
            &["spin.toml:12", "variables.Up", "lower case"],
            &["spin.toml:12", "variables.a", "unknown variable"],
            &["spin.toml:13", "dependencies", "not composed", "--upstream"],
            &[
                "spin.toml:14",
                "environment.A",
                "expected a string, found an integer",
            ],
            &["spin.toml:15", "build", "`command` is missing"],
            &["spin.toml:15", "build.workdir", "relative"],
            &["spin.toml:16", "component.bad_id", "joined with '-'"],
            &[
                "spin.toml:17",
                "component.bad_id.source",
                "not downloaded here",
            ],
            &["spin.toml:19", "component.b.source", "`version` is missing"],
            &["spin.toml:19", "component.b.source", "not downloaded here"],
        ],
    );
}

#[test]
fn variables_are_checked() {
    refused(
        &served(
            "[variables]\na = { default = \"x\", required = true }\nb = {}\nc = { default = 1 }\nd-e = { default = \"\" }\nf = \"x\"\n",
        ),
        &[
            &["variables.a", "either"],
            &["variables.b", "either"],
            &["variables.c.default", "expected a string"],
            &["variables.d-e", "joined with '_'"],
            &["variables.f", "expected a table"],
        ],
    );
}

#[test]
fn secrets_are_not_shown() {
    let manifest = parse(&served(
        "[variables]\na = { default = \"s3cret\", secret = true }\nb = { default = \"shown\" }\n",
    ))
    .unwrap();
    let text = format!("{manifest:?}");
    assert!(text.contains("shown") && !text.contains("s3cret"), "{text}");
}

#[test]
fn what_spin_alone_runs_passes_for_an_upstream() {
    let text = format!(
        "{HEAD}[[trigger.redis]]\nchannel = \"c\"\ncomponent = \"far\"\n[[trigger.http]]\nroute = \"/\"\ncomponent = \"far\"\n\
         executor = {{ type = \"wagi\" }}\n[component.far]\nsource = {{ url = \"https://x/y.wasm\", digest = \"sha256:0\" }}\n\
         dependencies = {{ \"a:b\" = \"1\" }}\n"
    );
    let manifest = Manifest::parse_for_upstream(&text, "spin.toml").unwrap();
    assert_eq!(manifest.triggers.len(), 1);
    assert_eq!(manifest.components["far"].source, Path::new(""));
    assert_eq!(
        Manifest::parse(&text, "spin.toml")
            .unwrap_err()
            .problems
            .len(),
        4
    );
}

#[test]
fn files_are_found_or_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = Manifest::load(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("spin.toml") && error.contains("--from"),
        "{error}"
    );
    fs::write(
        folder.path().join("spin.toml"),
        format!("{HEAD}{}", served("")),
    )
    .unwrap();
    for path in [folder.path().to_owned(), folder.path().join("spin.toml")] {
        let manifest = Manifest::load(&path).unwrap();
        assert_eq!(
            manifest.components["page"].source,
            folder.path().join("page.wasm")
        );
    }
    fs::write(folder.path().join("spin.toml"), b"\xff").unwrap();
    assert!(
        Manifest::load(folder.path())
            .unwrap_err()
            .to_string()
            .contains("UTF-8")
    );
}

#[test]
fn inline_components_are_named_as_spin_names_them() {
    let manifest = parse(
        "[[trigger.http]]\nid = \"shop\"\nroute = \"/a\"\ncomponent = { source = \"a.wasm\" }\n\
         [[trigger.http]]\nid = \"not kebab\"\nroute = \"/b\"\ncomponent = { source = \"b.wasm\" }\n\
         [[trigger.http]]\nid = \"not kebab\"\nroute = \"/c\"\ncomponent = { source = \"c.wasm\" }\n",
    )
    .unwrap();
    let names: Vec<_> = manifest.components.keys().collect();
    assert_eq!(
        names,
        ["inline-component1", "inline-component2", "shop-component"]
    );
}

proptest! {
    /// Whatever the text, there is a manifest or a list of problems, never a panic.
    #[test]
    fn no_text_panics(text in "[a-z\\[\\]{}=\"'.,\n #0-9_é-]{0,200}") {
        let _ = Manifest::parse(&text, "spin.toml");
        if let Err(error) = parse(&text) {
            prop_assert!(!error.problems.is_empty());
        }
    }

    /// Any value in the place of any other is read or refused with its line.
    #[test]
    fn no_value_panics(
        key in "(trigger|trigger\\.http|component|component\\.page|component\\.page\\.(source|files|build|variables|environment|profile)|variables|variables\\.a|application\\.tool\\.socket-host(\\.private|\\.timer|\\.websocket(\\.allowed-origins|\\.max-message-size|\\.ping-interval)?)?)",
        value in "(1|-9223372036854775808|0x10|1\\.5|true|\"\"|\"x\"|\"\\*\"|\\[\\]|\\[1\\]|\\[\"\"\\]|\\[\\[\\]\\]|\\[\\{\\}\\]|\\{\\}|\\{ http = 1 \\}|\\{ http = \\[1\\] \\}|1979-05-27)",
    ) {
        let text = format!("spin_manifest_version = 2\n{key} = {value}\napplication.name = \"x\"\n");
        if let Err(error) = Manifest::parse(&text, "spin.toml") {
            prop_assert!(error.problems.iter().all(|problem| problem.line.is_some()), "{}", error);
        }
    }
}
