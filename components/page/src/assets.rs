//! The files of `static/` as they are sent: without comments and indentation, with
//! the names of this moment in them, fingerprinted, compressed.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::str;

use bytes::Bytes;
use encoding::{Effort, Encoding};

use crate::files::Files;
use crate::fingerprint::{self, Fingerprint};
use crate::lean::lean;
use crate::reference::{self, Syntax};

/// All assets, and what has been made of them so far.
#[derive(Debug)]
pub struct Assets {
    files: Files,
    made: RefCell<HashMap<String, Rc<Asset>>>,
}

/// One asset. References in it to others name their versions, so its own
/// fingerprint changes with theirs.
#[derive(Debug)]
pub struct Asset {
    /// What it was made of: the file, and the versions of those it refers to.
    source: Rc<Bytes>,
    uses: Vec<(String, Fingerprint)>,

    fingerprint: Fingerprint,
    content_type: &'static str,
    plain: Bytes,
    /// By the place in [`Encoding::ALL`]; `None` inside is what stays as it is.
    packed: [OnceCell<Option<Bytes>>; Encoding::ALL.len()],
}

/// The assets as they are during one request: each file is looked at once.
#[derive(Debug)]
pub struct Look<'a> {
    assets: &'a Assets,
    seen: HashMap<String, Option<Rc<Asset>>>,
}

impl Assets {
    /// The files in `folder` and below it.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            files: Files::new(folder),
            made: RefCell::default(),
        }
    }

    /// The assets as they are now.
    pub fn look(&self) -> Look<'_> {
        Look {
            assets: self,
            seen: HashMap::new(),
        }
    }
}

impl Look<'_> {
    /// The asset that a request names, the part of the address after `/static/`,
    /// as sent; and whether that name stands for this very version of it, for
    /// ever. The fingerprint of another version gets the present one.
    ///
    /// # Errors
    /// When a file is there and cannot be read.
    pub fn asked_for(&mut self, name: &str) -> io::Result<Option<(Rc<Asset>, bool)>> {
        let Some((plain, digits)) = fingerprint::parse(name) else {
            return Ok(self.get(name)?.map(|asset| (asset, false)));
        };
        let asset = self.get(&plain)?;
        Ok(asset.map(|asset| {
            let is_this = asset.fingerprint.is_in(digits);
            (asset, is_this)
        }))
    }

    /// The asset with this name, or `None` where there is none.
    ///
    /// Of assets that refer to each other in a circle, which have no fingerprint,
    /// the one that closes it is `None` to the one before.
    fn get(&mut self, name: &str) -> io::Result<Option<Rc<Asset>>> {
        if let Some(asset) = self.seen.get(name) {
            return Ok(asset.clone());
        }
        self.seen.insert(name.to_owned(), None);
        let Some(source) = self.assets.files.read(name)? else {
            return Ok(None);
        };
        let text = Syntax::of(name).zip(str::from_utf8(&source).ok());
        let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut uses = Vec::new();
        for other in text
            .iter()
            .flat_map(|(syntax, text)| syntax.find(text).map(|range| beside(folder, &text[range])))
        {
            if let Some(asset) = self.get(&other)? {
                uses.push((other, asset.fingerprint));
            }
        }
        let before = self.assets.made.borrow().get(name).cloned();
        let asset = match before {
            Some(asset) if Rc::ptr_eq(&asset.source, &source) && asset.uses == uses => asset,
            _ => {
                let plain = match text {
                    Some((syntax, text)) => {
                        let text = lean(text, syntax);
                        with_versions(&text, syntax, folder, &uses).into()
                    }
                    None => (*source).clone(),
                };
                let asset = Rc::new(Asset {
                    fingerprint: Fingerprint::of(&plain),
                    content_type: content_type(name),
                    packed: Default::default(),
                    source,
                    uses,
                    plain,
                });
                let mut made = self.assets.made.borrow_mut();
                made.insert(name.to_owned(), asset.clone());
                asset
            }
        };
        self.seen.insert(name.to_owned(), Some(asset.clone()));
        Ok(Some(asset))
    }

    /// The name of this moment's version. An asset that is not there, or cannot
    /// be read, keeps its name: asking for it tells why.
    pub fn version(&mut self, name: &str) -> String {
        match self.get(name) {
            Ok(Some(asset)) => asset.fingerprint.name(name),
            _ => name.to_owned(),
        }
    }

    /// The versions of all that `name` refers to, directly or not, each once.
    pub fn used_by(&mut self, name: &str) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        let mut next = 0;
        let mut name = name.to_owned();
        loop {
            if let Ok(Some(asset)) = self.get(&name) {
                for (other, _) in &asset.uses {
                    if !found.contains(other) {
                        found.push(other.clone());
                    }
                }
            }
            match found.get(next) {
                Some(other) => name.clone_from(other),
                None => break,
            }
            next += 1;
        }
        found.iter().map(|name| self.version(name)).collect()
    }
}

impl Asset {
    /// Its fingerprint.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Its media type.
    pub fn content_type(&self) -> &'static str {
        self.content_type
    }

    /// Its content, in the coding that is asked for if that makes it shorter, and
    /// the coding it is in.
    pub fn content(&self, encoding: Option<Encoding>) -> (Bytes, Option<Encoding>) {
        if let Some(encoding) = encoding.filter(|_| is_text(self.content_type)) {
            let place = Encoding::ALL.iter().position(|it| *it == encoding);
            let cell = place.and_then(|place| self.packed.get(place));
            let pack = || encoding.compress(&self.plain, Effort::Best);
            if let Some(Some(packed)) = cell.map(|cell| cell.get_or_init(pack)) {
                return (packed.clone(), Some(encoding));
            }
        }
        (self.plain.clone(), None)
    }
}

/// `text` with the versions of what it uses in place of their names.
fn with_versions(
    text: &str,
    syntax: Syntax,
    folder: &str,
    uses: &[(String, Fingerprint)],
) -> String {
    reference::replaced(text, syntax, |name| {
        let full = beside(folder, name);
        let (_, fingerprint) = uses.iter().find(|(other, _)| *other == full)?;
        Some(fingerprint.name(name))
    })
}

/// The name of a file that one in `folder` calls `name`.
fn beside(folder: &str, name: &str) -> String {
    match folder {
        "" => name.to_owned(),
        folder => format!("{folder}/{name}"),
    }
}

/// The media type, by the end of the name. Text is UTF-8, of which a script says
/// nothing: to modules it is nothing new, and there are many of them (RFC 9239 §4).
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

/// Whether content of this type is text, and gets shorter by compressing.
fn is_text(content_type: &str) -> bool {
    content_type.starts_with("text/")
        || content_type.starts_with("image/svg")
        || content_type.ends_with("json")
}

#[cfg(test)]
mod tests;
