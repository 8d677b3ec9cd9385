//! Tests of assets and of the responses that carry them.

use std::fs;

use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, VARY};
use http::{HeaderValue, StatusCode};
use tempfile::TempDir;

use super::*;
use crate::response::{self, Response};

const IMMUTABLE: &str = "public, max-age=31536000, immutable";

fn folder() -> TempDir {
    let outer = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir_all(outer.path().join("static/icons")).expect("a folder");
    for (name, content) in [
        ("static/main.js", "import \"./a.js\";\nimport \"./b.js\";"),
        ("static/a.js", "import \"./b.js\";"),
        ("static/b.js", "let b;"),
        (
            "static/page.css",
            "a { background: url(\"icons/bell.svg\") }",
        ),
        ("static/icons/bell.svg", "<svg/>"),
        ("static/long.js", &"let it=nice;".repeat(100)),
        ("static/long.png", &"PNG".repeat(400)),
        ("static/.secret", "secret"),
        ("outside.txt", "secret"),
    ] {
        fs::write(outer.path().join(name), content).expect("a file");
    }
    outer
}

fn assets(outer: &TempDir) -> Assets {
    Assets::new(outer.path().join("static"))
}

fn get(assets: &Assets, name: &str) -> Response {
    get_as(assets, name, None, "")
}

fn get_as(
    assets: &Assets,
    name: &str,
    encoding: Option<Encoding>,
    if_none_match: &str,
) -> Response {
    let if_none_match = HeaderValue::from_str(if_none_match).expect("a header");
    match assets.snapshot().resolve(name).expect("readable") {
        Some((asset, is_versioned)) => {
            response::asset(&asset, is_versioned, encoding, [&if_none_match].into_iter())
        }
        None => response::not_found(),
    }
}

fn text(assets: &Assets, name: &str) -> String {
    let asset = assets
        .snapshot()
        .get(name)
        .expect("readable")
        .expect("a file");
    String::from_utf8(asset.content.to_vec()).expect("text")
}

#[test]
fn files_have_type_length_and_tag() {
    let outer = folder();
    let assets = assets(&outer);
    for (name, content_type, length) in [
        ("b.js", "text/javascript", "6"),
        ("icons/bell.svg", "image/svg+xml; charset=utf-8", "6"),
    ] {
        let response = get(&assets, name);
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[CONTENT_TYPE], content_type);
        assert_eq!(response.headers()[CONTENT_LENGTH], length);
        assert_eq!(response.headers()[CACHE_CONTROL], "no-cache");
        assert!(response.headers().contains_key(ETAG));
    }
}

#[test]
fn other_paths_are_not_found() {
    let outer = folder();
    let assets = assets(&outer);
    let absolute = outer.path().join("outside.txt");
    for name in [
        "",
        "/",
        "missing.js",
        "missing.01234567.js",
        "icons",
        "icons/",
        "b.js/",
        "b.js/more",
        "./b.js",
        "icons//bell.svg",
        "icons/../b.js",
        "../outside.txt",
        "../outside.01234567.txt",
        "icons/../../outside.txt",
        "..%2foutside.txt",
        "%2e%2e/outside.txt",
        "..\\outside.txt",
        "b.js\0",
        "b.js%00",
        ".secret",
        ".secret.01234567",
        ".01234567.secret",
        "%2esecret",
        "/etc/passwd",
        absolute.to_str().expect("a path in UTF-8"),
        &"a".repeat(5_000),
    ] {
        assert_eq!(
            get(&assets, name).status(),
            StatusCode::NOT_FOUND,
            "{name:?}"
        );
    }
}

#[test]
fn only_the_current_fingerprint_is_immutable() {
    let outer = folder();
    let assets = assets(&outer);
    let name = assets.snapshot().version("b.js");
    let response = get(&assets, &name);
    assert_eq!(response.headers()[CACHE_CONTROL], IMMUTABLE);
    assert!(
        !response.headers().contains_key(ETAG),
        "an immutable response needs no validator"
    );
    // An outdated fingerprint gets the current version, which is not immutable.
    fs::write(outer.path().join("static/b.js"), "let c;").expect("a file");
    let response = get(&assets, &name);
    assert_eq!(
        (response.status(), &response.headers()[CACHE_CONTROL]),
        (StatusCode::OK, &"no-cache".parse().expect("a header"))
    );
    assert_ne!(assets.snapshot().version("b.js"), name);
}

#[test]
fn references_contain_versions() {
    let outer = folder();
    let assets = assets(&outer);
    let [main, a, b, css, bell] = ["main.js", "a.js", "b.js", "page.css", "icons/bell.svg"]
        .map(|name| assets.snapshot().version(name));
    assert_eq!(
        text(&assets, "main.js"),
        format!("import \"./{a}\";\nimport \"./{b}\";")
    );
    assert_eq!(text(&assets, "a.js"), format!("import \"./{b}\";"));
    assert_eq!(
        text(&assets, "page.css"),
        format!("a {{ background: url(\"{bell}\") }}")
    );
    assert_eq!(
        assets.snapshot().dependencies("main.js"),
        [a.clone(), b.clone()]
    );

    // A change affects the assets that depend on it, and no others.
    fs::write(outer.path().join("static/b.js"), "let c;").expect("a file");
    let mut snapshot = assets.snapshot();
    for (name, before) in [("main.js", main), ("a.js", a), ("b.js", b)] {
        assert_ne!(snapshot.version(name), before);
    }
    assert_eq!(snapshot.version("page.css"), css);
}

#[test]
fn only_modules_lose_their_comments() {
    let outer = folder();
    for (name, content) in [
        ("static/commented.js", "// why\nimport \"./b.js\";"),
        ("static/commented.css", "/* why */\na { color: red }"),
    ] {
        fs::write(outer.path().join(name), content).expect("a file");
    }
    let assets = assets(&outer);
    let module = text(&assets, "commented.js");
    assert!(module.starts_with("\nimport \"./b."), "{module}");
    assert_eq!(
        text(&assets, "commented.css"),
        "/* why */\na { color: red }"
    );
}

#[test]
fn unchanged_assets_are_cached() {
    let outer = folder();
    let assets = assets(&outer);
    let get = || {
        assets
            .snapshot()
            .get("main.js")
            .expect("readable")
            .expect("a file")
    };
    assert!(Rc::ptr_eq(&get(), &get()));
}

#[test]
fn cyclic_references_end() {
    let outer = folder();
    let assets = assets(&outer);
    fs::write(outer.path().join("static/b.js"), "import \"./main.js\";").expect("a file");
    for name in ["main.js", "a.js", "b.js"] {
        assert_eq!(get(&assets, name).status(), StatusCode::OK);
    }
    assert_eq!(assets.snapshot().dependencies("main.js").len(), 2);
}

#[test]
fn text_is_compressed_if_the_client_accepts_it() {
    let outer = folder();
    let assets = assets(&outer);
    let mut tags = Vec::new();
    for (encoding, name) in [
        (None, None),
        (Some(Encoding::Brotli), Some("br")),
        (Some(Encoding::Gzip), Some("gzip")),
    ] {
        let response = get_as(&assets, "long.js", encoding, "");
        let coding = response
            .headers()
            .get(CONTENT_ENCODING)
            .map(|value| value.to_str().expect("text"));
        assert_eq!(coding, name);
        assert_eq!(response.headers()[VARY], "accept-encoding");
        let length: usize = response.headers()[CONTENT_LENGTH]
            .to_str()
            .expect("text")
            .parse()
            .expect("a number");
        assert!(
            if encoding.is_some() {
                length < 100
            } else {
                length == 1200
            },
            "{length}"
        );
        tags.push(response.headers()[ETAG].clone());
        let again = get_as(
            &assets,
            "long.js",
            encoding,
            response.headers()[ETAG].to_str().expect("text"),
        );
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        for absent in [CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE] {
            assert!(!again.headers().contains_key(absent));
        }
    }
    tags.dedup();
    assert_eq!(tags.len(), 3);
    let image = get_as(&assets, "long.png", Some(Encoding::Brotli), "");
    assert_eq!(image.headers()[CONTENT_LENGTH], "1200");
    let short = get_as(&assets, "b.js", Some(Encoding::Brotli), "");
    assert!(!short.headers().contains_key(CONTENT_ENCODING));
}
