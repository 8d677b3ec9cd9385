//! A certificate authority of the tests, and files with its certificates.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use tempfile::TempDir;
use tests::{Server, host_binary, probe, without_terminal};
use tokio_rustls::rustls::pki_types::CertificateDer;

/// An authority, and a folder for its certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

/// The files of a certificate and its key.
pub struct Files {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params
            .distinguished_name
            .push(DnType::CommonName, "authority of the tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Self {
            issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)?,
            folder: TempDir::new()?,
        })
    }

    /// The certificate that clients trust.
    pub fn root(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    /// The folder of the files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a certificate for these names as `NAME.pem` and `NAME.key`.
    pub fn issue(&self, file: &str, names: &[&str]) -> Result<Files> {
        self.issue_until(file, names, 2100)
    }

    /// Writes a certificate that expires at the beginning of a year.
    pub fn issue_until(&self, file: &str, names: &[&str], year: i32) -> Result<Files> {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, file);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let files = Files {
            certificate: self.folder().join(format!("{file}.pem")),
            key: self.folder().join(format!("{file}.key")),
        };
        fs::write(&files.certificate, certificate.pem())?;
        fs::write(&files.key, key.serialize_pem())?;
        Ok(files)
    }
}

impl Files {
    /// The options of the host that name the files.
    pub fn options(&self) -> Result<[&str; 4]> {
        Ok([
            "--tls-cert",
            self.certificate.to_str().context("a path")?,
            "--tls-key",
            self.key.to_str().context("a path")?,
        ])
    }
}

/// Starts the probe with TLS, and returns it with the authority that clients must trust.
pub fn serve(options: &[&str]) -> Result<(Server, Authority, TempDir)> {
    serve_with(Server::start, options)
}

/// Does the same without a terminal, so that SIGHUP reloads the certificate.
pub fn serve_without_terminal() -> Result<(Server, Authority, TempDir)> {
    let start = |folder: &Path, options: &[&str]| {
        let mut command = without_terminal();
        command
            .arg(host_binary())
            .args(["up", "--from"])
            .arg(folder);
        Server::run(command, options)
    };
    serve_with(start, &[])
}

fn serve_with(
    start: impl FnOnce(&Path, &[&str]) -> Result<Server>,
    options: &[&str],
) -> Result<(Server, Authority, TempDir)> {
    let authority = Authority::new()?;
    let files = authority.issue("localhost", &["localhost"])?;
    let folder = probe("");
    let options = [&files.options()?[..], options].concat();
    let host = start(folder.path(), &options)?;
    Ok((host, authority, folder))
}
