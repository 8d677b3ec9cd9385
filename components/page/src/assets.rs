//! Serves the files of `static/`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::HeaderValue;
use sha2::{Digest as _, Sha256};

use crate::reply::{self, Reply};

/// A file changed within this time of being read may change again without its
/// modification time showing it, so what was read is not kept. The coarsest
/// clock of a file system in use (FAT) counts in steps of two seconds.
const SETTLED: Duration = Duration::from_secs(3);

/// A folder of files, and what has been read of it.
///
/// A file is looked at for every request and read again when its time or length
/// changed, so that an edited file is served at once.
#[derive(Debug)]
pub struct Assets {
    folder: PathBuf,
    kept: RefCell<HashMap<String, Kept>>,
}

/// A file as it was when `modified` and `content.len()` were what they are here.
#[derive(Clone, Debug)]
struct Kept {
    modified: Option<SystemTime>,
    etag: HeaderValue,
    content: Bytes,
}

impl Assets {
    /// The files in `folder` and below it.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            kept: RefCell::default(),
        }
    }

    /// Answers a request for the file `name`, the part of the address after
    /// `/static/`, as sent; `known` are its `If-None-Match` headers.
    ///
    /// Names are what [`is_name`] takes for one; others are not found.
    pub fn answer<'a>(&self, name: &str, known: impl Iterator<Item = &'a HeaderValue>) -> Reply {
        if !is_name(name) {
            return reply::not_found();
        }
        match self.read(name) {
            Ok(Some(file)) if matches(known, &file.etag) => reply::not_modified(&file.etag),
            Ok(Some(file)) => reply::asset(content_type(name), &file.etag, file.content),
            Ok(None) => reply::not_found(),
            Err(error) => {
                eprintln!("page: reading static file {name}: {error}");
                reply::internal_error()
            }
        }
    }

    /// The file, or `None` where there is no file of this name.
    fn read(&self, name: &str) -> io::Result<Option<Kept>> {
        let path = self.folder.join(name);
        let metadata = match path.metadata() {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => return Ok(None),
            Err(error) if is_absence(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        if let Some(kept) = self.kept.borrow().get(name)
            && kept.is_of(&metadata)
        {
            return Ok(Some(kept.clone()));
        }
        let file = Kept::read(&path)?;
        let mut kept = self.kept.borrow_mut();
        if file.is_of(&metadata) && file.is_settled(SystemTime::now()) {
            kept.insert(name.to_owned(), file.clone());
        } else {
            kept.remove(name);
        }
        Ok(Some(file))
    }
}

impl Kept {
    fn read(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let modified = file.metadata()?.modified().ok();
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        Ok(Self {
            modified,
            etag: etag(&content),
            content: content.into(),
        })
    }

    fn is_of(&self, metadata: &Metadata) -> bool {
        self.modified.is_some()
            && self.modified == metadata.modified().ok()
            && self.content.len() as u64 == metadata.len()
    }

    fn is_settled(&self, now: SystemTime) -> bool {
        let age = self.modified.and_then(|then| now.duration_since(then).ok());
        age.is_some_and(|age| age > SETTLED)
    }
}

/// Whether `name` is one that an asset may have: names of ASCII letters, digits,
/// `-`, `_` and `.`, joined by single slashes, none of them starting with a dot.
///
/// That leaves no way out of the folder and no second spelling of a name:
/// nothing percent-encoded, no `..`, no hidden files, no empty part.
pub fn is_name(name: &str) -> bool {
    name.split('/').all(|part| {
        !part.is_empty()
            && !part.starts_with('.')
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
    })
}

fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename
    )
}

/// The media type, by the end of the name; text is UTF-8.
fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "css" => "text/css; charset=utf-8",
        "html" => "text/html; charset=utf-8",
        "ico" => "image/x-icon",
        "jpg" | "jpeg" => "image/jpeg",
        "js" | "mjs" => "text/javascript; charset=utf-8",
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

/// A strong validator (RFC 9110 §8.8.1): half of the content's SHA-256, in hex.
fn etag(content: &[u8]) -> HeaderValue {
    const HEX: [u8; 16] = *b"0123456789abcdef";
    let mut tag = [b'"'; 34];
    let digest = Sha256::digest(content);
    for (pair, byte) in tag[1..33].chunks_exact_mut(2).zip(digest) {
        pair[0] = HEX[usize::from(byte >> 4)];
        pair[1] = HEX[usize::from(byte & 15)];
    }
    HeaderValue::from_bytes(&tag).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
}

/// Whether `If-None-Match` names `etag`, by the weak comparison that RFC 9110
/// §13.1.2 asks for. A tag may hold commas, so the list is not split at them.
fn matches<'a>(known: impl Iterator<Item = &'a HeaderValue>, etag: &HeaderValue) -> bool {
    fn one(mut list: &[u8], etag: &[u8]) -> bool {
        loop {
            list = list.trim_ascii_start();
            match list {
                [] => return false,
                [b',', rest @ ..] => list = rest,
                [b'*', rest @ ..] => return rest.trim_ascii().is_empty(),
                [b'W', b'/', rest @ ..] => list = rest,
                [b'"', rest @ ..] => {
                    let Some(end) = rest.iter().position(|&byte| byte == b'"') else {
                        return false;
                    };
                    if &list[..end + 2] == etag {
                        return true;
                    }
                    list = &rest[end + 1..];
                }
                _ => return false,
            }
        }
    }
    known
        .into_iter()
        .any(|list| one(list.as_bytes(), etag.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::UNIX_EPOCH;

    use http::StatusCode;
    use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG};
    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    fn folder() -> TempDir {
        let outer = tempfile::tempdir().expect("a temporary folder");
        let folder = outer.path().join("static");
        fs::create_dir_all(folder.join("icons")).expect("a folder");
        for (name, content) in [
            ("static/main.js", "let a;"),
            ("static/icons/bell.svg", "<svg/>"),
            ("static/.secret", "secret"),
            ("outside.txt", "secret"),
        ] {
            fs::write(outer.path().join(name), content).expect("a file");
        }
        outer
    }

    fn assets(outer: &TempDir) -> Assets {
        Assets::new(outer.path().join("static"))
    }

    fn get(assets: &Assets, name: &str) -> Reply {
        assets.answer(name, [].into_iter())
    }

    fn get_if_none_match(assets: &Assets, name: &str, known: &str) -> Reply {
        let known = HeaderValue::from_str(known).expect("a header");
        assets.answer(name, [&known].into_iter())
    }

    #[test]
    fn files_come_with_type_length_and_tag() {
        let outer = folder();
        let assets = assets(&outer);
        for (name, content_type, length) in [
            ("main.js", "text/javascript; charset=utf-8", "6"),
            ("icons/bell.svg", "image/svg+xml; charset=utf-8", "6"),
        ] {
            let reply = get(&assets, name);
            assert_eq!(reply.status(), StatusCode::OK);
            assert_eq!(reply.headers()[CONTENT_TYPE], content_type);
            assert_eq!(reply.headers()[CONTENT_LENGTH], length);
            assert_eq!(reply.headers()[CACHE_CONTROL], "no-cache");
            assert!(reply.headers().contains_key(ETAG));
        }
    }

    #[test]
    fn nothing_but_named_files_is_found() {
        let outer = folder();
        let assets = assets(&outer);
        let absolute = outer.path().join("outside.txt");
        for name in [
            "",
            "/",
            "missing.js",
            "icons",
            "icons/",
            "main.js/",
            "main.js/more",
            "./main.js",
            "icons//bell.svg",
            "icons/../main.js",
            "../outside.txt",
            "icons/../../outside.txt",
            "..%2foutside.txt",
            "%2e%2e/outside.txt",
            "..\\outside.txt",
            "main.js\0",
            "main.js%00",
            ".secret",
            "%2esecret",
            "/etc/passwd",
            absolute.to_str().expect("a path in UTF-8"),
            &"a".repeat(5_000),
        ] {
            assert_eq!(
                get(&assets, name).status(),
                StatusCode::NOT_FOUND,
                "{name:?}"
            );
        }
    }

    #[test]
    fn a_known_tag_is_not_sent_again() {
        let outer = folder();
        let assets = assets(&outer);
        let tag = get(&assets, "main.js").headers()[ETAG].clone();
        let tag = tag.to_str().expect("ASCII");
        for known in [
            tag.to_owned(),
            format!("W/{tag}"),
            format!("\"other\", {tag}"),
            format!("\"with, comma\",W/{tag} , \"b\""),
            "*".to_owned(),
        ] {
            let reply = get_if_none_match(&assets, "main.js", &known);
            assert_eq!(reply.status(), StatusCode::NOT_MODIFIED, "{known}");
            assert_eq!(reply.headers()[ETAG], tag);
            assert!(!reply.headers().contains_key(CONTENT_LENGTH));
        }
        for unknown in ["", "\"other\"", tag.trim_matches('"'), "\"open", "W/", ",,"] {
            let reply = get_if_none_match(&assets, "main.js", unknown);
            assert_eq!(reply.status(), StatusCode::OK, "{unknown}");
        }
        let missing = get_if_none_match(&assets, "missing.js", "*");
        assert_eq!(missing.status(), StatusCode::NOT_FOUND);
    }

    #[test]
    fn a_changed_file_is_served_at_once() {
        let outer = folder();
        let assets = assets(&outer);
        let path = outer.path().join("static/main.js");
        let mut tags = vec![get(&assets, "main.js").headers()[ETAG].clone()];
        // The same length and, both being within one tick, perhaps the same time.
        for content in ["let b;", "let c;", "let d;", "let longer;"] {
            fs::write(&path, content).expect("a file");
            tags.push(get(&assets, "main.js").headers()[ETAG].clone());
        }
        tags.sort();
        tags.dedup();
        assert_eq!(tags.len(), 5);
    }

    #[test]
    fn an_old_file_is_read_once() {
        let outer = folder();
        let assets = assets(&outer);
        let path = outer.path().join("static/main.js");
        let set_time = |seconds| {
            File::options()
                .write(true)
                .open(&path)
                .and_then(|file| file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds)))
                .expect("a time of modification");
        };
        set_time(1_000_000);
        let first = get(&assets, "main.js").headers()[ETAG].clone();
        // The same length and time: only reading it would tell.
        fs::write(&path, "let b;").expect("a file");
        set_time(1_000_000);
        assert_eq!(get(&assets, "main.js").headers()[ETAG], first);
        set_time(1_000_001);
        assert_ne!(get(&assets, "main.js").headers()[ETAG], first);
        fs::remove_file(&path).expect("a file to remove");
        assert_eq!(get(&assets, "main.js").status(), StatusCode::NOT_FOUND);
    }

    proptest! {
        #[test]
        fn names_stay_in_the_folder(name in "[a./%\\\\2eEfF\0-]{0,12}") {
            if is_name(&name) {
                let path = Path::new(&name);
                prop_assert!(path.components().all(|part| matches!(part, std::path::Component::Normal(_))));
                prop_assert!(!name.contains(['%', '\\', '\0']));
            }
        }

        #[test]
        fn any_list_of_tags_is_read(list in "[ -~]{0,40}") {
            let tag = HeaderValue::from_static("\"0123\"");
            let list = HeaderValue::from_str(&list).expect("printable ASCII");
            let found = matches([&list].into_iter(), &tag);
            prop_assert!(!found || list.as_bytes().contains(&b'*') || list.as_bytes().windows(6).any(|part| part == b"\"0123\""));
        }
    }
}
