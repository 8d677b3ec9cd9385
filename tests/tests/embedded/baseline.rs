//! Components compiled with the baseline compiler, as with `--watch`.

use std::{fs, path::Path, time::Duration};

use http::StatusCode;
use spin_runtime::{EmbeddedOptions, Manifest, ManifestUse, backend::BackendError};

use tests::wasm;

use crate::fixture::{Fixture, get, logged};

fn baseline(manifest: &Manifest) -> Fixture {
    Fixture::at(manifest, tempfile::tempdir().unwrap(), |options| {
        options.optimize = false;
    })
}

/// An application with two components: `app.wasm` in this folder, and one that does not change.
fn manifest(folder: &Path) -> Manifest {
    let text = format!(
        "spin_manifest_version = 2\napplication.name = \"one\"\n\
         trigger.http = [{{ route = \"/...\", component = \"app\" }}, {{ route = \"/probe/...\", component = \"other\" }}]\n\
         [component.app]\nsource = \"app.wasm\"\n[component.other]\nsource = {:?}\n",
        wasm("probe")
    );
    Manifest::parse(&text, folder.join("spin.toml"), ManifestUse::Embedded).unwrap()
}

/// A component with an unused module whose function makes a tail call, which Cranelift supports and
/// Winch does not.
fn with_a_tail_call(name: &str) -> Vec<u8> {
    let module = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x0a\x06\x01\x04\0\x12\0\x0b";
    let mut component = fs::read(wasm(name)).unwrap();
    component.extend([1, module.len() as u8]);
    component.extend(module);
    component
}

#[tokio::test]
async fn limits_apply_to_baseline_code() {
    let app = |edit: fn(&mut EmbeddedOptions)| {
        Fixture::with(|options| {
            options.optimize = false;
            edit(options);
        })
    };
    let small = app(|options| options.limits.instance_memory_bytes = 64 << 20);
    for path in ["/probe/alloc?mib=128", "/probe/trap", "/probe02/trap"] {
        let error = small.send(get(path)).await.unwrap_err();
        assert!(matches!(error, BackendError::Failed { .. }), "{error}");
    }
    assert_eq!(small.ok("/probe/").await, "probe");
    let short = app(|options| options.limits.request_timeout = Duration::from_millis(300));
    for path in ["/probe/spin", "/probe02/spin"] {
        let error = short.send(get(path)).await.unwrap_err();
        assert!(matches!(error, BackendError::Deadline { .. }), "{error}");
    }
}

#[test]
fn unsupported_code_falls_back_to_cranelift_and_is_logged_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("app.wasm");
    fs::copy(wasm("probe"), &file).unwrap();
    let manifest = manifest(folder.path());
    let log = logged(async {
        let app = baseline(&manifest);
        for name in ["probe", "probe02"] {
            fs::write(&file, with_a_tail_call(name)).unwrap();
            assert_eq!(app.replace(&manifest, &["app"]).unwrap(), ["app"]);
            assert_eq!(
                app.ok("/probe/env").await,
                "{}",
                "the other component responds as well"
            );
        }
        assert_eq!(app.status("/nothing").await, StatusCode::NOT_FOUND);
        // At start.
        assert_eq!(baseline(&manifest).ok("/host").await, "none");
    });
    assert_eq!(log.matches("Cranelift").count(), 2, "{log}");
    assert!(
        log.contains("component app") && log.contains("app.wasm"),
        "{log}"
    );
}

#[tokio::test]
async fn a_broken_component_is_an_error_with_both_compilers() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("app.wasm");
    fs::copy(wasm("probe"), &file).unwrap();
    let manifest = manifest(folder.path());
    let app = baseline(&manifest);
    let broken = [&fs::read(wasm("probe")).unwrap()[..], b"\x01\x04half"].concat();
    fs::write(&file, broken).unwrap();
    let error = format!("{:#}", app.replace(&manifest, &["app"]).unwrap_err());
    assert!(
        error.contains("component app") && error.contains("is not a valid component"),
        "{error}"
    );
    assert_eq!(app.ok("/").await, "probe", "the previous version is kept");
    fs::copy(wasm("probe02"), &file).unwrap();
    assert_eq!(app.replace(&manifest, &["app"]).unwrap(), ["app"]);
}
