//! The compiler's errors for wrong handlers name the problem and the way out.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

/// Compiles a library that uses the crate, and returns the errors.
fn errors(name: &str, source: &str) -> String {
    let executable = std::env::current_exe().unwrap();
    let dependencies = executable.parent().unwrap();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("compile_errors");
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join(format!("{name}.rs"));
    std::fs::write(&file, source).unwrap();
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let output = Command::new(rustc)
        .args([
            "--edition",
            "2024",
            "--crate-type",
            "lib",
            "--emit",
            "metadata",
        ])
        .arg("--out-dir")
        .arg(&folder)
        .arg("-L")
        .arg(format!("dependency={}", dependencies.display()))
        .arg("--extern")
        .arg(format!("sockets={}", library(dependencies).display()))
        .arg(&file)
        .output()
        .unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.success(), errors.is_empty(), "{errors}");
    errors
}

/// Returns the newest compiled version of the crate.
fn library(folder: &Path) -> PathBuf {
    let files = std::fs::read_dir(folder).unwrap();
    let libraries = files.filter_map(|file| {
        let path = file.unwrap().path();
        let name = path.file_name()?.to_str()?;
        (name.starts_with("libsockets-") && name.ends_with(".rlib")).then_some(path)
    });
    let modified = |path: &PathBuf| -> SystemTime { path.metadata().unwrap().modified().unwrap() };
    libraries
        .max_by_key(modified)
        .expect("the crate is compiled")
}

/// Returns the source of a handler with these methods.
fn handler(methods: &str) -> String {
    format!(
        "use sockets::{{Connection, Handler, Result}};\n\
         pub struct Chat;\n\
         impl Handler for Chat {{\n{methods}\n}}\n\
         sockets::export!(Chat);\n"
    )
}

#[track_caller]
fn expect(errors: &str, expected: &[&str]) {
    for expected in expected {
        assert!(
            errors.contains(expected),
            "{expected:?} is not in:\n{errors}"
        );
    }
}

#[test]
fn right_handlers_compile() {
    let methods = "async fn text(&self, connection: &mut Connection, text: &str) -> Result {
        connection.send(text)
    }";
    assert_eq!(errors("right", &handler(methods)), "");
}

#[test]
fn wrong_parameters_are_named() {
    let methods = "async fn text(&self, connection: &mut Connection, text: String) -> Result {
        connection.send(text)
    }";
    let errors = errors("parameter", &handler(methods));
    let expected = [
        "method `text` has an incompatible type for trait",
        "expected `&str`, found `String`",
    ];
    expect(&errors, &expected);
}

#[test]
fn methods_are_asynchronous() {
    let methods = "fn open(&self, connection: &mut Connection) -> Result { Ok(()) }";
    let errors = errors("synchronous", &handler(methods));
    expect(&errors, &["method should be `async`"]);
}

#[test]
fn unknown_methods_are_named() {
    let methods = "async fn message(&self, _: &mut Connection, _: &str) -> Result { Ok(()) }";
    let errors = errors("unknown", &handler(methods));
    expect(
        &errors,
        &["method `message` is not a member of trait `Handler`"],
    );
}

#[test]
fn what_is_exported_is_a_handler() {
    let errors = errors("exported", "pub struct Chat;\nsockets::export!(Chat);\n");
    let expected = [
        "`Chat` is not a handler of connections",
        "impl sockets::Handler for Chat",
    ];
    expect(&errors, &expected);
}

#[test]
fn what_is_sent_is_a_message() {
    let methods = "async fn open(&self, connection: &mut Connection) -> Result {
        connection.send(7)
    }";
    let errors = errors("message", &handler(methods));
    let expected = ["cannot be sent as a message", "`Json(…)`"];
    expect(&errors, &expected);
}
