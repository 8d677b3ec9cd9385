//! Profiles of components: `--profile`.

use std::{path::Path, process::Output};

use anyhow::{Result, ensure};
use tests::{app_with_manifest, socket_host, wasm};

fn run(command: &str, folder: &Path, profile: &str) -> Result<Output> {
    socket_host(&[command, "--profile", profile], folder)
}

#[test]
fn a_profile_replaces_the_build_and_the_source() -> Result<()> {
    let folder = app_with_manifest(&format!(
        "spin_manifest_version = 2\napplication.name = \"profiles\"\n\
         [[trigger.http]]\nroute = \"/probe\"\ncomponent = \"probe\"\n\
         [component.probe]\nsource = \"plain.wasm\"\nbuild.command = \"false\"\n\
         [component.probe.profile.debug]\nsource = \"debug.wasm\"\n\
         build.command = \"cp {} debug.wasm\"\n",
        wasm("probe").display()
    ));
    let built = run("build", folder.path(), "debug")?;
    ensure!(built.status.success(), "{built:?}");
    ensure!(folder.path().join("debug.wasm").exists());
    let checked = run("check", folder.path(), "debug")?;
    ensure!(checked.status.success(), "{checked:?}");
    for command in ["build", "check"] {
        let output = run(command, folder.path(), "debu")?;
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
