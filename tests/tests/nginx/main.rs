//! nginx in front of the host, with the configuration in `docs/deploying.md`.

mod requests;
mod site;
mod sockets;
mod streams;
