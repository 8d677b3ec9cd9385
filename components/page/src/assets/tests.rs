//! Tests of assets, as they are answered to requests.

use std::fs;

use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, VARY};
use http::{HeaderValue, StatusCode};
use tempfile::TempDir;

use super::*;
use crate::reply::{self, Reply};

const IMMUTABLE: &str = "max-age=31536000, immutable";

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

fn get(assets: &Assets, name: &str) -> Reply {
    get_as(assets, name, None, "")
}

fn get_as(assets: &Assets, name: &str, encoding: Option<Encoding>, known: &str) -> Reply {
    let known = HeaderValue::from_str(known).expect("a header");
    match assets.look().asked_for(name).expect("readable") {
        Some((asset, is_fixed)) => reply::asset(&asset, is_fixed, encoding, [&known].into_iter()),
        None => reply::not_found(),
    }
}

fn text(assets: &Assets, name: &str) -> String {
    let asset = assets.look().get(name).expect("readable").expect("a file");
    String::from_utf8(asset.plain.to_vec()).expect("text")
}

#[test]
fn files_come_with_type_length_and_tag() {
    let outer = folder();
    let assets = assets(&outer);
    for (name, content_type, length) in [
        ("b.js", "text/javascript", "6"),
        ("icons/bell.svg", "image/svg+xml; charset=utf-8", "6"),
    ] {
        let reply = get(&assets, name);
        assert_eq!(reply.status(), StatusCode::OK);
        assert_eq!(reply.headers()[CONTENT_TYPE], content_type);
        assert_eq!(reply.headers()[CONTENT_LENGTH], length);
        assert_eq!(reply.headers()[CACHE_CONTROL], "no-cache");
        assert!(reply.headers().contains_key(ETAG));
    }
}

#[test]
fn nothing_but_named_files_is_found() {
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
fn a_name_with_the_fingerprint_is_for_ever() {
    let outer = folder();
    let assets = assets(&outer);
    let name = assets.look().version("b.js");
    let reply = get(&assets, &name);
    assert_eq!(reply.headers()[CACHE_CONTROL], IMMUTABLE);
    assert!(!reply.headers().contains_key(ETAG), "there is no question");
    // What a page of yesterday asks for is there, and not kept as what it is not.
    fs::write(outer.path().join("static/b.js"), "let c;").expect("a file");
    let reply = get(&assets, &name);
    assert_eq!(
        (reply.status(), &reply.headers()[CACHE_CONTROL]),
        (StatusCode::OK, &"no-cache".parse().expect("a header"))
    );
    assert_ne!(assets.look().version("b.js"), name);
}

#[test]
fn references_name_versions() {
    let outer = folder();
    let assets = assets(&outer);
    let [main, a, b, css, bell] = ["main.js", "a.js", "b.js", "page.css", "icons/bell.svg"]
        .map(|name| assets.look().version(name));
    assert_eq!(
        text(&assets, "main.js"),
        format!("import\"./{a}\";\nimport\"./{b}\";")
    );
    assert_eq!(text(&assets, "a.js"), format!("import\"./{b}\";"));
    assert_eq!(
        text(&assets, "page.css"),
        format!("a {{ background: url(\"{bell}\") }}")
    );
    assert_eq!(assets.look().used_by("main.js"), [a.clone(), b.clone()]);

    // A change is a change of all that leads to it, and of nothing else.
    fs::write(outer.path().join("static/b.js"), "let c;").expect("a file");
    let mut look = assets.look();
    for (name, before) in [("main.js", main), ("a.js", a), ("b.js", b)] {
        assert_ne!(look.version(name), before);
    }
    assert_eq!(look.version("page.css"), css);
}

#[test]
fn what_has_not_changed_is_made_once() {
    let outer = folder();
    let assets = assets(&outer);
    let make = || {
        assets
            .look()
            .get("main.js")
            .expect("readable")
            .expect("a file")
    };
    assert!(Rc::ptr_eq(&make(), &make()));
}

#[test]
fn a_circle_has_an_end() {
    let outer = folder();
    let assets = assets(&outer);
    fs::write(outer.path().join("static/b.js"), "import \"./main.js\";").expect("a file");
    for name in ["main.js", "a.js", "b.js"] {
        assert_eq!(get(&assets, name).status(), StatusCode::OK);
    }
    assert_eq!(assets.look().used_by("main.js").len(), 2);
}

#[test]
fn text_is_compressed_for_those_who_take_it() {
    let outer = folder();
    let assets = assets(&outer);
    let mut tags = Vec::new();
    for (encoding, name) in [
        (None, None),
        (Some(Encoding::Brotli), Some("br")),
        (Some(Encoding::Gzip), Some("gzip")),
    ] {
        let reply = get_as(&assets, "long.js", encoding, "");
        let coding = reply
            .headers()
            .get(CONTENT_ENCODING)
            .map(|value| value.to_str().expect("text"));
        assert_eq!(coding, name);
        assert_eq!(reply.headers()[VARY], "accept-encoding");
        let length: usize = reply.headers()[CONTENT_LENGTH]
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
        tags.push(reply.headers()[ETAG].clone());
        let again = get_as(
            &assets,
            "long.js",
            encoding,
            reply.headers()[ETAG].to_str().expect("text"),
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
