//! Runs Spin applications in embedded Wasmtime.
//!
//! The crate reads manifests ([`Manifest`]), resolves variables ([`Variables`]), and runs
//! components ([`Embedded`]). An application is a [`Backend`](backend::Backend): it takes a request
//! and returns a response. It knows nothing about the connections that requests come from.
//!
//! ```no_run
//! use spin_runtime::{
//!     Changes, Embedded, EmbeddedOptions, Manifest, ManifestUse, Variables,
//!     backend::{self, Backend as _},
//! };
//!
//! # async fn example() -> anyhow::Result<()> {
//! let manifest = Manifest::load("spin.toml", ManifestUse::Embedded)?;
//! let environment = |name: &str| std::env::var(name).ok();
//! let variables = Variables::new(&manifest, &[], Default::default(), environment)?;
//!
//! let app = Embedded::new(EmbeddedOptions::new(".spin"))?;
//! app.replace(&manifest, &variables, &Changes::default(), || {})?;
//!
//! let request = http::Request::get("/hello")
//!     .header("host", "localhost")
//!     .body(backend::empty())?;
//! let response = app.call(request).await?;
//! println!("{}", response.status());
//! # Ok(())
//! # }
//! ```

mod allowed_hosts;
pub mod backend;
mod cron_schedule;
mod embedded;
mod excluded_files;
mod limit_range;
mod limits;
pub mod manifest;
mod rate_limited_log;
mod route_notation;
mod route_pattern;
mod router;
pub mod runtime_config;
mod spin_headers;
mod variables;
pub mod websocket;

pub use cron_schedule::CronSchedule;
pub use embedded::{
    Changes, Embedded, EmbeddedOptions, FolderError, LogRotation, Prepared, SqliteStatement,
    simulation,
};
pub use excluded_files::ExcludedFiles;
pub use limit_range::{InstanceRanges, LimitRange};
pub use limits::Limits;
pub use manifest::{Manifest, ManifestError, ManifestOptions, ManifestUse};
pub use rate_limited_log::RateLimitedLog;
pub use route_notation::notation_warning;
pub use route_pattern::RoutePattern;
pub use router::{PrivateRoutes, Routes, escapes_root};
pub use runtime_config::RuntimeConfig;
pub use variables::{VariableSource, Variables};
