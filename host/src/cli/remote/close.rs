//! The command `socket-host close`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use http::Method;

use super::client::{ControlPort, encode};
use crate::{cli::fail, terminal::print_line};

/// The options of `socket-host close`.
#[derive(Args)]
pub(in crate::cli) struct Close {
    /// The ids of the connections, as `socket-host sessions` prints them.
    #[arg(required = true, value_name = "ID")]
    connections: Vec<String>,
    /// The close code.
    #[arg(long, value_name = "CODE", default_value_t = 1008)]
    code: u16,
    /// The reason, which the client gets.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    port: ControlPort,
}

impl Close {
    /// Closes WebSockets. Continues with the others if one cannot be closed.
    ///
    /// # Errors
    /// Fails if the options are invalid.
    pub(in crate::cli) async fn run(self) -> Result<ExitCode> {
        let client = self.port.client()?;
        let query = format!("code={}&reason={}", self.code, encode(&self.reason));
        let mut status = ExitCode::SUCCESS;
        for connection in &self.connections {
            let target = format!("/sessions/{}?{query}", encode(connection));
            match client.json(Method::DELETE, &target).await {
                Ok(_) => print_line(format_args!("Closed {connection}")),
                Err(error) => status = fail(&error.context(connection.clone())),
            }
        }
        Ok(status)
    }
}
