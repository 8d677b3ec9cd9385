//! `socket-host doctor`.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use tests::{Redis, Server, app_with_manifest, burger_without_timer, free_address, wasm};

use crate::run;

/// Runs the command for the manifest in a folder, on free ports, and returns whether it succeeds and what
/// it prints.
async fn examine(folder: &Path, options: &[&str]) -> Result<(bool, String)> {
    let (listen, control) = (free_address()?.to_string(), free_address()?.to_string());
    let mut arguments = vec!["doctor"];
    for (option, value) in [("--listen", &listen), ("--control", &control)] {
        if !options.contains(&option) {
            arguments.extend([option, value]);
        }
    }
    if !options.contains(&"--upstream") {
        arguments.extend(["--from", folder.to_str().context("a path")?]);
    }
    arguments.extend(options);
    let output = run(&arguments).await?;
    let code = output.status.code();
    ensure!(matches!(code, Some(0 | 1)), "{output:?}");
    ensure!(output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout)?;
    ensure!(!text.contains('\u{1b}'), "{text}");
    Ok((code == Some(0), text))
}

/// Checks that a line with these words and its advice are printed.
fn check(text: &str, words: &[&str], advice: &str) -> Result<()> {
    let mut lines = text.lines();
    let is_found = lines.any(|line| words.iter().all(|word| line.contains(word)));
    ensure!(is_found, "{words:?} in\n{text}");
    let next = lines.next().unwrap_or_default();
    ensure!(
        next.trim_start().starts_with("→ ") && next.contains(advice),
        "{advice:?} in\n{text}"
    );
    Ok(())
}

#[tokio::test]
async fn an_application_that_can_be_served_is_ready() -> Result<()> {
    let folder = tests::probe("");
    let redis = Redis::start()?;
    let (is_ready, text) = examine(folder.path(), &["--bus", &redis.url()]).await?;
    ensure!(is_ready, "{text}");
    for line in [
        "spin.toml is valid: 1 component, 1 route",
        "probe.wasm exists",
        "public port",
        "is free",
        "state folder",
        "open files",
        "bus",
    ] {
        ensure!(text.contains(line), "{line} in\n{text}");
    }
    ensure!(text.contains("ready") || text.contains("Ready"), "{text}");
    ensure!(!folder.path().join(".spin").exists(), "nothing is created");
    Ok(())
}

#[tokio::test]
async fn ports_in_use_are_named() -> Result<()> {
    let folder = burger_without_timer();
    let host = Server::start(folder.path(), &[])?;
    let other = TcpListener::bind("127.0.0.1:0")?;
    let (control, listen) = (host.control.to_string(), other.local_addr()?.to_string());
    let options = ["--control", &control, "--listen", &listen];
    let (is_ready, text) = examine(folder.path(), &options).await?;
    ensure!(!is_ready, "{text}");
    check(
        &text,
        &["failed", "public port", &listen, "in use"],
        "--listen",
    )?;
    check(
        &text,
        &["failed", "control port", &control, "another socket-host"],
        "--control",
    )?;
    ensure!(text.ends_with("Not ready: 2 failed.\n"), "{text}");
    Ok(())
}

#[tokio::test]
async fn missing_and_stale_components_are_named() -> Result<()> {
    let folder = app_with_manifest(
        "spin_manifest_version = 2\napplication.name = \"stale\"\n\
         trigger.http = [{ route = \"/\", component = \"a\" }, { route = \"/b\", component = \"b\" }]\n\
         [component.a]\nsource = \"a.wasm\"\n\
         [component.a.build]\ncommand = \"no-such-program --fast\"\nwatch = [\"src/**/*.rs\"]\n\
         [component.b]\nsource = \"b.wasm\"\n",
    );
    let path = |name: &str| folder.path().join(name);
    fs::create_dir_all(path("src/deep"))?;
    fs::write(path("src/deep/lib.rs"), "")?;
    let (is_ready, text) = examine(folder.path(), &[]).await?;
    ensure!(!is_ready, "{text}");
    check(
        &text,
        &["failed", "component a", "a.wasm does not exist"],
        "socket-host build",
    )?;
    check(
        &text,
        &["failed", "component b", "cannot read"],
        "correct `source`",
    )?;
    check(
        &text,
        &["warning", "no-such-program"],
        "install no-such-program",
    )?;

    for name in ["a.wasm", "b.wasm"] {
        fs::copy(wasm("probe"), path(name))?;
    }
    let touch = |name: &str, age: u64| -> Result<()> {
        let file = fs::File::options().write(true).open(path(name))?;
        Ok(file.set_modified(SystemTime::now() - Duration::from_secs(age))?)
    };
    touch("a.wasm", 60)?;
    touch("src/deep/lib.rs", 30)?;
    let (is_ready, text) = examine(folder.path(), &[]).await?;
    ensure!(is_ready, "the host starts with a stale component: {text}");
    check(
        &text,
        &["warning", "a.wasm is older than", "lib.rs"],
        "socket-host build",
    )?;
    touch("src/deep/lib.rs", 90)?;
    let (_, text) = examine(folder.path(), &[]).await?;
    ensure!(text.contains("a.wasm is up to date"), "{text}");
    Ok(())
}

#[tokio::test]
async fn invalid_settings_are_failures() -> Result<()> {
    let folder = app_with_manifest("spin_manifest_version = 2\n[applicaton]\nname = \"x\"\n");
    let (is_ready, text) = examine(folder.path(), &[]).await?;
    ensure!(!is_ready && text.contains("failed   manifest"), "{text}");
    ensure!(text.contains("application"), "{text}");

    let folder = app_with_manifest(&format!(
        "spin_manifest_version = 2\napplication.name = \"v\"\n[variables]\npassword = {{ required = true }}\n\
         [[trigger.http]]\nroute = \"/\"\ncomponent = \"a\"\n\
         [component.a]\nsource = {:?}\nvariables = {{ p = \"{{{{ password }}}}\" }}\n",
        wasm("probe")
    ));
    let (is_ready, text) = examine(folder.path(), &[]).await?;
    ensure!(
        !is_ready && text.contains("variables") && text.contains("password"),
        "{text}"
    );
    let (is_ready, text) = examine(folder.path(), &["--variable", "password=x"]).await?;
    ensure!(is_ready, "{text}");

    let missing = [
        "--control-tls-cert",
        "/none.pem",
        "--control-tls-key",
        "/none.key",
    ];
    let (is_ready, text) = examine(
        folder.path(),
        &[&missing[..], &["--variable", "password=x"]].concat(),
    )
    .await?;
    ensure!(
        !is_ready && text.contains("certificates") && text.contains("/none"),
        "{text}"
    );
    let (is_ready, text) = examine(
        folder.path(),
        &["--bus-wait", "1", "--variable", "password=x"],
    )
    .await?;
    ensure!(
        !is_ready && text.contains("--bus-wait needs a bus"),
        "{text}"
    );
    Ok(())
}

#[tokio::test]
async fn servers_that_do_not_run_are_named() -> Result<()> {
    let folder = tests::probe("");
    let nowhere = free_address()?;
    let bus = format!("redis://{nowhere}/1");
    let (is_ready, text) = examine(folder.path(), &["--bus", &bus]).await?;
    ensure!(!is_ready, "{text}");
    check(&text, &["failed", "bus", &nowhere.to_string()], "--bus")?;
    let config = folder.path().join("runtime-config.toml");
    fs::write(
        &config,
        format!("[key_value_store.default]\ntype = \"redis\"\nurl = \"redis://{nowhere}\"\n"),
    )?;
    let config = config.to_str().context("a path")?;
    let (is_ready, text) = examine(folder.path(), &["--runtime-config-file", config]).await?;
    ensure!(!is_ready, "{text}");
    check(
        &text,
        &["failed", "key-value store default"],
        "runtime configuration",
    )?;
    let upstream = format!("http://{nowhere}");
    let (is_ready, text) = examine(folder.path(), &["--upstream", &upstream]).await?;
    ensure!(!is_ready, "{text}");
    check(&text, &["failed", "upstream", &upstream], "--upstream")?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let upstream = format!("http://{}", listener.local_addr()?);
    let (is_ready, text) = examine(folder.path(), &["--upstream", &upstream]).await?;
    ensure!(is_ready && text.contains("accepts connections"), "{text}");
    Ok(())
}
