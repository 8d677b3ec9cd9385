//! Components of the released SDKs: what `spin new` makes today and what it made in the past, in
//! Rust, Python and JavaScript.
//!
//! `tests/run` builds a component of each language and a core module. The tests of the other SDKs
//! are ignored unless `tests/full` runs them.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    path::PathBuf,
};

use anyhow::{Result, ensure};
use tempfile::TempDir;
use tests::{Server, app_with_manifest, request, workspace};

/// A component and what it is tested for.
struct Sdk {
    /// Its wasm file, relative to `target`.
    wasm: &'static str,
    /// Whether its SDK has interfaces for stores and variables.
    has_stores: bool,
    /// Whether it uses a SQLite database.
    has_database: bool,
    /// The interface of databases that the host lacks and that the component calls.
    stub: Option<&'static str>,
}

const WASI_0_2: Sdk = Sdk {
    wasm: "",
    has_stores: true,
    has_database: true,
    stub: Some("fermyon:spin/postgres@2.0.0"),
};

const WASI_0_3: Sdk = Sdk {
    stub: Some("spin:postgres/postgres@4.2.0"),
    ..WASI_0_2
};

/// What `spin new -t http-rust` makes.
#[tokio::test]
async fn rust_6() -> Result<()> {
    let wasm = "wasm32-wasip2/component/rust6.wasm";
    test(&Sdk { wasm, ..WASI_0_3 }).await
}

/// What `spin new -t http-rust-p2` makes.
#[tokio::test]
async fn core_module_of_rust_5() -> Result<()> {
    let wasm = "wasm32-wasip1/component/core5.wasm";
    test(&Sdk { wasm, ..WASI_0_2 }).await
}

#[tokio::test]
async fn python() -> Result<()> {
    test(&Sdk {
        wasm: "sdks/python.wasm",
        ..WASI_0_3
    })
    .await
}

#[tokio::test]
async fn javascript() -> Result<()> {
    test(&Sdk {
        wasm: "sdks/javascript.wasm",
        has_stores: false,
        has_database: false,
        stub: None,
    })
    .await
}

#[tokio::test]
#[ignore = "tests/full builds its component"]
async fn rust_7() -> Result<()> {
    let wasm = "wasm32-wasip2/component/rust7.wasm";
    test(&Sdk { wasm, ..WASI_0_3 }).await
}

#[tokio::test]
#[ignore = "tests/full builds its component"]
async fn rust_5() -> Result<()> {
    let wasm = "wasm32-wasip2/component/rust5.wasm";
    test(&Sdk { wasm, ..WASI_0_2 }).await
}

#[tokio::test]
#[ignore = "tests/full builds its component"]
async fn rust_3() -> Result<()> {
    let wasm = "wasm32-wasip2/component/rust3.wasm";
    test(&Sdk { wasm, ..WASI_0_2 }).await
}

async fn test(sdk: &Sdk) -> Result<()> {
    let server = serve_text("from a server");
    let folder = application(sdk, &server);
    let host = Server::start(folder.path(), &[])?;
    let get = async |path: &str| host.get(path).await;

    ensure!(get("/a/hello").await? == (200, "hello".to_owned()));
    ensure!(get("/a/header").await?.1 == "/header");
    ensure!(get("/nothing").await? == (404, String::new()), "no route");
    let echo = format!(
        "POST /a/echo HTTP/1.1\r\nhost: {}\r\ncontent-length: 6\r\n\r\nechoed",
        host.address
    );
    ensure!(request(host.address, &echo).await?.body == "echoed");

    ensure!(get(&format!("/a/fetch?http://{server}/")).await?.1 == "from a server");
    let denied = get("/a/fetch?http://127.0.0.1:9/").await?;
    ensure!(denied.0 == 502, "{denied:?}");
    host.wait_for_log(&["request denied: host not in allowed_outbound_hosts"])
        .await?;

    if sdk.has_stores {
        ensure!(get("/a/variable").await?.1 == "hello, world");
        ensure!(get("/a/variable-unknown").await?.0 == 502);
        ensure!(get("/a/count").await?.1 == "1");
        ensure!(get("/a/count").await?.1 == "2");
        ensure!(get("/a/keys").await?.1 == "count");
        ensure_denied(&get("/a/store-denied").await?.1)?;
    }
    if sdk.has_database {
        ensure!(get("/a/query").await?.1 == "3 Some(\"a guest\")");
        ensure_denied(&get("/a/database-denied").await?.1)?;
    }

    ensure!(get("/a/print").await?.0 == 200);
    host.wait_for_log(&["printed by the component"]).await?;
    ensure!(get("/a/trap").await?.0 == 500);
    let log = host.log_text();
    let stubs = log.lines().find(|line| line.contains("does not provide"));
    ensure!(
        stubs.is_none_or(|line| !line.contains("wasi:")),
        "all of WASI is provided: {stubs:?}"
    );
    if let Some(stub) = sdk.stub {
        host.wait_for_log(&["interfaces that this host does not provide", stub])
            .await?;
        ensure!(get("/a/postgres").await? == (500, String::new()));
        host.wait_for_log(&["component failed"]).await?;
        host.wait_for_log(&[stub, "is not provided by this host", "--spin"])
            .await?;
    }
    Ok(())
}

/// Checks the error of a missing permission, which each SDK writes in its own way.
fn ensure_denied(text: &str) -> Result<()> {
    let text = text.to_lowercase().replace(['_', ' '], "");
    ensure!(text.contains("accessdenied"), "{text}");
    Ok(())
}

/// Writes an application with the component, which may send requests to `server`.
fn application(sdk: &Sdk, server: &str) -> TempDir {
    let wasm: PathBuf = workspace().join("target").join(sdk.wasm);
    assert!(
        wasm.exists(),
        "{} is missing: tests/sdks/build builds it",
        wasm.display()
    );
    app_with_manifest(&format!(
        r#"
spin_manifest_version = 2
[application]
name = "sdks"
[variables]
greeting = {{ default = "hello" }}
[[trigger.http]]
route = "/a/..."
component = "a"
[component.a]
source = {wasm:?}
key_value_stores = ["default"]
sqlite_databases = ["default"]
allowed_outbound_hosts = ["http://{server}"]
variables = {{ greeting = "{{{{ greeting }}}}, world" }}
"#
    ))
}

/// Starts an HTTP server that answers every request with a text. Returns its address.
fn serve_text(text: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind a port");
    let address = listener.local_addr().expect("an address").to_string();
    std::thread::spawn(move || {
        for mut connection in listener.incoming().map_while(Result::ok) {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && connection.read(&mut byte).unwrap_or(0) > 0 {
                head.push(byte[0]);
            }
            let length = text.len();
            let response = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}"
            );
            let _ = connection.write_all(response.as_bytes());
        }
    });
    address
}
