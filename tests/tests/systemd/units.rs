//! The unit files in `packaging/systemd`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use tests::{host_binary, workspace};

/// The path of the host in the unit file.
const INSTALLED: &str = "/usr/local/bin/socket-host";

/// The exposure that `systemd-analyze security` may compute at most, of 100. Below 20, it says OK.
const MAX_EXPOSURE: &str = "--threshold=15";

/// Copies the units to a folder, with the path of the host that was built.
fn copy_units(folder: &TempDir) -> Result<Vec<PathBuf>> {
    let host = host_binary();
    let host = host.to_str().context("path of the host")?;
    let mut units = Vec::new();
    for entry in fs::read_dir(workspace().join("packaging/systemd"))? {
        let entry = entry?;
        let text = fs::read_to_string(entry.path())?.replace(INSTALLED, host);
        let unit = folder.path().join(entry.file_name());
        fs::write(&unit, text)?;
        units.push(unit);
    }
    ensure!(units.len() == 3, "{units:?}");
    Ok(units)
}

fn analyze(command: &str, options: &[&str], units: &[PathBuf]) -> Result<(Output, String)> {
    let output = Command::new("systemd-analyze")
        .arg(command)
        .args(options)
        .args(units)
        .output()
        .context("cannot run systemd-analyze")?;
    let text = [&*output.stdout, &*output.stderr]
        .map(String::from_utf8_lossy)
        .concat();
    Ok((output, text))
}

#[test]
fn units_are_valid() -> Result<()> {
    let folder = TempDir::new()?;
    let units = copy_units(&folder)?;
    let (output, text) = analyze("verify", &["--man=no"], &units)?;
    // Unknown keys are only printed.
    let names_unit = units.iter().filter_map(|unit| unit.file_name()?.to_str());
    let problems: Vec<_> = names_unit.filter(|name| text.contains(name)).collect();
    ensure!(output.status.success() && problems.is_empty(), "{text}");
    Ok(())
}

#[test]
fn the_service_is_sandboxed() -> Result<()> {
    let folder = TempDir::new()?;
    let mut units = copy_units(&folder)?;
    units.retain(|unit| unit.extension() == Some("service".as_ref()));
    let options = ["--offline=true", "--no-pager", MAX_EXPOSURE];
    let (output, text) = analyze("security", &options, &units)?;
    ensure!(output.status.success(), "{text}");
    ensure!(text.contains("Overall exposure level"), "{text}");
    Ok(())
}

#[test]
fn the_command_line_of_the_service_is_valid() -> Result<()> {
    let unit = workspace().join("packaging/systemd/socket-host.service");
    let text = fs::read_to_string(unit)?;
    let command = text
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="));
    let words = command.context("ExecStart=")?.split(' ').skip(1);
    // Options that do not exist are an error with `--help` too.
    let words = words.map(|word| if word.starts_with("${") { "/tmp" } else { word });
    let output = Command::new(host_binary())
        .args(words)
        .arg("--listen=no-address")
        .output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(error.contains("no-address"), "{error}");
    ensure!(!error.contains("unexpected argument"), "{error}");
    ensure!(Path::new(INSTALLED).is_absolute());
    Ok(())
}
