//! The server of the documentation, and its clients.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tempfile::TempDir;
use tests::{Client, HandshakeError, Nginx, Response, TIMEOUT, code_block, read_response};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::timeout};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, RootCertStore, pki_types::ServerName},
};

/// The name of the server in the documentation.
pub const NAME: &str = "burger.example";

/// The header by which a client of the tests has another address for nginx.
pub const CLIENT: &str = "x-test-client";

pub type Connection = TlsStream<TcpStream>;

/// nginx with TLS in front of a host.
pub struct Site {
    pub nginx: Nginx,
    connector: TlsConnector,
    _folder: TempDir,
}

impl Site {
    /// Starts nginx in front of the host at this address.
    pub fn start(host: SocketAddr) -> Result<Self> {
        Self::start_with(host, &[])
    }

    /// Starts nginx with replacements in its configuration.
    pub fn start_with(host: SocketAddr, edits: &[(&str, &str)]) -> Result<Self> {
        let folder = TempDir::new()?;
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed([NAME.to_owned()])?;
        let (certificate, key) = (
            folder.path().join("cert.pem"),
            folder.path().join("key.pem"),
        );
        std::fs::write(&certificate, cert.pem())?;
        std::fs::write(&key, signing_key.serialize_pem())?;
        let files = format!(
            "ssl_certificate {}; ssl_certificate_key {};",
            certificate.display(),
            key.display()
        );
        let nginx = Nginx::start_with(|address| {
            let (listen, upstream) = (format!("listen {address} ssl;"), format!("http://{host}"));
            let places = [
                ("listen 443 ssl;", &*listen),
                ("# ssl_certificate …", &files),
                ("http://127.0.0.1:3000", &upstream),
            ];
            let mut conf = configuration()?;
            for (from, to) in places.iter().chain(edits) {
                ensure!(conf.contains(from), "no {from} in {conf}");
                conf = conf.replace(from, to);
            }
            Ok(conf)
        })?;
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone())?;
        let config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            nginx,
            connector: TlsConnector::from(Arc::new(config)),
            _folder: folder,
        })
    }

    pub async fn connect(&self) -> Result<Connection> {
        let stream = TcpStream::connect(self.nginx.address).await?;
        let connecting = self.connector.connect(ServerName::try_from(NAME)?, stream);
        let connected = timeout(TIMEOUT, connecting).await;
        Ok(connected.context("no TLS handshake")??)
    }

    /// Sends a request and reads the response. `headers` are complete lines.
    pub async fn request(&self, line: &str, headers: &str, body: &[u8]) -> Result<Response> {
        let mut stream = self.connect().await?;
        let length = body.len();
        let head =
            format!("{line} HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: {length}\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).await?;
        // nginx may respond before it has read the body.
        if stream.write_all(body).await.is_ok() {
            // A part of it may still be in the buffers of TLS.
            let _ = stream.flush().await;
        }
        timeout(TIMEOUT, read_response(&mut stream, true))
            .await
            .context("no response")?
    }

    /// Opens a WebSocket, as a page of the site does.
    pub async fn socket(
        &self,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Client<Connection>, HandshakeError> {
        let origin = format!("https://{NAME}");
        let headers = [&[("origin", &*origin)], headers].concat();
        let stream = self.connect().await.map_err(|error| HandshakeError {
            status: None,
            error,
        })?;
        Client::over(stream, &format!("wss://{NAME}{path}"), &headers).await
    }
}

/// Returns the configuration in the documentation.
pub fn configuration() -> Result<String> {
    code_block("deploying.md", "nginx", "server {")
}

/// Returns the value of a directive in the documentation.
pub fn directive(name: &str) -> Result<String> {
    let conf = configuration()?;
    let mut lines = conf.lines().map(str::trim);
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_suffix(';'));
    let value = value.with_context(|| format!("no {name} in {conf}"))?;
    Ok(value.trim().to_owned())
}
