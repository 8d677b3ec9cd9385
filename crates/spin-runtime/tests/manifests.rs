//! Reads the manifests in `tests/manifests`.
//!
//! Each valid one has a sidecar, `NAME.txt`, with what it is read as. Each broken one begins with
//! comments, `#: `, with the problems that are reported. `#profile NAME` selects a profile, and
//! `#upstream` reads the manifest for an upstream. After a deliberate change, `BLESS=1` writes the
//! expectations again. Read what it wrote.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use spin_runtime::{Manifest, ManifestError, ManifestOptions, ManifestUse};

/// Every key of Spin's schema, version 2 and then version 1. `*` stands for any name, and `[]` for
/// an element of an array. Keys of other triggers and of `tool` are not part of it.
const KEYS: &str = "
    spin_manifest_version application application.name application.version
    application.description application.authors application.targets application.targets[].url
    application.targets[].path application.trigger application.tool
    variables variables.*.default variables.*.description variables.*.required variables.*.secret
    trigger.http[].id trigger.http[].route trigger.http[].route.private trigger.http[].component
    trigger.http[].component.source trigger.http[].components trigger.http[].executor.type
    trigger.http[].static_response.status_code trigger.http[].static_response.headers
    trigger.http[].static_response.body trigger.http[].dependencies.middleware
    trigger.http[].dependencies.middleware[].path trigger.http[].dependencies.middleware[].url
    trigger.http[].dependencies.middleware[].digest
    trigger.http[].dependencies.middleware[].component
    trigger.http[].dependencies.middleware[].inherit_configuration
    component.*.source component.*.source.url component.*.source.digest
    component.*.source.registry component.*.source.package component.*.source.version
    component.*.description component.*.variables component.*.environment component.*.files
    component.*.files[].source component.*.files[].destination component.*.exclude_files
    component.*.allowed_http_hosts component.*.allowed_outbound_hosts
    component.*.key_value_stores component.*.sqlite_databases component.*.ai_models
    component.*.targets component.*.build.command component.*.build.workdir
    component.*.build.watch component.*.tool component.*.dependencies_inherit_configuration
    component.*.dependencies.* component.*.dependencies.*.version
    component.*.dependencies.*.registry component.*.dependencies.*.package
    component.*.dependencies.*.export component.*.dependencies.*.path
    component.*.dependencies.*.url component.*.dependencies.*.digest
    component.*.dependencies.*.component component.*.dependencies.*.inherit_configuration
    component.*.profile.*.source component.*.profile.*.environment
    component.*.profile.*.dependencies component.*.profile.*.build.command

    spin_version name version description authors trigger.type trigger.base
    component[].id component[].source component[].trigger.route component[].trigger.executor.type
    component[].description component[].config component[].environment component[].files
    component[].exclude_files component[].allowed_http_hosts component[].allowed_outbound_hosts
    component[].key_value_stores component[].sqlite_databases component[].ai_models
    component[].build.command component[].build.workdir component[].build.watch
";

/// The tables whose keys are names.
const NAMED: [&str; 5] = [
    "variables",
    "component",
    "component.*.dependencies",
    "component.*.profile",
    "component.*.profile.*.dependencies",
];

/// The number of broken manifests that there are at least.
const MIN_BROKEN: usize = 40;

fn manifests(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/manifests")
        .join(kind);
    let files = fs::read_dir(&folder)
        .unwrap()
        .map(|file| file.unwrap().path());
    let mut files: Vec<_> = files
        .filter(|file| {
            file.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files
}

fn is_blessed() -> bool {
    std::env::var_os("BLESS").is_some()
}

fn read(text: &str) -> Result<Manifest, ManifestError> {
    let mut options = ManifestOptions::from(ManifestUse::Embedded);
    for line in text.lines() {
        options.profile = line.strip_prefix("#profile ").or(options.profile);
        if line == "#upstream" {
            options.usage = ManifestUse::Upstream;
        }
    }
    Manifest::parse(text, "/app/spin.toml", options)
}

#[test]
fn valid_manifests_are_read() {
    for file in manifests("valid") {
        let text = fs::read_to_string(&file).unwrap();
        let manifest = read(&text).unwrap_or_else(|error| panic!("{}\n{error}", file.display()));
        let found = format!("{manifest:#?}\n");
        let sidecar = file.with_extension("txt");
        if is_blessed() {
            fs::write(&sidecar, &found).unwrap();
        }
        let expected = fs::read_to_string(&sidecar)
            .unwrap_or_else(|error| panic!("{}: {error}", sidecar.display()));
        assert_eq!(found, expected, "{}", file.display());
    }
}

#[test]
fn broken_manifests_are_reported() {
    let files = manifests("broken");
    assert!(files.len() >= MIN_BROKEN, "only {} manifests", files.len());
    for file in files {
        let mut text = fs::read_to_string(&file).unwrap();
        if is_blessed() {
            text = blessed(&text);
            fs::write(&file, &text).unwrap();
        }
        let expected: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("#: "))
            .collect();
        assert!(!expected.is_empty(), "{} expects nothing", file.display());
        let error = read(&text)
            .expect_err(&file.display().to_string())
            .to_string();
        let found: Vec<_> = error.lines().collect();
        assert_eq!(found, expected, "{}", file.display());
    }
}

/// Replaces the expected problems of a manifest with the reported ones.
fn blessed(text: &str) -> String {
    let kept = text.lines().filter(|line| !line.starts_with("#: "));
    let kept: Vec<_> = kept.collect();
    let problems = |text: &str| read(text).unwrap_err().to_string();
    let count = problems(&kept.join("\n")).lines().count();
    // The comments move the lines that the problems name.
    let moved = format!("{}{}", "\n".repeat(count), kept.join("\n"));
    let comments = problems(&moved);
    let comments = comments.lines().map(|line| format!("#: {line}"));
    let lines: Vec<_> = comments
        .chain(kept.into_iter().map(str::to_owned))
        .collect();
    lines.join("\n") + "\n"
}

#[test]
fn the_manifests_have_every_key_of_the_schema() {
    let mut found = BTreeSet::new();
    for file in manifests("valid") {
        let text = fs::read_to_string(&file).unwrap();
        collect_keys("", &toml::Value::Table(text.parse().unwrap()), &mut found);
    }
    let missing: Vec<_> = KEYS
        .split_whitespace()
        .filter(|key| !found.contains(*key))
        .collect();
    assert_eq!(missing, [""; 0]);
}

fn collect_keys(path: &str, value: &toml::Value, found: &mut BTreeSet<String>) {
    found.insert(path.to_owned());
    match value {
        toml::Value::Table(table) => {
            for (name, value) in table {
                let name = if NAMED.contains(&path) { "*" } else { name };
                let separator = if path.is_empty() { "" } else { "." };
                collect_keys(&format!("{path}{separator}{name}"), value, found);
            }
        }
        toml::Value::Array(items) => {
            for item in items {
                collect_keys(&format!("{path}[]"), item, found);
            }
        }
        _ => {}
    }
}
