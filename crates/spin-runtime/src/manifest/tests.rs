//! Tests of manifests: every key, and what is wrong with invalid ones.

use std::{fs, path::Path};

use proptest::prelude::*;

use super::{ManifestUse::*, *};

const HEAD: &str = "spin_manifest_version = 2\n[application]\nname = \"test\"\n";

fn parse(rest: &str) -> Result<Manifest, ManifestError> {
    Manifest::parse(&format!("{HEAD}{rest}"), "/app/spin.toml", Embedded)
}

/// Returns a component on a route, followed by `rest`.
fn application(rest: &str) -> String {
    format!(
        "[[trigger.http]]\nroute = \"/\"\ncomponent = \"page\"\n[component.page]\nsource = \"page.wasm\"\n{rest}"
    )
}

/// Checks that each problem contains its fragments.
#[track_caller]
fn assert_problems(rest: &str, expected: &[&[&str]]) {
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
fn every_key_of_spin_is_read() {
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
    let manifest = Manifest::parse(text, "/app/spin.toml", Embedded).unwrap();
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
        Source::File("/app/inline.wasm".into())
    );

    let page = &manifest.components["page"];
    assert_eq!(page.source, Source::File("/app/target/page.wasm".into()));
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
    assert_eq!(proxy.source, Source::File("/abs/proxy.wasm".into()));
    assert_eq!(proxy.build.as_ref().unwrap().workdir, Path::new("/app"));
}

#[test]
fn unknown_keys_are_errors() {
    assert_problems(
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
fn other_versions_are_errors() {
    let version = |line: &str| {
        let error = Manifest::parse(line, "spin.toml", Embedded).unwrap_err();
        assert_eq!(error.problems.len(), 1, "{error}");
        error.to_string()
    };
    assert!(version("").contains("`spin_manifest_version` is missing"));
    assert!(version("spin_manifest_version = \"3\"").contains("unsupported version \"3\""));
    assert!(
        version("\nspin_manifest_version = 3")
            .contains("spin.toml:2: spin_manifest_version: unsupported version 3")
    );
    assert!(version("spin_manifest_version = true").contains("expected an integer"));
}

#[test]
fn every_syntax_error_is_reported() {
    let error = Manifest::parse(
        "spin_manifest_version = 2\na = \nb = [1,\n",
        "x/spin.toml",
        Embedded,
    )
    .unwrap_err();
    assert!(error.problems.len() >= 2, "{error}");
    assert!(error.to_string().starts_with("x/spin.toml:2: "), "{error}");
}

#[test]
fn a_byte_order_mark_is_ignored_at_the_beginning_only() {
    let parse = |text: &str| Manifest::parse(text, "/app/spin.toml", Embedded);
    let text = format!("{HEAD}{}", application(""));
    assert_eq!(parse(&format!("\u{feff}{text}")).unwrap().name, "test");
    assert!(parse(&format!("\u{feff}{}", text.replace('\n', "\r\n"))).is_ok());
    let error = parse(&format!("\u{feff}x = 1\n{text}")).unwrap_err();
    assert!(error.to_string().contains("spin.toml:1: x: "), "{error}");
    assert!(parse(&format!("{HEAD}\u{feff}{}", application(""))).is_err());
}

#[test]
fn triggers_are_checked() {
    assert_problems("", &[&["`trigger` is missing", "[[trigger.http]]"]]);
    assert_problems(
        "[trigger]\nhttp = []\n",
        &[&["trigger:", "nothing to serve"]],
    );
    assert_problems(
        &application(
            "[[trigger.http]]\nroute = \"/page\"\ncomponent = \"pag\"\n[[trigger.redis]]\nchannel = \"c\"\ncomponent = \"page\"\n",
        ),
        &[
            &[
                "spin.toml:11: trigger.http[1].component",
                "no [component.pag] (did you mean `page`?)",
            ],
            &["spin.toml:12: trigger.redis", "only trigger.http", "--spin"],
        ],
    );
    assert_problems(
        &application(
            "[[trigger.http]]\nroute = \"\"\nstatic_response = {}\n\
             [[trigger.http]]\nroute = \"/:a/x\"\nstatic_response = {}\n\
             [[trigger.http]]\nroute = \"/:b/x/\"\nstatic_response = {}\n",
        ),
        &[
            &["trigger.http[1]", "that of trigger.http[0] (line 4)"],
            &["trigger.http[3]", "that of trigger.http[2] (line 12)"],
        ],
    );
    assert_problems(
        &application(
            "[[trigger.http]]\ncomponent = \"page\"\n\
             [[trigger.http]]\nroute = \"/b\"\n\
             [[trigger.http]]\nroute = \"/c\"\ncomponent = \"page\"\nstatic_response = {}\n\
             [[trigger.http]]\nroute = { private = false }\ncomponent = \"page\"\n\
             [[trigger.http]]\nroute = \"/*/e\"\ncomponent = 1\n\
             [[trigger.http]]\nroute = \"/f\"\ncomponent = \"page\"\nexecutor = { type = \"wagi\", argv = \"x\" }\n\
             [[trigger.http]]\nroute = \"/h\"\nstatic_response = { status_code = 99, headers = { \"a b\" = \"c\", d = \"\\n\" } }\n",
        ),
        &[
            &["trigger.http[1]", "`route` is missing"],
            &["trigger.http[2]", "`component` is missing"],
            &["trigger.http[3].static_response", "not both"],
            &["trigger.http[4].route.private", "expected true"],
            &["trigger.http[5].route", "invalid route"],
            &["trigger.http[5].component", "found an integer"],
            &["trigger.http[6].executor.type", "wagi"],
            &[
                "trigger.http[7].static_response.headers.\"a b\"",
                "invalid header name",
            ],
            &["trigger.http[7].static_response.headers.d", "visible ASCII"],
            &["trigger.http[7].static_response.status_code", "200 to 999"],
        ],
    );
}

#[test]
fn routes_that_cannot_match_or_are_not_in_spins_notation_are_warnings() {
    let warnings = |route: &str| {
        let text = format!(
            "spin_manifest_version = 2\napplication.name = \"test\"\n\
             [[trigger.http]]\nroute = \"{route}\"\nstatic_response = {{}}\n"
        );
        Manifest::parse(&text, "spin.toml", Embedded)
            .unwrap()
            .warnings
    };
    for (route, warning) in [
        (
            "/a?x=1",
            "route /a?x=1 never matches: a path ends before `?`",
        ),
        ("a#b", "route /a#b never matches: a path ends before `#`"),
        (
            "/chat/{room}",
            "route /chat/{room} is not in Spin's notation, so `{room}` matches literally: write /chat/:room",
        ),
        (
            "chat/<room>/log",
            "route chat/<room>/log is not in Spin's notation, so `<room>` matches literally: write /chat/:room/log",
        ),
        (
            "/chat/*",
            "route /chat/* is not in Spin's notation: write /chat/...",
        ),
        (
            "/.well-known/spin/x",
            "route /.well-known/spin/x has no effect: the host answers paths under /.well-known/spin/",
        ),
    ] {
        assert_eq!(warnings(route), [warning]);
    }
    for route in ["/", "foo", "chat/:room", "/...", "/a/:b/...", "/{"] {
        assert_eq!(warnings(route), [""; 0], "{route}");
    }
}

#[test]
fn components_are_checked() {
    assert_problems(
        &application("[component.other]\n"),
        &[&["spin.toml:9: component.other", "`source` is missing"]],
    );
    assert_problems(
        &application(
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
            &["spin.toml:9", "files[0]", "does not name a file"],
            &["spin.toml:9", "files[1]", "does not name a file"],
            &["spin.toml:9", "files[2]", "found an integer"],
            &["spin.toml:9", "files[3]", "`destination` is missing"],
            &["spin.toml:9", "files[4].destination", "`..`"],
            &[
                "spin.toml:10",
                "allowed_outbound_hosts[0]",
                "expected a scheme",
            ],
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
            &[
                "spin.toml:13",
                "dependencies.\"a:b\"",
                "not supported",
                "--spin",
            ],
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
                "component.bad_id.source.digest",
                "64 hexadecimal digits",
            ],
            &["spin.toml:19", "component.b.source", "`version` is missing"],
        ],
    );
}

#[test]
fn variables_are_checked() {
    assert_problems(
        &application(
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
fn debug_omits_secret_defaults() {
    let manifest = parse(&application(
        "[variables]\na = { default = \"s3cret\", secret = true }\nb = { default = \"shown\" }\n",
    ))
    .unwrap();
    let text = format!("{manifest:?}");
    assert!(text.contains("shown") && !text.contains("s3cret"), "{text}");
}

#[test]
fn features_of_spin_are_accepted_for_an_upstream() {
    let text = format!(
        "{HEAD}[[trigger.redis]]\nchannel = \"c\"\ncomponent = \"far\"\n[[trigger.http]]\nroute = \"/\"\ncomponent = \"far\"\n\
         executor = {{ type = \"wagi\" }}\n[component.far]\nsource = {{ package = \"a:b\", version = \"1.0.0\" }}\n\
         dependencies = {{ \"a:b\" = \"1\" }}\n"
    );
    let manifest = Manifest::parse(&text, "spin.toml", Upstream).unwrap();
    assert_eq!(manifest.triggers.len(), 1);
    assert_eq!(
        manifest.components["far"].source,
        Source::Package("a:b@1.0.0".to_owned())
    );
    assert_eq!(
        Manifest::parse(&text, "spin.toml", Embedded)
            .unwrap_err()
            .problems
            .len(),
        4
    );
}

#[test]
fn tool_tables_are_read_by_the_caller_in_the_same_pass() {
    let read_tool = |tools: &ToolTables<'_>| {
        assert!(tools.get("absent").is_none());
        let mut table = tools.get("mine")?.table()?;
        let number = table.get("number").and_then(|value| value.integer());
        table.finish();
        number
    };
    let parse = |rest: &str| {
        let text = format!("{HEAD}{}", application(rest));
        Manifest::parse_with_tools(&text, "spin.toml", Embedded, read_tool)
    };
    let (manifest, number) = parse("[application.tool.mine]\nnumber = 7\n").unwrap();
    assert_eq!((manifest.name.as_str(), number), ("test", Some(7)));
    assert_eq!(parse("").unwrap().1, None);
    let error = parse("sources = 1\n[application.tool.mine]\nnumbre = 7\n[extra]\n").unwrap_err();
    let keys: Vec<_> = error.problems.iter().map(|problem| &problem.key).collect();
    assert_eq!(
        keys,
        [
            "component.page.sources",
            "application.tool.mine.numbre",
            "extra"
        ]
    );
    assert_problems(
        &application("[application.tool]\nmine = 1\n"),
        &[&["application.tool.mine", "expected a table"]],
    );
}

#[test]
fn missing_and_unreadable_files_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let error = Manifest::load(folder.path(), Embedded)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("spin.toml") && error.contains("--from"),
        "{error}"
    );
    fs::write(
        folder.path().join("spin.toml"),
        format!("{HEAD}{}", application("")),
    )
    .unwrap();
    for path in [folder.path().to_owned(), folder.path().join("spin.toml")] {
        let manifest = Manifest::load(&path, Embedded).unwrap();
        assert_eq!(
            manifest.components["page"].source,
            Source::File(folder.path().join("page.wasm"))
        );
    }
    fs::write(folder.path().join("spin.toml"), b"\xff").unwrap();
    assert!(
        Manifest::load(folder.path(), Embedded)
            .unwrap_err()
            .to_string()
            .contains("UTF-8")
    );
}

#[test]
fn inline_components_get_the_names_that_spin_gives_them() {
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
    #[test]
    fn any_text_is_read_or_reported(text in "[a-z\\[\\]{}=\"'.,\n #0-9_é-]{0,200}") {
        let _ = Manifest::parse(&text, "spin.toml", Embedded);
        if let Err(error) = parse(&text) {
            prop_assert!(!error.problems.is_empty());
        }
    }

    #[test]
    fn any_value_is_read_or_reported_with_its_line(
        key in "(trigger|trigger\\.http|component|component\\.page|component\\.page\\.(source|files|build|variables|environment|profile)|variables|variables\\.a|application\\.tool(\\.socket-host)?)",
        value in "(1|-9223372036854775808|0x10|1\\.5|true|\"\"|\"x\"|\"\\*\"|\\[\\]|\\[1\\]|\\[\"\"\\]|\\[\\[\\]\\]|\\[\\{\\}\\]|\\{\\}|\\{ http = 1 \\}|\\{ http = \\[1\\] \\}|1979-05-27)",
    ) {
        let text = format!("spin_manifest_version = 2\n{key} = {value}\napplication.name = \"x\"\n");
        if let Err(error) = Manifest::parse(&text, "spin.toml", Embedded) {
            prop_assert!(error.problems.iter().all(|problem| problem.line.is_some()), "{}", error);
        }
    }
}

#[test]
fn cron_triggers_name_a_component_and_their_times() {
    let head = "spin_manifest_version = 2\napplication.name = \"test\"\n";
    let parse = |text: &str| {
        let text = format!("{head}{text}[component.a]\nsource = \"a.wasm\"\n");
        Manifest::parse(&text, "/app/spin.toml", ManifestUse::Embedded)
    };
    let manifest = parse(
        "[[trigger.cron]]\nid = \"nightly\"\ncomponent = \"a\"\n\
         cron_expression = \"1/2 * * * * *\"\n\
         [[trigger.cron]]\ncron_expression = \"0 0 3 * * * *\"\n\
         component = { source = \"b.wasm\" }\n",
    )
    .unwrap();
    let triggers = manifest.cron_triggers.iter();
    let triggers: Vec<_> = triggers
        .map(|trigger| (&*trigger.component, trigger.schedule.to_string()))
        .collect();
    let expected = [
        ("a", "1/2 * * * * *".to_owned()),
        ("cron-trigger1-component", "0 0 3 * * * *".to_owned()),
    ];
    assert_eq!(triggers, expected);
    let components: Vec<_> = manifest.components.keys().collect();
    assert_eq!(components, ["a", "cron-trigger1-component"]);

    let error = parse(
        "[[trigger.cron]]\ncomponent = \"b\"\ncron_expression = \"* * * * *\"\n\
         [[trigger.cron]]\ncron = \"* * * * * *\"\n",
    )
    .unwrap_err()
    .to_string();
    for part in [
        "trigger.cron[0].component: no [component.b]",
        "trigger.cron[0].cron_expression: invalid cron expression",
        "trigger.cron[1]: `component` is missing",
        "trigger.cron[1]: `cron_expression` is missing",
        "trigger.cron[1].cron: unknown key",
    ] {
        assert!(error.contains(part), "no {part:?} in {error}");
    }
}

#[test]
fn cron_triggers_whose_times_have_passed_are_warnings() {
    let text = "spin_manifest_version = 2\napplication.name = \"test\"\n\
        [[trigger.cron]]\ncomponent = \"a\"\ncron_expression = \"0 0 0 1 1 * 2020\"\n\
        [component.a]\nsource = \"a.wasm\"\n";
    let manifest = Manifest::parse(text, "/app/spin.toml", ManifestUse::Embedded).unwrap();
    let warning = "trigger.cron[0].cron_expression (line 5): this cron expression has no times in \
                   the future, so the component is never called";
    assert_eq!(manifest.warnings, [warning]);
}

#[test]
fn a_component_with_a_cron_trigger_is_copied_for_its_middleware() {
    let text = "spin_manifest_version = 2\napplication.name = \"test\"\n\
        [[trigger.http]]\nid = \"web\"\nroute = \"/\"\ncomponent = \"a\"\n\
        dependencies.middleware = [{ path = \"b.wasm\" }]\n\
        [[trigger.cron]]\ncomponent = \"a\"\ncron_expression = \"@daily\"\n\
        [component.a]\nsource = \"a.wasm\"\n";
    let manifest = Manifest::parse(text, "/app/spin.toml", ManifestUse::Embedded).unwrap();
    let components: Vec<_> = manifest.components.keys().collect();
    assert_eq!(components, ["a", "a-for-web"]);
    assert_eq!(manifest.cron_triggers[0].component, "a");
    assert!(manifest.components["a"].middleware.is_empty());
    assert_eq!(manifest.components["a-for-web"].middleware.len(), 1);
}

#[test]
fn copies_of_components_have_ids_in_kebab_case() {
    let trigger = |id: &str, route: &str| {
        format!(
            "[[trigger.http]]\nid = {id:?}\nroute = {route:?}\ncomponent = \"a\"\n\
             dependencies.middleware = [{{ path = \"b.wasm\" }}]\n"
        )
    };
    let text = format!(
        "spin_manifest_version = 2\napplication.name = \"test\"\n{}{}{}\
         [component.a]\nsource = \"a.wasm\"\n[component.a-for-taken]\nsource = \"c.wasm\"\n",
        trigger("/../b", "/1"),
        trigger("c d", "/2"),
        trigger("taken", "/3"),
    );
    let manifest = Manifest::parse(&text, "/app/spin.toml", ManifestUse::Embedded).unwrap();
    let components: Vec<_> = manifest.components.keys().collect();
    assert_eq!(
        components,
        ["a", "a-d1", "a-d2", "a-for-taken", "a-for-taken-d1"]
    );
}
