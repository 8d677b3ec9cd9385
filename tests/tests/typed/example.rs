//! The example of docs/sip-016.md.

use anyhow::{Result, ensure};
use futures_util::SinkExt as _;
use tests::{Server, app_with_manifest, code_block, wasm, workspace};
use tokio_tungstenite::tungstenite::Message;

use crate::text;

#[test]
fn the_example_is_the_component_that_is_tested() -> Result<()> {
    let path = workspace().join("tests/fixtures/typed_chat/src/chat.rs");
    let component = std::fs::read_to_string(path)?;
    let example = code_block("sip-016.md", "rust,ignore", "struct Chat")?;
    let example = example.replace("path: \"wit\"", "path: \"../../../wit\"");
    ensure!(example.trim_end() == component.trim_end());
    Ok(())
}

#[tokio::test]
async fn clients_chat() -> Result<()> {
    let folder = app_with_manifest(&format!(
        "spin_manifest_version = 2\napplication.name = \"chat\"\n\
         [[trigger.http]]\nroute = \"/...\"\ncomponent = \"chat\"\n\
         [component.chat]\nsource = {:?}\n",
        wasm("typed_chat")
    ));
    let host = Server::start(folder.path(), &[])?;
    let (status, body) = host.get("/").await?;
    ensure!(
        status == 200 && body.starts_with("This is a chat"),
        "{body}"
    );
    let mut first = host.socket("/").await?;
    let mut second = host.socket("/").await?;
    first.send("hello").await?;
    ensure!(text(&mut first).await? == "hello" && text(&mut second).await? == "hello");
    second.0.send(Message::binary(vec![1])).await?;
    ensure!(second.closed().await? == Some(1003));
    Ok(())
}
