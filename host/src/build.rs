//! Runs the commands that build components: `[component.ID.build]`.

use std::{
    collections::VecDeque,
    io::{self, IsTerminal as _, Write as _},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::AsyncReadExt as _,
    net::unix::pipe::Receiver,
    process::{Child, Command},
    time::timeout,
};

use crate::terminal::note;
use runtime::manifest::{Build, Manifest, suggest};

/// What is kept of a command's output: its end.
const KEPT_OUTPUT: usize = 64 << 10;
/// How long output is read when its command has ended. What the command left running may hold the
/// other end for ever, or write without end.
const LAST_OUTPUT: Duration = Duration::from_millis(100);

/// Builds the components that say how, one command after another, in the manifest's order of ids;
/// only those named, if some are. What the commands print goes to the terminal, from which they
/// read nothing. When the future is dropped, the running command is killed with what it started.
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

/// A command that runs, and what it started, in a process group of their own: dropping this kills
/// them all, unless the command has ended.
struct Running {
    child: Child,
    /// The number is the group's for as long as nobody has waited for the command.
    group: Option<Pid>,
}

impl Running {
    /// Without anything to read: the terminal would stop a group that is not in its foreground.
    fn start(command: &mut Command) -> io::Result<Self> {
        let command = command.stdin(Stdio::null()).process_group(0);
        let child = command.kill_on_drop(true).spawn()?;
        let group = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        Ok(Self { child, group })
    }

    async fn ended(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        self.group = None;
        Ok(status)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            // It fails when there is nobody left.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
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
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn manifest(folder: &Path, builds: &[(&str, &str)]) -> Manifest {
        let component = |(id, build): &(&str, &str)| {
            format!("[component.{id}]\nsource = \"x.wasm\"\n{build}\n")
        };
        let components: String = builds.iter().map(component).collect();
        let text = format!(
            "spin_manifest_version = 2\napplication.name = \"test\"\n\
             trigger.http = [{{ route = \"/\", static_response = {{}} }}]\n{components}"
        );
        Manifest::parse(&text, folder.join("spin.toml")).unwrap()
    }

    #[tokio::test]
    async fn commands_run_in_order_where_they_should() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("sub")).unwrap();
        let manifest = manifest(
            folder.path(),
            &[
                (
                    "a",
                    "build = { command = [\"printf 1 >> ../log\", \"printf $WORD >> ../log\"], workdir = \"sub\", environment = { WORD = \"two\" } }",
                ),
                ("b", "build.command = \"printf 3 >> log\""),
                ("c", ""),
            ],
        );
        build(&manifest, None).await.unwrap();
        assert_eq!(
            fs::read_to_string(folder.path().join("log")).unwrap(),
            "1two3"
        );
        build(&manifest, Some(&["b".to_owned(), "c".to_owned()]))
            .await
            .unwrap();
        assert_eq!(
            fs::read_to_string(folder.path().join("log")).unwrap(),
            "1two33"
        );
    }

    #[tokio::test]
    async fn the_first_failure_ends_it() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = manifest(
            folder.path(),
            &[
                ("a", "build.command = [\"exit 3\", \"touch later\"]"),
                ("b", "build.command = \"touch later\""),
            ],
        );
        let error = build(&manifest, None).await.unwrap_err().to_string();
        assert_eq!(
            error,
            "component a: the build command `exit 3` failed with exit status: 3"
        );
        assert!(!folder.path().join("later").exists());
    }

    #[tokio::test]
    async fn wrong_names_and_folders_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = manifest(
            folder.path(),
            &[
                (
                    "orders",
                    "build = { command = \"touch ran\", workdir = \"none\" }",
                ),
                ("page", "build.command = \"touch ran\""),
            ],
        );
        let error = build(&manifest, Some(&["page".to_owned(), "order".to_owned()]))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("did you mean `orders`") && error.contains("orders, page"),
            "{error}"
        );
        let error = build(&manifest, None).await.unwrap_err().to_string();
        assert!(
            error.contains("component.orders.build.workdir") && error.contains("none"),
            "{error}"
        );
        assert!(!folder.path().join("ran").exists());
    }

    #[tokio::test]
    async fn the_end_of_the_output_is_kept_in_its_order() {
        let build = |command: &str| Build {
            commands: vec![command.to_owned()],
            workdir: std::env::temp_dir(),
            watch: Vec::new(),
            environment: Default::default(),
        };
        let mut output = Output::default();
        let failing = build("echo one; echo two >&2; echo three; exit 1");
        assert!(run("a", &failing, Some(&mut output)).await.is_err());
        assert_eq!(output.text(), "one\ntwo\nthree\n");

        let mut output = Output::default();
        let long = build("for n in $(seq 100 199); do printf '%01000d\\n' $n; done");
        run("a", &long, Some(&mut output)).await.unwrap();
        let text = output.text();
        assert!(text.len() <= KEPT_OUTPUT + 100 && text.ends_with("199\n"));
        let (note, lines) = text.split_once('\n').unwrap();
        assert_eq!(note, "… the beginning is in the terminal");
        assert!(lines.lines().all(|line| line.len() == 1000), "{lines}");
    }

    #[tokio::test]
    async fn what_a_command_leaves_running_does_not_hold_the_build() {
        for command in [
            "sleep 20 & echo $!",
            "while sleep 0.01; do echo chatter; done & echo $!",
        ] {
            let build = Build {
                commands: vec![command.to_owned()],
                workdir: std::env::temp_dir(),
                watch: Vec::new(),
                environment: Default::default(),
            };
            let mut output = Output::default();
            let built = run("a", &build, Some(&mut output));
            timeout(Duration::from_secs(10), built)
                .await
                .unwrap()
                .unwrap();
            let text = output.text();
            let left = text.lines().find_map(|line| line.parse().ok()).unwrap();
            let left = Pid::from_raw(left).unwrap();
            // One that writes has ended for want of a reader.
            let _ = rustix::process::kill_process(left, Signal::KILL);
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_dropped_build_is_killed_with_what_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let command = "sleep 600 & echo $$ $! > pids.new; mv pids.new pids; wait";
        let manifest = manifest(
            folder.path(),
            &[("a", &format!("build.command = {command:?}"))],
        );
        let pids = folder.path().join("pids");
        for captured in [false, true] {
            let mut output = Output::default();
            let output = captured.then_some(&mut output);
            let started = async {
                while !pids.exists() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let component = &manifest.components["a"];
            tokio::select! {
                result = run("a", component.build.as_ref().unwrap(), output) => {
                    panic!("ended early: {result:?}")
                }
                () = started => {}
            }
            for pid in fs::read_to_string(&pids).unwrap().split_whitespace() {
                gone(pid).await;
            }
            fs::remove_file(&pids).unwrap();
        }
    }

    /// Waits for the end of a process. Reaping is tokio's, or the system's, in the background; one
    /// that is left as a zombie was killed.
    async fn gone(pid: &str) {
        let stat = Path::new("/proc").join(pid).join("stat");
        for _ in 0..2000 {
            match fs::read_to_string(&stat) {
                Ok(stat) if !stat.contains(") Z ") => {}
                _ => return,
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{pid} still runs");
    }
}
