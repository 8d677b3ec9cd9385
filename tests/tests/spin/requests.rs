//! What the manifest configures applies in front of Spin.

use std::time::SystemTime;

use anyhow::{Context as _, Result, ensure};
use tests::eventually;

use crate::fixture::{Spin, app};

#[tokio::test]
async fn private_routes_timers_and_signatures_apply() -> Result<()> {
    let (spin, app) = (
        Spin::new(),
        app(r#"
[application.tool.socket-host]
private = ["/increment"]
[[application.tool.socket-host.timer]]
request = "GET /increment?key=calls&by=1"
every = "20ms"
"#),
    );
    let host = spin.serve(app.path(), &[])?;
    eventually("calls of the timer", async || {
        let (_, calls) = host.get("/exists?key=calls").await.ok()?;
        (calls == "Ok(true)").then_some(())
    })
    .await?;
    let (status, body) = host.get("/increment?key=calls&by=1").await?;
    ensure!(status == 404, "{status} {body}");

    let key = host.get("/variable/key").await?.1;
    let headers = host.get_json("/headers").await?;
    let token = headers["grip-sig"].as_str().context("no Grip-Sig")?;
    grip::signature::verify(&grip::Key::parse(&key)?, token, SystemTime::now())?;
    Ok(())
}

#[tokio::test]
async fn the_summary_names_the_components() -> Result<()> {
    let (spin, app) = (Spin::new(), app(""));
    let mut child = spin
        .command(app.path())
        .args(["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"])
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(
        child.stdout.take().context("stdout")?,
    ));
    let mut line = || lines.next().context("a line")?.context("a line");
    let address = line()?;
    let address = address.strip_prefix("Serving ").context("an address")?;
    ensure!(line()? == "Routes:");
    let route = line()?;
    ensure!(route == format!("  {address}/... → probe"), "{route}");
    ensure!(line()?.starts_with("Control: "));
    child.kill()?;
    child.wait()?;
    spin.record()?.wait_for_exit().await
}
