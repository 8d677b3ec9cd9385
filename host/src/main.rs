//! The binary `socket-host`.

use std::process::ExitCode;

fn main() -> ExitCode {
    socket_host::cli::run()
}
