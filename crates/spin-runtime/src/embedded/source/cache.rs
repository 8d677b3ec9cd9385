//! The folder of downloaded components. A file's name is its digest, so it never changes.
//!
//! The layout is that of Spin's cache, so that both can share a folder.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use sha2::{Digest as _, Sha256};

use super::download;
use crate::{embedded::engine, limits::Limits, manifest::Source};

/// The folder of the files below the cache folder.
const WASM_DIR: &str = "registry/wasm";

#[derive(Clone)]
pub(super) struct Cache {
    /// `None` for the user's cache folder.
    root: Option<PathBuf>,
    limits: Limits,
}

impl Cache {
    pub(super) fn new(root: Option<PathBuf>, limits: &Limits) -> Self {
        Self {
            root,
            limits: *limits,
        }
    }

    /// Returns the contents of a URL with this digest, from the folder or from the network.
    ///
    /// A folder that cannot be used is logged, and costs a download each time.
    ///
    /// # Errors
    /// Fails if the URL cannot be downloaded or has another digest, or if there is no folder.
    pub(super) fn load(&self, url: &str, digest: &str) -> anyhow::Result<Vec<u8>> {
        let folder = self.folder()?;
        let file = folder.join(digest);
        match fs::read(&file) {
            Ok(contents) if digest_of(&contents) == digest => return Ok(contents),
            Ok(_) => tracing::warn!(
                file = %file.display(),
                "damaged file in the cache of downloads; downloading it again"
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => warn_unusable(&folder, &error),
        }
        let shown = Source::display_url(url);
        tracing::info!(url = shown, "downloading component");
        let contents = download::download(url, &self.limits)?;
        let found = digest_of(&contents);
        ensure!(
            found == digest,
            "{shown} has the digest {found}, and the manifest expects {digest}; if the file was \
             replaced on purpose, correct `digest`"
        );
        if let Err(error) = store(&folder, &file, &contents) {
            warn_unusable(&folder, &error);
        }
        Ok(contents)
    }

    fn folder(&self) -> anyhow::Result<PathBuf> {
        let root = match &self.root {
            Some(root) => root.clone(),
            None => engine::user_cache_dir()
                .context("this user has no cache folder: choose one with --cache-dir")?,
        };
        Ok(root.join(WASM_DIR))
    }
}

fn warn_unusable(folder: &Path, error: &io::Error) {
    tracing::warn!(
        folder = %folder.display(),
        %error,
        "cannot use the cache of downloads; choose another folder with --cache-dir"
    );
}

/// Writes a file that other processes see complete or not at all.
fn store(folder: &Path, file: &Path, contents: &[u8]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut temporary = tempfile::NamedTempFile::with_prefix_in("download-", folder)?;
    temporary.write_all(contents)?;
    temporary.persist(file)?;
    Ok(())
}

fn digest_of(contents: &[u8]) -> String {
    let digest = Sha256::digest(contents);
    let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

#[cfg(test)]
mod tests;
