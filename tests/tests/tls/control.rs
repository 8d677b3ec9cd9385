//! The control port with TLS.

use std::net::{SocketAddr, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use tests::{Server, burger, probe};

use crate::{authority::Authority, client::connect};

const KEY: [&str; 2] = ["--grip-key", "of the tests"];

#[tokio::test]
async fn a_control_port_beyond_loopback_needs_tls_or_an_option() -> Result<()> {
    let folder = probe("");
    let open = ["--control", "0.0.0.0:0"];
    let error = Server::start_error(folder.path(), &[&open[..], &KEY].concat())?;
    ensure!(error.contains("--insecure-control"), "{error}");
    let insecure = [&open[..], &KEY, &["--insecure-control"]].concat();
    Server::start(folder.path(), &insecure)?;
    Ok(())
}

/// Returns the address from which this machine sends to others, with port 0.
fn own_address() -> Result<String> {
    // Connecting a UDP socket selects the address, and sends nothing.
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect("192.0.2.1:9")?;
    Ok(SocketAddr::new(socket.local_addr()?.ip(), 0).to_string())
}

#[tokio::test]
async fn components_publish_to_a_control_port_with_tls() -> Result<()> {
    let authority = Authority::new()?;
    let files = authority.issue("control", &["localhost"])?;
    let folder = burger("20ms..40ms");
    let options = [
        "--control-tls-cert",
        files.certificate.to_str().context("a path")?,
        "--control-tls-key",
        files.key.to_str().context("a path")?,
    ];
    // At an address of this machine that is not loopback, clients come from that address.
    let address = own_address()?;
    let own = [&options[..], &KEY, &["--control", &address]].concat();
    let host = Server::start(folder.path(), &own)?;
    host.socket("/api/ws").await?.order().await?;

    let host = Server::start(folder.path(), &options)?;
    host.socket("/api/ws").await?.order().await?;
    // From this machine, both work.
    ensure!(host.health().await?["status"] == "ok");
    let stream = connect(host.control, "localhost", &authority.root(), &["h2"]).await?;
    ensure!(stream.get_ref().1.alpn_protocol() == Some(&b"h2"[..]));
    Ok(())
}
