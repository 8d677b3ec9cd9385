//! Caches the files of some folders, and rereads those that changed.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

/// How old a modification time must be to be trusted.
///
/// A file that was modified more recently may change again without its modification
/// time changing. FAT has the coarsest one in use, with steps of two seconds.
const MIN_AGE: Duration = Duration::from_secs(3);

/// The files of some folders, with their contents.
///
/// Each read checks the file's modification time and length, so edits show at once.
#[derive(Debug)]
pub(crate) struct FileCache {
    folder: PathBuf,
    /// Other folders, by the first part of the names of their files.
    folders: HashMap<&'static str, PathBuf>,
    entries: RefCell<HashMap<String, CachedFile>>,
}

#[derive(Clone, Debug)]
struct CachedFile {
    modified: Option<SystemTime>,
    /// Whether `modified` and the length identify the content.
    is_settled: bool,
    content: Rc<Bytes>,
}

impl FileCache {
    /// Creates a cache of the files in `folder` and its subfolders.
    pub(crate) fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            folders: HashMap::new(),
            entries: RefCell::default(),
        }
    }

    /// Adds a folder, whose files have names that begin with `prefix` and a slash.
    pub(crate) fn add_folder(&mut self, prefix: &'static str, folder: impl Into<PathBuf>) {
        self.folders.insert(prefix, folder.into());
    }

    /// Returns the content of the file `name`, or `None` if there is no such file or
    /// [`is_valid_name`] rejects the name.
    ///
    /// Returns the same `Rc` as long as the content is the same.
    ///
    /// # Errors
    /// If the file exists but cannot be read.
    pub(crate) fn read(&self, name: &str) -> io::Result<Option<Rc<Bytes>>> {
        if !is_valid_name(name) {
            return Ok(None);
        }
        let path = self.path(name);
        let metadata = match path.metadata() {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => return Ok(None),
            Err(error) if is_not_found(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut entries = self.entries.borrow_mut();
        let cached = entries.get(name);
        if let Some(cached) = cached
            && cached.is_settled
            && cached.matches(&metadata)
        {
            return Ok(Some(cached.content.clone()));
        }
        let mut file = CachedFile::read(&path)?;
        file.is_settled &= file.matches(&metadata);
        if let Some(cached) = cached
            && cached.content == file.content
        {
            file.content = cached.content.clone();
        }
        let content = file.content.clone();
        entries.insert(name.to_owned(), file);
        Ok(Some(content))
    }

    fn path(&self, name: &str) -> PathBuf {
        let other = name
            .split_once('/')
            .and_then(|(prefix, rest)| Some(self.folders.get(prefix)?.join(rest)));
        other.unwrap_or_else(|| self.folder.join(name))
    }
}

impl CachedFile {
    fn read(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let modified = file.metadata()?.modified().ok();
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        let age = modified.and_then(|time| SystemTime::now().duration_since(time).ok());
        Ok(Self {
            modified,
            is_settled: age.is_some_and(|age| age > MIN_AGE),
            content: Rc::new(content.into()),
        })
    }

    fn matches(&self, metadata: &Metadata) -> bool {
        self.modified.is_some()
            && self.modified == metadata.modified().ok()
            && self.content.len() as u64 == metadata.len()
    }
}

/// Returns whether a file in the folder may be called `name`.
///
/// Valid names are made of ASCII letters, digits, `-`, `_` and `.`, in parts that are
/// joined by single slashes and do not start with a dot. Such a name cannot leave the
/// folder, and no two names mean the same file.
fn is_valid_name(name: &str) -> bool {
    name.split('/').all(|part| {
        !part.is_empty()
            && !part.starts_with('.')
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
    })
}

fn is_not_found(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn unchanged_file_is_read_once() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let files = FileCache::new(folder.path());
        let path = folder.path().join("main.js");
        let write = |text: &str, seconds| {
            fs::write(&path, text).expect("a file");
            File::options()
                .write(true)
                .open(&path)
                .and_then(|file| file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds)))
                .expect("a time of modification");
        };
        let read = || files.read("main.js").expect("no error").expect("a file");
        write("let a;", 1_000_000);
        let first = read();
        // The same length and time: only a read could detect the change.
        write("let b;", 1_000_000);
        assert!(Rc::ptr_eq(&read(), &first));
        write("let b;", 1_000_001);
        assert_eq!(**read(), *b"let b;");
        fs::remove_file(&path).expect("a file to remove");
        assert!(files.read("main.js").expect("no error").is_none());
    }

    #[test]
    fn changed_file_is_reread_at_once() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let files = FileCache::new(folder.path());
        // The lengths, and perhaps the modification times, are the same.
        for content in ["let a;", "let b;", "let c;", "let longer;"] {
            fs::write(folder.path().join("main.js"), content).expect("a file");
            let read = || files.read("main.js").expect("no error").expect("a file");
            assert_eq!(**read(), *content.as_bytes());
            assert!(
                Rc::ptr_eq(&read(), &read()),
                "the same content is the same `Rc`"
            );
        }
    }

    #[test]
    fn files_of_another_folder_have_its_prefix() {
        let outer = tempfile::tempdir().expect("a temporary folder");
        for name in ["static", "client"] {
            fs::create_dir(outer.path().join(name)).expect("a folder");
        }
        for (name, content) in [("static/client", "a file"), ("client/a.js", "let a;")] {
            fs::write(outer.path().join(name), content).expect("a file");
        }
        let mut files = FileCache::new(outer.path().join("static"));
        files.add_folder("client", outer.path().join("client"));
        let read = |name| files.read(name).expect("no error").map(|it| it.to_vec());
        assert_eq!(read("client/a.js").as_deref(), Some(&b"let a;"[..]));
        assert_eq!(read("client").as_deref(), Some(&b"a file"[..]));
        for name in [
            "a.js",
            "client/client/a.js",
            "client/../static/client",
            "client//a.js",
        ] {
            assert_eq!(read(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn valid_names_stay_in_the_folder(name in "[a./%\\\\2eEfF\0-]{0,12}") {
            if is_valid_name(&name) {
                let path = Path::new(&name);
                prop_assert!(path.components().all(|part| matches!(part, std::path::Component::Normal(_))));
                prop_assert!(!name.contains(['%', '\\', '\0']));
            }
        }
    }
}
