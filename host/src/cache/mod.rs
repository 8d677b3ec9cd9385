//! The cache of responses that never change (RFC 9111), in front of the backend.
//!
//! It stores responses to GET requests whose `Cache-Control` has both `public` and `immutable`, and
//! answers GET and HEAD requests with them, also for ranges and conditional requests. Of several
//! requests for the same, one is forwarded, and the others wait for its response.
//!
//! - [`Cache::look_up`] is the entry point. [`Forward`] handles the response to a request that is
//!   forwarded.
//! - `key` and `selection` decide which response a request selects. `accept_encoding` normalizes a
//!   header for that.
//! - `entry` is a stored response. It decides with `cache_control` whether it may be stored, and with
//!   `conditions` and `range` how it answers a request.
//! - `resources` is the state of a cache. `store` holds the entries, `pending` what requests wait for.
//! - `fetch` is a request whose response may be stored. `fill` reads its body.
//!
//! Each reload of the application begins with a new cache. Requests in progress keep the one that they
//! have begun with, so that the response of a previous version is never stored in the new cache.

mod accept_encoding;
mod cache_control;
mod conditions;
mod entry;
mod fetch;
mod fill;
mod filter;
mod forward;
mod key;
mod pending;
mod range;
mod resources;
mod selection;
mod status;
mod store;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use http::{Method, Response, header, request::Parts};
use percent_encoding::percent_decode_str;
use spin_runtime::backend::Body;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) use self::forward::Forward;
use self::{
    fetch::Fetch,
    forward::Purpose,
    key::Key,
    pending::{Join, Outcome},
    resources::Resources,
    status::{COLLAPSED, ForwardReason, HIT},
};
use crate::{
    config::{CacheLimits, Limits},
    metrics::registry::CacheCounters,
};

/// How long a request waits for the response to another one.
const WAIT_TIMEOUT: Duration = Limits::DEFAULT.cache_wait_timeout;

/// The cache of the current application, if there is one.
pub(crate) struct CurrentCache {
    resources: ArcSwapOption<Resources>,
    counters: CacheCounters,
    /// Ends the tasks that store responses.
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

impl CurrentCache {
    /// Creates a handle without a cache. [`Self::replace`] sets the first one.
    pub(crate) fn new(counters: CacheCounters) -> Self {
        let stop = CancellationToken::new();
        Self {
            resources: ArcSwapOption::empty(),
            counters,
            _stop_on_drop: stop.clone().drop_guard(),
            stop,
        }
    }

    /// Returns the cache.
    pub(crate) fn get(&self) -> Option<Cache> {
        self.resources.load_full().map(Cache)
    }

    /// Uses a new and empty cache from now on, or none.
    pub(crate) fn replace(&self, limits: Option<CacheLimits>) {
        let resources = limits.map(|limits| {
            let (counters, stop) = (self.counters.clone(), self.stop.clone());
            Arc::new(Resources::new(limits, counters, stop))
        });
        self.resources.store(resources);
    }
}

/// The cache of an application. Clones share it.
#[derive(Clone)]
pub(crate) struct Cache(Arc<Resources>);

/// What a purge removes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Purge {
    /// Everything.
    All,
    /// The responses of a path, with any query, on any host.
    Path(String),
    /// The responses of all paths that begin with this.
    Prefix(String),
}

impl Purge {
    fn matches(&self, key: &Key) -> bool {
        let path = key.path();
        let decoded = percent_decode_str(path).decode_utf8_lossy();
        // The path of a purge is decoded, as a parameter of a query.
        let mut spellings = [path, &*decoded].into_iter();
        match self {
            Self::All => true,
            Self::Path(path) => spellings.any(|spelling| spelling == path),
            Self::Prefix(prefix) => spellings.any(|spelling| spelling.starts_with(prefix)),
        }
    }
}

/// The outcome of looking up a request.
pub(crate) enum Lookup {
    /// The response.
    Respond(Response<Body>),
    /// The request has to be forwarded. The cache gets the response, if such requests concern it.
    Forward(Option<Forward>),
}

impl Cache {
    /// Answers a request of a client, whose target is in origin form. If another request for the same
    /// is in progress, waits for its response.
    pub(crate) async fn look_up(&self, request: &Parts, has_body: bool) -> Lookup {
        let resources = &self.0;
        let method = &request.method;
        let Some(key) = Key::of(request) else {
            return Lookup::Forward(None);
        };
        if !matches!(*method, Method::GET | Method::HEAD) {
            let purpose = (!method.is_safe()).then(|| Purpose::Change(self.0.clone(), key));
            return Lookup::Forward(purpose.map(Forward));
        }
        let headers = &request.headers;
        // Only the origin may evaluate these (RFC 9111, section 4.3.2).
        let needs_origin = headers.contains_key(header::IF_MATCH)
            || headers.contains_key(header::IF_UNMODIFIED_SINCE);
        if needs_origin || has_body {
            resources.counters.bypassed.inc();
            let purpose = Purpose::Pass(ForwardReason::Bypass);
            return Lookup::Forward(Some(Forward(purpose)));
        }
        match resources.store.find(&key, headers) {
            Ok(entry) => {
                resources.counters.hits.inc();
                Lookup::Respond(entry.respond(request, HIT))
            }
            Err(reason) => self.wait_or_forward(request, key, reason).await,
        }
    }

    /// Waits for the response to another request for the same, or returns what is to be done with the
    /// response to this one.
    async fn wait_or_forward(
        &self,
        request: &Parts,
        key: Key,
        mut reason: ForwardReason,
    ) -> Lookup {
        let resources = &self.0;
        let headers = &request.headers;
        // The response to any other request may lack the content.
        let may_store = request.method == Method::GET
            && [
                header::RANGE,
                header::IF_NONE_MATCH,
                header::IF_MODIFIED_SINCE,
            ]
            .iter()
            .all(|name| !headers.contains_key(name));
        let deadline = Instant::now() + WAIT_TIMEOUT;
        let fetch = loop {
            let fetch = |pending| Fetch::new(resources, key.clone(), pending);
            if resources.unstorable.contains(&key) {
                break may_store.then(|| fetch(None));
            }
            let id = resources.store.describe(&key, headers);
            let waiter = match resources.pending.join(id, &key, may_store) {
                Join::First(guard) => {
                    let fetch = fetch(Some(guard));
                    // Another request may have stored it in the meantime.
                    let Ok(entry) = resources.store.find(&key, headers) else {
                        break Some(fetch);
                    };
                    resources.counters.hits.inc();
                    return Lookup::Respond(entry.respond(request, HIT));
                }
                Join::Wait(waiter) => waiter,
                Join::None => break None,
            };
            let found = match waiter.outcome(deadline).await {
                Some(Outcome::Complete(entry)) if entry.selection().matches(headers) => Ok(entry),
                // The response is for other headers, or there is none because its client has
                // disconnected.
                Some(Outcome::Complete(_) | Outcome::Abandoned) => {
                    resources.store.find(&key, headers)
                }
                Some(Outcome::Declined) => break None,
                None => {
                    // Later requests do not wait for a response that takes so long.
                    resources.unstorable.insert(&key);
                    break None;
                }
            };
            match found {
                Ok(entry) => {
                    resources.counters.collapsed.inc();
                    return Lookup::Respond(entry.respond(request, COLLAPSED));
                }
                Err(other) => reason = other,
            }
        };
        resources.counters.misses.inc();
        let purpose = match fetch {
            Some(fetch) => Purpose::Fetch(reason, fetch),
            None => Purpose::Pass(reason),
        };
        Lookup::Forward(Some(Forward(purpose)))
    }

    /// Removes stored responses, and returns their number. The responses to requests in progress are
    /// not stored.
    pub(crate) fn purge(&self, purge: &Purge) -> usize {
        self.0.purge(|key| purge.matches(key))
    }

    /// Returns the number of stored responses and their size in bytes.
    pub(crate) fn size(&self) -> (usize, usize) {
        self.0.store.size()
    }
}
