//! The host in front of a server: what goes through, what fails how, and what is tunnelled.

mod backend;
mod failures;
mod goaway;
mod holds;
mod paths;
mod requests;
mod sockets;
mod tls;
mod tunnels;
