//! Opens pages in the user's browser.

use std::process::Stdio;

use clap::ValueEnum;
use tokio::process::Command;
use tracing::warn;

/// The program that opens a URL.
const PROGRAM: &str = if cfg!(target_os = "macos") {
    "open"
} else {
    "xdg-open"
};

/// What `--open` opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Page {
    /// The public port.
    App,
    /// The control port.
    Dashboard,
}

/// Opens a URL. A failure is logged.
pub(super) fn open(url: String) {
    tokio::spawn(async move {
        let mut command = Command::new(PROGRAM);
        command
            .arg(&url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        match command.status().await {
            Ok(status) if status.success() => {}
            Ok(status) => warn!(program = PROGRAM, %status, url, "cannot open the browser"),
            Err(error) => warn!(program = PROGRAM, %error, url, "cannot open the browser"),
        }
    });
}
