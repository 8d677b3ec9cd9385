//! The layers between TCP and the messages or requests: TLS, HTTP/2 and permessage-deflate.

use std::{fs, net::IpAddr, path::Path, sync::Arc};

use anyhow::{Context, Result};
use clap::ValueEnum;
use rustls::{ClientConfig, RootCertStore, client::Resumption, crypto::ring};

/// The layers of a server's public port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Layers {
    /// TCP
    Plain,
    /// TLS, with HTTP/1.1
    Tls,
    /// TLS, with HTTP/2; for GET
    H2,
    /// Compressed messages; for WebSockets
    Deflate,
    /// TLS and compressed messages; for WebSockets
    TlsDeflate,
}

impl Layers {
    /// Returns the name in the tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Tls => "TLS",
            Self::H2 => "h2",
            Self::Deflate => "deflate",
            Self::TlsDeflate => "TLS + deflate",
        }
    }

    /// Returns whether there is TLS.
    pub fn has_tls(self) -> bool {
        matches!(self, Self::Tls | Self::H2 | Self::TlsDeflate)
    }

    /// Returns whether the client offers permessage-deflate.
    pub fn has_deflate(self) -> bool {
        matches!(self, Self::Deflate | Self::TlsDeflate)
    }

    /// Writes a new certificate for `address` and its key to `folder`, as `cert.pem` and `key.pem`.
    /// Returns the configuration of a client that trusts it.
    pub fn issue_certificate(self, address: IpAddr, folder: &Path) -> Result<Arc<ClientConfig>> {
        let issued = rcgen::generate_simple_self_signed([address.to_string()])
            .context("creating a certificate")?;
        fs::write(folder.join("cert.pem"), issued.cert.pem()).context("writing a certificate")?;
        fs::write(folder.join("key.pem"), issued.signing_key.serialize_pem())
            .context("writing a key")?;
        let mut roots = RootCertStore::empty();
        roots.add(issued.cert.der().clone())?;
        let mut config = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let protocol: &[u8] = if self == Self::H2 { b"h2" } else { b"http/1.1" };
        config.alpn_protocols = vec![protocol.to_vec()];
        // Each connection is one of a new client.
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}
