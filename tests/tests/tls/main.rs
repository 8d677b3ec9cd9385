//! The public port and the control port with TLS and HTTP/2.

mod authority;
mod certificates;
mod client;
mod control;
mod framing;
mod hostile;
mod load;
mod pseudo_headers;
mod redirect;
mod sockets;
