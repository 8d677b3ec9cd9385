//! `start`: the time from the start of a server to the first byte of a response.

use std::net::{SocketAddr, TcpStream};

use anyhow::{Result, ensure};

use crate::clock;
use crate::process::{Launch, Server};
use crate::report::Figure;

/// Starts the server, waits for a response to a GET of `path`, and stops the server with SIGTERM.
/// An exit code other than 0 is an error.
pub fn run(launch: &Launch, address: SocketAddr, path: &str) -> Result<Vec<Figure>> {
    ensure!(
        TcpStream::connect(address).is_err(),
        "{address} is in use: stop that server, or choose another address with --url"
    );
    let mut server = Server::start(launch)?;
    let duration = server.first_byte(address, path)?;
    server.stop()?;
    Ok(vec![Figure::milliseconds(
        "start to first byte",
        clock::nanoseconds(duration),
    )])
}
