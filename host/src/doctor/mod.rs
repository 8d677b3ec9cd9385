//! Examines what an application and its host need, for `socket-host doctor`.
//!
//! - `application` is about the manifest, the components, and how they are built.
//! - `machine` is about ports, folders, and the limit of open files.
//! - `network` is about the upstream, the bus, and key-value stores in Redis.

mod application;
mod machine;
mod network;

use std::fmt::Display;

use spin_runtime::RuntimeConfig;

use crate::{HostOptions, certificates::HostCertificates};

/// What was found out about one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// What was examined, such as `public port`.
    pub(crate) subject: String,
    pub(crate) outcome: Outcome,
    /// What was found.
    pub(crate) text: String,
    /// What to do about it.
    pub(crate) advice: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Good,
    /// The host starts, and something may not be as expected.
    Warning,
    /// The host does not start, or cannot serve.
    Failure,
}

impl Finding {
    fn good(subject: impl Into<String>, text: impl Display) -> Self {
        Self {
            subject: subject.into(),
            outcome: Outcome::Good,
            text: text.to_string(),
            advice: None,
        }
    }

    fn warning(subject: impl Into<String>, text: impl Display, advice: impl Display) -> Self {
        Self {
            outcome: Outcome::Warning,
            advice: Some(advice.to_string()),
            ..Self::good(subject, text)
        }
    }

    pub(crate) fn failure(
        subject: impl Into<String>,
        text: impl Display,
        advice: impl Display,
    ) -> Self {
        Self {
            outcome: Outcome::Failure,
            advice: Some(advice.to_string()),
            ..Self::good(subject, text)
        }
    }

    /// Returns the failure of something whose error says what to do.
    pub(crate) fn error(subject: impl Into<String>, error: &anyhow::Error) -> Self {
        Self {
            outcome: Outcome::Failure,
            ..Self::good(subject, format!("{error:#}"))
        }
    }
}

/// Examines everything that a host with these options needs.
pub(crate) async fn examine(options: &HostOptions) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Err(error) = options.validate() {
        findings.push(Finding::error("options", &error));
    }
    let runtime_config = match options.load_runtime_config() {
        Ok(config) => config,
        Err(error) => {
            findings.push(Finding::error("runtime configuration", &error));
            RuntimeConfig::default()
        }
    };
    match options.load_config() {
        Ok(config) => {
            findings.extend(application::examine(options, &config, &runtime_config).await);
            findings.push(machine::file_limit(config.host.limits.max_connections));
            if options.upstream.is_none() && options.spin.is_none() {
                findings.push(machine::state_folder(options, &config, &runtime_config));
            }
        }
        Err(error) => findings.push(Finding::error("manifest", &error)),
    }
    if let Err(error) = HostCertificates::load(options) {
        findings.push(Finding::error("certificates", &error));
    }
    findings.extend(machine::ports(options).await);
    findings.extend(network::examine(options, &runtime_config).await);
    findings
}
