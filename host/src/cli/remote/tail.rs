//! The command `socket-host tail`.

use anyhow::{Context as _, Result, bail};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use clap::Args;
use grip::{
    Item, Message,
    publish::{ResponseAction, StreamAction, WsAction},
};
use http::{HeaderMap, Method};

use super::{
    client::{ControlPort, encode},
    events::{Event, Events},
};
use crate::{
    signals::Signals,
    terminal::{Painter, Style, print_error_line, try_print_line},
};

/// The options of `socket-host tail`.
#[derive(Args)]
pub(in crate::cli) struct Tail {
    /// The name of the channel.
    channel: String,
    /// Begin with this many items of the channel's history.
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 0)]
    recent: usize,
    /// Print whole items, as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    port: ControlPort,
}

impl Tail {
    /// Prints what is published until a signal arrives or stdout is closed.
    ///
    /// # Errors
    /// Fails if the host cannot be reached, or ends the connection.
    pub(in crate::cli) async fn run(self) -> Result<()> {
        let mut signals = Signals::new()?;
        let client = self.port.client()?;
        let channel = encode(&self.channel);
        let target = format!("/channels/{channel}/events?recent={}", self.recent);
        let printed = async {
            let response = client.send(Method::GET, &target, HeaderMap::new(), "");
            let mut events = Events::new(response.await?.into_body());
            let painter = Painter::stdout();
            while let Some(event) = events.next().await? {
                for line in lines(&event, self.json, painter)? {
                    if try_print_line(line).is_err() {
                        // Nobody reads any more.
                        return Ok(());
                    }
                }
            }
            bail!("the host has ended the connection: it shuts down");
        };
        tokio::select! {
            result = printed => result,
            () = signals.next() => Ok(()),
        }
    }
}

/// Returns the lines to print for an event.
fn lines(event: &Event, as_json: bool, painter: Painter) -> Result<Vec<String>> {
    if event.name == "dropped" {
        let report: serde_json::Value = serde_json::from_str(&event.data)?;
        let dropped = &report["dropped"];
        print_error_line(format_args!(
            "{dropped} items were dropped: this command is too slow"
        ));
        return Ok(Vec::new());
    }
    if as_json {
        return Ok(vec![event.data.clone()]);
    }
    let item: Item = serde_json::from_str(&event.data).context("not an item")?;
    let id = item.id.as_ref().map(|id| painter.paint(Style::Dim, id));
    let text = content(&item);
    Ok(vec![match id {
        // Programs that read a pipe get the content alone.
        Some(id) if painter.has_colors() => format!("{id} {text}"),
        _ => text,
    }])
}

/// Returns the content of an item in its first form.
fn content(item: &Item) -> String {
    if let Some(form) = &item.ws_message {
        return match &form.action {
            WsAction::Send(Message::Text(text)) => text.to_string(),
            WsAction::Send(message) => bytes(message.content()),
            WsAction::Close { code, reason } => {
                let code = code.map(|code| format!(" {code}")).unwrap_or_default();
                let reason = reason.as_ref().map(|it| format!(" {it}"));
                format!("[close{code}{}]", reason.unwrap_or_default())
            }
            WsAction::Refresh => "[refresh]".to_owned(),
            WsAction::Hint => "[hint]".to_owned(),
        };
    }
    if let Some(form) = &item.http_stream {
        return match &form.action {
            StreamAction::Send(content) => bytes(content),
            StreamAction::Close => "[close]".to_owned(),
            StreamAction::Hint => "[hint]".to_owned(),
        };
    }
    match item.http_response.as_ref().map(|form| &form.action) {
        Some(ResponseAction::Send(response)) => bytes(&response.body),
        Some(ResponseAction::Hint) => "[hint]".to_owned(),
        None => "[empty]".to_owned(),
    }
}

/// Returns text as it is without its last line breaks, and other content in Base64.
fn bytes(content: &[u8]) -> String {
    match std::str::from_utf8(content) {
        Ok(text) => text.trim_end_matches('\n').to_owned(),
        Err(_) => format!("base64:{}", BASE64_STANDARD.encode(content)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_form_of_an_item_is_shown() {
        let shown = |item: &Item| {
            let event = Event {
                name: "message".to_owned(),
                data: serde_json::json!(item).to_string(),
            };
            let lines = lines(&event, false, Painter::plain());
            lines.expect("an item").join("\n")
        };
        let message = Item::ws_text("c", "hello").with_id("7", None);
        assert_eq!(shown(&message.and_stream("data: hello\n\n")), "hello");
        let stream = Item::stream("c", "data: hello\n\n");
        assert_eq!(shown(&stream), "data: hello");
        let binary = Item::ws_message("c", Message::Binary(vec![0xff].into()));
        assert_eq!(shown(&binary), "base64:/w==");
        let close = WsAction::Close {
            code: Some(4000),
            reason: Some("bye".to_owned()),
        };
        let close = Item {
            ws_message: Some(close.into()),
            ..Item::new("c")
        };
        assert_eq!(shown(&close), "[close 4000 bye]");
        assert_eq!(shown(&Item::stream_end("c")), "[close]");
    }
}
