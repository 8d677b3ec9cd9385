//! The command `socket-host doctor`.

use std::process::ExitCode;

use clap::Args;

use super::up::Up;
use crate::{
    doctor::{Finding, Outcome, examine},
    terminal::{Painter, Style, print_line},
};

/// The options of `socket-host doctor`.
#[derive(Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    up: Box<Up>,
}

impl Doctor {
    /// Examines what a host with these options needs, and prints what was found. The status is a failure
    /// if the host would not serve.
    pub(super) async fn run(self) -> ExitCode {
        let findings = match self.up.into_host_options() {
            Ok(options) => examine(&options).await,
            Err(error) => vec![Finding::error("options", &error)],
        };
        let painter = Painter::stdout();
        let width = findings.iter().map(|it| it.subject.chars().count()).max();
        let width = width.unwrap_or(0);
        for finding in &findings {
            let (style, mark) = match finding.outcome {
                Outcome::Good => (Style::Good, "ok"),
                Outcome::Warning => (Style::Warning, "warning"),
                Outcome::Failure => (Style::Error, "failed"),
            };
            let mark = painter.paint(style, mark);
            let subject = &finding.subject;
            // Errors of several lines are indented.
            let text = finding.text.replace('\n', "\n         ");
            print_line(format_args!("{mark:7}  {subject:width$}  {text}"));
            if let Some(advice) = &finding.advice {
                print_line(format_args!("{:9}→ {advice}", ""));
            }
        }
        let count = |outcome| findings.iter().filter(|it| it.outcome == outcome).count();
        match (count(Outcome::Failure), count(Outcome::Warning)) {
            (0, 0) => print_line("Everything is ready."),
            (0, 1) => print_line("Ready, with a warning."),
            (0, warnings) => print_line(format_args!("Ready, with {warnings} warnings.")),
            (failures, _) => {
                print_line(format_args!("Not ready: {failures} failed."));
                return ExitCode::FAILURE;
            }
        }
        ExitCode::SUCCESS
    }
}
