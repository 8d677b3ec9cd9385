//! Applications for the host to serve, each in a temporary folder.

use tempfile::TempDir;

use crate::{wasm, workspace};

/// Writes Socket Burger's manifest, with an order created every `interval`.
pub fn burger(interval: &str) -> TempDir {
    let manifest = std::fs::read_to_string(workspace().join("spin.toml")).expect("read spin.toml");
    let root = workspace().display();
    let mut manifest = manifest
        .replace("\"2s..6s\"", &format!("{interval:?}"))
        .replace("\"target/", &format!("\"{root}/target/"));
    assert!(manifest.contains(interval), "spin.toml has another timer");
    for folder in ["static", "client/src"] {
        let source = format!("source = {folder:?}");
        assert!(manifest.contains(&source), "spin.toml lacks {source}");
        manifest = manifest.replace(&source, &format!("source = \"{root}/{folder}\""));
    }
    app_with_manifest(&manifest)
}

/// Writes Socket Burger's manifest without its timer: no orders are created.
pub fn burger_without_timer() -> TempDir {
    let folder = burger("1h");
    let path = folder.path().join("spin.toml");
    let manifest = std::fs::read_to_string(&path).expect("read the manifest");
    let start = manifest
        .find("[[application.tool.socket-host.timer]]")
        .expect("a timer in the manifest");
    let end = manifest[start..]
        .find("\n[application")
        .expect("a table after the timer")
        + start;
    std::fs::write(&path, manifest[..start].to_owned() + &manifest[end..])
        .expect("write the manifest");
    folder
}

/// Writes an application that consists of the probe component. `extra` is appended to the
/// `[component.probe]` table.
pub fn probe(extra: &str) -> TempDir {
    one_component("probe", extra)
}

/// Writes an application whose component handles typed frames. `extra` is appended to the
/// manifest.
pub fn typed(extra: &str) -> TempDir {
    let settings = r#"
key_value_stores = ["default"]
allowed_outbound_hosts = ["http://127.0.0.1:*"]
variables = { grip_url = "{{ grip_url }}", grip_key = "{{ grip_key }}" }
[variables]
grip_url = { default = "" }
grip_key = { default = "" }
"#;
    one_component("typed", &(settings.to_owned() + extra))
}

/// Writes an application that consists of a component with this name. `extra` is appended to its table.
fn one_component(name: &str, extra: &str) -> TempDir {
    app_with_manifest(&format!(
        r#"
spin_manifest_version = 2
[application]
name = {name:?}
[[trigger.http]]
route = "/..."
component = {name:?}
[component.{name}]
source = {:?}
{extra}"#,
        wasm(name)
    ))
}

/// Writes a manifest into a new temporary folder.
pub fn app_with_manifest(manifest: &str) -> TempDir {
    let folder = TempDir::new().expect("create a temporary folder");
    std::fs::write(folder.path().join("spin.toml"), manifest).expect("write the manifest");
    folder
}
