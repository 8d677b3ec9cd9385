//! TLS clients.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context as _, Result};
use tests::{Response, TIMEOUT, read_response};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::timeout};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore, SupportedProtocolVersion,
        pki_types::{CertificateDer, ServerName},
    },
};

/// Connects and offers these protocols by ALPN.
pub async fn connect(
    address: SocketAddr,
    name: &str,
    root: &CertificateDer<'static>,
    protocols: &[&str],
) -> Result<TlsStream<TcpStream>> {
    connect_with(address, name, root, protocols, &[]).await
}

/// Connects with these versions of TLS, or with all if there are none.
pub async fn connect_with(
    address: SocketAddr,
    name: &str,
    root: &CertificateDer<'static>,
    protocols: &[&str],
    versions: &[&'static SupportedProtocolVersion],
) -> Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone())?;
    let builder = match versions {
        [] => ClientConfig::builder(),
        versions => ClientConfig::builder_with_protocol_versions(versions),
    };
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|it| it.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(name.to_owned())?;
    let stream = TcpStream::connect(address).await?;
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    Ok(timeout(TIMEOUT, connecting)
        .await
        .context("no TLS handshake")??)
}

/// Sends a GET request over HTTP/1.1.
pub async fn get(stream: &mut TlsStream<TcpStream>, path: &str) -> Result<Response> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    read_response(stream, true).await
}
