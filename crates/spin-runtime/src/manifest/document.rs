//! Reads TOML documents other than manifests, with errors of the same form.

use std::path::Path;

use toml::de::DeTable;

use super::{
    error::ManifestError,
    reader::{Diagnostics, Table},
};

/// Parses `text` and reads its root table. `path` is used in errors.
///
/// # Errors
/// Returns every problem of the syntax, or every problem that `read` reports.
pub(crate) fn read_document<T>(
    text: &str,
    path: &Path,
    read: impl FnOnce(Table<'_>) -> T,
) -> Result<T, ManifestError> {
    let diagnostics = Diagnostics::new(text);
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let offset = error.span().map(|span| span.start);
        diagnostics.report(offset, "", error.message());
    }
    let value = errors
        .is_empty()
        .then(|| read(Table::root(&diagnostics, document.get_ref())));
    match value {
        Some(value) if diagnostics.is_empty() => Ok(value),
        _ => Err(ManifestError {
            path: path.to_owned(),
            problems: diagnostics.into_problems(),
        }),
    }
}
