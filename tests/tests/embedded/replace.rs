//! An application is exchanged for another while it runs.

use std::{fs, path::Path, time::Duration};

use http_body_util::BodyExt as _;
use spin_runtime::manifest::Manifest;

use crate::fixture::{Fixture, get, wasm};

/// An application whose component is `app.wasm` in this folder.
fn manifest(folder: &Path, more: &str) -> Manifest {
    let text = format!(
        "spin_manifest_version = 2\napplication.name = \"one\"\n\
         [[trigger.http]]\nroute = \"/...\"\ncomponent = \"app\"\n\
         [component.app]\nsource = \"app.wasm\"\nkey_value_stores = [\"default\"]\n\
         allowed_outbound_hosts = [\"http://self\"]\n{more}"
    );
    Manifest::parse(&text, folder.join("spin.toml")).unwrap()
}

fn put(folder: &Path, name: &str) {
    fs::copy(wasm(name), folder.join("app.wasm")).unwrap();
}

#[tokio::test]
async fn requests_end_with_the_component_they_began_with_and_later_ones_find_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "probe");
    let manifest = manifest(folder.path(), "");
    let app = Fixture::of(&manifest);
    assert_eq!(app.ok("/set?key=a&value=kept").await, "done");
    let streaming = app.call(get("/stream?chunks=5&ms=50")).await.unwrap();
    // Calls the application itself, when there is another.
    let calling = app.ok("/fetch-late?ms=300&url=http://self/host");
    let exchanged = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        put(folder.path(), "probe02");
        assert_eq!(app.exchange(&manifest, &["app"]).unwrap(), ["app"]);
        // Only the new one knows this path.
        assert_eq!(app.ok("/host").await, "example.com:3000");
    };
    let (called, ()) = tokio::join!(calling, exchanged);
    assert_eq!(called, "localhost");
    let body = streaming.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(&body[..], b"0\n1\n2\n3\n4\n");
    assert_eq!(app.ok("/keep").await, "value", "the store is the same");
}

#[tokio::test]
async fn only_what_is_to_be_read_again_is_and_the_same_content_is_no_change() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "probe");
    let one = manifest(folder.path(), "");
    let app = Fixture::of(&one);
    assert_eq!(app.exchange(&one, &["app"]).unwrap(), [""; 0]);
    // As while it is being built.
    fs::write(folder.path().join("app.wasm"), "half").unwrap();
    let two = manifest(folder.path(), "environment = { WORD = \"two\" }");
    assert_eq!(app.exchange(&two, &[]).unwrap(), [""; 0]);
    assert!(app.ok("/env").await.contains("two"));

    let error = format!("{:#}", app.exchange(&one, &["app"]).unwrap_err());
    assert!(
        error.contains("component app") && error.contains("not WebAssembly"),
        "{error}"
    );
    assert!(
        app.ok("/env").await.contains("two"),
        "everything stays as it was"
    );
    put(folder.path(), "probe02");
    assert_eq!(app.exchange(&one, &["app"]).unwrap(), ["app"]);
}

#[tokio::test]
async fn components_come_and_go() {
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
    let before = std::cell::RefCell::default();
    let ready = || *before.borrow_mut() = app.components();
    assert_eq!(
        app.exchange_in_steps(&two, &[], false, ready).unwrap(),
        ["second"],
        "another engine has room, and the same code is in it"
    );
    assert_eq!(*before.borrow(), ["app"], "ready, and not yet exchanged");
    assert_eq!(app.components(), ["app", "second"]);
    assert_eq!(app.ok("/").await, "probe");
    assert_eq!(app.status("/second/nothing").await, 404);
    assert_eq!(app.exchange(&two, &["app"]).unwrap(), [""; 0]);
    assert_eq!(app.exchange(&one, &[]).unwrap(), [""; 0]);
    assert_eq!(app.ok("/").await, "probe");
}

#[tokio::test]
async fn more_components_of_which_one_is_missing_leave_everything_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "probe");
    let one = manifest(folder.path(), "");
    let app = Fixture::of(&one);
    let more = "[[trigger.http]]\nroute = \"/second/...\"\ncomponent = \"second\"\n\
                [component.second]\nsource = \"missing.wasm\"\n";
    let two = manifest(folder.path(), more);
    let error = format!("{:#}", app.exchange(&two, &["app"]).unwrap_err());
    assert!(error.contains("missing.wasm"), "{error}");
    // What was compiled is still known.
    assert_eq!(app.exchange(&one, &["app"]).unwrap(), [""; 0]);
    assert_eq!(app.ok("/").await, "probe");
}

#[tokio::test]
async fn instances_stay_where_nothing_is_another() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "probe");
    let manifest = manifest(folder.path(), "");
    let app = Fixture::at(&manifest, tempfile::tempdir().unwrap(), |options| {
        options.instance_idle = Duration::from_secs(3600);
    });
    let exchange = |only_code| app.exchange_in_steps(&manifest, &["app"], only_code, || {});
    // How many requests an instance has seen.
    assert_eq!(app.ok("/seen").await, "1");
    assert_eq!(exchange(true).unwrap(), [""; 0]);
    assert_eq!(app.ok("/seen").await, "2");
    // Its files may be others.
    assert_eq!(exchange(false).unwrap(), [""; 0]);
    assert_eq!(app.ok("/seen").await, "1");
}

#[tokio::test]
async fn instances_are_bounded_over_an_exchange() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "probe");
    let manifest = manifest(folder.path(), "");
    let app = Fixture::at(&manifest, tempfile::tempdir().unwrap(), |options| {
        options.max_instances = 1;
        options.deadline = Duration::from_secs(20);
    });
    let streaming = app.call(get("/stream?chunks=3&ms=100")).await.unwrap();
    put(folder.path(), "probe02");
    app.exchange(&manifest, &["app"]).unwrap();
    // It waits until the old instance is gone rather than failing for want of room.
    let (body, host) = tokio::join!(streaming.into_body().collect(), app.ok("/host"));
    assert_eq!(body.unwrap().to_bytes().len(), 6);
    assert_eq!(host, "example.com:3000");
}

/// A second component, where the probe expects to be.
fn second() -> String {
    let wasm = wasm("probe");
    format!(
        "[[trigger.http]]\nroute = \"/probe/...\"\ncomponent = \"second\"\n\
         [component.second]\nsource = {wasm:?}\n"
    )
}

#[tokio::test]
async fn code_is_kept_when_there_are_more_components_whatever_its_file_holds() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "probe");
    let app = Fixture::of(&manifest(folder.path(), ""));
    // As while it is being built.
    fs::write(folder.path().join("app.wasm"), "half").unwrap();
    let two = manifest(folder.path(), &second());
    assert_eq!(app.exchange(&two, &[]).unwrap(), ["second"]);
    assert_eq!(app.ok("/").await, "probe");
    assert_eq!(app.ok("/probe/").await, "probe");
}

#[tokio::test]
async fn instances_are_bounded_for_a_component_that_goes_and_comes_back() {
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
        app.exchange(&one, &[]).unwrap();
        assert_eq!(instances(), None);
    }
    app.exchange(&two, &[]).unwrap();
    assert_eq!(instances(), Some(1), "it still streams");
    // Another takes a place of its own.
    app.exchange(&one, &[]).unwrap();
    let third = manifest(folder.path(), &second().replace("second", "third"));
    app.exchange(&third, &[]).unwrap();
    assert_eq!(app.ok("/probe/").await, "probe");
    drop(streaming);
}
