//! What components see of the file system.

use http::StatusCode;

use crate::fixture::{Fixture, get, manifest, refused, wasm};

#[tokio::test]
async fn files_are_seen_where_the_manifest_puts_them_and_nowhere_else() {
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
        let answer = app
            .answer(get(&format!("/probe/read?path={path}")))
            .await
            .unwrap();
        assert_eq!(
            answer.status(),
            StatusCode::BAD_GATEWAY,
            "{path}: {}",
            answer.body()
        );
    }
}

#[tokio::test]
async fn files_cannot_be_written() {
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
async fn edits_in_a_placed_folder_are_seen_at_once_and_its_links_lead_nowhere_outside() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    std::fs::write(&page, "one").unwrap();
    let source = folder.path();
    let app = Fixture::of(&manifest(&format!(
        "files = [{{ source = {source:?}, destination = \"/static\" }}]"
    )));
    assert_eq!(app.ok("/probe/read?path=/static/page.html").await, "one");
    // As an editor saves: a new file in the place of the old one.
    std::fs::write(folder.path().join("page.new"), "two").unwrap();
    std::fs::rename(folder.path().join("page.new"), &page).unwrap();
    assert_eq!(app.ok("/probe/read?path=/static/page.html").await, "two");
    std::os::unix::fs::symlink("/etc/passwd", folder.path().join("link")).unwrap();
    let answer = app
        .answer(get("/probe/read?path=/static/link"))
        .await
        .unwrap();
    assert_eq!(
        answer.status(),
        StatusCode::BAD_GATEWAY,
        "{}",
        answer.body()
    );
}

#[test]
fn files_that_are_missing_or_outside_are_refused() {
    let probe = format!("source = {:?}", wasm("probe"));
    let refused = |files: &str| refused(&format!("{probe}\nfiles = {files}"));
    let error = refused("[{ source = \"missing\", destination = \"/a\" }]");
    assert!(
        error.contains("files of component probe") && error.contains("missing"),
        "{error}"
    );
    let error = refused("[\"missing.txt\"]");
    assert!(error.contains("missing.txt"), "{error}");
}
