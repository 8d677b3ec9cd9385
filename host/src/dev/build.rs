//! Runs the build commands of components: `[component.ID.build]`.

use std::{
    collections::VecDeque,
    io::{self, Write as _},
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context as _, bail};
use spin_runtime::{
    Manifest,
    manifest::{Build, Component, suggest},
};
use tokio::{io::AsyncReadExt as _, net::unix::pipe::Receiver, process::Command, time::timeout};

use crate::{
    config::Limits,
    dev::process::BuildProcess,
    terminal::{Painter, Style, has_colors, print_error_line},
};

/// Bytes that are kept of the output of a component's commands.
const MAX_OUTPUT_BYTES: usize = Limits::DEFAULT.build_output_bytes;
/// How long output is read after the command has exited. Its background processes may keep the pipe
/// open, or write to it for ever.
const OUTPUT_GRACE: Duration = Duration::from_millis(100);

/// Builds the components that have a build command, one after another, ordered by id.
///
/// `only` restricts this to the components it names. The commands print to the terminal and have an
/// empty stdin. Dropping the future terminates the running command and its child processes: see
/// [`wait_for_builds`](crate::dev::process::wait_for_builds).
///
/// # Errors
/// Fails if `only` names an unknown component, before any command runs. Otherwise fails with the
/// first command that fails, and runs no further ones. Also fails if a component does not exist after
/// all commands.
pub(crate) async fn build(manifest: &Manifest, only: Option<&[String]>) -> anyhow::Result<()> {
    for id in only.unwrap_or_default() {
        if !manifest.components.contains_key(id) {
            let ids = manifest.components.keys().map(String::as_str);
            let suggestion = suggest(id, ids.clone());
            bail!(
                "unknown component {id:?}{suggestion}: {} defines {}",
                manifest.path.display(),
                ids.collect::<Vec<_>>().join(", ")
            );
        }
    }
    let selected = || {
        let components = manifest.components.iter();
        components.filter(|(id, _)| only.is_none_or(|only| only.contains(id)))
    };
    for (id, component) in selected() {
        if let Some(build) = &component.build {
            build_component(id, build, None).await?;
        }
    }
    // One command may build several components.
    selected().try_for_each(|(_, component)| check_output(component))
}

/// Checks that the wasm of a component exists after its build.
///
/// # Errors
/// Fails if it does not exist. A component without a build is not checked.
pub(crate) fn check_output(component: &Component) -> anyhow::Result<()> {
    let Some(build) = &component.build else {
        return Ok(());
    };
    let (id, source) = (&component.id, &component.source);
    // Another error is reported when the file is read.
    if source.is_missing() {
        bail!(
            "component {id}: the build command `{}` ran and did not create {}: \
             correct the command, or `source` of [component.{id}]",
            build.commands.join(" && "),
            source.display()
        );
    }
    Ok(())
}

/// Builds one component as [`build`] does. `output` also receives what the commands print.
///
/// # Errors
/// Fails with the first command that fails.
pub(crate) async fn build_component(
    id: &str,
    build: &Build,
    mut output: Option<&mut OutputTail>,
) -> anyhow::Result<()> {
    if !build.workdir.is_dir() {
        bail!(
            "component.{id}.build.workdir: folder {} does not exist",
            build.workdir.display()
        );
    }
    for line in &build.commands {
        let heading = format!("Building component {id} with `{line}`");
        print_error_line(Painter::stderr().paint(Style::Bold, heading));
        let mut command = Command::new("sh");
        command
            .args(["-c", line])
            .current_dir(&build.workdir)
            .envs(&build.environment);
        let status = match &mut output {
            Some(output) => output.capture(command).await,
            None => match BuildProcess::spawn(&mut command) {
                Ok(mut process) => process.wait().await,
                Err(error) => Err(error),
            },
        };
        let status = status.with_context(|| {
            format!("component {id}: failed to run build command `{line}` with `sh`")
        })?;
        if !status.success() {
            bail!("component {id}: build command `{line}` failed with {status}");
        }
    }
    Ok(())
}

/// The end of the output of commands.
#[derive(Default)]
pub(crate) struct OutputTail {
    bytes: VecDeque<u8>,
    is_truncated: bool,
}

impl OutputTail {
    /// Returns the output as text. If its beginning is missing, a line says where to find it.
    pub(crate) fn text(&self) -> String {
        let bytes: Vec<u8> = self.bytes.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        if self.is_truncated {
            // The first line may be incomplete.
            let lines = text.split_once('\n').map_or("", |(_, lines)| lines);
            format!("… earlier output is in the terminal\n{lines}")
        } else {
            text.into_owned()
        }
    }

    /// Runs a command. Its stdout and stderr are interleaved, copied to our stderr, and kept here.
    async fn capture(&mut self, mut command: Command) -> io::Result<ExitStatus> {
        let (reader, writer) = io::pipe()?;
        command.stdout(writer.try_clone()?).stderr(writer);
        // Cargo sees a pipe, although its output ends up in a terminal.
        if has_colors(&io::stderr()) {
            command.env("CARGO_TERM_COLOR", "always");
        }
        let mut process = BuildProcess::spawn(&mut command)?;
        // Closes our copy of the pipe's writing end, so that reading comes to an end.
        drop(command);
        let mut reader = Receiver::from_owned_fd(reader.into())?;
        let mut buffer = vec![0; 8 << 10];
        let status = loop {
            tokio::select! {
                biased;
                read = reader.read(&mut buffer) => match read? {
                    0 => break process.wait().await?,
                    length => self.push(&buffer[..length]),
                },
                status = process.wait() => break status?,
            }
        };
        let remaining = async {
            loop {
                match reader.read(&mut buffer).await? {
                    0 => return Ok(status),
                    length => self.push(&buffer[..length]),
                }
            }
        };
        timeout(OUTPUT_GRACE, remaining).await.unwrap_or(Ok(status))
    }

    fn push(&mut self, bytes: &[u8]) {
        // A closed terminal does not fail the build.
        let _ = io::stderr().lock().write_all(bytes);
        self.bytes.extend(bytes);
        let surplus = self.bytes.len().saturating_sub(MAX_OUTPUT_BYTES);
        self.is_truncated |= surplus > 0;
        self.bytes.drain(..surplus);
    }
}

#[cfg(test)]
mod tests;
