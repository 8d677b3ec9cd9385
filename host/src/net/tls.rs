//! TLS for a listener: loads certificates and keys, and selects the certificate for each client by
//! its server name (SNI).

use std::{
    fmt,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::{
    ServerConfig,
    client::verify_server_name,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    server::{ClientHello, ParsedCertificate, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio_rustls::TlsAcceptor;
use tracing::{error, warn};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _, time::ASN1Time};

/// The protocols offered by ALPN, in order of preference.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// A certificate that expires within this time is logged.
const EXPIRY_NOTICE: Duration = Duration::from_secs(7 * 24 * 3600);

/// The maximum number of bytes that the TLS layer buffers for a client that does not read.
pub(crate) const BUFFER_BYTES: usize = 16 * 1024;

/// The files of a certificate and its private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate and its chain, in PEM.
    pub certificate: PathBuf,
    /// The private key, in PEM.
    pub key: PathBuf,
}

/// The certificates of a listener, which can be replaced while it serves.
pub(crate) struct Tls {
    files: Vec<CertificateFiles>,
    /// The common prefix of the options in errors: `--tls` for `--tls-cert` and `--tls-key`.
    option: &'static str,
    certificates: Arc<CertificateResolver>,
    acceptor: TlsAcceptor,
    /// The fingerprint of the files when they were last read.
    loaded: Mutex<Fingerprint>,
}

/// Identifies the content and the permissions of files: their inodes, and the times of their last
/// change in seconds and nanoseconds. `None` for a file that does not exist.
pub(crate) type Fingerprint = Vec<Option<(u64, i64, i64)>>;

/// Selects a certificate for each client.
#[derive(Debug)]
struct CertificateResolver(ArcSwap<Vec<Arc<CertifiedKey>>>);

impl Tls {
    /// Reads the files. The first certificate is the default, for clients that send no server name or
    /// an unknown one.
    ///
    /// # Errors
    /// Fails if a file cannot be read or parsed, a key does not belong to its certificate, or a
    /// certificate is not valid now.
    pub(crate) fn load(files: Vec<CertificateFiles>, option: &'static str) -> Result<Self> {
        let loaded = fingerprint(&files);
        let keys = load_all(&files, option)?;
        let certificates = Arc::new(CertificateResolver(ArcSwap::from_pointee(keys)));
        let mut config = ServerConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .context("cannot configure TLS")?
            .with_no_client_auth()
            .with_cert_resolver(certificates.clone());
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
        config.ticketer = ring::Ticketer::new().context("cannot configure TLS")?;
        Ok(Self {
            files,
            option,
            certificates,
            acceptor: TlsAcceptor::from(Arc::new(config)),
            loaded: Mutex::new(loaded),
        })
    }

    /// Reads the files again. New connections use the new certificates.
    ///
    /// # Errors
    /// Fails as [`Self::load`] does. The previous certificates then stay in use.
    pub(crate) fn reload(&self) -> Result<()> {
        // Locked until the end, so that the older of two reloads cannot come last.
        let mut loaded = self.loaded.lock();
        // Recorded even if loading fails, so that unchanged files are not read again.
        *loaded = fingerprint(&self.files);
        let keys = load_all(&self.files, self.option)?;
        self.certificates.0.store(Arc::new(keys));
        Ok(())
    }

    /// Returns the acceptor for new connections.
    pub(crate) fn acceptor(&self) -> &TlsAcceptor {
        &self.acceptor
    }

    /// Returns the current fingerprint of the files, if one of them has changed since they were last
    /// read.
    pub(crate) fn changed(&self) -> Option<Fingerprint> {
        let loaded = self.loaded.lock();
        let current = fingerprint(&self.files);
        (current != *loaded).then_some(current)
    }

    /// Logs the certificates in use that have expired or expire soon.
    pub(crate) fn check_expiry(&self) {
        for (files, key) in self.files.iter().zip(&**self.certificates.0.load()) {
            let certificate = key.end_entity_cert().map_err(anyhow::Error::from);
            let checked =
                certificate.and_then(|it| check_validity(&files.certificate, &parse(it)?));
            if let Err(error) = checked {
                error!(path = %files.certificate.display(), error = %format_args!("{error:#}"), "cannot use the certificate");
            }
        }
    }
}

impl fmt::Display for Tls {
    /// Writes the paths of the certificates.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, files) in self.files.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{}", files.certificate.display())?;
        }
        Ok(())
    }
}

/// Returns the fingerprint of the files. Follows symbolic links, since renewed certificates are often
/// installed by replacing a link.
fn fingerprint(files: &[CertificateFiles]) -> Fingerprint {
    let paths = files
        .iter()
        .flat_map(|files| [&files.certificate, &files.key]);
    paths
        .map(|path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.ino(), metadata.ctime(), metadata.ctime_nsec()))
        })
        .collect()
}

impl ResolvesServerCert for CertificateResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let keys = self.0.load();
        let name = hello
            .server_name()
            .and_then(|name| ServerName::try_from(name).ok());
        let named = name.and_then(|name| keys.iter().find(|key| has_name(key, &name)));
        named.or(keys.first()).cloned()
    }
}

/// Returns whether a certificate is valid for a server name.
fn has_name(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let certificate = key.end_entity_cert().and_then(ParsedCertificate::try_from);
    certificate.is_ok_and(|certificate| verify_server_name(&certificate, name).is_ok())
}

fn load_all(files: &[CertificateFiles], option: &str) -> Result<Vec<Arc<CertifiedKey>>> {
    let load = |files| load(files, option).map(Arc::new);
    files.iter().map(load).collect()
}

/// Reads a certificate and its key.
fn load(files: &CertificateFiles, option: &str) -> Result<CertifiedKey> {
    let CertificateFiles { certificate, key } = files;
    let at_certificate = || format!("{option}-cert {}", certificate.display());
    let at_key = || format!("{option}-key {}", key.display());

    let chain = read_chain(certificate).with_context(at_certificate)?;
    let private_key = read_key(key).with_context(at_key)?;
    let signing_key = ring::sign::any_supported_type(&private_key)
        .map_err(|_| {
            anyhow!("unsupported private key: expected RSA, ECDSA (P-256, P-384) or Ed25519")
        })
        .with_context(at_key)?;
    check_chain(certificate, &chain).with_context(at_certificate)?;
    let certified = CertifiedKey::new(chain, signing_key);
    certified
        .keys_match()
        .map_err(|_| {
            anyhow!(
                "the key does not belong to the certificate in {}",
                certificate.display()
            )
        })
        .with_context(at_key)?;
    Ok(certified)
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let pem = std::fs::read(path).context("cannot read the file")?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .context("the file is not valid PEM")?;
    ensure!(
        !chain.is_empty(),
        "the file contains no certificate: expected PEM, with a line BEGIN CERTIFICATE"
    );
    Ok(chain)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    let pem = std::fs::read(path).context("cannot read the file")?;
    let text = String::from_utf8_lossy(&pem);
    if text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
        bail!("the key is encrypted: decrypt it, for example with `openssl pkey`");
    }
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| {
        anyhow!("the file contains no private key: expected PEM, with a line BEGIN PRIVATE KEY")
    })
}

/// Checks that a certificate is valid now. Logs a warning if it expires soon or if its chain is out of
/// order.
fn check_chain(path: &Path, chain: &[CertificateDer<'static>]) -> Result<()> {
    let chain: Vec<_> = chain.iter().map(parse).collect::<Result<_>>()?;
    if let Some(certificate) = chain.first() {
        check_validity(path, certificate)?;
    }
    let is_ordered = chain
        .windows(2)
        .all(|pair| pair[0].issuer() == pair[1].subject());
    if !is_ordered {
        warn!(
            path = %path.display(),
            "certificate chain is out of order: each certificate must be followed by its issuer"
        );
    }
    Ok(())
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>> {
    let (_, certificate) = X509Certificate::from_der(certificate)
        .map_err(|error| anyhow!("the certificate cannot be parsed: {error}"))?;
    Ok(certificate)
}

/// Checks that a certificate is valid now. Logs a warning if it expires soon.
fn check_validity(path: &Path, certificate: &X509Certificate<'_>) -> Result<()> {
    let (validity, now) = (certificate.validity(), ASN1Time::now());
    ensure!(
        now >= validity.not_before,
        "the certificate is not valid before {}",
        validity.not_before
    );
    ensure!(
        now <= validity.not_after,
        "the certificate expired at {}: renew it",
        validity.not_after
    );
    if (validity.not_after - now).is_none_or(|left| left < EXPIRY_NOTICE) {
        warn!(path = %path.display(), expires = %validity.not_after, "certificate expires soon");
    }
    Ok(())
}
