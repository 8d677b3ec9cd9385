//! `--watch`: changed files are built and served, and connections are not interrupted.

mod builds;
mod files;
mod links;
mod load;
mod pages;
mod project;
mod reload_socket;
mod settings;
