//! Replacing an application while it runs.

use std::{fs, path::Path, time::Duration};

use http_body_util::BodyExt as _;
use spin_runtime::{Manifest, ManifestUse};

use tests::wasm;

use crate::fixture::{Fixture, get};

/// An application whose component is `app.wasm` in this folder.
fn manifest(folder: &Path, extra: &str) -> Manifest {
    let text = format!(
        "spin_manifest_version = 2\napplication.name = \"one\"\n\
         [[trigger.http]]\nroute = \"/...\"\ncomponent = \"app\"\n\
         [component.app]\nsource = \"app.wasm\"\nkey_value_stores = [\"default\"]\n\
         allowed_outbound_hosts = [\"http://self\"]\n{extra}"
    );
    Manifest::parse(&text, folder.join("spin.toml"), ManifestUse::Embedded).unwrap()
}

fn put(folder: &Path, name: &str) {
    fs::copy(wasm(name), folder.join("app.wasm")).unwrap();
}

#[tokio::test]
async fn running_requests_keep_their_component_and_later_ones_get_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "probe");
    let manifest = manifest(folder.path(), "");
    let app = Fixture::of(&manifest);
    assert_eq!(app.ok("/set?key=a&value=kept").await, "done");
    let streaming = app.call(get("/stream?chunks=5&ms=50")).await.unwrap();
    // Calls the application itself after it was replaced.
    let calling = app.ok("/fetch-late?ms=300&url=http://self.alt/host");
    let replace = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        put(folder.path(), "probe02");
        assert_eq!(app.replace(&manifest, &["app"]).unwrap(), ["app"]);
        // Only the new component has this path.
        assert_eq!(app.ok("/host").await, "none");
    };
    let (called, ()) = tokio::join!(calling, replace);
    assert_eq!(called, "none");
    let body = streaming.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(&body[..], b"0\n1\n2\n3\n4\n");
    assert_eq!(app.ok("/keep").await, "value", "the store is the same");
}

#[tokio::test]
async fn only_listed_components_are_read_again_and_same_content_is_not_a_change() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "probe");
    let one = manifest(folder.path(), "");
    let app = Fixture::of(&one);
    assert_eq!(app.replace(&one, &["app"]).unwrap(), [""; 0]);
    // As during a build.
    fs::write(folder.path().join("app.wasm"), "half").unwrap();
    let two = manifest(folder.path(), "environment = { WORD = \"two\" }");
    assert_eq!(app.replace(&two, &[]).unwrap(), [""; 0]);
    assert!(app.ok("/env").await.contains("two"));

    let error = format!("{:#}", app.replace(&one, &["app"]).unwrap_err());
    assert!(
        error.contains("component app") && error.contains("not WebAssembly"),
        "{error}"
    );
    assert!(
        app.ok("/env").await.contains("two"),
        "the previous version is kept"
    );
    put(folder.path(), "probe02");
    assert_eq!(app.replace(&one, &["app"]).unwrap(), ["app"]);
}

#[tokio::test]
async fn components_can_be_added_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "probe");
    let one = manifest(folder.path(), "");
    let app = Fixture::of(&one);
    let more = format!(
        "[[trigger.http]]\nroute = \"/second/...\"\ncomponent = \"second\"\n\
         [component.second]\nsource = {:?}\n",
        wasm("probe02")
    );
    let two = manifest(folder.path(), &more);
    let at_hook = std::cell::RefCell::default();
    let ready = || *at_hook.borrow_mut() = app.components();
    assert_eq!(
        app.replace_with_hook(&two, &[], false, ready).unwrap(),
        ["second"],
        "the new engine has room for it, and the other code is unchanged"
    );
    assert_eq!(*at_hook.borrow(), ["app"], "ready, but not yet replaced");
    assert_eq!(app.components(), ["app", "second"]);
    assert_eq!(app.ok("/").await, "probe");
    assert_eq!(app.status("/second/nothing").await, 404);
    assert_eq!(app.replace(&two, &["app"]).unwrap(), [""; 0]);
    assert_eq!(app.replace(&one, &[]).unwrap(), [""; 0]);
    assert_eq!(app.ok("/").await, "probe");
}

#[tokio::test]
async fn a_missing_component_keeps_the_previous_version() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "probe");
    let one = manifest(folder.path(), "");
    let app = Fixture::of(&one);
    let more = "[[trigger.http]]\nroute = \"/second/...\"\ncomponent = \"second\"\n\
                [component.second]\nsource = \"missing.wasm\"\n";
    let two = manifest(folder.path(), more);
    let error = format!("{:#}", app.replace(&two, &["app"]).unwrap_err());
    assert!(error.contains("missing.wasm"), "{error}");
    // The compiled code is still cached.
    assert_eq!(app.replace(&one, &["app"]).unwrap(), [""; 0]);
    assert_eq!(app.ok("/").await, "probe");
}

#[tokio::test]
async fn unchanged_components_keep_their_instances() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "probe");
    let manifest = manifest(folder.path(), "");
    let app = Fixture::at(&manifest, tempfile::tempdir().unwrap(), |options| {
        options.limits.idle_instance_timeout = Duration::from_secs(3600);
    });
    let replace = |only_code| app.replace_with_hook(&manifest, &["app"], only_code, || {});
    // The number of requests that an instance has received.
    assert_eq!(app.ok("/seen").await, "1");
    assert_eq!(replace(true).unwrap(), [""; 0]);
    assert_eq!(app.ok("/seen").await, "2");
    // Its files may have changed.
    assert_eq!(replace(false).unwrap(), [""; 0]);
    assert_eq!(app.ok("/seen").await, "1");
}

#[tokio::test]
async fn instances_are_limited_across_a_replacement() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "probe");
    let manifest = manifest(folder.path(), "");
    let app = Fixture::at(&manifest, tempfile::tempdir().unwrap(), |options| {
        options.limits.instances_per_component = 1;
        options.limits.request_timeout = Duration::from_secs(20);
    });
    let streaming = app.call(get("/stream?chunks=3&ms=100")).await.unwrap();
    put(folder.path(), "probe02");
    app.replace(&manifest, &["app"]).unwrap();
    // The request waits until the old instance has ended.
    let (body, host) = tokio::join!(streaming.into_body().collect(), app.ok("/host"));
    assert_eq!(body.unwrap().to_bytes().len(), 6);
    assert_eq!(host, "none");
}

/// A second component, at the route that the probe expects.
fn second() -> String {
    let wasm = wasm("probe");
    format!(
        "[[trigger.http]]\nroute = \"/probe/...\"\ncomponent = \"second\"\n\
         [component.second]\nsource = {wasm:?}\n"
    )
}

#[tokio::test]
async fn code_is_kept_when_components_are_added() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "probe");
    let app = Fixture::of(&manifest(folder.path(), ""));
    // As during a build.
    fs::write(folder.path().join("app.wasm"), "half").unwrap();
    let two = manifest(folder.path(), &second());
    assert_eq!(app.replace(&two, &[]).unwrap(), ["second"]);
    assert_eq!(app.ok("/").await, "probe");
    assert_eq!(app.ok("/probe/").await, "probe");
}

#[tokio::test]
async fn instances_are_limited_for_a_component_that_is_removed_and_added_again() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "probe");
    let one = manifest(folder.path(), "");
    let two = manifest(folder.path(), &second());
    let app = Fixture::of(&two);
    let instances = || {
        let second = app.instances().into_iter().find(|(id, _)| id == "second");
        second.map(|(_, instances)| instances)
    };
    let streaming = app.call(get("/probe/stream?chunks=100000&ms=1"));
    let streaming = streaming.await.unwrap();
    assert_eq!(instances(), Some(1));
    for _ in 0..2 {
        app.replace(&one, &[]).unwrap();
        assert_eq!(instances(), None);
    }
    app.replace(&two, &[]).unwrap();
    assert_eq!(instances(), Some(1), "the old instance still streams");
    // Another component has its own limit.
    app.replace(&one, &[]).unwrap();
    let third = manifest(folder.path(), &second().replace("second", "third"));
    app.replace(&third, &[]).unwrap();
    assert_eq!(app.ok("/probe/").await, "probe");
    drop(streaming);
}
