//! The host as a proxy in front of an upstream server.

use tests::backend;

mod clients;
mod failures;
mod framing;
mod goaway;
mod holds;
mod paths;
mod recovery;
mod requests;
mod sockets;
mod tls;
mod tunnels;
