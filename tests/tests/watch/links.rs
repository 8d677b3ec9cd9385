//! Symbolic links: to the manifest and `.env`, to components and their files, and to folders.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};
use tests::wasm;

use crate::{project::Project, reload_socket::ReloadSocket};

const MANIFEST: &str = r#"
spin_manifest_version = 2
application.name = "linked"
[variables]
word = { default = "none" }
[[trigger.http]]
route = "/..."
component = "app"
[component.app]
source = "app.wasm"
files = ["single.txt", { source = "static", destination = "/static" }]
environment = { WORD = "one" }
variables = { word = "{{ word }}" }
"#;

/// Moves these files and folders to a folder `mount/VERSION`, and links to them through the link
/// `mount/current`.
fn link(project: &Project, names: &[&str]) -> Result<()> {
    fs::create_dir_all(project.path("mount/..one"))?;
    symlink("..one", project.path("mount/..data"))?;
    for name in names {
        let moved = project.path("mount/..one").join(name);
        fs::rename(project.path(name), moved)?;
        symlink(Path::new("mount/..data").join(name), project.path(name))?;
    }
    Ok(())
}

/// Creates an application whose files are all behind links.
fn linked_project() -> Result<Project> {
    let project = Project::with_manifest(&wasm("probe"), MANIFEST)?;
    fs::copy(wasm("probe"), project.path("app.wasm"))?;
    project.write("single.txt", "one")?;
    project.write(".env", "SPIN_VARIABLE_WORD=one\n")?;
    let names = ["spin.toml", ".env", "app.wasm", "single.txt", "static"];
    link(&project, &names)?;
    Ok(project)
}

#[tokio::test]
async fn edits_behind_links_are_applied() -> Result<()> {
    let project = linked_project()?;
    let host = project.start()?;
    let mut page = ReloadSocket::open(&host).await?;
    let data = project.path("mount/..data");
    let read = async |path: &str| host.get(&format!("/read?path={path}")).await;

    // In place, as some editors save.
    let manifest = fs::read_to_string(data.join("spin.toml"))?;
    let edited = manifest.replace("WORD = \"one\"", "WORD = \"two\"");
    fs::write(project.path("spin.toml"), edited)?;
    page.page_reload().await?;
    ensure!(host.get("/env").await?.1.contains(r#""WORD":"two""#));

    // By replacing the target, as other editors save.
    let replace = |name: &str, text: &str| -> Result<()> {
        fs::write(data.join("new~"), text)?;
        Ok(fs::rename(data.join("new~"), data.join(name))?)
    };
    replace(".env", "SPIN_VARIABLE_WORD=two\n")?;
    page.page_reload().await?;
    replace("single.txt", "two")?;
    page.page_reload().await?;
    ensure!(read("/single.txt").await?.1 == "two");
    replace("static/page.css", "two")?;
    page.style_reload().await?;
    ensure!(read("/static/page.css").await?.1 == "two");

    fs::copy(wasm("probe02"), data.join("new~"))?;
    fs::rename(data.join("new~"), data.join("app.wasm"))?;
    page.page_reload().await?;
    ensure!(host.get("/host").await?.1 == "none");
    page.no_problem().await
}

#[tokio::test]
async fn a_swapped_link_to_a_folder_is_applied_as_a_whole() -> Result<()> {
    let project = linked_project()?;
    let host = project.start()?;
    let mut page = ReloadSocket::open(&host).await?;
    let version = |name: &str| -> PathBuf { project.path("mount").join(format!("..{name}")) };
    for (old, new) in [("one", "two"), ("two", "three")] {
        // As Kubernetes updates a volume with configuration.
        fs::create_dir_all(version(new).join("static"))?;
        for name in [
            "spin.toml",
            ".env",
            "app.wasm",
            "single.txt",
            "static/page.js",
        ] {
            fs::copy(version(old).join(name), version(new).join(name))?;
        }
        let manifest = fs::read_to_string(version(new).join("spin.toml"))?;
        let manifest = manifest.replace(&format!("{old:?}"), &format!("{new:?}"));
        fs::write(version(new).join("spin.toml"), manifest)?;
        fs::write(version(new).join("single.txt"), new)?;
        symlink(version(new), version("data_tmp"))?;
        fs::rename(version("data_tmp"), version("data"))?;
        fs::remove_dir_all(version(old))?;

        let (pages, _) = page.counts();
        page.until("a page reload", |state| state["pages"] != pages)
            .await?;
        page.no_problem().await?;
        let expected = format!(r#""WORD":"{new}""#);
        ensure!(host.get("/env").await?.1.contains(&expected), "{new}");
        ensure!(host.get("/read?path=/single.txt").await?.1 == new);
    }
    Ok(())
}
