//! Reads where the code of a component comes from: a path, a URL, or a package of a registry.

use std::path::Path;

use url::Url;

use super::{
    context::Context,
    model::Source,
    reader::{Table, Value},
};

/// The length of a SHA-256 digest in hexadecimal digits.
const DIGEST_DIGITS: usize = 64;

/// Reads `source`.
///
/// A package is valid here. [`check_supported`] reports it if it is used.
pub(super) fn read(root: &Path, value: &Value<'_>) -> Option<Source> {
    if value.is_string() {
        return read_path(root, value);
    }
    if !value.is_table() {
        value.error(format!(
            "expected a path, or a table with `url` and `digest` or with `package` and `version`, found {}",
            value.type_name()
        ));
        return None;
    }
    let mut table = value.table()?;
    let source = match table.get("url") {
        Some(url) => {
            let digest = require_digest(&mut table);
            read_download(&url, digest.as_ref())
        }
        None => {
            let package = table.require(
                "package",
                "the name of a package, such as \"me:my-component\"",
            );
            let version = table.require("version", "the package's version");
            if let Some(registry) = table.get("registry") {
                registry.string();
            }
            read_package(package.as_ref(), version.as_ref())
        }
    };
    table.finish();
    source
}

/// Reports a source that the embedded runtime cannot load.
pub(super) fn check_supported(context: &Context<'_>, value: &Value<'_>, source: &Source) {
    if matches!(source, Source::Package(_)) {
        context.unsupported(
            value,
            "packages of registries are not supported: download the file and use its path",
        );
    }
}

/// Reads the path of a wasm file.
pub(super) fn read_path(root: &Path, value: &Value<'_>) -> Option<Source> {
    let path = value.string()?;
    if path.is_empty() {
        value.error("expected the path of a wasm file, found an empty string");
        return None;
    }
    Some(Source::File(root.join(path)))
}

/// Gets the digest of a URL.
pub(super) fn require_digest<'a>(table: &mut Table<'a>) -> Option<Value<'a>> {
    table.require("digest", "the file's SHA-256 digest, such as \"sha256:…\"")
}

/// Reads a URL and its digest.
pub(super) fn read_download(url: &Value<'_>, digest: Option<&Value<'_>>) -> Option<Source> {
    let address = url.string();
    if let Some(address) = address
        && let Err(reason) = check_url(address)
    {
        url.error(format!("invalid URL {address:?}: {reason}"));
    }
    let digest_text = digest?.string();
    if let Some(text) = digest_text
        && !is_digest(text)
    {
        digest?.error(format!(
            "invalid digest {text:?}: expected `sha256:` and {DIGEST_DIGITS} hexadecimal digits \
             in lower case, as `sha256sum` prints them"
        ));
    }
    Some(Source::Download {
        url: address?.to_owned(),
        digest: digest_text?.to_owned(),
    })
}

/// Reads a package of a registry.
pub(super) fn read_package(
    package: Option<&Value<'_>>,
    version: Option<&Value<'_>>,
) -> Option<Source> {
    let (package, version) = (package?.string(), version?.string());
    Some(Source::Package(format!("{}@{}", package?, version?)))
}

fn check_url(text: &str) -> Result<(), String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("expected http:// or https://".to_owned());
    }
    Ok(())
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|digits| {
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        digits.len() == DIGEST_DIGITS && digits.bytes().all(is_hex)
    })
}
