//! Reads the files of a folder, again only when they changed.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

/// A file changed within this time of being read may change again without its
/// modification time showing it, so it is read again. The coarsest clock of a
/// file system in use (FAT) counts in steps of two seconds.
const SETTLED: Duration = Duration::from_secs(3);

/// A folder of files, and what has been read of it.
///
/// A file is looked at whenever it is asked for and read again when its time or
/// length changed, so that an edited file is seen at once.
#[derive(Debug)]
pub struct Files {
    folder: PathBuf,
    kept: RefCell<HashMap<String, Kept>>,
}

/// A file as it was when `modified` and `content.len()` were what they are here.
#[derive(Clone, Debug)]
struct Kept {
    modified: Option<SystemTime>,
    is_settled: bool,
    content: Rc<Bytes>,
}

impl Files {
    /// The files in `folder` and below it.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            kept: RefCell::default(),
        }
    }

    /// What is in the file `name`, or `None` where there is no file of this name:
    /// names are what [`is_name`] takes for one.
    ///
    /// As long as the content is the same, it is the same `Rc`.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn read(&self, name: &str) -> io::Result<Option<Rc<Bytes>>> {
        if !is_name(name) {
            return Ok(None);
        }
        let path = self.folder.join(name);
        let metadata = match path.metadata() {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => return Ok(None),
            Err(error) if is_absence(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut kept = self.kept.borrow_mut();
        let before = kept.get(name);
        if let Some(before) = before
            && before.is_settled
            && before.is_of(&metadata)
        {
            return Ok(Some(before.content.clone()));
        }
        let mut file = Kept::read(&path)?;
        file.is_settled &= file.is_of(&metadata);
        if let Some(before) = before
            && before.content == file.content
        {
            file.content = before.content.clone();
        }
        let content = file.content.clone();
        kept.insert(name.to_owned(), file);
        Ok(Some(content))
    }
}

impl Kept {
    fn read(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let modified = file.metadata()?.modified().ok();
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        let age = modified.and_then(|then| SystemTime::now().duration_since(then).ok());
        Ok(Self {
            modified,
            is_settled: age.is_some_and(|age| age > SETTLED),
            content: Rc::new(content.into()),
        })
    }

    fn is_of(&self, metadata: &Metadata) -> bool {
        self.modified.is_some()
            && self.modified == metadata.modified().ok()
            && self.content.len() as u64 == metadata.len()
    }
}

/// Whether `name` is one that a file here may have: names of ASCII letters, digits,
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_old_file_is_read_once() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let files = Files::new(folder.path());
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
        // The same length and time: only reading it would tell.
        write("let b;", 1_000_000);
        assert!(Rc::ptr_eq(&read(), &first));
        write("let b;", 1_000_001);
        assert_eq!(**read(), *b"let b;");
        fs::remove_file(&path).expect("a file to remove");
        assert!(files.read("main.js").expect("no error").is_none());
    }

    #[test]
    fn a_changed_file_is_read_at_once() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let files = Files::new(folder.path());
        // The same length and, all being within one tick, perhaps the same time.
        for content in ["let a;", "let b;", "let c;", "let longer;"] {
            fs::write(folder.path().join("main.js"), content).expect("a file");
            let read = || files.read("main.js").expect("no error").expect("a file");
            assert_eq!(**read(), *content.as_bytes());
            assert!(Rc::ptr_eq(&read(), &read()), "read again, and the same");
        }
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
    }
}
