//! The command `socket-host sessions`.

use std::{io, time::Duration};

use anyhow::{Context as _, Result, bail};
use bytesize::ByteSize;
use clap::Args;
use http::Method;
use serde::Deserialize;
use serde_json::Value;

use super::client::ControlPort;
use crate::terminal::{Painter, Style, print_error_line, try_print_line};

/// The sessions that are requested at once.
const PAGE_SIZE: usize = 1000;

/// The options of `socket-host sessions`.
#[derive(Args)]
pub(in crate::cli) struct ListSessions {
    /// Print at most this many, the newest first.
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    limit: usize,
    /// Print each as a JSON object on a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    port: ControlPort,
}

/// A session in a response.
#[derive(Deserialize)]
struct Session {
    connection: String,
    path: String,
    address: String,
    state: String,
    age: u64,
    queued: u64,
}

const HEADINGS: [&str; 6] = ["CONNECTION", "ROUTE", "ADDRESS", "STATE", "AGE", "QUEUE"];

impl ListSessions {
    /// Prints the open WebSockets of a host.
    ///
    /// # Errors
    /// Fails if the host cannot be reached, or refuses the request.
    pub(in crate::cli) async fn run(self) -> Result<()> {
        let client = self.port.client()?;
        let (mut sessions, mut total, mut before) = (Vec::new(), 0, None);
        while sessions.len() < self.limit {
            let limit = PAGE_SIZE.min(self.limit - sessions.len());
            let before_parameter = match before {
                Some(before) => format!("&before={before}"),
                None => String::new(),
            };
            let target = format!("/sessions/?limit={limit}{before_parameter}");
            let mut page = client.json(Method::GET, &target).await?;
            total = page["total"].as_u64().unwrap_or_default();
            match page["sessions"].take() {
                Value::Array(page) => sessions.extend(page),
                _ => bail!("the response has no sessions"),
            }
            before = page["next"].as_u64();
            if before.is_none() {
                break;
            }
        }
        // A closed stdout ends the list.
        let _ = if self.json {
            sessions.iter().try_for_each(try_print_line)
        } else {
            let rows = sessions.iter().map(row).collect::<Result<Vec<_>>>()?;
            print_table(&rows)
        };
        let left_out = total.saturating_sub(sessions.len() as u64);
        if before.is_some() && left_out > 0 {
            print_error_line(format_args!(
                "not shown: {left_out}. Raise --limit to see more"
            ));
        }
        Ok(())
    }
}

fn row(session: &Value) -> Result<[String; 6]> {
    let session = Session::deserialize(session).context("unexpected response")?;
    Ok([
        session.connection,
        session.path,
        session.address,
        session.state,
        humantime::format_duration(Duration::from_secs(session.age)).to_string(),
        ByteSize(session.queued).to_string(),
    ])
}

/// Prints rows in columns, with headings.
fn print_table(rows: &[[String; 6]]) -> io::Result<()> {
    let painter = Painter::stdout();
    let widths: [usize; 6] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([HEADINGS[column].len()]).max().unwrap_or(0)
    });
    let line = |cells: [&str; 6]| {
        let cells = cells.iter().zip(widths);
        let line: String = cells
            .map(|(cell, width)| format!("{cell:width$}  "))
            .collect();
        line.trim_end().to_owned()
    };
    try_print_line(painter.paint(Style::Bold, line(HEADINGS)))?;
    rows.iter()
        .try_for_each(|row| try_print_line(line(row.each_ref().map(String::as_str))))
}
