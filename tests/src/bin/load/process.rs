//! Processes of servers: starting, stopping, their memory, and the limit on
//! open files that this one and those it starts live under.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

use crate::http;
use crate::target::Start;

const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// Where nobody waits for a server to end well.
const DROP_TIMEOUT: Duration = Duration::from_secs(2);
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two tries to connect to a server that is starting.
const RETRY: Duration = Duration::from_micros(500);
/// Between two questions whether a server is ready, and for the answer.
const READY_EVERY: Duration = Duration::from_millis(20);
const READY_ANSWER: Duration = Duration::from_secs(5);
/// Open files this program needs beside its sockets.
const FILES_BESIDE: u64 = 200;

/// Raises the limit on open files to what is allowed, and checks that it is
/// enough for so many sockets.
pub fn raise_open_files(sockets: usize) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).context("raising the limit on open files")?;
    let needed = sockets as u64 + FILES_BESIDE;
    if let Some(maximum) = limit.maximum {
        ensure!(
            maximum >= needed,
            "{sockets} sockets need {needed} open files, and at most {maximum} are allowed: raise `ulimit -Hn`"
        );
    }
    Ok(())
}

/// Resident memory of a process and all it started, in bytes. Pages shared
/// between them are counted for each.
pub fn resident(pid: u32) -> Result<u64> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").context("reading /proc")? {
        let name = entry?.file_name();
        let Some(process) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // Gone since it was listed: nobody's child any more.
        let Ok(stat) = fs::read_to_string(format!("/proc/{process}/stat")) else {
            continue;
        };
        if let Some(parent) = parent(&stat) {
            children.entry(parent).or_default().push(process);
        }
    }
    let mut total = 0;
    let mut left = vec![pid];
    while let Some(process) = left.pop() {
        let status = match fs::read_to_string(format!("/proc/{process}/status")) {
            Ok(status) => status,
            Err(_) if process != pid => continue,
            Err(error) => {
                return Err(error).with_context(|| format!("reading the memory of process {pid}"));
            }
        };
        total += vm_rss(&status).with_context(|| format!("no VmRSS of process {process}"))?;
        left.extend(children.remove(&process).unwrap_or_default());
    }
    Ok(total)
}

/// The fourth field of /proc/PID/stat; the second, a name in brackets, may
/// contain anything.
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

/// A server this program started; killed when dropped.
pub struct Server {
    child: Child,
    started: Instant,
    /// Stopped after it.
    beside: Vec<Server>,
}

impl Server {
    /// Starts it. What it prints on standard output is dropped.
    pub fn start(start: &Start) -> Result<Self> {
        let beside = start
            .beside
            .iter()
            .map(Self::start)
            .collect::<Result<_>>()?;
        let started = Instant::now();
        let child = Command::new(&start.program)
            .args(&start.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {}", start.program.display()))?;
        Ok(Self {
            child,
            started,
            beside,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks for `path` until the first byte of an answer has come, whatever it
    /// says, and returns the time since the start.
    pub fn first_byte(&mut self, address: SocketAddr, path: &str) -> Result<Duration> {
        loop {
            let left = START_TIMEOUT.saturating_sub(self.started.elapsed());
            ensure!(
                !left.is_zero(),
                "no answer from http://{address}{path} within {START_TIMEOUT:?}"
            );
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended ({status}) before it answered on {address}");
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
                        "http://{address}{path} was closed without an answer"
                    );
                    return Ok(self.started.elapsed());
                }
                Err(_) => std::thread::sleep(RETRY),
            }
        }
    }

    /// Asks for `path` until the answer is 200: all that stands behind the server is there.
    pub fn ready(&mut self, address: SocketAddr, path: &str) -> Result<()> {
        loop {
            let mut head = [0; 12];
            // Whatever fails or takes long is not ready yet.
            let asked = TcpStream::connect(address).and_then(|mut stream| {
                stream.set_read_timeout(Some(READY_ANSWER))?;
                stream.write_all(&http::get(address, path))?;
                stream.read_exact(&mut head)
            });
            if asked.is_ok() && head.ends_with(b" 200") {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended ({status}) before it answered on {address}");
            }
            ensure!(
                self.started.elapsed() < START_TIMEOUT,
                "http://{address}{path} is not answered with 200 within {START_TIMEOUT:?}: {:?}",
                String::from_utf8_lossy(&head)
            );
            std::thread::sleep(READY_EVERY);
        }
    }

    /// SIGTERM; an error when that does not end it in 15 s.
    pub fn stop(mut self) -> Result<ExitStatus> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).context("stopping the server")?;
        let asked = Instant::now();
        while asked.elapsed() < STOP_TIMEOUT {
            if let Some(status) = self.child.try_wait()? {
                for server in self.beside.drain(..) {
                    server.stop()?;
                }
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("the server did not end within {STOP_TIMEOUT:?} of SIGTERM")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already ended, or about to be: none of these calls has anything to tell. Asked first,
        // for a server that has children of its own ends them then.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let asked = Instant::now();
        while asked.elapsed() < DROP_TIMEOUT && matches!(self.child.try_wait(), Ok(None)) {
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
    fn fields_of_proc_are_found() {
        assert_eq!(parent("12 (a (b) c) S 7 12 12 0"), Some(7));
        assert_eq!(parent("12 a"), None);
        assert_eq!(
            vm_rss("Name:\tx\nVmRSS:\t    1234 kB\nVmData:\t 1 kB\n"),
            Some(1234 * 1024)
        );
        assert_eq!(vm_rss("Name:\tkthreadd\n"), None);
    }

    #[test]
    fn memory_of_this_process_is_counted_with_its_children() {
        const MEMORY: u64 = 16 << 20;
        let own = resident(std::process::id()).unwrap();
        assert!(own > 100 << 10, "{own} bytes");
        // Holds the memory while it waits. The kernel's counts lag by some pages a processor.
        let hold = format!("x=$(head -c {MEMORY} /dev/zero | tr '\\0' x); read -r line");
        let mut child = Command::new("sh")
            .args(["-c", &hold])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let grown = (0..1000).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            resident(child.id()).is_ok_and(|bytes| bytes >= MEMORY)
        });
        let both = resident(std::process::id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(grown, "the child does not grow");
        assert!(
            both >= own / 2 + MEMORY,
            "{both} bytes with a child, {own} without"
        );
    }

    #[test]
    fn more_sockets_than_files_are_refused() {
        let error = raise_open_files(usize::MAX >> 1).unwrap_err().to_string();
        assert!(error.contains("ulimit"), "{error}");
    }
}
