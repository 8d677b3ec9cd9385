//! A log file that is rotated, and opened again after it failed or was moved.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::rotation::LogRotation;

/// A log file. While it cannot be written, such as on a full disk, the output is lost.
pub(super) struct LogFile {
    path: Arc<Path>,
    rotation: LogRotation,
    retry_interval: Duration,
    file: Option<OpenFile>,
    failure: Option<Failure>,
    /// When the file could not be rotated. It then grows beyond its limit.
    rotation_failed: Option<Instant>,
}

struct OpenFile {
    file: File,
    /// The device and the number of the file, by which a file that was moved is detected.
    id: (u64, u64),
    /// When its first line was written.
    begun: SystemTime,
}

/// A failure that has been logged.
struct Failure {
    last_attempt: Instant,
    lost_bytes: usize,
}

impl LogFile {
    /// Creates a log file that is opened by its first write.
    pub(super) fn new(path: Arc<Path>, rotation: LogRotation, retry_interval: Duration) -> Self {
        Self {
            path,
            rotation,
            retry_interval,
            file: None,
            failure: None,
            rotation_failed: None,
        }
    }

    /// Appends text. Logs the first failure, and when the file works again.
    pub(super) fn write(&mut self, text: &[u8]) {
        if let Some(failure) = &mut self.failure
            && failure.last_attempt.elapsed() < self.retry_interval
        {
            failure.lost_bytes += text.len();
            return;
        }
        let written = self.try_write(text);
        let file = self.path.display();
        match (written, self.failure.take()) {
            (Ok(()), None) => {}
            (Ok(()), Some(failure)) => {
                let lost_bytes = failure.lost_bytes;
                tracing::warn!(%file, lost_bytes, "log file can be written again");
            }
            (Err(error), previous) => {
                if previous.is_none() {
                    tracing::error!(%error, %file, "cannot write log file");
                }
                self.file = None;
                let lost_before = previous.map_or(0, |failure| failure.lost_bytes);
                self.failure = Some(Failure {
                    last_attempt: Instant::now(),
                    lost_bytes: lost_before + text.len(),
                });
            }
        }
    }

    fn try_write(&mut self, text: &[u8]) -> io::Result<()> {
        let (file, size) = self.open()?;
        if size == 0 {
            file.begun = SystemTime::now();
        }
        let begun = file.begun;
        if self.rotation.is_due(size, text.len(), begun) {
            self.rotate();
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => self.open()?.0,
        };
        file.file.write_all(text)
    }

    /// Returns the file that has the name now, and its size. Another program may have moved the previous
    /// one, or emptied it.
    fn open(&mut self) -> io::Result<(&mut OpenFile, u64)> {
        let current = fs::metadata(&self.path).ok();
        let (file, size) = match (self.file.take(), current) {
            (Some(file), Some(current)) if file.id == id(&current) => (file, current.len()),
            _ => OpenFile::open(&self.path)?,
        };
        Ok((self.file.insert(file), size))
    }

    /// Renames the file, and closes it. Logs the first failure, after which the file grows.
    fn rotate(&mut self) {
        let failed = self.rotation_failed;
        let pauses = failed.is_some_and(|time| time.elapsed() < self.retry_interval);
        // A device, or a symbolic link to a file elsewhere, is not rotated.
        let is_plain = fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.is_file());
        if pauses || !is_plain {
            return;
        }
        match self.rotation.rotate(&self.path) {
            Ok(()) => {
                self.file = None;
                self.rotation_failed = None;
            }
            Err(error) => {
                if failed.is_none() {
                    let file = self.path.display();
                    tracing::error!(%error, %file, "cannot rotate log file");
                }
                self.rotation_failed = Some(Instant::now());
            }
        }
    }
}

impl OpenFile {
    /// Opens a file, and returns it with its size.
    fn open(path: &Path) -> io::Result<(Self, u64)> {
        let file = open(path)?;
        let metadata = file.metadata()?;
        // Some file systems do not record when a file was created.
        let begun = metadata.created().unwrap_or_else(|_| SystemTime::now());
        let open = Self {
            id: id(&metadata),
            file,
            begun,
        };
        Ok((open, metadata.len()))
    }
}

fn id(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Opens a log file for appending. The file and its folder are created if needed.
pub(super) fn open(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_file(path: &Path, retry_interval: Duration) -> LogFile {
        LogFile::new(path.into(), LogRotation::DEFAULT, retry_interval)
    }

    #[test]
    fn a_failed_file_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        fs::create_dir(&path).unwrap();
        let mut file = log_file(&path, Duration::ZERO);
        file.write(b"lost\n");
        file.write(b"lost too\n");
        assert_eq!(file.failure.as_ref().unwrap().lost_bytes, 14);
        fs::remove_dir(&path).unwrap();
        file.write(b"kept\n");
        assert!(file.failure.is_none());
        assert_eq!(fs::read_to_string(path).unwrap(), "kept\n");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_written_again_once_it_has_space() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let mut file = log_file(&path, Duration::ZERO);
        file.write(b"lost\n");
        assert!(file.failure.is_some());
        fs::remove_file(&path).unwrap();
        file.write(b"kept\n");
        assert_eq!(fs::read_to_string(path).unwrap(), "kept\n");
    }

    #[test]
    fn a_removed_folder_is_created_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/a.txt");
        fs::write(folder.path().join("logs"), "").unwrap();
        let mut file = log_file(&path, Duration::ZERO);
        file.write(b"lost\n");
        fs::remove_file(folder.path().join("logs")).unwrap();
        file.write(b"kept\n");
        assert_eq!(fs::read_to_string(path).unwrap(), "kept\n");
    }

    #[test]
    fn attempts_have_a_pause() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        fs::create_dir(&path).unwrap();
        let mut file = log_file(&path, Duration::from_secs(3600));
        file.write(b"lost\n");
        fs::remove_dir(&path).unwrap();
        file.write(b"lost too\n");
        assert!(!path.exists());
    }

    /// Returns a file that is rotated at 10 bytes and keeps two predecessors.
    fn small_file(path: &Path) -> LogFile {
        let rotation = LogRotation {
            max_bytes: Some(10),
            max_age: None,
            keep: 2,
        };
        LogFile::new(path.into(), rotation, Duration::ZERO)
    }

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_default()
    }

    #[test]
    fn a_full_file_is_rotated_between_two_writes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        // Of an earlier run.
        fs::write(&path, "before\n").unwrap();
        let mut file = small_file(&path);
        for text in ["12345\n", "678\n", "a line that is too long\n", "end\n"] {
            file.write(text.as_bytes());
        }
        let [first, second] = ["a.1.txt", "a.2.txt"].map(|name| read(&folder.path().join(name)));
        assert_eq!(read(&path), "end\n");
        assert_eq!(first, "a line that is too long\n");
        assert_eq!(second, "12345\n678\n");
    }

    #[test]
    fn a_file_that_was_moved_deleted_or_emptied_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        let moved = folder.path().join("moved.txt");
        let mut file = log_file(&path, Duration::ZERO);
        file.write(b"1\n");
        fs::rename(&path, &moved).unwrap();
        file.write(b"2\n");
        assert_eq!((read(&moved), read(&path)), ("1\n".into(), "2\n".into()));
        fs::remove_file(&path).unwrap();
        file.write(b"3\n");
        assert_eq!(read(&path), "3\n");
        // As `copytruncate` of logrotate does.
        fs::copy(&path, &moved).unwrap();
        File::options()
            .write(true)
            .truncate(true)
            .open(&path)
            .unwrap();
        file.write(b"4\n");
        assert_eq!((read(&moved), read(&path)), ("3\n".into(), "4\n".into()));
    }

    #[test]
    fn a_file_that_cannot_be_rotated_grows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        // A folder that is not empty cannot be deleted or replaced by a file.
        let blocked = folder.path().join("a.2.txt");
        fs::create_dir_all(blocked.join("x")).unwrap();
        let mut file = small_file(&path);
        file.write(b"12345678\n");
        file.write(b"kept\n");
        assert_eq!(read(&path), "12345678\nkept\n");
        fs::remove_dir_all(&blocked).unwrap();
        file.write(b"new\n");
        assert_eq!(read(&path), "new\n");
        assert_eq!(read(&folder.path().join("a.1.txt")), "12345678\nkept\n");
    }

    #[test]
    fn an_old_file_is_rotated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        let rotation = LogRotation {
            max_bytes: None,
            max_age: Some(Duration::from_secs(3600)),
            keep: 1,
        };
        let mut file = LogFile::new((&*path).into(), rotation, Duration::ZERO);
        file.write(b"1\n");
        file.write(b"2\n");
        assert_eq!(read(&path), "1\n2\n");
        let open = file.file.as_mut().unwrap();
        open.begun -= Duration::from_secs(3601);
        file.write(b"3\n");
        assert_eq!(read(&path), "3\n");
    }
}
