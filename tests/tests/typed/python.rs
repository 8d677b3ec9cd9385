//! A component in Python.

use anyhow::{Context as _, Result, ensure};
use futures_util::SinkExt as _;
use tests::{Client, Server, app_with_manifest, workspace};
use tokio_tungstenite::tungstenite::Message;

use crate::{ask, text};

#[tokio::test]
async fn a_component_in_python_handles_frames() -> Result<()> {
    let source = workspace().join("target/sdks/python_websocket.wasm");
    ensure!(
        source.exists(),
        "{source:?} is missing: tests/run builds it"
    );
    let folder = app_with_manifest(&format!(
        "spin_manifest_version = 2\napplication.name = \"python\"\n\
         [[trigger.http]]\nroute = \"/...\"\ncomponent = \"python\"\n\
         [component.python]\nsource = {source:?}\n"
    ));
    let host = Server::start(folder.path(), &[])?;
    ensure!(host.get("/").await? == (200, "a plain request".into()));
    let mut client = host.socket("/").await?;
    ensure!(text(&mut client).await? == "welcome");
    ensure!(ask(&mut client, "grüße").await? == "0 grüße");
    client.0.send(Message::binary(vec![1, 2, 255])).await?;
    let binary = client.next().await?.context("a message")?;
    ensure!(binary == Message::binary(vec![1, 2, 255]));
    ensure!(ask(&mut client, "third").await? == "2 third");
    client.send("close").await?;
    ensure!(client.closed().await? == Some(1008));
    let refused = Client::open(host.address, "/?refuse", &[]).await;
    ensure!(refused.err().and_then(|error| error.status) == Some(403));
    let mut client = host.socket("/").await?;
    client.send("trap").await?;
    ensure!(client.closed().await? == Some(1011));
    Ok(())
}
