//! The command `socket-host publish`.

use std::io::{Read as _, stdin};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use grip::{
    Item, Message,
    publish::{HttpResponse, to_json},
};
use http::{HeaderMap, HeaderValue, Method, header};

use super::client::{ControlPort, json};
use crate::terminal::print_line;

/// The options of `socket-host publish`.
#[derive(Args)]
pub(in crate::cli) struct Publish {
    /// The name of the channel.
    channel: String,
    /// The text to publish. Without it, or with `-`, stdin is published as one message.
    text: Option<String>,
    /// The subscribers that receive it. May be repeated, or separated by commas.
    #[arg(
        long = "as",
        value_name = "FORM",
        value_enum,
        value_delimiter = ',',
        default_value = "ws"
    )]
    forms: Vec<Form>,
    /// The id of the item. A second item with the same id is dropped.
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// The id of the item before this one.
    #[arg(long, value_name = "ID", requires = "id")]
    prev_id: Option<String>,
    /// Print the response of the host as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    port: ControlPort,
}

/// Who receives an item, and in which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// WebSockets, as a message.
    Ws,
    /// Held streams, as it is.
    Stream,
    /// Held streams, as a server-sent event.
    Sse,
    /// Held responses, as the response.
    Response,
}

impl Publish {
    /// Publishes the text.
    ///
    /// # Errors
    /// Fails if stdin cannot be read, or the host refuses the item.
    pub(in crate::cli) async fn run(self) -> Result<()> {
        let content = match self.text {
            Some(text) if text != "-" => text.into_bytes(),
            _ => tokio::task::spawn_blocking(read_stdin).await??,
        };
        let mut item = item(self.channel.clone(), &self.forms, content.into());
        if let Some(id) = self.id {
            item = item.with_id(id, self.prev_id);
        }
        let mut headers = HeaderMap::new();
        let json_type = HeaderValue::from_static("application/json");
        headers.insert(header::ACCEPT, json_type.clone());
        headers.insert(header::CONTENT_TYPE, json_type);
        let client = self.port.client()?;
        let body = to_json(&[item]);
        let response = client.send(Method::POST, "/publish/", headers, body);
        let report = json(response.await?).await?;
        if self.json {
            print_line(&report);
            return Ok(());
        }
        let hosts = report["hosts"].as_u64().unwrap_or(1);
        let missing = report["missing"].as_u64().unwrap_or(0);
        let across = if hosts > 1 {
            format!(" on {hosts} hosts")
        } else {
            String::new()
        };
        let unknown = match missing {
            0 => String::new(),
            missing => format!(". Hosts that have not answered: {missing}"),
        };
        // Counting fails if the bus goes down after the item was published.
        match report["subscribers"][&self.channel].as_u64() {
            Some(1) => print_line(format_args!("Published to 1 subscriber{across}{unknown}")),
            Some(count) => {
                print_line(format_args!(
                    "Published to {count} subscribers{across}{unknown}"
                ));
            }
            None => print_line("Published"),
        }
        Ok(())
    }
}

fn read_stdin() -> Result<Vec<u8>> {
    let mut content = Vec::new();
    let read = stdin().lock().read_to_end(&mut content);
    read.context("cannot read stdin")?;
    Ok(content)
}

/// Returns the item with this content in these forms.
fn item(channel: String, forms: &[Form], content: Bytes) -> Item {
    let text = String::from_utf8_lossy(&content);
    let mut item = Item::new(channel);
    for form in forms {
        item = match form {
            Form::Ws => {
                let message = match String::from_utf8(content.to_vec()) {
                    Ok(text) => Message::Text(text.into()),
                    Err(_) => Message::Binary(content.clone()),
                };
                Item {
                    ws_message: Item::ws_message("", message).ws_message,
                    ..item
                }
            }
            Form::Stream => item.and_stream(content.clone()),
            Form::Sse => item.and_stream(event(&text)),
            Form::Response => item.and_response(HttpResponse::ok("text/plain", content.clone())),
        };
    }
    item
}

/// Returns a server-sent event with this data.
fn event(data: &str) -> String {
    let lines = data.lines().map(|line| format!("data: {line}\n"));
    let mut event: String = lines.collect();
    if event.is_empty() {
        event.push_str("data:\n");
    }
    event.push('\n');
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_has_the_forms_that_are_asked_for() {
        let json = |forms: &[Form], content: &'static [u8]| {
            let item = item("c".to_owned(), forms, Bytes::from_static(content));
            serde_json::json!(item)["formats"].clone()
        };
        assert_eq!(
            json(&[Form::Ws, Form::Sse], b"a\nb"),
            serde_json::json!({
                "ws-message": {"content": "a\nb"},
                "http-stream": {"content": "data: a\ndata: b\n\n"},
            })
        );
        assert_eq!(
            json(&[Form::Ws], b"\xff"),
            serde_json::json!({
                "ws-message": {"content-bin": "/w=="},
            })
        );
        assert_eq!(json(&[Form::Response], b"a")["http-response"]["body"], "a");
        assert_eq!(event(""), "data:\n\n");
    }
}
