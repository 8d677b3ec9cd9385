//! The file system of components.

use http::StatusCode;

use tests::wasm;

use crate::fixture::{Fixture, get, load_error, manifest};

#[tokio::test]
async fn files_are_visible_only_where_the_manifest_mounts_them() {
    let app = Fixture::new();
    assert_eq!(
        app.ok("/probe/read?path=files/open/a.txt").await,
        "an open file\n"
    );
    assert_eq!(
        app.ok("/probe/read?path=/files/open/a.txt").await,
        "an open file\n"
    );
    assert_eq!(
        app.ok("/probe/read?path=/placed/hello.txt").await,
        "hello from a file\n"
    );
    assert_eq!(
        app.ok("/probe/read?path=/single/page.html").await,
        "another\n"
    );
    assert_eq!(app.ok("/probe/list?path=/").await, "files,placed,single");
    assert_eq!(app.ok("/probe/list?path=/files/open").await, "a.txt,c.html");
    for path in [
        "/files/open/b.secret",
        "/etc/passwd",
        "../spin.toml",
        "/placed/../../spin.toml",
        "/placed/../../../../../../etc/passwd",
    ] {
        let response = app
            .send(get(&format!("/probe/read?path={path}")))
            .await
            .unwrap();
        assert_eq!(
            response.status(),
            StatusCode::BAD_GATEWAY,
            "{path}: {}",
            response.body()
        );
    }
}

#[tokio::test]
async fn files_are_read_only() {
    let app = Fixture::new();
    for path in [
        "/placed/hello.txt",
        "/placed/new.txt",
        "/files/open/a.txt",
        "/new.txt",
    ] {
        let outcome = app.ok(&format!("/probe/write?path={path}")).await;
        assert!(outcome.starts_with("Err("), "{path}: {outcome}");
    }
    assert_eq!(
        app.ok("/probe/read?path=/placed/hello.txt").await,
        "hello from a file\n"
    );
}

#[tokio::test]
async fn edits_in_a_mounted_folder_are_visible_and_links_cannot_escape_it() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    std::fs::write(&page, "one").unwrap();
    let source = folder.path();
    let app = Fixture::of(&manifest(&format!(
        "files = [{{ source = {source:?}, destination = \"/static\" }}]"
    )));
    assert_eq!(app.ok("/probe/read?path=/static/page.html").await, "one");
    // As editors save: a new file replaces the old one.
    std::fs::write(folder.path().join("page.new"), "two").unwrap();
    std::fs::rename(folder.path().join("page.new"), &page).unwrap();
    assert_eq!(app.ok("/probe/read?path=/static/page.html").await, "two");
    std::os::unix::fs::symlink("/etc/passwd", folder.path().join("link")).unwrap();
    let response = app
        .send(get("/probe/read?path=/static/link"))
        .await
        .unwrap();
    assert_eq!(
        response.status(),
        StatusCode::BAD_GATEWAY,
        "{}",
        response.body()
    );
}

#[test]
fn missing_files_and_files_outside_are_errors() {
    let probe = format!("source = {:?}", wasm("probe"));
    let load_error = |files: &str| load_error(&format!("{probe}\nfiles = {files}"));
    let error = load_error("[{ source = \"missing\", destination = \"/a\" }]");
    assert!(
        error.contains("files of component probe") && error.contains("missing"),
        "{error}"
    );
    let error = load_error("[\"missing.txt\"]");
    assert!(error.contains("missing.txt"), "{error}");
}
