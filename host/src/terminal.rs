//! Writes lines to the terminal. A closed stdout or stderr is ignored, since it is no reason to stop
//! serving.

use std::{
    fmt::{self, Display},
    io::{self, IsTerminal, Write as _, stderr, stdout},
};

mod progress;

pub(crate) use progress::{Progress, clear_progress, enable_progress, is_progress_enabled};

/// Writes a line to stdout.
pub(crate) fn print_line(line: impl Display) {
    let _ = try_print_line(line);
}

/// Writes a line to stdout.
///
/// # Errors
/// Fails if stdout is closed, for example because the next command of a pipe has ended.
pub(crate) fn try_print_line(line: impl Display) -> io::Result<()> {
    let _cleared = clear_progress();
    writeln!(stdout(), "{line}")
}

/// Writes a line to stderr.
pub(crate) fn print_error_line(line: impl Display) {
    let _cleared = clear_progress();
    let _ = writeln!(stderr(), "{line}");
}

/// Returns whether what is written to this stream may have colours: it is a terminal, and
/// [`NO_COLOR`](https://no-color.org) is not set.
pub(crate) fn has_colors(stream: &impl IsTerminal) -> bool {
    let is_off = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !is_off && is_capable(stream)
}

/// Returns whether a stream is a terminal that understands escape sequences.
fn is_capable(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// How a text is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Bold,
    Dim,
    Error,
    Good,
    Warning,
}

/// Shows texts in styles, if there are colours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Painter {
    has_colors: bool,
}

/// A text in a style.
pub(crate) struct Painted<T> {
    text: T,
    style: Style,
}

impl Painter {
    /// Creates one for what is written to stdout.
    pub(crate) fn stdout() -> Self {
        Self {
            has_colors: has_colors(&stdout()),
        }
    }

    /// Creates one for what is written to stderr.
    pub(crate) fn stderr() -> Self {
        Self {
            has_colors: has_colors(&stderr()),
        }
    }

    /// Creates one without colours.
    #[cfg(test)]
    pub(crate) fn plain() -> Self {
        Self { has_colors: false }
    }

    /// Returns whether there are colours.
    pub(crate) fn has_colors(self) -> bool {
        self.has_colors
    }

    /// Returns a text in a style.
    pub(crate) fn paint<T: Display>(self, style: Style, text: T) -> Painted<T> {
        let style = if self.has_colors { style } else { Style::Plain };
        Painted { text, style }
    }
}

impl<T: Display> Display for Painted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = match self.style {
            Style::Plain => return self.text.fmt(f),
            Style::Bold => "1",
            Style::Dim => "2",
            Style::Error => "1;31",
            Style::Good => "32",
            Style::Warning => "33",
        };
        write!(f, "\x1b[{code}m")?;
        self.text.fmt(f)?;
        write!(f, "\x1b[0m")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_painted_if_there_are_colors() {
        let paint = |has_colors, style| Painter { has_colors }.paint(style, "text").to_string();
        assert_eq!(paint(true, Style::Good), "\x1b[32mtext\x1b[0m");
        assert_eq!(paint(true, Style::Plain), "text");
        assert_eq!(paint(false, Style::Good), "text");
        // The width is that of the text.
        let padded = Painter { has_colors: true }.paint(Style::Bold, "a");
        assert_eq!(format!("{padded:3}|"), "\x1b[1ma  \x1b[0m|");
    }
}
