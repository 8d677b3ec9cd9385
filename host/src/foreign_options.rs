//! Options of `spin up` that this host does not have.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use tracing::warn;

/// Options of `spin up`. Those that change nothing here are accepted, so that its command lines
/// work.
#[derive(Args)]
#[group(skip)]
pub(crate) struct ForeignOptions {
    #[arg(long, alias = "tmp", value_name = "FOLDER", hide = true)]
    temp: Option<PathBuf>,
    #[arg(long, hide = true)]
    direct_mounts: bool,
    #[arg(short = 'k', long, hide = true)]
    insecure: bool,
    #[arg(long, hide = true)]
    debug_info: bool,
    #[arg(long, value_name = "BYTES", hide = true)]
    http1_max_buf_size: Option<usize>,
    #[arg(long, hide = true)]
    allow_transient_write: bool,
    #[arg(long, value_name = "FILE", hide = true)]
    tls_cert: Option<PathBuf>,
    #[arg(long, value_name = "FILE", hide = true)]
    tls_key: Option<PathBuf>,
}

impl ForeignOptions {
    /// Logs the options that have no effect.
    ///
    /// # Errors
    /// Fails for an option whose effect the application or its users would miss.
    pub(crate) fn check(&self) -> Result<()> {
        if self.allow_transient_write {
            bail!(
                "--allow-transient-write is not supported: the files of components are read-only; \
                 run the application with `spin up --allow-transient-write` and put this host in \
                 front of it with --upstream"
            );
        }
        if self.tls_cert.is_some() || self.tls_key.is_some() {
            bail!(
                "--tls-cert and --tls-key are not supported: put a proxy with the certificate in \
                 front of this host"
            );
        }
        for (is_set, option, reason) in [
            (
                self.temp.is_some(),
                "--temp",
                "the files of components are not copied",
            ),
            (
                self.direct_mounts,
                "--direct-mounts",
                "folders are always mounted directly",
            ),
            (self.insecure, "--insecure", "there is no registry"),
            (
                self.debug_info,
                "--debug-info",
                "components are compiled without it",
            ),
            (
                self.http1_max_buf_size.is_some(),
                "--http1-max-buf-size",
                "the size of a request's head is fixed",
            ),
        ] {
            if is_set {
                warn!(option, reason, "option has no effect");
            }
        }
        Ok(())
    }
}
