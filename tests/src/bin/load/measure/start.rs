//! From the start of a server to the first byte it answers.

use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};

use crate::process::Server;
use crate::report::Figure;
use crate::target::Start;

/// Starts it once, waits for an answer to a GET of `path`, and stops it with
/// SIGTERM. An exit other than with 0 is an error.
pub fn run(start: &Start, address: SocketAddr, path: &str) -> Result<Vec<Figure>> {
    ensure!(
        TcpStream::connect(address).is_err(),
        "a server listens on {address} already: stop it, or choose another address with --url"
    );
    let mut server = Server::start(start)?;
    let taken = server.first_byte(address, path)?;
    let status = server.stop()?;
    ensure!(
        status.success(),
        "after SIGTERM the server ended with {status}, not 0"
    );
    let nanoseconds = u64::try_from(taken.as_nanos()).context("a start of centuries")?;
    Ok(vec![Figure::milliseconds(
        "start to first byte",
        nanoseconds,
    )])
}
