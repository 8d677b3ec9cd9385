//! Tests of the files that a component sees.

use std::{fs, os::unix::fs::symlink};

use super::*;
use crate::manifest::Source;

#[test]
fn patterns_that_match_nothing_are_reported() {
    let folder = application();
    let entries = ["*.nothing", "nowhere/**/*.txt", "a/*.txt"];
    let mounts = globs(&folder, &entries, &[]).unwrap();
    assert_eq!(mounts.unmatched(), ["*.nothing", "nowhere/**/*.txt"]);
}

#[test]
fn whole_folder_recognizes_globs_for_everything() {
    for glob in ["a/b/**", "a/b/**/*"] {
        assert_eq!(whole_folder(glob), Some("a/b"), "{glob}");
    }
    for glob in ["a/b", "a/*", "*", "a/*/b", "a/*/**", "a/**/*.txt", ""] {
        assert_eq!(whole_folder(glob), None, "{glob}");
    }
}

#[test]
fn the_search_starts_before_the_first_wildcard() {
    for (glob, folder, depth) in [
        ("a/b/*.txt", "a/b", 1),
        ("a/*/b.txt", "a", 2),
        ("*.txt", "", 1),
        ("a/**/b/c", "a", usize::MAX),
    ] {
        let scope = search_scope(glob);
        assert_eq!(scope, (PathBuf::from(folder), depth), "{glob}");
    }
}

/// Creates the folder of an application, and another one beside it.
fn application() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in [
        "app/a/1.txt",
        "app/a/deep/2.txt",
        "app/b/3.html",
        "app/pages/[slug].html",
        "app/pages/s.html",
        "outside/secret.txt",
    ] {
        let file = folder.path().join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "text").unwrap();
    }
    folder
}

fn component(files: Vec<Files>, exclude: &[&str]) -> Component {
    Component {
        id: "c".into(),
        source: Source::File(PathBuf::new()),
        dependencies: Default::default(),
        middleware: Vec::new(),
        is_dependency: false,
        files,
        exclude_files: exclude.iter().map(|glob| (*glob).to_owned()).collect(),
        allowed_outbound_hosts: Vec::new(),
        key_value_stores: Vec::new(),
        sqlite_databases: Vec::new(),
        environment: Default::default(),
        variables: Default::default(),
        build: None,
        reuses_websocket_instances: false,
    }
}

fn globs(folder: &TempDir, files: &[&str], exclude: &[&str]) -> anyhow::Result<Mounts> {
    let files = files.iter().map(|glob| Files::Glob((*glob).to_owned()));
    let component = component(files.collect(), exclude);
    Mounts::gather(&component, &folder.path().join("app"))
}

fn guest_paths(mounts: &Mounts) -> Vec<&str> {
    let paths = mounts.folders.iter().map(|(_, path)| path.as_str());
    paths.collect()
}

/// Returns the collected files, which must be the only mount.
#[track_caller]
fn collected(mounts: anyhow::Result<Mounts>) -> Vec<String> {
    let mounts = mounts.unwrap();
    assert_eq!(guest_paths(&mounts), ["/"]);
    let dir = &mounts.folders[0].0;
    let files = walk::files(dir, usize::MAX, |_| Ok(true)).unwrap();
    let files = files.iter().map(|file| file.strip_prefix(dir).unwrap());
    files.map(|file| file.display().to_string()).collect()
}

#[track_caller]
fn error(mounts: anyhow::Result<Mounts>) -> String {
    format!("{:#}", mounts.err().expect("an error"))
}

#[test]
fn whole_folders_are_mounted_unless_files_may_be_excluded() {
    let folder = application();
    let root = folder.path().join("app").canonicalize().unwrap();
    for glob in ["a", "a/**", "/a/**/*"] {
        let mounts = globs(&folder, &[glob], &[]).unwrap();
        assert_eq!(guest_paths(&mounts), ["/", "/a"], "{glob}");
        assert_eq!(mounts.folders[1].0, root.join("a"), "{glob}");
    }
    assert_eq!(
        collected(globs(&folder, &["a/**/*"], &["a/deep"])),
        ["a/1.txt"]
    );
    // A file that matches may be created later.
    assert_eq!(
        collected(globs(&folder, &["a"], &["*.map"])),
        ["a/1.txt", "a/deep/2.txt"]
    );
}

#[test]
fn exclusions_apply_to_every_path_of_the_manifest_folder() {
    let folder = application();
    symlink("app", folder.path().join("link")).unwrap();
    symlink("../outside", folder.path().join("app/out")).unwrap();
    for root in ["app", "outside/../app", "link"] {
        let root = folder.path().join(root);
        for (source, hidden) in [("a", "a/*.txt"), ("./b/../a", "a/*"), ("out", "out/s*")] {
            let files = Files::Placed {
                source: root.join(source),
                destination: "/static".into(),
            };
            let component = component(vec![files], &[hidden]);
            let files = collected(Mounts::gather(&component, &root));
            assert_eq!(files, [""; 0], "{source} in {}", root.display());
        }
    }
}

#[test]
fn wildcards_do_not_match_slashes() {
    let folder = application();
    assert_eq!(collected(globs(&folder, &["a/*"], &[])), ["a/1.txt"]);
    assert_eq!(collected(globs(&folder, &["a/*/*"], &[])), ["a/deep/2.txt"]);
    let none = globs(&folder, &["**/*.txt"], &["a/*.txt"]).unwrap();
    assert_eq!(guest_paths(&none), [""; 0]);
    assert_eq!(
        collected(globs(&folder, &["**/*.txt"], &[])),
        ["a/1.txt", "a/deep/2.txt"]
    );
    let error = error(globs(&folder, &["."], &[]));
    assert!(error.contains("does not name a file"), "{error}");
}

#[test]
fn exact_names_take_precedence_over_wildcards() {
    let folder = application();
    let exact = collected(globs(&folder, &["pages/[slug].html"], &[]));
    assert_eq!(exact, ["pages/[slug].html"]);
    assert_eq!(
        collected(globs(&folder, &["pages/[s]*.html"], &[])),
        ["pages/s.html"]
    );
    fs::create_dir(folder.path().join("app/pages/{id}")).unwrap();
    let mounts = globs(&folder, &["pages/{id}"], &[]).unwrap();
    assert_eq!(guest_paths(&mounts), ["/", "/pages/{id}"]);
}

#[test]
fn links_are_followed_within_the_application() {
    let folder = application();
    let app = folder.path().join("app");
    symlink("3.html", app.join("b/in")).unwrap();
    symlink("/etc/passwd", app.join("b/out")).unwrap();
    assert_eq!(collected(globs(&folder, &["b/i*"], &[])), ["b/in"]);
    for whole in ["b/*", "b", "b/out"] {
        let error = error(globs(&folder, &[whole], &[]));
        assert!(
            error.contains("b/out") && error.contains("outside the application"),
            "{error}"
        );
    }
    assert_eq!(
        collected(globs(&folder, &["b"], &["b/out"])),
        ["b/3.html", "b/in"]
    );
}

#[test]
fn links_to_folders_are_followed_within_the_application() {
    let folder = application();
    let app = folder.path().join("app");
    symlink("../a", app.join("b/a")).unwrap();
    // A loop, and a broken link such as the lock files of some editors.
    symlink("..", app.join("a/deep/loop")).unwrap();
    symlink("nobody@nowhere.1", app.join("b/.#3.html")).unwrap();
    assert_eq!(
        collected(globs(&folder, &["b"], &[])),
        ["b/3.html", "b/a/1.txt", "b/a/deep/2.txt"]
    );
    assert_eq!(collected(globs(&folder, &["b/**/1*"], &[])), ["b/a/1.txt"]);
    symlink("../../outside", app.join("b/outside")).unwrap();
    for glob in ["b", "b/**/*.html"] {
        let error = error(globs(&folder, &[glob], &[]));
        assert!(
            error.contains("b/outside is a link to") && error.contains("exclude_files"),
            "{error}"
        );
    }
    assert_eq!(collected(globs(&folder, &["b/*.html"], &[])), ["b/3.html"]);
    assert_eq!(
        collected(globs(&folder, &["b"], &["b/outside", "b/a"])),
        ["b/3.html"]
    );
}

#[test]
fn folders_whose_links_stay_inside_are_mounted() {
    let folder = application();
    let a = folder.path().join("app/a");
    symlink("deep/../1.txt", a.join("one")).unwrap();
    symlink("../one", a.join("deep/one")).unwrap();
    symlink("nowhere", a.join("nothing")).unwrap();
    symlink("deep", a.join("shallow")).unwrap();
    let mounts = globs(&folder, &["a"], &[]).unwrap();
    assert_eq!(guest_paths(&mounts), ["/", "/a"]);
    // A guest with only this folder cannot follow these links.
    for path in ["../../a/1.txt", a.join("1.txt").to_str().unwrap()] {
        let link = a.join("deep/link");
        symlink(path, &link).unwrap();
        assert!(collected(globs(&folder, &["a"], &[])).contains(&"a/deep/link".to_owned()));
        fs::remove_file(link).unwrap();
    }
}

#[test]
fn components_without_files_have_no_mounts() {
    let mounts = globs(&application(), &[], &[]);
    assert!(mounts.unwrap().folders.is_empty());
}

#[test]
fn overlapping_folders_are_merged() {
    let folder = application();
    let placed = |source: &str, destination: &str| Files::Placed {
        source: folder.path().join("app").join(source),
        destination: destination.into(),
    };
    let gather = |files: Vec<Files>| {
        let component = component(files, &[]);
        Mounts::gather(&component, &folder.path().join("app"))
    };
    for (files, expected) in [
        (
            vec![Files::Glob("pages/s.html".into()), placed("b", "/")],
            vec!["3.html", "pages/s.html"],
        ),
        (
            vec![placed("b", "/"), placed("a/deep", "/")],
            vec!["2.txt", "3.html"],
        ),
        (
            vec![placed("b", "/x"), placed("a/deep", "/x/y")],
            vec!["x/3.html", "x/y/2.txt"],
        ),
    ] {
        assert_eq!(collected(gather(files)), expected);
    }
    let apart = gather(vec![placed("b", "/x"), placed("a", "/xy")]).unwrap();
    assert_eq!(guest_paths(&apart), ["/", "/x", "/xy"]);
}
