//! What components see of the file system.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use tests::eventually;

use crate::{project::Project, stream::Stream};

#[tokio::test]
async fn static_files_are_served_as_they_are_and_pages_told() -> Result<()> {
    let project = Project::new("")?;
    let host = project.start()?;
    let mut page = Stream::open(&host).await?;
    let read = async |path: &str| host.get(&format!("/read?path={path}")).await;
    ensure!(read("/static/page.css").await?.1 == "one");

    project.write("static/page.css", "two")?;
    page.styles().await?;
    ensure!(read("/static/page.css").await?.1 == "two");
    // In place, as other editors save.
    fs::write(project.path("static/page.css"), "three")?;
    page.styles().await?;
    ensure!(read("/static/page.css").await?.1 == "three");

    project.write("static/page.js", "two")?;
    page.pages().await?;
    // Picked by a glob, and so gathered elsewhere: replaced, new, and deleted.
    ensure!(read("/globbed/a.txt").await?.1 == "one");
    project.write("globbed/a.txt", "two")?;
    page.pages().await?;
    ensure!(read("/globbed/a.txt").await?.1 == "two");
    project.write("globbed/b.txt", "new")?;
    page.pages().await?;
    ensure!(read("/globbed/b.txt").await?.1 == "new");
    fs::remove_file(project.path("globbed/b.txt"))?;
    page.pages().await?;
    ensure!(read("/globbed/b.txt").await?.0 == 502);

    // A folder goes and comes back with other files, as when a branch is checked out.
    let other = project.path("other");
    fs::rename(project.path("static"), &other)?;
    fs::create_dir(project.path("static"))?;
    for n in 0..300 {
        fs::write(project.path(&format!("static/{n}.js")), "x")?;
    }
    let read_last = async || (read("/static/299.js").await.ok()?.1 == "x").then_some(());
    eventually("the new files", read_last).await?;
    // The new folder is watched as the old one was. What came in more than one look is told before
    // this, or with it.
    let (_, styles) = page.told();
    let mut saves = 0;
    while page.told().1 == styles {
        saves += 1;
        ensure!(
            saves < 100,
            "no style sheet of the new folder is told of: {}",
            page.state
        );
        project.write("static/last.css", &saves.to_string())?;
        let told = page.until("styles", |state| state["styles"] != styles);
        let _ = tokio::time::timeout(Duration::from_millis(500), told).await;
    }
    page.mended().await?;
    // What was moved away is none of its any more.
    fs::write(other.join("page.css"), "four")?;
    project.write("static/page.css", "five")?;
    page.styles().await
}
