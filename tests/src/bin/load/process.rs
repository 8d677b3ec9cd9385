//! Child processes: starting and stopping servers, their memory and processor time, and the limit
//! on open files, which they inherit.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

use crate::http;

const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// The time for a server to exit on drop, before it is killed.
const DROP_TIMEOUT: Duration = Duration::from_secs(2);
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// The pause between two attempts to connect to a server that is starting.
const CONNECT_INTERVAL: Duration = Duration::from_micros(500);
/// The pause between two readiness checks, and the timeout of each.
const READY_INTERVAL: Duration = Duration::from_millis(20);
const READY_TIMEOUT: Duration = Duration::from_secs(5);
/// Open files that this program needs in addition to its sockets.
const OTHER_FILES: u64 = 200;

/// Raises the limit on open files as far as allowed and checks that it suffices for `sockets`.
pub fn raise_open_files(sockets: usize) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).context("raising the limit on open files")?;
    let needed = sockets as u64 + OTHER_FILES;
    if let Some(maximum) = limit.maximum {
        ensure!(
            maximum >= needed,
            "{sockets} sockets need {needed} open files, but the limit is {maximum}: raise it with `ulimit -Hn`"
        );
    }
    Ok(())
}

/// Returns the resident memory of a process and its descendants, in bytes. Shared pages are counted
/// for each process.
pub fn resident(pid: u32) -> Result<u64> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").context("reading /proc")? {
        let name = entry?.file_name();
        let Some(process) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // The process has exited since it was listed.
        let Ok(stat) = fs::read_to_string(format!("/proc/{process}/stat")) else {
            continue;
        };
        if let Some(parent) = parent(&stat) {
            children.entry(parent).or_default().push(process);
        }
    }
    let mut total = 0;
    let mut pending = vec![pid];
    while let Some(process) = pending.pop() {
        let status = match fs::read_to_string(format!("/proc/{process}/status")) {
            Ok(status) => status,
            Err(_) if process != pid => continue,
            Err(error) => {
                return Err(error).with_context(|| format!("reading the memory of process {pid}"));
            }
        };
        total += vm_rss(&status).with_context(|| format!("no VmRSS for process {process}"))?;
        pending.extend(children.remove(&process).unwrap_or_default());
    }
    Ok(total)
}

/// Returns the parent's process id from /proc/PID/stat, its fourth field. The second field, a name
/// in parentheses, may contain anything.
fn parent(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

fn vm_rss(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// The unit of times in /proc, a constant of Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// Where in /proc/PID/stat the times of a process are: `utime` and `stime`.
const OWN_TIMES: usize = 14;
/// The same for those of its children that have exited: `cutime` and `cstime`.
const TIMES_OF_CHILDREN: usize = 16;

/// Returns the processor time of a process, user and system.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    read_ticks(&pid.to_string(), OWN_TIMES)
}

/// Returns the processor time of all children that have exited, user and system.
pub fn children_cpu_time() -> Result<Duration> {
    read_ticks("self", TIMES_OF_CHILDREN)
}

fn read_ticks(process: &str, field: usize) -> Result<Duration> {
    let path = format!("/proc/{process}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let ticks = ticks(&stat, field).with_context(|| format!("unexpected format of {path}"))?;
    Ok(Duration::from_secs_f64(ticks as f64 / TICKS_PER_SECOND))
}

/// Returns the sum of a field of /proc/PID/stat and the next one. They count from 1.
fn ticks(stat: &str, field: usize) -> Option<u64> {
    // The first two come before the name's end.
    let fields = stat.rsplit_once(')')?.1.split_whitespace();
    let mut fields = fields.skip(field - 3);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// How to start a server.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Processes that the server needs. They are started first and are not measured.
    pub companions: Vec<Launch>,
    /// Further processes of the server, which are measured with it.
    pub peers: Vec<Launch>,
    /// The signal on which it exits with 0.
    pub stop: Signal,
}

impl Launch {
    /// Creates one for a program that stops on SIGTERM.
    pub fn new(
        program: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item: Into<String>>,
    ) -> Self {
        Self {
            program: program.into(),
            arguments: arguments.into_iter().map(Into::into).collect(),
            companions: Vec::new(),
            peers: Vec::new(),
            stop: Signal::TERM,
        }
    }

    /// Restricts the program to the first processors of this machine.
    pub fn pin(&mut self, processors: usize) -> Result<()> {
        let program = self.program.to_str().context("the program is not UTF-8")?;
        let list = format!("0-{}", processors.saturating_sub(1));
        let pinned = ["--cpu-list", &list, program].map(String::from);
        self.arguments.splice(..0, pinned);
        self.program = "taskset".into();
        Ok(())
    }

    /// Creates one from a command line that has been split.
    pub fn from_command(command: &[String]) -> Result<Self> {
        let (program, arguments) = command
            .split_first()
            .context("the command to start is empty")?;
        Ok(Self::new(program, arguments))
    }
}

/// The processes of a server.
#[derive(Clone, Debug, Default)]
pub struct Processes {
    /// Those that are measured.
    pub servers: Vec<u32>,
    /// Its Redis server, if it has one.
    pub redis: Option<u32>,
}

impl Processes {
    /// Returns the resident memory of those that are measured, in bytes.
    pub fn resident(&self) -> Result<u64> {
        self.servers.iter().map(|pid| resident(*pid)).sum()
    }

    /// Returns the processor time of those that are measured.
    pub fn cpu_time(&self) -> Result<Duration> {
        self.servers.iter().map(|pid| cpu_time(*pid)).sum()
    }

    /// Returns the processor time of Redis.
    pub fn redis_cpu_time(&self) -> Result<Option<Duration>> {
        self.redis.map(cpu_time).transpose()
    }
}

/// A server started by this program. Stopped on drop.
pub struct Server {
    child: Child,
    program: PathBuf,
    stop: Signal,
    started: Instant,
    /// Stopped after the server.
    companions: Vec<Server>,
    peers: Vec<Server>,
}

impl Server {
    /// Starts a server and discards its standard output.
    pub fn start(launch: &Launch) -> Result<Self> {
        let companions = launch
            .companions
            .iter()
            .map(Self::start)
            .collect::<Result<_>>()?;
        let peers = launch
            .peers
            .iter()
            .map(Self::start)
            .collect::<Result<_>>()?;
        let started = Instant::now();
        let child = Command::new(&launch.program)
            .args(&launch.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {}", launch.program.display()))?;
        Ok(Self {
            child,
            program: launch.program.clone(),
            stop: launch.stop,
            started,
            companions,
            peers,
        })
    }

    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the processes.
    pub fn processes(&self) -> Processes {
        let peers = self.peers.iter().map(Self::pid);
        let is_redis = |companion: &&Self| companion.program.ends_with("redis-server");
        let redis = self.companions.iter().find(is_redis);
        Processes {
            servers: std::iter::once(self.pid()).chain(peers).collect(),
            redis: redis.map(Self::pid),
        }
    }

    /// Kills the first of the peers without giving it time to end.
    pub fn kill_peer(&mut self) -> Result<()> {
        let peer = self.peers.first_mut().context("no other host")?;
        peer.child.kill().context("killing a host")?;
        peer.child.wait().context("waiting for the killed host")?;
        self.peers.remove(0);
        Ok(())
    }

    /// Requests `path` until the first byte of a response arrives, whatever its status, and returns
    /// the time since the start.
    pub fn first_byte(&mut self, address: SocketAddr, path: &str) -> Result<Duration> {
        loop {
            let left = START_TIMEOUT.saturating_sub(self.started.elapsed());
            ensure!(
                !left.is_zero(),
                "no response from http://{address}{path} within {START_TIMEOUT:?}"
            );
            if let Some(status) = self.child.try_wait()? {
                bail!("the server exited ({status}) before it responded on {address}");
            }
            match TcpStream::connect(address) {
                Ok(mut stream) => {
                    stream.set_read_timeout(Some(left))?;
                    stream.write_all(&http::get(address, path))?;
                    let read = stream
                        .read(&mut [0; 1])
                        .with_context(|| format!("waiting for http://{address}{path}"))?;
                    ensure!(
                        read == 1,
                        "http://{address}{path} closed the connection without a response"
                    );
                    return Ok(self.started.elapsed());
                }
                Err(_) => std::thread::sleep(CONNECT_INTERVAL),
            }
        }
    }

    /// Requests `path` until the status is 200, so that the server and its backend are ready.
    pub fn wait_until_ready(&mut self, address: SocketAddr, path: &str) -> Result<()> {
        loop {
            let mut head = [0; 12];
            // The server is not ready if this fails or times out.
            let response = TcpStream::connect(address).and_then(|mut stream| {
                stream.set_read_timeout(Some(READY_TIMEOUT))?;
                stream.write_all(&http::get(address, path))?;
                stream.read_exact(&mut head)
            });
            if response.is_ok() && head.ends_with(b" 200") {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the server exited ({status}) before it responded on {address}");
            }
            ensure!(
                self.started.elapsed() < START_TIMEOUT,
                "http://{address}{path} did not return 200 within {START_TIMEOUT:?}: {:?}",
                String::from_utf8_lossy(&head)
            );
            std::thread::sleep(READY_INTERVAL);
        }
    }

    /// Stops the server and its companions with their signals. Fails if the server does not exit with 0.
    pub fn stop(mut self) -> Result<()> {
        let status = self.terminate()?;
        ensure!(
            status.success(),
            "after {:?} the server exited with {status}, not 0",
            self.stop
        );
        Ok(())
    }

    fn terminate(&mut self) -> Result<ExitStatus> {
        kill_process(Pid::from_child(&self.child), self.stop).context("stopping the server")?;
        let signalled = Instant::now();
        while signalled.elapsed() < STOP_TIMEOUT {
            if let Some(status) = self.child.try_wait()? {
                for other in self.peers.iter_mut().chain(&mut self.companions) {
                    other.terminate()?;
                }
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!(
            "the server did not exit within {STOP_TIMEOUT:?} of {:?}",
            self.stop
        )
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Errors only mean that it has exited. The signal first, so that the server can stop its own
        // children.
        let _ = kill_process(Pid::from_child(&self.child), self.stop);
        let signalled = Instant::now();
        while signalled.elapsed() < DROP_TIMEOUT && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_proc_are_parsed() {
        assert_eq!(parent("12 (a (b) c) S 7 12 12 0"), Some(7));
        assert_eq!(parent("12 a"), None);
        let stat = "12 (a b) c) S 7 12 12 0 -1 0 1 2 3 4 50 60 700 800 20 0";
        assert_eq!(ticks(stat, OWN_TIMES), Some(110));
        assert_eq!(ticks(stat, TIMES_OF_CHILDREN), Some(1500));
        assert_eq!(ticks("12 (a) S 7", OWN_TIMES), None);
        assert_eq!(
            vm_rss("Name:\tx\nVmRSS:\t    1234 kB\nVmData:\t 1 kB\n"),
            Some(1234 * 1024)
        );
        assert_eq!(vm_rss("Name:\tkthreadd\n"), None);
    }

    #[test]
    fn memory_includes_child_processes() {
        const MEMORY: u64 = 16 << 20;
        let before = resident(std::process::id()).unwrap();
        assert!(before > 100 << 10, "{before} bytes");
        // Holds the memory while it waits. The kernel's counters lag by some pages per processor.
        let script = format!("x=$(head -c {MEMORY} /dev/zero | tr '\\0' x); read -r line");
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let grown = (0..1000).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            resident(child.id()).is_ok_and(|bytes| bytes >= MEMORY)
        });
        let with_child = resident(std::process::id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(grown, "the child does not allocate");
        assert!(
            with_child >= before / 2 + MEMORY,
            "{with_child} bytes with a child, {before} without"
        );
    }

    #[test]
    fn more_sockets_than_open_files_is_an_error() {
        let error = raise_open_files(usize::MAX >> 1).unwrap_err().to_string();
        assert!(error.contains("ulimit"), "{error}");
    }
}
