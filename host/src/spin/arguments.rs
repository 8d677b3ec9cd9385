//! The command line of Spin.

use std::{ffi::OsString, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use spin_runtime::{LimitRange, Limits};

use crate::options::{HostOptions, SpinOptions};

/// Returns the arguments of Spin that serve the application at `manifest` with the options of the host.
/// Options that the host shares with Spin are passed on here.
///
/// `variables` is a JSON file with values of variables, which Spin 3.4 and later can read.
///
/// `--request-timeout` is not passed on: in Spin, it also bounds the body of a response, and would
/// cut off streams. The host applies it to the heads of Spin's responses.
///
/// # Errors
/// Fails if the current folder is not known.
pub(super) fn arguments(
    options: &HostOptions,
    spin: &SpinOptions,
    manifest: &Path,
    listen: SocketAddr,
    variables: Option<&Path>,
) -> Result<Vec<OsString>> {
    let mut arguments = Arguments(vec!["up".into()]);
    arguments.path("--from", manifest)?;
    arguments.option("--listen", listen.to_string());
    for (flag, is_set) in [
        ("--build", spin.build),
        ("--quiet", options.quiet),
        ("--truncate-logs", options.truncate_logs),
        ("--disable-cache", options.disable_cache),
        ("--disable-pooling", options.disable_pooling),
    ] {
        if is_set {
            arguments.0.push(flag.into());
        }
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
    if let Some(file) = variables {
        let mut value = OsString::from("@");
        value.push(file);
        arguments.option("--variable", value);
    }
    arguments.limits(&options.component_limits);
    if let Some(bytes) = options.max_instance_memory {
        arguments.option("--max-instance-memory", bytes.to_string());
    }
    arguments.0.extend(spin.arguments.iter().cloned());
    Ok(arguments.0)
}

struct Arguments(Vec<OsString>);

impl Arguments {
    fn option(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.extend([name.into(), value.into()]);
    }

    /// Adds the limits of instances.
    fn limits(&mut self, limits: &Limits) {
        let (default, ranges) = (&Limits::DEFAULT, &limits.instance_ranges);
        self.limit(
            "--max-instance-reuse-count",
            (limits.requests_per_instance, default.requests_per_instance),
            ranges.requests,
            |count| count.to_string(),
        );
        self.limit(
            "--max-instance-concurrent-reuse-count",
            (
                limits.concurrent_requests_per_instance,
                default.concurrent_requests_per_instance,
            ),
            ranges.concurrent_requests,
            |count| count.to_string(),
        );
        self.limit(
            "--idle-instance-timeout",
            (limits.idle_instance_timeout, default.idle_instance_timeout),
            ranges.idle_timeout,
            duration,
        );
    }

    /// Adds a limit that is a range, or that differs from its default, which Spin shares.
    fn limit<T: Copy + PartialEq>(
        &mut self,
        name: &str,
        (value, default): (T, T),
        range: Option<LimitRange<T>>,
        text: impl Fn(T) -> String,
    ) {
        match range {
            Some(range) => {
                let range = format!("{}..{}", text(range.start()), text(range.end()));
                self.option(name, range);
            }
            None if value != default => self.option(name, text(value)),
            None => {}
        }
    }

    /// Adds an option with an absolute path. An empty path has a meaning of its own.
    fn path(&mut self, name: &str, path: &Path) -> Result<()> {
        let path = if path.as_os_str().is_empty() {
            path.to_owned()
        } else {
            std::path::absolute(path).with_context(|| name.to_owned())?
        };
        self.option(name, path);
        Ok(())
    }
}

/// Returns a duration in Spin's notation, which has a single unit. Spin 4.0 only reads seconds.
fn duration(duration: Duration) -> String {
    if duration.subsec_nanos() == 0 {
        format!("{}s", duration.as_secs())
    } else {
        format!("{}us", duration.as_micros())
    }
}

#[cfg(test)]
mod tests {
    use spin_runtime::InstanceRanges;

    use super::*;

    fn spin(build: bool, arguments: &[&str]) -> SpinOptions {
        SpinOptions {
            executable: "spin".into(),
            supervisor: "socket-host".into(),
            build,
            arguments: arguments.iter().map(Into::into).collect(),
        }
    }

    fn line(options: &HostOptions, spin: &SpinOptions, variables: Option<&str>) -> String {
        let manifest = Path::new("/app/spin.toml");
        let listen = SocketAddr::from(([127, 0, 0, 1], 4000));
        let variables = variables.map(Path::new);
        let arguments = arguments(options, spin, manifest, listen, variables).unwrap();
        arguments.join(" ".as_ref()).into_string().unwrap()
    }

    #[test]
    fn options_are_passed_on() {
        let minimal = "up --from /app/spin.toml --listen 127.0.0.1:4000";
        let default = HostOptions::default();
        assert_eq!(line(&default, &spin(false, &[]), None), minimal);
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
            disable_cache: true,
            disable_pooling: true,
            max_instance_memory: Some(1 << 20),
            ..HostOptions::default()
        };
        assert_eq!(
            line(&options, &spin(true, &["--temp", "/tmp"]), Some("/v.json")),
            format!(
                "{minimal} --build --quiet --truncate-logs --disable-cache --disable-pooling \
                 --profile debug \
                 --runtime-config-file /runtime.toml --state-dir /state --log-dir /logs \
                 --cache-dir /cache --env RUST_LOG=debug --sqlite SELECT 1 --sqlite @a.sql:b \
                 --key-value a=1 --key-value a=-2 = x --follow page --variable @/v.json \
                 --max-instance-memory 1048576 --temp /tmp"
            )
        );
    }

    #[test]
    fn limits_are_passed_on_unless_they_are_the_defaults() {
        let text = |component_limits: Limits| {
            let options = HostOptions {
                component_limits,
                ..HostOptions::default()
            };
            line(&options, &spin(false, &[]), None)
        };
        let limits = Limits {
            requests_per_instance: 8,
            concurrent_requests_per_instance: 1,
            idle_instance_timeout: Duration::from_millis(1500),
            ..Limits::DEFAULT
        };
        let values = "--max-instance-reuse-count 8 --max-instance-concurrent-reuse-count 1 \
            --idle-instance-timeout 1500000us";
        assert!(text(limits).ends_with(values), "{}", text(limits));
        // The ends are the defaults.
        let limits = Limits {
            instance_ranges: InstanceRanges {
                requests: LimitRange::new(1, 128),
                idle_timeout: LimitRange::new(Duration::ZERO, Duration::from_secs(1)),
                ..InstanceRanges::default()
            },
            ..Limits::DEFAULT
        };
        let ranges = "--max-instance-reuse-count 1..128 --idle-instance-timeout 0s..1s";
        assert!(text(limits).ends_with(ranges), "{}", text(limits));
    }

    #[test]
    fn relative_paths_become_absolute() {
        let options = HostOptions {
            state_dir: Some("state".into()),
            log_dir: Some("".into()),
            ..HostOptions::default()
        };
        let folder = std::env::current_dir().unwrap().join("state");
        let line = line(&options, &spin(false, &[]), None);
        assert!(
            line.ends_with(&format!("--state-dir {} --log-dir ", folder.display())),
            "{line}"
        );
    }
}
