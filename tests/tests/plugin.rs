//! The Spin plugin: its package, and the host as Spin runs it.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tests::{Server, TIMEOUT, host_binary, probe, read_response, workspace};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use url::Url;

/// The name of the plugin, and of its executable.
const NAME: &str = "sockets";

/// Makes a package with these options and returns its manifest.
fn package(output: &Path, options: &[&str]) -> Result<Value> {
    let made = Command::new(workspace().join("plugin/package"))
        .arg("--binary")
        .arg(host_binary())
        .arg("--output")
        .arg(output)
        .args(options)
        .output()?;
    ensure!(made.status.success(), "{made:?}");
    let manifest = std::fs::read_to_string(output.join("sockets.json"))?;
    Ok(serde_json::from_str(&manifest)?)
}

fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    let text = value[key].as_str();
    text.with_context(|| format!("no text {key} in {value}"))
}

/// Installs the package as Spin does, and returns the executable. Fails where Spin would.
fn install(manifest: &Value, plugins: &Path) -> Result<PathBuf> {
    for key in [
        "name",
        "description",
        "version",
        "spinCompatibility",
        "license",
    ] {
        text(manifest, key)?;
    }
    let name = text(manifest, "name")?;
    let packages = manifest["packages"].as_array().context("packages")?;
    let (system, processor) = match (std::env::consts::OS, std::env::consts::ARCH) {
        (system, "x86_64") => (system, "amd64"),
        other => other,
    };
    let package = packages
        .iter()
        .find(|package| package["os"] == system && package["arch"] == processor)
        .with_context(|| format!("no package for {system} and {processor}"))?;
    let url = Url::parse(text(package, "url")?)?;
    ensure!(url.scheme() == "file", "{url}");
    let tarball = url.to_file_path().ok().context("a path")?;
    let sum = Command::new("sha256sum")
        .arg("--binary")
        .arg(&tarball)
        .output()?;
    ensure!(sum.status.success(), "{sum:?}");
    let sum = String::from_utf8(sum.stdout)?;
    // A file name with special characters puts a backslash in front of the sum.
    let sum = sum.trim_start_matches('\\').split(' ').next();
    ensure!(sum == Some(text(package, "sha256")?), "{sum:?}");

    let folder = plugins.join(name);
    std::fs::create_dir_all(&folder)?;
    let unpacked = Command::new("tar")
        .arg("-xzpf")
        .arg(&tarball)
        .arg("-C")
        .arg(&folder)
        .status()?;
    ensure!(unpacked.success(), "{unpacked}");
    for license in ["LICENSE-MIT", "LICENSE-APACHE"] {
        let text = std::fs::read_to_string(folder.join(license))?;
        ensure!(text.lines().count() > 10, "{license}");
    }
    Ok(folder.join(name))
}

/// Returns the command that Spin runs for `spin sockets`, in a folder with an application.
fn command(executable: &Path, app: &Path) -> Command {
    let mut command = Command::new(executable);
    command
        .current_dir(app)
        .env("SPIN_BIN_PATH", "/usr/local/bin/spin")
        .env("SPIN_VERSION", "4.1.0");
    command
}

#[tokio::test]
async fn an_installed_package_serves_an_application() -> Result<()> {
    let folder = TempDir::new()?;
    // The URL of the tarball needs escapes.
    let manifest = package(&folder.path().join("a b%20 ü#"), &[])?;
    ensure!(manifest["name"] == NAME, "{manifest}");
    ensure!(
        manifest["version"] == env!("CARGO_PKG_VERSION"),
        "{manifest}"
    );
    let executable = install(&manifest, &folder.path().join("plugins"))?;

    let app = probe("");
    let mut up = command(&executable, app.path());
    let host = Server::run(up.arg("up"), &[])?;
    ensure!(host.get("/").await? == (200, "probe".into()));

    let help = command(&executable, app.path())
        .args(["up", "--help"])
        .output()?;
    let help = String::from_utf8(help.stdout)?;
    ensure!(help.contains("Usage: spin sockets up [OPTIONS]"), "{help}");
    Ok(())
}

#[test]
fn a_published_package_names_its_url() -> Result<()> {
    let folder = TempDir::new()?;
    let (url, homepage) = ("https://example.com/sockets.tar.gz", "https://example.com/");
    let options = ["--url", url, "--homepage", homepage];
    let manifest = package(folder.path(), &options)?;
    ensure!(manifest["packages"][0]["url"] == url, "{manifest}");
    ensure!(manifest["homepage"] == homepage, "{manifest}");

    for options in [&["--url"][..], &["--url", "a \"b\""], &["--sauce"]] {
        let refused = Command::new(workspace().join("plugin/package"))
            .args(options)
            .stdin(Stdio::null())
            .output()?;
        let error = String::from_utf8(refused.stderr)?;
        ensure!(refused.status.code() == Some(1), "{options:?}: {error}");
        ensure!(error.starts_with("plugin/package: "), "{error}");
    }
    Ok(())
}

/// On Ctrl-C, the terminal sends SIGINT to Spin and to the plugin, and Spin sends SIGTERM.
#[tokio::test]
async fn ctrl_c_in_a_terminal_drains() -> Result<()> {
    let app = probe("");
    let host = Server::start(app.path(), &[])?;
    let mut stream = TcpStream::connect(host.address).await?;
    let request = format!(
        "GET /stream?chunks=10&ms=100 HTTP/1.1\r\nHost: {}\r\n\r\n",
        host.address
    );
    stream.write_all(request.as_bytes()).await?;
    stream.readable().await?;
    host.signal(Signal::INT)?;
    host.signal(Signal::TERM)?;
    let response = tokio::time::timeout(TIMEOUT, read_response(&mut stream, true)).await??;
    ensure!(response.status == 200, "{response:?}");
    ensure!(host.wait().await? == Some(0));
    Ok(())
}
