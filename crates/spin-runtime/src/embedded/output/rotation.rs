//! Rotates log files by size and age.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// When a log file is rotated, and how many of its predecessors are kept.
///
/// The current file keeps its name. Of `orders_stdout.txt`, the newest predecessor is
/// `orders_stdout.1.txt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRotation {
    /// The largest size of a file. `None` for any size. Default: 10 MiB.
    pub max_bytes: Option<u64>,
    /// How long after its first line a file is written to. `None` for any time. Default: `None`.
    pub max_age: Option<Duration>,
    /// The predecessors that are kept, at least 1. Older ones are deleted. Default: 5.
    pub keep: usize,
}

impl LogRotation {
    /// The default rotation.
    pub const DEFAULT: Self = Self {
        max_bytes: Some(10 * 1024 * 1024),
        max_age: None,
        keep: 5,
    };

    /// Returns whether a file must be rotated before `added` bytes are appended. It has `size` bytes,
    /// the first of which was written at `begun`.
    pub(super) fn is_due(&self, size: u64, added: usize, begun: SystemTime) -> bool {
        if size == 0 {
            return false;
        }
        let added = u64::try_from(added).unwrap_or(u64::MAX);
        let is_full = |max| size.saturating_add(added) > max;
        // The clock may have been set back.
        let is_old = |max| begun.elapsed().is_ok_and(|age| age >= max);
        self.max_bytes.is_some_and(is_full) || self.max_age.is_some_and(is_old)
    }

    /// Renames a file and its predecessors, and deletes those beyond [`Self::keep`].
    ///
    /// # Errors
    /// Fails if a file cannot be renamed or deleted. The current file then still has its name.
    pub(super) fn rotate(&self, path: &Path) -> io::Result<()> {
        let keep = self.keep.max(1);
        // More than one if `keep` was larger before.
        let mut oldest = keep;
        while exists(fs::remove_file(numbered(path, oldest)))? {
            oldest += 1;
        }
        for number in (1..keep).rev() {
            exists(fs::rename(
                numbered(path, number),
                numbered(path, number + 1),
            ))?;
        }
        fs::rename(path, numbered(path, 1))
    }
}

impl Default for LogRotation {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Returns the name of a predecessor, such as `orders_stdout.1.txt`.
fn numbered(path: &Path, number: usize) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(format!(".{number}"));
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

/// Returns whether an operation has found its file.
fn exists(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn predecessors_are_numbered_and_the_oldest_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a_stdout.txt");
        let rotation = LogRotation {
            keep: 3,
            ..LogRotation::DEFAULT
        };
        // Files that a larger number has left.
        for number in 3..6 {
            fs::write(numbered(&path, number), "old").unwrap();
        }
        for text in ["1", "2", "3", "4"] {
            fs::write(&path, text).unwrap();
            rotation.rotate(&path).unwrap();
        }
        let mut files: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                (name, fs::read_to_string(path).unwrap())
            })
            .collect();
        files.sort();
        let expected = [
            ("a_stdout.1.txt", "4"),
            ("a_stdout.2.txt", "3"),
            ("a_stdout.3.txt", "2"),
        ];
        assert_eq!(
            files,
            expected.map(|(name, text)| (name.to_owned(), text.to_owned()))
        );
    }

    #[test]
    fn size_and_age_are_limited() {
        let day = Duration::from_secs(86_400);
        let now = SystemTime::now();
        let rotation = LogRotation {
            max_bytes: Some(100),
            max_age: Some(day),
            keep: 1,
        };
        for (size, added, begun, expected) in [
            (50, 50, now, false),
            (50, 51, now, true),
            // A line that is larger than the limit has a file of its own.
            (0, 1000, now - day * 2, false),
            (1, 1, now - day, true),
            (1, 1, now - day / 2, false),
            (1, 1, now + day, false),
        ] {
            let is_due = rotation.is_due(size, added, begun);
            assert_eq!(is_due, expected, "{size} {added} {begun:?}");
        }
        let never = LogRotation {
            max_bytes: None,
            max_age: None,
            keep: 1,
        };
        assert!(!never.is_due(u64::MAX, 1, SystemTime::UNIX_EPOCH));
    }
}
