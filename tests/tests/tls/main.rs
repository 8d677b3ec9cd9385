//! The public port and the control port with TLS and HTTP/2.

mod authority;
mod certificates;
mod client;
mod control;
mod hostile;
mod load;
mod redirect;
mod sockets;
