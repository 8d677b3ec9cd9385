//! Components that are compiled quickly rather than for speed, as with `--watch`.

use std::{fs, path::Path, time::Duration};

use http::StatusCode;
use spin_runtime::{EmbeddedOptions, Manifest, ManifestUse, backend::BackendError};

use crate::fixture::{Fixture, get, logged, wasm};

fn quick(manifest: &Manifest) -> Fixture {
    Fixture::at(manifest, tempfile::tempdir().unwrap(), |options| {
        options.optimize = false;
    })
}

/// An application whose component is `app.wasm` in this folder, and one that stays as it is.
fn manifest(folder: &Path) -> Manifest {
    let text = format!(
        "spin_manifest_version = 2\napplication.name = \"one\"\n\
         trigger.http = [{{ route = \"/...\", component = \"app\" }}, {{ route = \"/probe/...\", component = \"other\" }}]\n\
         [component.app]\nsource = \"app.wasm\"\n[component.other]\nsource = {:?}\n",
        wasm("probe")
    );
    Manifest::parse(&text, folder.join("spin.toml"), ManifestUse::Embedded).unwrap()
}

/// A component with a module in it, which nothing uses, whose one function calls itself in its tail:
/// Cranelift knows that, and Winch does not.
fn with_a_tail_call(name: &str) -> Vec<u8> {
    let module = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x0a\x06\x01\x04\0\x12\0\x0b";
    let mut component = fs::read(wasm(name)).unwrap();
    component.extend([1, module.len() as u8]);
    component.extend(module);
    component
}

#[tokio::test]
async fn guests_are_bounded_whatever_compiled_them() {
    let app = |edit: fn(&mut EmbeddedOptions)| {
        Fixture::with(|options| {
            options.optimize = false;
            edit(options);
        })
    };
    let small = app(|options| options.limits.instance_memory_bytes = 64 << 20);
    for path in ["/probe/alloc?mib=128", "/probe/trap", "/probe02/trap"] {
        let error = small.answer(get(path)).await.unwrap_err();
        assert!(matches!(error, BackendError::Failed { .. }), "{error}");
    }
    assert_eq!(small.ok("/probe/").await, "probe");
    let short = app(|options| options.limits.request_timeout = Duration::from_millis(300));
    for path in ["/probe/spin", "/probe02/spin"] {
        let error = short.answer(get(path)).await.unwrap_err();
        assert!(matches!(error, BackendError::Deadline { .. }), "{error}");
    }
}

#[test]
fn what_only_cranelift_knows_is_compiled_by_it_and_that_is_said_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("app.wasm");
    fs::copy(wasm("probe"), &file).unwrap();
    let manifest = manifest(folder.path());
    let log = logged(async {
        let app = quick(&manifest);
        for name in ["probe", "probe02"] {
            fs::write(&file, with_a_tail_call(name)).unwrap();
            assert_eq!(app.exchange(&manifest, &["app"]).unwrap(), ["app"]);
            assert_eq!(
                app.ok("/probe/env").await,
                "{}",
                "the other one answers as well"
            );
        }
        assert_eq!(app.status("/nothing").await, StatusCode::NOT_FOUND);
        // From the start.
        assert_eq!(quick(&manifest).ok("/host").await, "example.com:3000");
    });
    assert_eq!(log.matches("Cranelift").count(), 2, "{log}");
    assert!(
        log.contains("component app") && log.contains("app.wasm"),
        "{log}"
    );
}

#[tokio::test]
async fn a_broken_component_is_broken_for_both() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("app.wasm");
    fs::copy(wasm("probe"), &file).unwrap();
    let manifest = manifest(folder.path());
    let app = quick(&manifest);
    let broken = [&fs::read(wasm("probe")).unwrap()[..], b"\x01\x04half"].concat();
    fs::write(&file, broken).unwrap();
    let error = format!("{:#}", app.exchange(&manifest, &["app"]).unwrap_err());
    assert!(
        error.contains("component app") && error.contains("is not a valid component"),
        "{error}"
    );
    assert_eq!(app.ok("/").await, "probe", "everything stays as it was");
    fs::copy(wasm("probe02"), &file).unwrap();
    assert_eq!(app.exchange(&manifest, &["app"]).unwrap(), ["app"]);
}
