//! What the readers of all parts of a manifest share.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use super::{
    dependencies::DependencySource,
    model::{ManifestOptions, ManifestUse},
    reader::Value,
};

/// What to do about something that Spin supports and the embedded runtime does not.
pub(crate) const USE_SPIN: &str = "start with --spin, which runs the application in Spin";

pub(super) struct Context<'a> {
    /// The manifest's folder, absolute.
    pub(super) root: &'a Path,
    pub(super) usage: ManifestUse,
    /// The profile to apply to components.
    pub(super) profile: Option<&'a str>,
    /// The names under `[variables]`.
    pub(super) variables: &'a BTreeSet<String>,
    /// The `[component.ID]` tables that may be dependencies.
    pub(super) dependency_sources: BTreeMap<String, DependencySource>,
    /// The ids of the components that are dependencies of others.
    pub(super) composed: RefCell<BTreeSet<String>>,
    /// The profiles that a component defines.
    pub(super) profiles: RefCell<BTreeSet<String>>,
}

impl<'a> Context<'a> {
    pub(super) fn new(
        root: &'a Path,
        options: ManifestOptions<'a>,
        variables: &'a BTreeSet<String>,
    ) -> Self {
        Self {
            root,
            usage: options.usage,
            profile: options.profile,
            variables,
            dependency_sources: BTreeMap::new(),
            composed: RefCell::default(),
            profiles: RefCell::default(),
        }
    }

    /// Reports something that Spin supports and the embedded runtime does not.
    pub(super) fn unsupported(&self, value: &Value<'_>, reason: &str) {
        if self.usage == ManifestUse::Embedded {
            value.error(format!("{reason}; {USE_SPIN}"));
        }
    }

    /// Adds a warning about something that the embedded runtime ignores.
    pub(super) fn warn_unsupported(&self, value: &Value<'_>, reason: &str) {
        if self.usage == ManifestUse::Embedded {
            value.warn(format!("{reason}; {USE_SPIN}"));
        }
    }
}
