//! The command-line options for TLS.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Result, bail};
use clap::Args;

use super::up::resolve_address;
use crate::{CertificateFiles, HostOptions, config::parse_duration};

#[derive(Args)]
pub(super) struct TlsOptions {
    /// The certificate of the public port with its chain, in PEM. May be repeated, together with
    /// `--tls-key`. Clients that request an unknown name get the first certificate.
    #[arg(long, value_name = "FILE", env = "SPIN_TLS_CERT", requires = "tls_key")]
    tls_cert: Vec<PathBuf>,
    /// The private key of the certificate, in PEM.
    #[arg(long, value_name = "FILE", env = "SPIN_TLS_KEY", requires = "tls_cert")]
    tls_key: Vec<PathBuf>,
    /// Make browsers use only TLS for this host for this time after each response, such as `365d`.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    hsts: Option<Duration>,
    /// Also listen on this address, without TLS, and redirect its requests to the public port.
    #[arg(long, value_name = "ADDRESS", value_parser = resolve_address)]
    http_redirect: Option<SocketAddr>,
    /// The certificate of the control port, for clients on other machines.
    #[arg(long, value_name = "FILE", requires = "control_tls_key")]
    control_tls_cert: Option<PathBuf>,
    /// The private key of that certificate.
    #[arg(long, value_name = "FILE", requires = "control_tls_cert")]
    control_tls_key: Option<PathBuf>,
    /// Allow a control port beyond loopback without TLS, for networks that encrypt their traffic.
    #[arg(long)]
    insecure_control: bool,
}

impl TlsOptions {
    /// Sets the options of a host.
    ///
    /// # Errors
    /// Fails unless there are as many keys as certificates.
    pub(super) fn apply(self, options: &mut HostOptions) -> Result<()> {
        if self.tls_cert.len() != self.tls_key.len() {
            bail!(
                "each --tls-cert needs a --tls-key: found {} and {}",
                self.tls_cert.len(),
                self.tls_key.len()
            );
        }
        let files = |(certificate, key)| CertificateFiles { certificate, key };
        options.tls = self
            .tls_cert
            .into_iter()
            .zip(self.tls_key)
            .map(files)
            .collect();
        options.control_tls = self
            .control_tls_cert
            .into_iter()
            .zip(self.control_tls_key)
            .map(files)
            .collect();
        options.hsts = self.hsts;
        options.http_redirect = self.http_redirect;
        options.insecure_control = self.insecure_control;
        Ok(())
    }
}
