//! Components that cannot be loaded, and their error messages.

use crate::fixture::load_error;

#[test]
fn a_missing_component_is_an_error_with_its_build_command() {
    let error = load_error(
        "source = \"target/missing.wasm\"\nbuild = { command = \"make it\", workdir = \"sub\" }",
    );
    for part in [
        "component probe",
        "missing.wasm does not exist",
        "socket-host build",
        "make it",
        "sub",
    ] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
    let error = load_error("source = \"target/missing.wasm\"");
    assert!(error.contains("no build command"), "{error}");
}

#[test]
fn invalid_components_are_errors_with_their_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.wasm");
    for (bytes, complaint) in [
        (&b"\0asm\x01\0\0\0"[..], "it exports nothing"),
        (b"#!/bin/sh", "is not WebAssembly"),
        (b"\0asm\x0d\0\x01\0\xff\xff", "is not a valid component"),
        (b"\0asm\x0d\0\x01\0", "it exports nothing"),
    ] {
        std::fs::write(&file, bytes).unwrap();
        let error = load_error(&format!("source = {file:?}"));
        assert!(
            error.contains(complaint) && error.contains("a.wasm"),
            "{complaint:?} in {error}"
        );
    }
}

#[test]
fn an_unknown_import_is_not_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.wasm");
    // (component (import "spin:postgres/postgres@4.1.0" (instance)))
    let name = b"spin:postgres/postgres@4.1.0";
    let mut wasm = b"\0asm\x0d\0\x01\0".to_vec();
    wasm.extend_from_slice(&[7, 3, 1, 0x42, 0]);
    wasm.extend_from_slice(&[10, name.len() as u8 + 5, 1, 0, name.len() as u8]);
    wasm.extend_from_slice(name);
    wasm.extend_from_slice(&[5, 0]);
    std::fs::write(&file, wasm).unwrap();
    let error = load_error(&format!("source = {file:?}"));
    assert!(
        error.contains("exports nothing") && !error.contains("postgres"),
        "{error}"
    );
}
