//! Changes to the manifest, and to the `.env` file next to it.

use std::fs;

use anyhow::{Result, ensure};
use tests::{Server, read_response};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{project::Project, reload_socket::ReloadSocket};

#[tokio::test]
async fn a_changed_manifest_is_applied_unless_it_is_invalid() -> Result<()> {
    let project = Project::new("[component.app.environment]\nWORD = \"one\"\n")?;
    let host = project.start()?;
    let mut page = ReloadSocket::open(&host).await?;
    ensure!(host.get("/env").await?.1.contains(r#""WORD":"one""#));

    project.rewrite("WORD = \"one\"", "WORD = \"two\"")?;
    page.page_reload().await?;
    ensure!(host.get("/env").await?.1.contains(r#""WORD":"two""#));

    project.rewrite("source = \"app.wasm\"", "sauce = \"app.wasm\"")?;
    let problem = page.problem().await?;
    ensure!(
        problem.contains("component.app.sauce") && problem.contains("spin.toml:"),
        "{problem}"
    );
    host.wait_for_log(&["component.app.sauce"]).await?;
    ensure!(
        host.get("/env").await?.1.contains(r#""WORD":"two""#),
        "the previous version is served"
    );
    // The files of the served version are still watched.
    project.write("static/page.css", "two")?;
    page.style_reload().await?;
    project.rewrite("sauce", "source")?;
    page.page_reload().await?;
    ensure!(page.problems() == "[]", "{}", page.state);

    // Adds a component that has not been built, a private route, a timer, and a limit.
    project.write(
        "spin.toml",
        &(fs::read_to_string(project.path("spin.toml"))?
            + r#"
[[trigger.http]]
route = "/second/..."
component = "second"
[component.second]
source = "second/second.wasm"
[component.second.build]
command = ["mkdir -p second", "cp app.wasm second/second.wasm"]
[application.tool.socket-host]
private = ["/second/headers"]
[[application.tool.socket-host.timer]]
request = "GET /second/print?line=tick"
every = "50ms"
[application.tool.socket-host.websocket]
max-connections = 1
"#),
    )?;
    page.page_reload().await?;
    ensure!(
        host.get("/second/uri").await?.0 == 404,
        "the second component responds"
    );
    ensure!(
        host.get("/second/headers").await?.0 == 404,
        "the route is private"
    );
    let ticks = project.path(".spin/logs/second_stdout.txt");
    let count = || {
        fs::read_to_string(&ticks)
            .unwrap_or_default()
            .lines()
            .count()
    };
    host.wait_for_log(&["timer", "/second/print", "404"])
        .await?;
    ensure!(count() == 0);

    // A new warning is logged, as it is at start-up.
    let nowhere = "route = \"/.well-known/spin/second\"";
    project.rewrite("route = \"/second/...\"", nowhere)?;
    page.page_reload().await?;
    let warning = ["WARN", "/.well-known/spin/second", "has no effect"];
    host.wait_for_log(&warning).await?;
    project.rewrite(nowhere, "route = \"/second/...\"")?;
    page.page_reload().await?;

    // A change that requires a restart is an error.
    project.rewrite(
        "spin_manifest_version = 2\n",
        "spin_manifest_version = 2\nvariables.grip_key = { default = \"\" }\n",
    )?;
    page.page_reload().await?;
    project.write(".env", "SPIN_VARIABLE_GRIP_KEY=a-key-of-another-host\n")?;
    let problem = page.problem().await?;
    ensure!(
        problem.contains("grip_key") && problem.contains("restart the host"),
        "{problem}"
    );
    fs::remove_file(project.path(".env"))?;
    page.no_problem().await?;
    Ok(())
}

#[tokio::test]
async fn a_changed_max_connections_applies_to_held_requests() -> Result<()> {
    let folder = tests::burger_without_timer();
    let path = folder.path().join("spin.toml");
    let text = fs::read_to_string(&path)?
        .replace("components/build orders", "true")
        .replace("components/build page", "true");
    let table = "[application.tool.socket-host.websocket]\n";
    ensure!(text.contains(table), "{text}");
    fs::write(&path, &text)?;
    let host = Server::start(folder.path(), &["--watch", "--quiet"])?;
    let mut page = ReloadSocket::open(&host).await?;
    let hold = async || -> Result<(u16, TcpStream)> {
        let mut socket = TcpStream::connect(host.address).await?;
        let head = format!(
            "GET /api/orders/stream HTTP/1.1\r\nHost: {}\r\n\r\n",
            host.address
        );
        socket.write_all(head.as_bytes()).await?;
        Ok((read_response(&mut socket, false).await?.status, socket))
    };
    let (first, second) = (hold().await?, hold().await?);
    ensure!((first.0, second.0) == (200, 200));
    for (limit, status) in [(2, 503), (3, 200)] {
        let table = format!("{table}max-connections = {limit}\n");
        let new = folder.path().join("spin.toml~");
        fs::write(
            &new,
            text.replace("[application.tool.socket-host.websocket]\n", &table),
        )?;
        fs::rename(new, &path)?;
        page.page_reload().await?;
        ensure!(hold().await?.0 == status, "max-connections = {limit}");
    }
    Ok(())
}
