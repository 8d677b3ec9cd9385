//! The files of `static/` and `client/` as they are sent: with versioned references to
//! other assets, without the comments of modules, fingerprinted and compressed.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::str;

use bytes::Bytes;
use encoding::{Effort, Encoding};

use crate::asset_refs::{self, Syntax};
use crate::comments;
use crate::file_cache::FileCache;
use crate::fingerprint::{self, Fingerprint};

/// The assets of some folders. Caches each asset until its file or a referenced asset changes.
#[derive(Debug)]
pub(crate) struct Assets {
    files: FileCache,
    cache: RefCell<HashMap<String, Rc<Asset>>>,
}

/// One asset.
///
/// It names the versions of the assets it refers to, so its own fingerprint changes
/// with theirs.
#[derive(Debug)]
pub(crate) struct Asset {
    /// The file's content, and the assets it refers to.
    source: Rc<Bytes>,
    refs: Vec<(String, Fingerprint)>,

    fingerprint: Fingerprint,
    content_type: &'static str,
    content: Bytes,
    /// The compressed content for each of [`Encoding::ALL`]; `None` if that is no shorter.
    compressed: [OnceCell<Option<Bytes>>; Encoding::ALL.len()],
}

/// A consistent view of the assets during one request: checks each file once.
#[derive(Debug)]
pub(crate) struct Snapshot<'a> {
    assets: &'a Assets,
    loaded: HashMap<String, Option<Rc<Asset>>>,
}

impl Assets {
    /// Creates the assets for the files in `folder` and its subfolders.
    pub(crate) fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            files: FileCache::new(folder),
            cache: RefCell::default(),
        }
    }

    /// Adds the files in another folder, with names that begin with `prefix` and a slash.
    pub(crate) fn with_folder(mut self, prefix: &'static str, folder: impl Into<PathBuf>) -> Self {
        self.files.add_folder(prefix, folder);
        self
    }

    /// Returns a view of the assets as they are now.
    pub(crate) fn snapshot(&self) -> Snapshot<'_> {
        Snapshot {
            assets: self,
            loaded: HashMap::new(),
        }
    }
}

impl Snapshot<'_> {
    /// Returns the asset for the part of a request's path after `/static/`, and
    /// whether that name contains the asset's current fingerprint.
    ///
    /// A name with an outdated fingerprint returns the current version.
    ///
    /// # Errors
    /// If the file exists but cannot be read.
    pub(crate) fn resolve(&mut self, name: &str) -> io::Result<Option<(Rc<Asset>, bool)>> {
        let Some((plain_name, digits)) = fingerprint::parse(name) else {
            return Ok(self.get(name)?.map(|asset| (asset, false)));
        };
        let asset = self.get(&plain_name)?;
        Ok(asset.map(|asset| {
            let is_current = asset.fingerprint.matches(digits);
            (asset, is_current)
        }))
    }

    /// Returns the asset called `name`, or `None` if there is none.
    ///
    /// In a cycle of references, the one that closes the cycle is ignored: it keeps
    /// its plain name.
    fn get(&mut self, name: &str) -> io::Result<Option<Rc<Asset>>> {
        if let Some(asset) = self.loaded.get(name) {
            return Ok(asset.clone());
        }
        self.loaded.insert(name.to_owned(), None);
        let Some(source) = self.assets.files.read(name)? else {
            return Ok(None);
        };
        let text = Syntax::of(name).zip(str::from_utf8(&source).ok());
        let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut refs = Vec::new();
        if let Some((syntax, text)) = text {
            for range in syntax.find_refs(text) {
                let target = join(folder, &text[range]);
                if let Some(asset) = self.get(&target)? {
                    refs.push((target, asset.fingerprint));
                }
            }
        }
        let cached = self.assets.cache.borrow().get(name).cloned();
        let asset = match cached {
            Some(asset) if Rc::ptr_eq(&asset.source, &source) && asset.refs == refs => asset,
            _ => {
                let content = match text {
                    Some((syntax, text)) => {
                        let text = with_versions(text, syntax, folder, &refs);
                        match syntax {
                            Syntax::JavaScript => comments::remove(&text).into(),
                            Syntax::Css | Syntax::Html => text.into(),
                        }
                    }
                    None => (*source).clone(),
                };
                let asset = Rc::new(Asset {
                    fingerprint: Fingerprint::of(&content),
                    content_type: content_type(name),
                    compressed: Default::default(),
                    source,
                    refs,
                    content,
                });
                let mut cache = self.assets.cache.borrow_mut();
                cache.insert(name.to_owned(), asset.clone());
                asset
            }
        };
        self.loaded.insert(name.to_owned(), Some(asset.clone()));
        Ok(Some(asset))
    }

    /// Returns `name` with the asset's current fingerprint in it.
    ///
    /// An asset that is missing or unreadable keeps its plain name: the request for
    /// it reports the error.
    pub(crate) fn version(&mut self, name: &str) -> String {
        match self.get(name) {
            Ok(Some(asset)) => asset.fingerprint.add_to(name),
            _ => name.to_owned(),
        }
    }

    /// Returns the versions of all assets that `name` refers to, directly or
    /// indirectly, without duplicates.
    pub(crate) fn dependencies(&mut self, name: &str) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        let mut next = 0;
        let mut name = name.to_owned();
        loop {
            if let Ok(Some(asset)) = self.get(&name) {
                for (target, _) in &asset.refs {
                    if !found.contains(target) {
                        found.push(target.clone());
                    }
                }
            }
            match found.get(next) {
                Some(target) => name.clone_from(target),
                None => break,
            }
            next += 1;
        }
        found.iter().map(|name| self.version(name)).collect()
    }
}

impl Asset {
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    pub(crate) fn content_type(&self) -> &'static str {
        self.content_type
    }

    /// Returns the content and the encoding it is in: the requested one if that is
    /// shorter, otherwise none.
    pub(crate) fn content(&self, encoding: Option<Encoding>) -> (Bytes, Option<Encoding>) {
        if let Some(encoding) = encoding.filter(|_| is_text(self.content_type)) {
            let index = Encoding::ALL.iter().position(|it| *it == encoding);
            let cell = index.and_then(|index| self.compressed.get(index));
            let compress = || encoding.compress(&self.content, Effort::Best);
            if let Some(Some(compressed)) = cell.map(|cell| cell.get_or_init(compress)) {
                return (compressed.clone(), Some(encoding));
            }
        }
        (self.content.clone(), None)
    }
}

/// Replaces the names of `refs` in `text` by their versions.
fn with_versions(
    text: &str,
    syntax: Syntax,
    folder: &str,
    refs: &[(String, Fingerprint)],
) -> String {
    asset_refs::replace_refs(text, syntax, |name| {
        let target = join(folder, name);
        let (_, fingerprint) = refs.iter().find(|(it, _)| *it == target)?;
        Some(fingerprint.add_to(name))
    })
}

/// Resolves `name` relative to `folder`.
fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() {
        name.to_owned()
    } else {
        format!("{folder}/{name}")
    }
}

/// Returns the media type for the extension of `name`.
///
/// JavaScript has no `charset`: modules are always UTF-8 (RFC 9239 §4), and there are
/// many of them.
fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "css" => "text/css; charset=utf-8",
        "html" => "text/html; charset=utf-8",
        "ico" => "image/x-icon",
        "jpg" | "jpeg" => "image/jpeg",
        "js" | "mjs" => "text/javascript",
        "json" | "map" => "application/json",
        "png" => "image/png",
        "svg" => "image/svg+xml; charset=utf-8",
        "txt" => "text/plain; charset=utf-8",
        "webmanifest" => "application/manifest+json",
        "webp" => "image/webp",
        "woff2" => "font/woff2",
        _ => "application/octet-stream",
    }
}

/// Returns whether content of this type is text, and so worth compressing.
fn is_text(content_type: &str) -> bool {
    content_type.starts_with("text/")
        || content_type.starts_with("image/svg")
        || content_type.ends_with("json")
}

#[cfg(test)]
mod tests;
