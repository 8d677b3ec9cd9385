//! The streams that a component writes to.

/// A stream that a component writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputSource {
    /// Its standard output.
    Stdout,
    /// Its standard error.
    Stderr,
}

impl OutputSource {
    /// Returns the name in those of log files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}
