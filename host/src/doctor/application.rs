//! Whether the manifest is valid, and whether its components exist and are up to date.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use rustix::fs::{Access, access};
use spin_runtime::{
    Manifest, RuntimeConfig, Variables,
    manifest::{Build, Component},
};
use tokio::{process::Command, time::timeout};

use super::Finding;
use crate::{
    HostOptions, config::AppConfig, dev::stale::newest_input, options::applicable_variables,
};

/// How long `rustc` may take to say where a target is.
const RUSTC_TIMEOUT: Duration = Duration::from_secs(10);

/// The targets of Rust that components are built for.
const TARGETS: [&str; 2] = ["wasm32-wasip1", "wasm32-wasip2"];

/// The characters of a command line that only a shell understands.
const SHELL_CHARACTERS: [char; 8] = ['$', '(', '`', '|', ';', '&', '<', '='];

/// Examines an application.
pub(super) async fn examine(
    options: &HostOptions,
    config: &AppConfig,
    runtime_config: &RuntimeConfig,
) -> Vec<Finding> {
    let manifest = &config.manifest;
    if manifest.path.as_os_str().is_empty() {
        return Vec::new();
    }
    let path = manifest.path.display();
    let components = count(manifest.components.len(), "component");
    let routes = count(manifest.triggers.len(), "route");
    let text = format!("{path} is valid: {components}, {routes}");
    let mut findings = vec![Finding::good("manifest", text)];
    for warning in &manifest.warnings {
        findings.push(Finding::warning(
            "manifest",
            warning,
            format!("correct {path}"),
        ));
    }
    if options.upstream.is_some() || options.spin.is_some() {
        return findings;
    }
    let pairs = applicable_variables(&options.variables, &options.optional_variables, manifest);
    let providers = &runtime_config.variable_providers;
    // The host sets these when it starts.
    let own = ["grip_url", "grip_key"].map(|name| (name.to_owned(), String::new()));
    let environment = |name: &str| std::env::var(name).ok();
    if let Err(error) = Variables::with_providers(
        manifest,
        &pairs,
        providers,
        BTreeMap::from(own),
        environment,
    ) {
        findings.push(Finding::error("variables", &error));
    }
    let from = options.from.as_deref();
    for component in manifest.components.values() {
        findings.push(code(component, manifest, from));
    }
    let builds = manifest
        .components
        .values()
        .filter_map(|it| it.build.as_ref());
    let builds: Vec<_> = builds.collect();
    findings.extend(builds.iter().filter_map(|build| program(build)));
    findings.extend(targets(&builds).await);
    findings
}

/// Examines the code of a component.
fn code(component: &Component, manifest: &Manifest, from: Option<&Path>) -> Finding {
    let subject = format!("component {}", component.id);
    let from = from.map(|from| format!(" --from {}", from.display()));
    let build = format!("run socket-host build{}", from.unwrap_or_default());
    let source = component.source.display();
    let Some(file) = component.source.file() else {
        return Finding::good(subject, format!("{source} is downloaded"));
    };
    let built = match fs::metadata(file).and_then(|metadata| metadata.modified()) {
        Ok(built) => built,
        Err(_) if component.build.is_some() => {
            return Finding::failure(subject, format!("{source} does not exist"), build);
        }
        Err(error) => {
            let advice = format!(
                "create it, or correct `source` of [component.{}]",
                component.id
            );
            return Finding::failure(subject, format!("cannot read {source}: {error}"), advice);
        }
    };
    match newest_input(manifest, &component.id) {
        Ok(Some((input, changed))) if changed > built => {
            let text = format!("{source} is older than {}", input.display());
            Finding::warning(subject, text, build)
        }
        Ok(Some(_)) => Finding::good(subject, format!("{source} is up to date")),
        // It has no `build.watch`.
        Ok(None) => Finding::good(subject, format!("{source} exists")),
        Err(error) => Finding::error(subject, &error),
    }
}

/// Finds a build command whose program does not exist.
fn program(build: &Build) -> Option<Finding> {
    let is_missing = |line: &&String| {
        let is_plain = !line.contains(SHELL_CHARACTERS);
        let program = line.split_whitespace().next();
        is_plain && program.is_some_and(|it| !exists(it, &build.workdir))
    };
    let line = build.commands.iter().find(is_missing)?;
    let program = line.split_whitespace().next().unwrap_or_default();
    let text = format!("`{line}` cannot run: {program} is not in PATH");
    let advice = format!("install {program}, or correct the command");
    Some(Finding::warning("build command", text, advice))
}

/// Returns whether a shell finds a program.
fn exists(program: &str, folder: &Path) -> bool {
    let is_executable = |path: &Path| path.is_file() && access(path, Access::EXEC_OK).is_ok();
    if program.contains('/') {
        return is_executable(&folder.join(program));
    }
    // Built into every shell.
    if matches!(
        program,
        "cd" | "true" | "echo" | "test" | "[" | "." | "exec" | "set" | ":"
    ) {
        return true;
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| is_executable(&folder.join(program)))
}

/// Examines the targets of Rust that the build commands name.
async fn targets(builds: &[&Build]) -> Vec<Finding> {
    let mut named = BTreeSet::new();
    for build in builds {
        for line in &build.commands {
            let words: Vec<_> = line.split_whitespace().collect();
            if words.contains(&"cargo") {
                let targets = TARGETS.into_iter();
                let targets = targets.filter(|target| line.contains(target));
                named.extend(targets.map(|target| (target, &build.workdir)));
            }
        }
    }
    let mut findings = Vec::new();
    let mut examined = BTreeSet::new();
    for (target, folder) in named {
        if examined.insert(target) {
            findings.push(rust_target(target, folder).await);
        }
    }
    findings
}

async fn rust_target(target: &'static str, folder: &Path) -> Finding {
    let subject = format!("target {target}");
    let mut rustc = Command::new("rustc");
    rustc
        .args(["--print", "target-libdir", "--target", target])
        .current_dir(folder)
        .kill_on_drop(true);
    let output = match timeout(RUSTC_TIMEOUT, rustc.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => {
            let advice = "install Rust with rustup: https://rustup.rs";
            return Finding::warning(subject, format!("cannot run rustc: {error}"), advice);
        }
        Err(_) => {
            let advice = "run `rustc --version`, and see what it waits for";
            return Finding::warning(subject, "rustc does not respond", advice);
        }
    };
    let folder = String::from_utf8_lossy(&output.stdout);
    let libraries = fs::read_dir(folder.trim()).into_iter().flatten().flatten();
    let mut names = libraries.map(|library| library.file_name());
    if output.status.success() && names.any(|name| name.to_string_lossy().starts_with("libstd")) {
        Finding::good(subject, "installed")
    } else {
        let advice = format!("run rustup target add {target}");
        Finding::warning(subject, "not installed", advice)
    }
}

fn count(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        number => format!("{number} {what}s"),
    }
}
