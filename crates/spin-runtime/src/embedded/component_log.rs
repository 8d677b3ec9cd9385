//! What the log and the metrics say about a component: its failures and its denied requests.

use std::{collections::BTreeSet, sync::Arc};

use parking_lot::Mutex;

use super::failure::{FailureCounts, FailureReason};
use crate::{backend::Failures, limits::Limits, rate_limited_log::RateLimitedLog};

/// The log lines of a component, limited by kind, and the number of its failures.
pub(crate) struct ComponentLog {
    component: Arc<str>,
    /// The component trapped, or returned no response.
    pub(crate) failed: RateLimitedLog,
    /// The request failed for another reason, such as its timeout.
    pub(crate) request_failed: RateLimitedLog,
    /// A request was refused, because the component is overloaded.
    pub(crate) busy: RateLimitedLog,
    /// The component failed after its response.
    pub(crate) failed_late: RateLimitedLog,
    /// An outgoing HTTP request of the component was denied.
    pub(crate) denied: RateLimitedLog,
    /// A socket of the component was denied.
    pub(crate) socket_denied: RateLimitedLog,
    /// A connection of the component to a Redis server was denied.
    #[cfg(feature = "redis")]
    pub(crate) connection_denied: RateLimitedLog,
    failures: FailureCounts,
    /// The labels of the stores that were denied and logged.
    denied_stores: DeniedLabels,
    /// The labels of the databases that were denied and logged.
    denied_databases: DeniedLabels,
}

impl ComponentLog {
    pub(crate) fn new(component: Arc<str>, limits: &Limits) -> Self {
        // Messages must be literals.
        macro_rules! limited {
            ($message:literal) => {{
                let component = component.clone();
                RateLimitedLog::new(limits.log_lines_per_second, move |suppressed| {
                    tracing::error!(component = &*component, suppressed, $message);
                })
            }};
        }
        let busy = {
            let component = component.clone();
            // Under overload, the number of refused requests says more than each of them.
            RateLimitedLog::new(1, move |suppressed| {
                tracing::warn!(
                    component = &*component,
                    suppressed,
                    "request refused: too many requests"
                );
            })
        };
        Self {
            busy,
            failures: FailureCounts::default(),
            failed: limited!("component failed"),
            request_failed: limited!("request failed"),
            failed_late: limited!("component failed after its response"),
            denied: limited!("request denied"),
            socket_denied: limited!("socket denied"),
            #[cfg(feature = "redis")]
            connection_denied: limited!("connection denied"),
            denied_stores: DeniedLabels::new(limits),
            denied_databases: DeniedLabels::new(limits),
            component,
        }
    }

    /// Counts a failure of the component.
    pub(crate) fn count(&self, reason: FailureReason) {
        self.failures.add(reason);
    }

    /// Returns how often the component failed.
    pub(crate) fn failures(&self) -> impl Iterator<Item = Failures> {
        self.failures.iter().map(|(reason, count)| Failures {
            component: self.component.clone(),
            reason: reason.name(),
            count,
        })
    }

    /// Logs that the component tried to open a store that it was not granted, once for each label.
    pub(crate) fn store_denied(&self, label: &str) {
        if self.denied_stores.insert(label) {
            tracing::warn!(
                component = &*self.component,
                label,
                "key-value store denied: add the label to key_value_stores of the component"
            );
        }
    }

    /// Logs that the component tried to open a database that it was not granted, once for each
    /// label.
    pub(crate) fn database_denied(&self, label: &str) {
        if self.denied_databases.insert(label) {
            tracing::warn!(
                component = &*self.component,
                label,
                "SQLite database denied: add the label to sqlite_databases of the component"
            );
        }
    }
}

/// Labels that the log contains. Their number is limited, as they come from the guest.
struct DeniedLabels {
    labels: Mutex<BTreeSet<String>>,
    max: usize,
}

impl DeniedLabels {
    fn new(limits: &Limits) -> Self {
        Self {
            labels: Mutex::default(),
            max: limits.denied_store_labels,
        }
    }

    /// Adds a label. Returns whether it should be logged.
    fn insert(&self, label: &str) -> bool {
        let mut labels = self.labels.lock();
        labels.len() < self.max && labels.insert(label.to_owned())
    }
}
