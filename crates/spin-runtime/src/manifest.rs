//! Reads and checks manifests: `spin.toml`, manifest version 2.
//!
//! A manifest is read as Spin reads it. Every problem of a file is reported in one
//! [`ManifestError`], each with its line and its dotted key.

mod component;
mod context;
mod cron_trigger;
mod error;
mod id;
mod model;
mod parse;
pub mod reader;
mod suggest;
pub(crate) mod template;
#[cfg(test)]
mod tests;
mod trigger;

pub use error::{ManifestError, Problem};
pub(crate) use model::WELL_KNOWN;
pub use model::{
    Build, Component, CronTrigger, Files, Manifest, ManifestUse, Route, Target, ToolTables,
    Trigger, Variable,
};
pub use suggest::suggest;
