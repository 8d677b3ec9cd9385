//! Profiles of components: `--profile`.

use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use tests::{app_with_manifest, host_binary, workspace};

fn socket_host(command: &str, folder: &std::path::Path, profile: &str) -> Result<Output> {
    Command::new(host_binary())
        .args([command, "--profile", profile, "--from"])
        .arg(folder)
        .output()
        .context("socket-host")
}

#[test]
fn a_profile_replaces_the_build_and_the_source() -> Result<()> {
    let probe = workspace().join("target/wasm32-wasip2/component/probe.wasm");
    let folder = app_with_manifest(&format!(
        "spin_manifest_version = 2\napplication.name = \"profiles\"\n\
         [[trigger.http]]\nroute = \"/probe\"\ncomponent = \"probe\"\n\
         [component.probe]\nsource = \"plain.wasm\"\nbuild.command = \"false\"\n\
         [component.probe.profile.debug]\nsource = \"debug.wasm\"\n\
         build.command = \"cp {} debug.wasm\"\n",
        probe.display()
    ));
    let built = socket_host("build", folder.path(), "debug")?;
    ensure!(built.status.success(), "{built:?}");
    ensure!(folder.path().join("debug.wasm").exists());
    let checked = socket_host("check", folder.path(), "debug")?;
    ensure!(checked.status.success(), "{checked:?}");
    for command in ["build", "check"] {
        let output = socket_host(command, folder.path(), "debu")?;
        let error = String::from_utf8(output.stderr)?;
        ensure!(
            !output.status.success()
                && error.contains("no component defines the profile \"debu\"")
                && error.contains("did you mean `debug`?"),
            "{error}"
        );
    }
    Ok(())
}
