//! Runs the commands that build components: `[component.ID.build]`.

use std::{
    collections::VecDeque,
    io::{self, IsTerminal as _, Write as _},
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{io::AsyncReadExt as _, net::unix::pipe::Receiver, process::Command, time::timeout};

use crate::dev::process::Running;
use crate::terminal::print_error_line as note;
use spin_runtime::{
    Manifest,
    manifest::{Build, suggest},
};

/// What is kept of a command's output: its end.
const KEPT_OUTPUT: usize = 64 << 10;
/// How long output is read when its command has ended. What the command left running may hold the
/// other end for ever, or write without end.
const LAST_OUTPUT: Duration = Duration::from_millis(100);

/// Builds the components that say how, one command after another, in the manifest's order of ids;
/// only those named, if some are. What the commands print goes to the terminal, from which they
/// read nothing. When the future is dropped, the running command is ended with what it started: see
/// [`ended`].
///
/// # Errors
/// The first command that fails, with its component and status; no later one is run. Before any
/// is run: a name that is no component's.
pub async fn build(manifest: &Manifest, only: Option<&[String]>) -> anyhow::Result<()> {
    for id in only.unwrap_or_default() {
        if !manifest.components.contains_key(id) {
            let known = manifest.components.keys().map(String::as_str);
            let suggestion = suggest(id, known.clone());
            bail!(
                "there is no component {id:?}{suggestion}; {} has {}",
                manifest.path.display(),
                known.collect::<Vec<_>>().join(", ")
            );
        }
    }
    let wanted = |id: &String| only.is_none_or(|only| only.contains(id));
    for (id, component) in &manifest.components {
        if let Some(build) = component.build.as_ref().filter(|_| wanted(id)) {
            run(id, build, None).await?;
        }
    }
    Ok(())
}

/// Builds one component as [`build`] does. `output` gets the end of what the commands print, which
/// goes to the terminal as well.
///
/// # Errors
/// The first command that fails, with the component and its status.
pub async fn run(id: &str, build: &Build, mut output: Option<&mut Output>) -> anyhow::Result<()> {
    if !build.workdir.is_dir() {
        bail!(
            "component.{id}.build.workdir: there is no folder {}",
            build.workdir.display()
        );
    }
    for line in &build.commands {
        note(format_args!("Building component {id} with `{line}`"));
        let mut command = Command::new("sh");
        command
            .args(["-c", line])
            .current_dir(&build.workdir)
            .envs(&build.environment);
        let status = match &mut output {
            Some(output) => output.of(command).await,
            None => match Running::start(&mut command) {
                Ok(mut running) => running.ended().await,
                Err(error) => Err(error),
            },
        };
        let status = status.with_context(|| {
            format!("component {id}: cannot run the build command `{line}` with `sh`")
        })?;
        if !status.success() {
            bail!("component {id}: the build command `{line}` failed with {status}");
        }
    }
    Ok(())
}

/// The end of what commands print.
#[derive(Default)]
pub struct Output {
    end: VecDeque<u8>,
    is_cut: bool,
}

impl Output {
    /// As text, with a line that says so when the beginning is missing.
    pub fn text(&self) -> String {
        let bytes: Vec<u8> = self.end.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        match self.is_cut {
            // Not within a line, nor within a character.
            true => {
                let whole = text.split_once('\n').map_or("", |(_, rest)| rest);
                format!("… the beginning is in the terminal\n{whole}")
            }
            false => text.into_owned(),
        }
    }

    /// Runs a command whose stdout and stderr go to our stderr, in their order, and in here.
    async fn of(&mut self, mut command: Command) -> io::Result<ExitStatus> {
        let (reader, writer) = io::pipe()?;
        command.stdout(writer.try_clone()?).stderr(writer);
        // It does not see that the output ends in a terminal.
        if io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
            command.env("CARGO_TERM_COLOR", "always");
        }
        let mut running = Running::start(&mut command)?;
        // The command holds our end of the pipe.
        drop(command);
        let mut reader = Receiver::from_owned_fd(reader.into())?;
        let mut piece = vec![0; 8 << 10];
        let status = loop {
            tokio::select! {
                biased;
                read = reader.read(&mut piece) => match read? {
                    0 => break running.ended().await?,
                    length => self.add(&piece[..length]),
                },
                status = running.ended() => break status?,
            }
        };
        let rest = async {
            loop {
                match reader.read(&mut piece).await? {
                    0 => return Ok(status),
                    length => self.add(&piece[..length]),
                }
            }
        };
        timeout(LAST_OUTPUT, rest).await.unwrap_or(Ok(status))
    }

    fn add(&mut self, bytes: &[u8]) {
        // A closed terminal is no reason to stop.
        let _ = io::stderr().lock().write_all(bytes);
        self.end.extend(bytes);
        let surplus = self.end.len().saturating_sub(KEPT_OUTPUT);
        self.is_cut |= surplus > 0;
        self.end.drain(..surplus);
    }
}

#[cfg(test)]
mod tests;
