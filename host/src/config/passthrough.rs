//! Routes whose upgrades are tunneled.

use std::collections::BTreeMap;

use spin_runtime::{ManifestUse, manifest::reader::Value};

use super::{route, upstream_url::UpstreamUrl};

/// `[[application.tool.socket-host.passthrough]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passthrough {
    /// The route, in routefinder's notation, as written.
    pub route: String,
    /// The server that handles the route. `None` for the upstream of all other routes.
    pub upstream: Option<UpstreamUrl>,
}

/// Reads all entries and reports routes that match the same paths.
pub(super) fn read_all(value: &Value<'_>, usage: ManifestUse) -> Vec<Passthrough> {
    let mut lines_by_shape = BTreeMap::new();
    let mut passthroughs = Vec::new();
    for entry in value.array() {
        let Some((passthrough, shape)) = read(&entry, usage) else {
            continue;
        };
        match lines_by_shape.insert(shape, entry.line()) {
            Some(line) => entry.error(format!(
                "{:?} matches the same paths as the route on line {line}",
                passthrough.route
            )),
            None => passthroughs.push(passthrough),
        }
    }
    passthroughs
}

/// Reads an entry and returns it with the shape of its route.
fn read(value: &Value<'_>, usage: ManifestUse) -> Option<(Passthrough, String)> {
    let mut table = value.table()?;
    let route = table.require(
        "route",
        "the route to tunnel, such as \"/_next/webpack-hmr\"",
    );
    let upstream = table.get("upstream");
    if upstream.is_none() && usage == ManifestUse::Embedded {
        table.error(
            "`upstream` is missing: the components run in this process, so there is no server to \
             tunnel to; set a URL such as \"http://127.0.0.1:3001\", or start with `--upstream`",
        );
    }
    table.finish();
    let route = route.and_then(|value| route::read(&value, "/_next/webpack-hmr"));
    let upstream = match upstream {
        None => None,
        Some(value) => {
            let parsed = value.string()?.parse();
            Some(parsed.map_err(|reason: String| value.error(reason)).ok()?)
        }
    };
    let (route, pattern) = route?;
    Some((Passthrough { route, upstream }, pattern.shape()))
}
