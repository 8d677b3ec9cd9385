//! Options of the command line that Spin has too.

use std::fs;

use anyhow::{Result, ensure};
use tests::{Server, app_with_manifest, eventually, probe, wasm};

/// Returns which request of its instance each of some requests was.
async fn requests_of_instances(host: &Server) -> Result<Vec<String>> {
    let mut seen = Vec::new();
    for _ in 0..12 {
        seen.push(host.get("/seen").await?.1);
    }
    Ok(seen)
}

#[tokio::test]
async fn instances_serve_as_many_requests_as_configured() -> Result<()> {
    let folder = probe("");
    let options = ["--max-instance-reuse-count", "1", "--disable-pooling"];
    let host = Server::start(folder.path(), &options)?;
    let seen = requests_of_instances(&host).await?;
    ensure!(seen.iter().all(|number| number == "1"), "{seen:?}");

    let options = [
        "--max-instance-reuse-count",
        "3..4",
        "--max-instance-concurrent-reuse-count",
        "2",
        "--idle-instance-timeout",
        "1..30s",
        "--request-timeout",
        "20..30",
        "--max-instance-memory",
        "33554432",
    ];
    let host = Server::start(folder.path(), &options)?;
    let seen = requests_of_instances(&host).await?;
    ensure!(
        seen.iter()
            .all(|number| ["1", "2", "3"].contains(&&**number)),
        "{seen:?}"
    );
    ensure!(seen.iter().any(|number| number == "3"), "{seen:?}");
    let (status, _) = host.get("/alloc?mib=64").await?;
    ensure!(status == 500, "{status}");

    for (options, expected) in [
        (
            ["--max-instance-reuse-count", "0"],
            "expected a number from 1",
        ),
        (["--idle-instance-timeout", "8s..1s"], "is empty"),
        (["--request-timeout", "soon"], "invalid duration"),
    ] {
        let error = Server::start_error(folder.path(), &options)?;
        ensure!(error.contains(expected), "no {expected:?} in {error}");
    }
    Ok(())
}

#[tokio::test]
async fn output_of_followed_components_is_printed() -> Result<()> {
    let wasm = wasm("probe");
    let component = |id: &str| {
        format!(
            "[[trigger.http]]\nroute = \"/{id}/print\"\ncomponent = \"{id}\"\n\
             [component.{id}]\nsource = {wasm:?}\n"
        )
    };
    // The probe answers any path that ends in a known one only under /probe.
    let folder = app_with_manifest(&format!(
        "spin_manifest_version = 2\napplication.name = \"two\"\n{}{}",
        component("probe"),
        component("other").replace("/other/print", "/print")
    ));
    let host = Server::start(folder.path(), &["--follow", "other", "-L", ""])?;
    for path in ["/probe/print?line=hidden", "/print?line=shown"] {
        ensure!(host.get(path).await?.0 == 200, "{path}");
    }
    host.wait_for_log(&["[other] shown"]).await?;
    let log = host.log_text();
    ensure!(!log.contains("hidden"), "{log}");
    ensure!(!folder.path().join(".spin/logs").exists());
    let error = Server::start_error(folder.path(), &["--follow", "othr"])?;
    ensure!(error.contains("did you mean `other`"), "{error}");
    let error = Server::start_error(folder.path(), &["--follow", "other", "--quiet"])?;
    ensure!(error.contains("cannot be used with"), "{error}");
    Ok(())
}

#[tokio::test]
async fn log_files_are_truncated_on_request() -> Result<()> {
    let folder = probe("");
    let file = folder.path().join(".spin/logs/probe_stdout.txt");
    for (options, line, expected) in [
        (&[][..], "one", "one\n"),
        (&[], "two", "one\ntwo\n"),
        (&["--truncate-logs"], "three", "three\n"),
    ] {
        let host = Server::start(folder.path(), options)?;
        ensure!(host.get(&format!("/print?line={line}")).await?.0 == 200);
        eventually("the log file", async || {
            let text = fs::read_to_string(&file).ok()?;
            (text == expected).then_some(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn keys_and_variables_are_set_on_the_command_line() -> Result<()> {
    let folder = probe(
        "key_value_stores = [\"default\"]\nvariables = { greeting = \"{{ greeting }}\" }\n\
         [variables]\ngreeting = { default = \"hello\" }\nother = { default = \"\" }\n",
    );
    fs::write(
        folder.path().join("all.json"),
        r#"{ "greeting": "moin", "foreign": "x" }"#,
    )?;
    fs::write(folder.path().join("text"), "servus")?;
    let json = format!("@{}/all.json", folder.path().display());
    let text = format!("greeting=@{}/text", folder.path().display());
    for (variables, expected) in [
        (&[&*json][..], "moin"),
        (&[&*json, &*text], "servus"),
        (&[&*text, &*json], "moin"),
    ] {
        let mut options = vec!["--key-value", "one=1", "--key-value", "two=a=b"];
        for variable in variables {
            options.extend(["--variable", *variable]);
        }
        let host = Server::start(folder.path(), &options)?;
        ensure!(
            host.get("/variable/greeting").await?.1 == expected,
            "{variables:?}"
        );
        for (key, value) in [("one", "1"), ("two", "a=b")] {
            let (status, body) = host.get(&format!("/get?key={key}")).await?;
            ensure!(status == 200 && body == value, "{key}: {status} {body}");
        }
    }
    let error = Server::start_error(folder.path(), &["--variable", "foreign=x"])?;
    ensure!(error.contains("unknown variable \"foreign\""), "{error}");
    let error = Server::start_error(probe("").path(), &["--key-value", "one=1"])?;
    ensure!(
        error.contains("--key-value") && error.contains("no component may open"),
        "{error}"
    );
    Ok(())
}

#[tokio::test]
async fn options_without_a_meaning_are_explained() -> Result<()> {
    let folder = probe("");
    let host = Server::start(folder.path(), &["--temp", "/tmp", "--direct-mounts", "-k"])?;
    for option in ["--temp", "--direct-mounts", "--insecure"] {
        host.wait_for_log(&["WARN", "option has no effect", option])
            .await?;
    }
    let error = Server::start_error(folder.path(), &["--allow-transient-write"])?;
    ensure!(
        error.contains("read-only") && error.contains("--upstream"),
        "{error}"
    );
    Ok(())
}
