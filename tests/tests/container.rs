//! The image in `packaging/container`, and the one with an application in `docs/kubernetes.md`: what is
//! in them serves. Nothing is built here.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use tests::{Redis, Server, code_block, host_binary, workspace};

/// Where the image has its files.
const FOLDERS: [&str; 2] = ["/app", "/state"];

fn containerfile() -> Result<String> {
    let path = workspace().join("packaging/container/Containerfile");
    Ok(fs::read_to_string(path)?)
}

/// Returns the value of an instruction.
fn instruction<'f>(file: &'f str, name: &str) -> Result<&'f str> {
    let value = file.lines().find_map(|line| line.strip_prefix(name));
    Ok(value
        .with_context(|| format!("no {name} in {file}"))?
        .trim())
}

/// Returns a path or an option of the image in a folder of this machine.
fn within(root: &Path, text: &str) -> String {
    if FOLDERS.iter().any(|folder| text.starts_with(folder)) {
        format!("{}{text}", root.display())
    } else {
        text.to_owned()
    }
}

/// Copies the files of a `COPY` from the folder `context` to the folder of the image.
fn copy(context: &Path, root: &Path, arguments: &str) -> Result<()> {
    let (sources, target) = arguments.rsplit_once(' ').context("a target")?;
    let target = within(root, target);
    let folder = if target.ends_with('/') {
        Path::new(&target)
    } else {
        Path::new(&target).parent().context("a folder")?
    };
    fs::create_dir_all(folder)?;
    // The shell expands patterns.
    let script = format!("cp --recursive --dereference {sources} '{target}'");
    let mut command = Command::new("sh");
    let output = command
        .args(["-c", &script])
        .current_dir(context)
        .output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{script}: {stderr}");
    Ok(())
}

#[test]
fn the_image_has_the_compiler_that_the_workspace_needs() -> Result<()> {
    let file = containerfile()?;
    let from = instruction(&file, "FROM ")?;
    let expected = format!("rust:{}-", env!("CARGO_PKG_RUST_VERSION"));
    ensure!(from.contains(&expected), "{from}, not {expected}");
    Ok(())
}

#[tokio::test]
async fn an_application_in_the_image_is_served() -> Result<()> {
    let redis = Redis::start()?;
    // The folder in which the image is built.
    let context = TempDir::new()?;
    for name in ["spin.toml", "static", "client", "target"] {
        symlink(workspace().join(name), context.path().join(name))?;
    }
    let store = format!(
        "[key_value_store.default]\ntype = \"redis\"\nurl = {:?}\n",
        redis.url()
    );
    fs::write(context.path().join("runtime-config.toml"), store)?;

    let image = TempDir::new()?;
    let application = code_block("kubernetes.md", "dockerfile", "COPY spin.toml")?;
    for arguments in application
        .lines()
        .filter_map(|line| line.strip_prefix("COPY "))
    {
        copy(context.path(), image.path(), arguments)?;
    }
    let file = containerfile()?;
    let mut command = Command::new(host_binary());
    for environment in [
        instruction(&file, "ENV ")?,
        instruction(&application, "ENV ")?,
    ] {
        let (name, value) = environment.split_once('=').context("a variable")?;
        command.env(name, within(image.path(), value));
    }
    let arguments: Vec<String> = serde_json::from_str(instruction(&file, "CMD ")?)?;
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        if argument == "--listen" {
            ensure!(
                arguments
                    .next()
                    .is_some_and(|address| address == "0.0.0.0:3000")
            );
        } else {
            command.arg(within(image.path(), argument));
        }
    }
    let host = Server::run(command.current_dir("/"), &["--listen", "0.0.0.0:0"])?;

    let mut socket = host.socket("/api/ws").await?;
    socket.order().await?;
    let (status, page) = host.get("/").await?;
    ensure!(
        status == 200 && page.contains("data-id="),
        "{status} {page}"
    );
    let (status, _) = host.get("/.well-known/spin/health").await?;
    ensure!(status == 200, "{status}");
    // With stores in Redis, the volume is only for the cache.
    let state = fs::read_dir(image.path().join("state"))?;
    let names: Vec<_> = state
        .map(|entry| Ok(entry?.file_name()))
        .collect::<Result<_>>()?;
    ensure!(names == ["cache"], "{names:?}");
    Ok(())
}
