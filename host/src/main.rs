//! The binary `socket-host`.

use std::process::ExitCode;

/// Gives memory back to the system after a burst. The allocator of glibc keeps what the threads of
/// the runtime have freed.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    socket_host::cli::run()
}
