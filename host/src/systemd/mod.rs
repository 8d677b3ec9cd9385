//! The service manager: the sockets that it passes to the host, and what the host reports to it. The
//! interfaces are those of systemd.
//!
//! - [`sockets`] takes the listening sockets of socket units.
//! - [`notifier`] reports the state of the service.
//! - [`watchdog`] shows that the host works.
//!
//! Without a service manager, nothing happens.

pub(crate) mod notifier;
pub(crate) mod sockets;
pub(crate) mod watchdog;

use std::process::Command;

/// The environment variables for a service. They concern this process, and not those that it starts.
const VARIABLES: [&str; 6] = [
    sockets::LISTEN_FDS,
    sockets::LISTEN_PID,
    sockets::LISTEN_FDNAMES,
    notifier::NOTIFY_SOCKET,
    watchdog::WATCHDOG_USEC,
    watchdog::WATCHDOG_PID,
];

/// Removes the variables for a service from the environment of a command. It would otherwise report
/// itself as the service, or take descriptors of its own for the sockets.
pub(crate) fn hide_from(command: &mut Command) {
    for variable in VARIABLES {
        command.env_remove(variable);
    }
}
