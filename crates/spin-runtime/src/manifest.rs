//! Reads and checks manifests: `spin.toml`, manifest versions 1 and 2.
//!
//! A manifest is read as Spin reads it. Every problem of a file is reported in one
//! [`ManifestError`], each with its line and its dotted key.

mod build;
mod component;
mod context;
mod cron_trigger;
mod dependencies;
mod dependency_name;
mod document;
mod error;
mod id;
mod middleware;
mod model;
mod parse;
mod profile;
pub mod reader;
mod source;
mod suggest;
pub(crate) mod template;
#[cfg(test)]
mod tests;
mod trigger;
mod version1;

pub(crate) use context::USE_SPIN;
pub use dependency_name::DependencyName;
pub(crate) use document::read_document;
pub use error::{ManifestError, Problem};
pub(crate) use model::WELL_KNOWN;
pub use model::{
    Build, Component, CronTrigger, Dependency, Files, Inherit, Manifest, ManifestOptions,
    ManifestUse, Route, Source, Target, ToolTables, Trigger, Variable,
};
pub use suggest::suggest;
