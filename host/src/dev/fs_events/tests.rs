//! Tests with a real file system.

use std::{fs, os::unix::fs::symlink};

use spin_runtime::{Manifest, ManifestUse};

use super::*;

/// Watches an application in `folder` whose manifest is at `path`.
fn watch(folder: &Path, path: &str) -> (FileWatcher, Arc<WatchSet>) {
    let text = "spin_manifest_version = 2\napplication.name = \"test\"\n\
        trigger.http = [{ route = \"/\", component = \"a\" }]\n\
        [component.a]\nsource = \"a.wasm\"\n\
        files = [{ source = \"static\", destination = \"/static\" }]\n";
    let manifest = Manifest::parse(text, folder.join(path), ManifestUse::Embedded).unwrap();
    let watch_set = Arc::new(WatchSet::new(&manifest).unwrap());
    (FileWatcher::start(watch_set.clone()).unwrap(), watch_set)
}

async fn wait_for_change(watcher: &FileWatcher, file: &Path) {
    let change = async { while !watcher.changed().await.contains(file) {} };
    let result = tokio::time::timeout(Duration::from_secs(20), change).await;
    assert!(result.is_ok(), "no change of {}", file.display());
}

#[tokio::test]
async fn a_manifest_whose_path_contains_parent_folders_is_watched() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    fs::create_dir_all(folder.join("static/deep")).unwrap();
    fs::create_dir_all(folder.join("elsewhere/inner")).unwrap();
    symlink("elsewhere/inner", folder.join("link")).unwrap();
    // The second path leads through the parent of the link's target.
    for path in ["static/../spin.toml", "link/../../spin.toml"] {
        let (watcher, watch_set) = watch(&folder, path);
        let file = folder.join("static/deep/a.js");
        fs::write(&file, path).unwrap();
        wait_for_change(&watcher, &file).await;
        let file = folder.join("spin.toml");
        fs::write(&file, path).unwrap();
        wait_for_change(&watcher, &file).await;
        assert!(watch_set.plan([&file]).settings);
    }
}

#[tokio::test]
async fn a_folder_that_replaces_another_is_watched_recursively() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for name in ["static", "one", "two"] {
        fs::create_dir_all(folder.join(name).join("deep/er")).unwrap();
        fs::write(folder.join(name).join("deep/er/a.js"), name).unwrap();
    }
    let (watcher, _) = watch(folder, "spin.toml");
    let file = folder.join("static/deep/er/a.js");
    for next in ["one", "two"] {
        fs::rename(folder.join("static"), folder.join(format!("before-{next}"))).unwrap();
        fs::rename(folder.join(next), folder.join("static")).unwrap();
        wait_for_change(&watcher, &file).await;
        for content in ["a", "b", "c"] {
            fs::write(&file, content).unwrap();
            wait_for_change(&watcher, &file).await;
        }
    }
}

#[tokio::test]
async fn a_new_folder_is_watched_recursively() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    let (watcher, _) = watch(&folder, "spin.toml");
    let file = folder.join("static/deep/a.js");
    for kind in ["folder", "file", "folder"] {
        let root = folder.join("static");
        if kind == "file" {
            fs::remove_dir_all(&root).unwrap();
            fs::write(&root, kind).unwrap();
            wait_for_change(&watcher, &root).await;
            fs::remove_file(&root).unwrap();
            continue;
        }
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, kind).unwrap();
        wait_for_change(&watcher, &file).await;
        fs::write(&file, "another").unwrap();
        wait_for_change(&watcher, &file).await;
    }
}

/// Replaces a link as Kubernetes does: by renaming another one.
fn swap_link(target: &str, link: &Path) {
    let new = link.with_file_name("new");
    symlink(target, &new).unwrap();
    fs::rename(new, link).unwrap();
}

#[tokio::test]
async fn files_behind_links_are_watched() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for name in ["app/static", "elsewhere/v2"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    let names = ["spin.toml", ".env", "a.wasm", "static/page.js"];
    let path = |name: &str| folder.join("app").join(name);
    // The name in the other folder.
    let target = |name: &str| name.trim_start_matches("static/").to_owned();
    for name in names {
        fs::write(folder.join("elsewhere").join(target(name)), "one").unwrap();
        symlink(folder.join("elsewhere").join(target(name)), path(name)).unwrap();
    }
    let (watcher, _) = watch(folder, "app/spin.toml");
    for name in names {
        let real = folder.join("elsewhere").join(target(name));
        // Saves in place, and by replacing the file.
        fs::write(path(name), "another").unwrap();
        wait_for_change(&watcher, &path(name)).await;
        fs::write(real.with_extension("new"), "three").unwrap();
        fs::rename(real.with_extension("new"), &real).unwrap();
        wait_for_change(&watcher, &path(name)).await;
        // The target becomes another link, and then the link gets another target.
        let next = folder.join("elsewhere/v2").join(target(name));
        fs::write(&next, "four").unwrap();
        swap_link(&format!("v2/{}", target(name)), &real);
        wait_for_change(&watcher, &path(name)).await;
        fs::write(&next, "number five").unwrap();
        wait_for_change(&watcher, &path(name)).await;
        fs::write(folder.join("elsewhere/last"), "six").unwrap();
        swap_link(folder.join("elsewhere/last").to_str().unwrap(), &path(name));
        wait_for_change(&watcher, &path(name)).await;
        fs::write(folder.join("elsewhere/last"), "number seven").unwrap();
        wait_for_change(&watcher, &path(name)).await;
    }
}

#[tokio::test]
async fn a_swapped_link_to_a_folder_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let write = |version: &str, text: &str| {
        let version = folder.join("mount").join(version);
        fs::create_dir_all(version.join("static/deep")).unwrap();
        for name in ["spin.toml", ".env", "a.wasm", "static/deep/a.js"] {
            fs::write(version.join(name), text).unwrap();
        }
    };
    write("..1", "one");
    let data = folder.join("mount/..data");
    symlink("..1", &data).unwrap();
    fs::create_dir(folder.join("app")).unwrap();
    for name in ["spin.toml", ".env", "a.wasm", "static"] {
        symlink(
            Path::new("../mount/..data").join(name),
            folder.join("app").join(name),
        )
        .unwrap();
    }
    // The application's files are links, and its folder is one.
    symlink("mount/..data", folder.join("current")).unwrap();
    for root in ["app", "current"] {
        let root = folder.join(root);
        let (watcher, _) = watch(&root, "spin.toml");
        for version in 2..4 {
            let (old, new) = (format!("..{}", version - 1), format!("..{version}"));
            write(&new, &format!("version {version}"));
            swap_link(&new, &data);
            fs::remove_dir_all(folder.join("mount").join(old)).unwrap();
            let mut expected: BTreeSet<_> = ["spin.toml", ".env", "a.wasm", "static/deep/a.js"]
                .map(|name| root.join(name))
                .into();
            let changes = async {
                while !expected.is_empty() {
                    let changed = watcher.changed().await;
                    expected.retain(|file| !changed.contains(file));
                }
            };
            let result = tokio::time::timeout(Duration::from_secs(20), changes).await;
            assert!(result.is_ok(), "no change of {expected:?}");
            // The new target is watched.
            let file = root.join("static/deep/a.js");
            fs::write(&file, format!("edited version {version}")).unwrap();
            wait_for_change(&watcher, &file).await;
        }
        write("..1", "one");
        swap_link("..1", &data);
    }
}

#[tokio::test]
async fn links_to_folders_are_followed_below_placed_folders() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for name in ["app/static", "shared/deep", "other/deep"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    for (target, link) in [
        ("..", "loop"),
        ("../../shared", "shared"),
        ("../../later", "later"),
    ] {
        symlink(target, folder.join("app/static").join(link)).unwrap();
    }
    symlink("../other", folder.join("shared/other")).unwrap();
    symlink("../shared", folder.join("other/shared")).unwrap();
    let (watcher, _) = watch(&folder.join("app"), "spin.toml");
    let placed = folder.join("app/static");
    for _ in 0..2 {
        for (real, file) in [
            ("shared/deep/a.js", "shared/deep/a.js"),
            ("other/deep/a.js", "shared/other/deep/a.js"),
        ] {
            let real = folder.join(real);
            let text = format!("{:?}", Instant::now());
            fs::write(&real, text).unwrap();
            wait_for_change(&watcher, &placed.join(file)).await;
        }
    }
    // A broken link is followed once it has a target, and a new link at once.
    fs::create_dir(folder.join("later")).unwrap();
    fs::write(folder.join("later/a.js"), "").unwrap();
    wait_for_change(&watcher, &placed.join("later/a.js")).await;
    symlink("../../other", placed.join("new")).unwrap();
    wait_for_change(&watcher, &placed.join("new/deep/a.js")).await;
    fs::write(folder.join("other/deep/b.js"), "").unwrap();
    wait_for_change(&watcher, &placed.join("new/deep/b.js")).await;
}

#[test]
fn a_burst_lasts_until_relevant_files_are_closed() {
    let hour = Duration::from_secs(3600);
    let hint = |path: &str, is_writing| Hint {
        paths: vec![path.into()],
        is_writing,
    };
    let (hints, receiver) = sync_channel(8);
    let writer = std::thread::spawn(move || {
        for (path, is_writing) in [("b.css", true), ("a.css", false), ("b.css", false)] {
            std::thread::sleep(QUIET_PERIOD * 3);
            hints.send(hint(path, is_writing)).unwrap();
        }
        hints
    });
    let css = |path: &Path| path.extension().is_some_and(|extension| extension == "css");
    let paths = debounce(hint("a.css", true), &receiver, css, hour).unwrap();
    let expected = ["a.css", "b.css", "a.css", "b.css"].map(PathBuf::from);
    assert_eq!(paths, expected);
    // Irrelevant files do not prolong a burst, and relevant ones only up to the maximum.
    let hints = writer.join().unwrap();
    assert!(debounce(hint("log", true), &receiver, css, hour).is_some());
    assert!(debounce(hint("a.css", true), &receiver, css, QUIET_PERIOD).is_some());
    drop(hints);
    assert!(debounce(hint("a.css", true), &receiver, css, hour).is_none());
}
