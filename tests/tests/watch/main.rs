//! `--watch`: what is saved is served, and nobody who is connected notices more than they should.

mod builds;
mod files;
mod load;
mod pages;
mod project;
mod settings;
mod stream;
