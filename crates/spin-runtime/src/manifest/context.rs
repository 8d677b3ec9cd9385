//! What the readers of all parts of a manifest share.

use std::{collections::BTreeSet, path::Path};

use super::{model::ManifestUse, reader::Value};

pub(super) struct Context<'a> {
    /// The manifest's folder, absolute.
    pub(super) root: &'a Path,
    pub(super) usage: ManifestUse,
    /// The names under `[variables]`.
    pub(super) variables: &'a BTreeSet<String>,
}

impl Context<'_> {
    /// Reports something that Spin supports and the embedded runtime does not.
    pub(super) fn unsupported(&self, value: &Value<'_>, reason: &str) {
        if self.usage == ManifestUse::Embedded {
            value.error(format!(
                "{reason}; run the application with `spin up` and put this host in front of it \
                 with `--upstream URL`"
            ));
        }
    }
}
