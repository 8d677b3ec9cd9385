//! The template `websocket-rust`, rendered as `spin new` does.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use tests::{wasm, workspace};

/// Renders the part of the template language that the template uses.
fn render(template: &str) -> Result<String> {
    let parameters = BTreeMap::from([
        ("project-name | kebab_case", "tea-room"),
        ("project-name | snake_case", "tea_room"),
        ("project-name", "Tea room"),
        ("project-description", "A place for tea."),
        ("authors", "Ada"),
        ("http-path", "/..."),
        ("sockets-source", "path = \"../sockets\""),
    ]);
    let (raw, end_raw) = ("{% raw %}", "{% endraw %}");
    let (mut rendered, mut rest) = (String::new(), template);
    while let Some(start) = rest.find("{{").into_iter().chain(rest.find(raw)).min() {
        rendered += &rest[..start];
        rest = &rest[start..];
        if let Some(literal) = rest.strip_prefix(raw) {
            let (literal, after) = literal.split_once(end_raw).context(end_raw)?;
            rendered += literal;
            rest = after;
        } else {
            let (name, after) = rest[2..].split_once("}}").context("}}")?;
            let Some(value) = parameters.get(name.trim()) else {
                bail!("unknown parameter {name:?}");
            };
            rendered += value;
            rest = after;
        }
    }
    Ok(rendered + rest)
}

fn read(path: impl AsRef<Path>) -> Result<String> {
    let path = workspace().join(path);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

#[test]
fn the_component_is_the_example() -> Result<()> {
    let content = Path::new("templates/websocket-rust/content");
    let source = render(&read(content.join("src/lib.rs"))?)?;
    // The first lines describe the project, and the last ones are its tests.
    let code = |source: &str| {
        let start = source.find("use sockets")?;
        let end = source.find("#[cfg(test)]")?;
        Some(source[start..end].to_owned())
    };
    let example = read("examples/chat/src/lib.rs")?;
    ensure!(code(&source).is_some() && code(&source) == code(&example));
    ensure!(source.starts_with("//! A place for tea.\n"), "{source}");
    let page = render(&read(content.join("index.html"))?)?;
    ensure!(page == read("examples/chat/index.html")?);
    Ok(())
}

#[test]
fn the_manifests_are_valid() -> Result<()> {
    let content = Path::new("templates/websocket-rust/content");
    let manifest = render(&read(content.join("spin.toml"))?)?;
    let source = "target/wasm32-wasip2/release/tea_room.wasm";
    ensure!(manifest.contains(source), "{manifest}");
    let manifest = manifest.replace(source, &wasm("chat").display().to_string());
    let folder = tests::app_with_manifest(&manifest);
    std::fs::write(folder.path().join("index.html"), "")?;
    let output = tests::socket_host(&["check"], folder.path())?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success() && !errors.contains("WARN"),
        "{errors}"
    );
    let cargo = render(&read(content.join("Cargo.toml.tmpl"))?)?;
    for line in ["name = \"tea-room\"", "sockets = { path = \"../sockets\" }"] {
        ensure!(
            cargo.lines().any(|found| found == line),
            "{line:?} in {cargo}"
        );
    }
    // What is added to an application has the same settings.
    let snippet = read("templates/websocket-rust/metadata/snippets/component.txt")?;
    let snippet = render(&snippet.replace("{{ output-path }}", "tea"))?;
    for line in manifest.lines().filter(|line| line.contains("{{ grip_")) {
        ensure!(
            snippet.lines().any(|found| found == line),
            "{line:?} in {snippet}"
        );
    }
    Ok(())
}
