//! A log file that is opened again after it failed.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

/// A log file. While it cannot be written, such as on a full disk, the output is lost.
pub(super) struct LogFile {
    path: Arc<Path>,
    retry_interval: Duration,
    file: Option<File>,
    failure: Option<Failure>,
}

/// A failure that has been logged.
struct Failure {
    last_attempt: Instant,
    lost_bytes: usize,
}

impl LogFile {
    /// Creates a log file that is opened by its first write.
    pub(super) fn new(path: Arc<Path>, retry_interval: Duration) -> Self {
        Self {
            path,
            retry_interval,
            file: None,
            failure: None,
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

    fn try_write(&mut self, text: &[u8]) -> std::io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(open(&self.path)?),
        };
        file.write_all(text)
    }
}

/// Opens a log file for appending. The file and its folder are created if needed.
pub(super) fn open(path: &Path) -> std::io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn log_file(path: &Path, retry_interval: Duration) -> LogFile {
        LogFile::new(path.into(), retry_interval)
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
}
