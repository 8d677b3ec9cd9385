//! Routes whose upgrades are tunnelled instead of being held here.

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::bail;
use spin_runtime::Routes;

use crate::config;
use crate::upstream::Upstream;

/// Where the requests of a route go past the host's own WebSockets.
#[derive(Clone)]
pub(crate) struct Passthrough {
    /// The server to which upgrades are tunnelled.
    pub(crate) upstream: Arc<Upstream>,
    /// Whether it is the route's own, and so gets the plain requests as well.
    pub(crate) own: bool,
}

/// Finds what is passed through: `main` is the upstream of everything else, if there is one, and
/// `limit` for the head of an answer. Must be called within a Tokio runtime.
///
/// # Errors
/// A route that cannot be matched, or has no upstream while there is no other; neither is in a
/// manifest that was read from text. Or what keeps an [`Upstream`] from being made.
pub(crate) fn routes(
    passthroughs: &[config::Passthrough],
    main: Option<&Arc<Upstream>>,
    limit: Duration,
) -> anyhow::Result<Routes<Passthrough>> {
    let mut known = HashMap::new();
    let mut routes = Vec::with_capacity(passthroughs.len());
    for config::Passthrough { route, upstream } in passthroughs {
        let passthrough = match (upstream, main) {
            (Some(url), _) => {
                let upstream = match known.get(url) {
                    Some(upstream) => Arc::clone(upstream),
                    None => Arc::new(Upstream::new(url.clone(), limit)?),
                };
                known.insert(url, upstream.clone());
                Passthrough {
                    upstream,
                    own: true,
                }
            }
            (None, Some(main)) => Passthrough {
                upstream: main.clone(),
                own: false,
            },
            (None, None) => bail!("passthrough {route:?}: there is no upstream to tunnel to"),
        };
        routes.push((route.as_str(), passthrough));
    }
    Routes::new(routes)
}
