//! Routes whose upgrades are tunneled to an upstream, instead of served as WebSockets of the host.

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::bail;
use spin_runtime::Routes;

use crate::{config, upstream::Upstream};

/// The upstream of a passthrough route.
#[derive(Clone)]
pub(crate) struct PassthroughRoute {
    /// The server to which upgrades are tunneled.
    pub(crate) upstream: Arc<Upstream>,
    /// Whether plain requests go there as well, because the route names this upstream itself.
    pub(crate) forwards_plain_requests: bool,
}

/// Creates the passthrough routes. Must be called within a Tokio runtime.
///
/// Routes without an upstream use `main`, the upstream of all other requests. `response_timeout`
/// limits the time to the head of a response.
///
/// # Errors
/// Returns an error if a route is invalid or has no upstream, or if an [`Upstream`] cannot be
/// created. Parsed manifests have only valid routes with an upstream.
pub(crate) fn routes(
    passthroughs: &[config::Passthrough],
    main: Option<&Arc<Upstream>>,
    response_timeout: Duration,
) -> anyhow::Result<Routes<PassthroughRoute>> {
    let mut upstreams = HashMap::new();
    let mut routes = Vec::with_capacity(passthroughs.len());
    for config::Passthrough { route, upstream } in passthroughs {
        let passthrough = match (upstream, main) {
            (Some(url), _) => {
                let upstream = match upstreams.get(url) {
                    Some(upstream) => Arc::clone(upstream),
                    None => Arc::new(Upstream::new(url.clone(), response_timeout)?),
                };
                upstreams.insert(url, upstream.clone());
                PassthroughRoute {
                    upstream,
                    forwards_plain_requests: true,
                }
            }
            (None, Some(main)) => PassthroughRoute {
                upstream: main.clone(),
                forwards_plain_requests: false,
            },
            (None, None) => {
                bail!("passthrough {route:?} has no upstream: set `upstream` for the route")
            }
        };
        routes.push((route.as_str(), passthrough));
    }
    Routes::new(routes)
}
