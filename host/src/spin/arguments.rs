//! The command line of Spin.

use std::{ffi::OsString, net::SocketAddr, path::Path};

use anyhow::{Context as _, Result};

use crate::options::HostOptions;

/// Returns the arguments of Spin that serve the application at `manifest` as the options of the host
/// say. An option that the host shares with Spin is passed on by a line here.
///
/// # Errors
/// Fails if a path is empty.
pub(super) fn arguments(
    options: &HostOptions,
    build: bool,
    manifest: &Path,
    listen: SocketAddr,
) -> Result<Vec<OsString>> {
    let mut arguments = Arguments(vec!["up".into()]);
    arguments.path("--from", manifest)?;
    arguments.option("--listen", listen.to_string());
    if build {
        arguments.flag("--build");
    }
    if options.quiet {
        arguments.flag("--quiet");
    }
    if options.truncate_logs {
        arguments.flag("--truncate-logs");
    }
    if let Some(profile) = &options.profile {
        arguments.option("--profile", profile);
    }
    for (option, folder) in [
        ("--runtime-config-file", &options.runtime_config_file),
        ("--state-dir", &options.state_dir),
        ("--log-dir", &options.log_dir),
        ("--cache-dir", &options.cache_dir),
    ] {
        if let Some(folder) = folder {
            arguments.path(option, folder)?;
        }
    }
    for (name, value) in &options.environment {
        arguments.option("--env", format!("{name}={value}"));
    }
    for statement in &options.sqlite_statements {
        arguments.option("--sqlite", statement.to_string());
    }
    for (key, value) in &options.key_values {
        arguments.option("--key-value", format!("{key}={value}"));
    }
    for component in &options.follow {
        arguments.option("--follow", component);
    }
    Ok(arguments.0)
}

struct Arguments(Vec<OsString>);

impl Arguments {
    fn flag(&mut self, name: &str) {
        self.0.push(name.into());
    }

    fn option(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.extend([name.into(), value.into()]);
    }

    /// Adds an option with an absolute path.
    fn path(&mut self, name: &str, path: &Path) -> Result<()> {
        let path = std::path::absolute(path).with_context(|| name.to_owned())?;
        self.option(name, path);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(options: &HostOptions, build: bool) -> String {
        let manifest = Path::new("/app/spin.toml");
        let listen = SocketAddr::from(([127, 0, 0, 1], 4000));
        let arguments = arguments(options, build, manifest, listen).unwrap();
        arguments.join(" ".as_ref()).into_string().unwrap()
    }

    #[test]
    fn options_are_passed_on() {
        let minimal = "up --from /app/spin.toml --listen 127.0.0.1:4000";
        assert_eq!(line(&HostOptions::default(), false), minimal);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let options = HostOptions {
            sqlite_statements: vec!["SELECT 1".parse().unwrap(), "@a.sql:b".parse().unwrap()],
            key_values: vec![pair("a", "1"), pair("a", "-2 = x")],
            follow: vec!["page".to_owned()],
            runtime_config_file: Some("/runtime.toml".into()),
            truncate_logs: true,
            environment: [pair("RUST_LOG", "debug")].into(),
            state_dir: Some("/state".into()),
            log_dir: Some("/logs".into()),
            cache_dir: Some("/cache".into()),
            profile: Some("debug".into()),
            quiet: true,
            ..HostOptions::default()
        };
        assert_eq!(
            line(&options, true),
            format!(
                "{minimal} --build --quiet --truncate-logs --profile debug \
                 --runtime-config-file /runtime.toml --state-dir /state --log-dir /logs \
                 --cache-dir /cache --env RUST_LOG=debug --sqlite SELECT 1 --sqlite @a.sql:b \
                 --key-value a=1 --key-value a=-2 = x --follow page"
            )
        );
    }

    #[test]
    fn relative_paths_become_absolute() {
        let options = HostOptions {
            state_dir: Some("state".into()),
            ..HostOptions::default()
        };
        let folder = std::env::current_dir().unwrap().join("state");
        let line = line(&options, false);
        assert!(
            line.ends_with(&format!("--state-dir {}", folder.display())),
            "{line}"
        );
    }
}
