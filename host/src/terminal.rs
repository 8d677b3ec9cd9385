//! What is told on the terminal. Whoever reads it may be gone, as `tee` is after the same Ctrl-C:
//! that is no reason to stop.

use std::{
    fmt::Display,
    io::{Write as _, stderr, stdout},
};

/// Writes a line to stdout.
pub fn tell(line: impl Display) {
    let _ = writeln!(stdout(), "{line}");
}

/// Writes a line to stderr.
pub fn note(line: impl Display) {
    let _ = writeln!(stderr(), "{line}");
}
