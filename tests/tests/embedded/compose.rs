//! Components that are composed when they are loaded, and components that are downloaded.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
};

use sha2::{Digest as _, Sha256};
use spin_runtime::Manifest;

use tests::wasm;

use crate::fixture::{Fixture, application, error_of, get, post};

/// For each permission, what a layer reports without and with it.
const PERMISSIONS: [(&str, &str, &str); 5] = [
    ("environment", "0 variables", "1 variables"),
    ("files", "0 files", "1 files"),
    ("key_value_stores", "AccessDenied", "store open"),
    ("variables", "Undefined(\"greeting\")", "greeting hello"),
    (
        "allowed_outbound_hosts",
        "HttpRequestDenied",
        "ConnectionRefused",
    ),
];

/// Checks that a report is that of a layer with these permissions.
#[track_caller]
fn assert_report(report: &str, depth: u32, is_granted: impl Fn(&str) -> bool) {
    assert!(report.starts_with(&format!("{depth}: ")), "{report}");
    for (key, without, with) in PERMISSIONS {
        let expected = if is_granted(key) { with } else { without };
        assert!(report.contains(expected), "{key}: {expected:?} in {report}");
    }
}

/// Returns a manifest whose component has permissions, with this list of middleware.
fn layered(middleware: &str) -> Manifest {
    let probe = wasm("probe");
    let layer = wasm("layer");
    application(&format!(
        "[[trigger.http]]\nroute = \"/probe/...\"\ncomponent = \"probe\"\n\
         dependencies.middleware = [{middleware}]\n\
         [component.layer]\nsource = {layer:?}\n\
         [component.probe]\nsource = {probe:?}\nenvironment = {{ A = \"b\" }}\n\
         variables = {{ greeting = \"hello\" }}\nkey_value_stores = [\"default\"]\n\
         allowed_outbound_hosts = [\"http://127.0.0.1:1\"]\n\
         files = [{{ source = \"files/placed\", destination = \"/\" }}]\n"
    ))
}

async fn reports(app: &Fixture) -> Vec<String> {
    let response = app.send(get("/probe/")).await.unwrap();
    assert_eq!(response.body(), "probe");
    let reports = response.headers().get_all("x-layer").iter();
    reports
        .map(|value| value.to_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn middleware_handles_requests_from_the_outside_in_without_permissions() {
    let app = Fixture::of(&layered(
        "{ component = \"layer\" }, { component = \"layer\", inherit_configuration = true }",
    ));
    // The innermost layer appends its header first.
    let reports = reports(&app).await;
    assert_eq!(reports.len(), 2, "{reports:?}");
    assert_report(&reports[0], 2, |_| true);
    assert_report(&reports[1], 1, |_| false);
    let echoed = app.send(post("/probe/echo", "a body")).await.unwrap();
    assert_eq!(echoed.body(), "a body");
    // Only a dependency, so it is not loaded by itself.
    assert_eq!(app.components(), ["probe"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn middleware_inherits_single_permissions() {
    for (key, ..) in PERMISSIONS {
        let middleware = format!("{{ component = \"layer\", inherit_configuration = [{key:?}] }}");
        let app = Fixture::of(&layered(&middleware));
        let reports = reports(&app).await;
        assert_eq!(reports.len(), 1, "{reports:?}");
        assert_report(&reports[0], 1, |granted| granted == key);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn middleware_belongs_to_its_route() {
    let probe = wasm("probe");
    let layer = wasm("layer");
    let app = Fixture::of(&application(&format!(
        "[[trigger.http]]\nroute = \"/probe\"\ncomponent = \"probe\"\n\
         [[trigger.http]]\nid = \"seen\"\nroute = \"/probe/seen\"\ncomponent = \"probe\"\n\
         dependencies.middleware = [{{ path = {layer:?} }}]\n\
         [component.probe]\nsource = {probe:?}\n"
    )));
    let layers = async |path| {
        let response = app.send(get(path)).await.unwrap();
        response.headers().get_all("x-layer").iter().count()
    };
    assert_eq!(layers("/probe").await, 0);
    assert_eq!(layers("/probe/seen").await, 1);
    assert_eq!(app.components(), ["probe", "probe-for-seen"]);
}

#[test]
fn what_does_not_fit_is_an_error() {
    let (probe, probe02, layer) = (wasm("probe"), wasm("probe02"), wasm("layer"));
    let load = |source: &std::path::Path, middleware: &str, dependencies: &str| {
        error_of(&application(&format!(
            "[[trigger.http]]\nroute = \"/\"\ncomponent = \"a\"\n\
             dependencies.middleware = [{middleware}]\n\
             [component.a]\nsource = {source:?}\ndependencies = {{ {dependencies} }}\n"
        )))
    };
    let path = |file: &std::path::Path| format!("{{ path = {file:?} }}");
    for (error, fragments) in [
        (
            load(&probe02, &path(&layer), ""),
            [
                "component a: middleware needs a component that exports",
                "incoming-handler@0.2",
            ],
        ),
        (
            load(&probe, &path(&probe), ""),
            [
                "probe.wasm does not fit",
                "does not import wasi:http/handler@0.3.0",
            ],
        ),
        (
            load(&probe, "{ path = \"missing.wasm\" }", ""),
            ["middleware", "missing.wasm does not exist"],
        ),
        (
            load(&probe, "", &format!("\"me:tools\" = {}", path(&layer))),
            [
                "dependency \"me:tools\" matches no import",
                "wasi:http/types@0.3.0",
            ],
        ),
        (
            load(&probe, "", "\"wasi:cli\" = { path = \"missing.wasm\" }"),
            ["dependency \"wasi:cli\"", "missing.wasm does not exist"],
        ),
    ] {
        for fragment in fragments {
            assert!(error.contains(fragment), "{fragment:?} in {error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_is_downloaded_and_verified() {
    let contents = fs::read(wasm("probe")).unwrap();
    let digest: String = Sha256::digest(&contents)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the process. Only the first request is answered.
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let lines = BufReader::new(&stream).lines();
        let head = lines
            .map_while(Result::ok)
            .take_while(|line| !line.is_empty());
        head.for_each(drop);
        let length = contents.len();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n"
        )
        .unwrap();
        stream.write_all(&contents).unwrap();
    });
    let manifest = |digest: &str| {
        application(&format!(
            "[[trigger.http]]\nroute = \"/...\"\ncomponent = \"far\"\n[component.far]\n\
             source = {{ url = \"http://{address}/probe.wasm\", digest = \"sha256:{digest}\" }}\n"
        ))
    };
    let cache = tempfile::tempdir().unwrap();
    let with_cache = |manifest: &Manifest| {
        Fixture::at(manifest, tempfile::tempdir().unwrap(), |options| {
            options.cache_dir = Some(cache.path().to_owned());
        })
    };
    let app = with_cache(&manifest(&digest));
    assert_eq!(app.ok("/probe/").await, "probe");
    // The second application takes the file from the cache.
    assert_eq!(with_cache(&manifest(&digest)).ok("/probe/").await, "probe");
    assert!(
        cache
            .path()
            .join("registry/wasm")
            .join(format!("sha256:{digest}"))
            .exists()
    );
}
