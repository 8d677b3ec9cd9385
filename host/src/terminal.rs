//! Writes lines to the terminal. A closed stdout or stderr is ignored, since it is no reason to stop
//! serving.

use std::{
    fmt::Display,
    io::{Write as _, stderr, stdout},
};

/// Writes a line to stdout.
pub(crate) fn print_line(line: impl Display) {
    let _ = writeln!(stdout(), "{line}");
}

/// Writes a line to stderr.
pub(crate) fn print_error_line(line: impl Display) {
    let _ = writeln!(stderr(), "{line}");
}
