//! Files of components.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use tests::eventually;

use crate::{project::Project, reload_socket::ReloadSocket};

#[tokio::test]
async fn changed_files_are_served_and_reload_pages() -> Result<()> {
    let project = Project::new("")?;
    let host = project.start()?;
    let mut page = ReloadSocket::open(&host).await?;
    let read = async |path: &str| host.get(&format!("/read?path={path}")).await;
    ensure!(read("/static/page.css").await?.1 == "one");

    project.write("static/page.css", "two")?;
    page.style_reload().await?;
    ensure!(read("/static/page.css").await?.1 == "two");
    // Some editors save in place.
    fs::write(project.path("static/page.css"), "three")?;
    page.style_reload().await?;
    ensure!(read("/static/page.css").await?.1 == "three");

    project.write("static/page.js", "two")?;
    page.page_reload().await?;
    // The files of a glob are copied when the application is loaded. Replaces, adds and deletes one.
    ensure!(read("/globbed/a.txt").await?.1 == "one");
    project.write("globbed/a.txt", "two")?;
    page.page_reload().await?;
    ensure!(read("/globbed/a.txt").await?.1 == "two");
    project.write("globbed/b.txt", "new")?;
    page.page_reload().await?;
    ensure!(read("/globbed/b.txt").await?.1 == "new");
    fs::remove_file(project.path("globbed/b.txt"))?;
    page.page_reload().await?;
    ensure!(read("/globbed/b.txt").await?.0 == 502);

    // A folder is replaced by one with other files, as when a branch is checked out.
    let moved = project.path("other");
    fs::rename(project.path("static"), &moved)?;
    fs::create_dir(project.path("static"))?;
    for n in 0..300 {
        fs::write(project.path(&format!("static/{n}.js")), "x")?;
    }
    let read_last = async || (read("/static/299.js").await.ok()?.1 == "x").then_some(());
    eventually("the new files", read_last).await?;
    // The new folder is watched like the old one. The new files may be found in several scans, so
    // page reloads may come before this change or together with it.
    let (_, styles) = page.counts();
    let mut attempts = 0;
    while page.counts().1 == styles {
        attempts += 1;
        ensure!(
            attempts < 100,
            "no reload for a style sheet in the new folder: {}",
            page.state
        );
        project.write("static/last.css", &attempts.to_string())?;
        let reload = page.until("a style sheet reload", |state| state["styles"] != styles);
        let _ = tokio::time::timeout(Duration::from_millis(500), reload).await;
    }
    page.no_problem().await?;
    // The old folder is not watched any more.
    fs::write(moved.join("page.css"), "four")?;
    project.write("static/page.css", "five")?;
    page.style_reload().await
}
