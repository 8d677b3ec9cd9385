//! Serves the files that the manifest gives to the component.

use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use http::{HeaderValue, Method, Response, Uri};
use percent_encoding::percent_decode_str;

/// The file of a path that ends with a slash.
const INDEX: &str = "index.html";

/// Content types, by the extension of a file.
const TYPES: [(&str, &str); 11] = [
    ("css", "text/css; charset=utf-8"),
    ("html", "text/html; charset=utf-8"),
    ("ico", "image/vnd.microsoft.icon"),
    ("js", "text/javascript; charset=utf-8"),
    ("json", "application/json"),
    ("mjs", "text/javascript; charset=utf-8"),
    ("png", "image/png"),
    ("svg", "image/svg+xml"),
    ("txt", "text/plain; charset=utf-8"),
    ("webp", "image/webp"),
    ("woff2", "font/woff2"),
];

/// Returns the file of a path below `root`, if there is one.
pub(crate) fn respond(root: &Path, method: &Method, uri: &Uri) -> Option<Response<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return None;
    }
    let path = root.join(relative(uri.path())?);
    let extension = path.extension()?.to_str()?;
    let (_, content_type) = TYPES.iter().find(|(known, _)| *known == extension)?;
    let content = std::fs::read(&path).ok()?;
    let length = HeaderValue::from(content.len());
    let mut response = Response::new(Bytes::from(content));
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static(content_type));
    headers.insert("content-length", length);
    headers.insert("cache-control", HeaderValue::from_static("no-cache"));
    let nosniff = HeaderValue::from_static("nosniff");
    headers.insert("x-content-type-options", nosniff);
    Some(response)
}

/// Returns the path of a file. Returns `None` if it may lead out of its root.
fn relative(path: &str) -> Option<PathBuf> {
    let path = percent_decode_str(path).decode_utf8().ok()?;
    let path = path.strip_prefix('/')?;
    let file = match path {
        path if path.is_empty() || path.ends_with('/') => format!("{path}{INDEX}"),
        path => path.to_owned(),
    };
    let path = PathBuf::from(file);
    let mut components = path.components();
    components
        .all(|component| matches!(component, Component::Normal(_)))
        .then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_component_are_served() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/chat");
        let respond = |method, path: &str| respond(&root, &method, &path.parse().unwrap());
        let response = respond(Method::GET, "/").unwrap();
        assert_eq!(response.headers()["content-type"], TYPES[1].1);
        let page = std::fs::read(root.join(INDEX)).unwrap();
        assert_eq!(response.body(), &page);
        assert!(respond(Method::HEAD, "/index%2Ehtml?x").is_some());
        assert!(respond(Method::POST, "/").is_none());
        // Not what does not exist, and no types that pages do not need.
        assert!(respond(Method::GET, "/src").is_none());
        assert!(respond(Method::GET, "/Cargo.toml").is_none());
    }

    #[test]
    fn paths_stay_below_the_root() {
        let path = |path| relative(path).map(|path| path.to_str().unwrap().to_owned());
        assert_eq!(path("/"), Some("index.html".into()));
        assert_eq!(path("/a/b%20c.js"), Some("a/b c.js".into()));
        assert_eq!(path("/a/"), Some("a/index.html".into()));
        for invalid in [
            "",
            "/../a.js",
            "/a/%2e%2e/%2e%2e/b.js",
            "//etc/x.txt",
            "/%ff.js",
            "*",
        ] {
            assert_eq!(path(invalid), None, "{invalid}");
        }
    }
}
