//! Parses TOML documents: manifests, and files with errors of the same form.

use std::path::Path;

use toml::de::DeTable;

use super::{
    error::ManifestError,
    reader::{Diagnostics, Table},
};

/// Parses `text`, reads its root table, and returns the result with the warnings.
///
/// `path` is used in errors. `read` returns `None` if it has reported a problem.
///
/// # Errors
/// Returns every problem of the syntax, or every problem that `read` reports.
pub(crate) fn read_document<T>(
    text: &str,
    path: &Path,
    read: impl FnOnce(Table<'_>) -> Option<T>,
) -> Result<(T, Vec<String>), ManifestError> {
    let diagnostics = Diagnostics::new(text);
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let offset = error.span().map(|span| span.start);
        diagnostics.report(offset, "", error.message());
    }
    let value = if errors.is_empty() {
        read(Table::root(&diagnostics, document.get_ref()))
    } else {
        None
    };
    match value {
        Some(value) if diagnostics.is_empty() => Ok((value, diagnostics.into_warnings())),
        _ => Err(ManifestError {
            path: path.to_owned(),
            problems: diagnostics.into_problems(),
        }),
    }
}
