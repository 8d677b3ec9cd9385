//! Counts the instructions of a call with Callgrind.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::Call;

/// The calls of the two runs, whose difference leaves out the start of the process.
const CALLS: [u32; 2] = [300, 1300];

/// Returns the number of instructions outside the kernel.
///
/// # Errors
/// Fails if Valgrind is not installed, or if a call fails.
pub fn count(call: Call) -> Result<u64> {
    let [few, many] = CALLS;
    // The first run may compile the components.
    let first = collect(call, few)?;
    let instructions = collect(call, many)?.saturating_sub(first);
    Ok(instructions / u64::from(many - few))
}

fn collect(call: Call, calls: u32) -> Result<u64> {
    let program = std::env::current_exe().context("the path of this program is unknown")?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(["--only", &call.name(), "--run", &calls.to_string()])
        .stdin(Stdio::null())
        .output()
        .context("cannot run valgrind; install it: apt-get install valgrind")?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{}: {text}", output.status);
    }
    let collected = text
        .lines()
        .find_map(|line| line.split_once("Collected : "))
        .context("Callgrind printed no number of instructions")?;
    collected.1.trim().parse().context("not a number")
}
