//! The host as a service of systemd: sockets, notifications, and the unit files.

mod notifications;
mod sockets;
mod units;
