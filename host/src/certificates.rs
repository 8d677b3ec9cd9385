//! The certificates of a host: loads them, and replaces them when their files change.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Result;
use tokio::time::{Instant, sleep};
use tracing::{error, info};

use crate::{
    net::{
        listener::Encryption,
        tls::{CertificateFiles, Tls},
    },
    options::HostOptions,
};

/// The interval between checks of the files.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// The interval between checks whether a certificate expires.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// The certificates of the public port and of the control port. Clones share them.
#[derive(Clone)]
pub(crate) struct HostCertificates {
    public: Option<Arc<Tls>>,
    control: Option<Arc<Tls>>,
}

impl HostCertificates {
    /// Reads the certificates in the options.
    ///
    /// # Errors
    /// Fails if a certificate or a key cannot be used. The error names the option and the file.
    pub(crate) fn load(options: &HostOptions) -> Result<Self> {
        let load = |files: &[CertificateFiles], option| match files {
            [] => Ok(None),
            files => Tls::load(files.to_vec(), option).map(|tls| Some(Arc::new(tls))),
        };
        Ok(Self {
            public: load(&options.tls, "--tls")?,
            control: load(&options.control_tls, "--control-tls")?,
        })
    }

    /// Returns how connections of the public port are encrypted.
    pub(crate) fn public(&self) -> Encryption {
        self.public
            .clone()
            .map_or(Encryption::None, Encryption::Tls)
    }

    /// Returns how connections of the control port are encrypted. Components on this machine publish
    /// without TLS.
    pub(crate) fn control(&self) -> Encryption {
        let control = self.control.clone();
        control.map_or(Encryption::None, Encryption::TlsForRemote)
    }

    /// Returns the URL of the public port.
    pub(crate) fn public_url(&self, address: SocketAddr) -> String {
        url(self.public.is_some(), address)
    }

    /// Returns the URL of the control port for other machines.
    pub(crate) fn control_url(&self, address: SocketAddr) -> String {
        url(self.control.is_some(), address)
    }

    /// Reads all certificates again and logs the result.
    pub(crate) async fn reload(&self) {
        for tls in self.all() {
            reload(tls).await;
        }
    }

    /// Reloads certificates whose files have changed. Runs until it is dropped.
    pub(crate) async fn watch(self) {
        let watch = |tls: Option<Arc<Tls>>| async {
            if let Some(tls) = tls {
                watch(tls).await;
            }
        };
        tokio::join!(watch(self.public), watch(self.control));
    }

    fn all(&self) -> impl Iterator<Item = Arc<Tls>> {
        [&self.public, &self.control].into_iter().flatten().cloned()
    }
}

fn url(is_secure: bool, address: SocketAddr) -> String {
    let scheme = if is_secure { "https" } else { "http" };
    format!("{scheme}://{address}")
}

async fn watch(tls: Arc<Tls>) {
    let mut previous = None;
    let mut expiry_check = Instant::now() + EXPIRY_INTERVAL;
    loop {
        sleep(CHECK_INTERVAL).await;
        let changed = on_blocking_thread(&tls, Tls::changed).await.flatten();
        // Waits until the files are stable: a certificate and its key are replaced one after the
        // other.
        if changed.is_some() && changed == previous {
            reload(tls.clone()).await;
        }
        previous = changed;
        if Instant::now() >= expiry_check {
            on_blocking_thread(&tls, Tls::check_expiry).await;
            expiry_check += EXPIRY_INTERVAL;
        }
    }
}

async fn reload(tls: Arc<Tls>) {
    match on_blocking_thread(&tls, Tls::reload).await {
        Some(Ok(())) => info!(files = %tls, "TLS certificates reloaded"),
        Some(Err(error)) => {
            let error = format_args!("{error:#}");
            error!(%error, "cannot reload TLS certificates, keeping the previous ones");
        }
        None => {}
    }
}

/// Runs a function that reads files. Returns `None` if the runtime is shutting down.
async fn on_blocking_thread<T: Send + 'static>(
    tls: &Arc<Tls>,
    read: impl FnOnce(&Tls) -> T + Send + 'static,
) -> Option<T> {
    let tls = tls.clone();
    tokio::task::spawn_blocking(move || read(&tls)).await.ok()
}
