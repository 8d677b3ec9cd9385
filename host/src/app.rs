//! The application that a host serves, and its exchange for another while it runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use anyhow::{Result, ensure};
use spin_runtime::{embedded::Embedded, manifest::Manifest, router::Private, variables::Variables};

use crate::{
    gateway::{Gateway, Rules},
    state::Services,
    timers::Timers,
    upstream::passthrough,
};

/// Everything in a running host that comes from the manifest.
pub(crate) struct Application {
    /// What gives the variables their values.
    pub(crate) values: Values,
    /// The key that the host signs with.
    pub(crate) key: String,
    /// How long the servers of passthroughs may take to answer.
    pub(crate) limit: Duration,
    /// The components.
    pub(crate) embedded: Arc<Embedded>,
    /// What goes by the rules.
    pub(crate) gateway: Arc<Gateway>,
    /// What the manifest says about requests from outside.
    pub(crate) rules: Rules,
    /// The routes that are private by these rules.
    pub(crate) private: Vec<String>,
    /// What calls components.
    pub(crate) timers: Timers,
}

/// What gives an application's variables their values, the environment aside.
#[derive(Clone)]
pub(crate) struct Values {
    /// Those of `--variable`.
    pub(crate) given: Vec<(String, String)>,
    /// The host's own.
    pub(crate) ours: BTreeMap<String, String>,
}

impl Values {
    /// The variables of an application.
    ///
    /// # Errors
    /// When one has no value, or a value no variable.
    pub(crate) fn settle(&self, manifest: &Manifest) -> Result<Variables> {
        Variables::new(manifest, &self.given, self.ours.clone(), |name| {
            std::env::var(name).ok()
        })
    }
}

impl Application {
    /// Serves what `manifest` says from now on; see [`Embedded::exchange`] for `fresh`, `only_code`
    /// and the answer. Sockets stay open, with the limits that they were opened with.
    ///
    /// # Errors
    /// Everything that would keep a host from starting with this manifest, and a change that only
    /// a start makes. Everything then stays as it was.
    pub(crate) async fn exchange(
        &mut self,
        manifest: &Manifest,
        fresh: BTreeSet<String>,
        only_code: bool,
    ) -> Result<Vec<String>> {
        let variables = self.values.settle(manifest)?;
        ensure!(
            variables.get("grip_key").is_none_or(|key| key == self.key),
            "the variable grip_key has another value: start the host again, which signs with it"
        );
        let private = &manifest.host.private;
        let passthroughs = passthrough::routes(&manifest.host.passthrough, None, self.limit)?;
        let mut rules = Rules {
            private: Private::new(private)?,
            passthroughs: passthroughs.into(),
            ..self.rules.clone()
        };
        // A private route of before stays closed for as long as requests find the old components, and
        // a new one is closed before any finds the new ones; but for a request that is between the two
        // just then, which was let in when its route was open.
        let between = Rules {
            private: Private::new(&[&self.private[..], private].concat())?,
            ..self.rules.clone()
        };
        let (embedded, gateway) = (self.embedded.clone(), self.gateway.clone());
        let own = manifest.clone();
        let exchanged = tokio::task::spawn_blocking(move || {
            embedded.exchange(&own, &variables, &fresh, only_code, || {
                gateway.exchange(between);
            })
        });
        let changed = exchanged.await??;

        let limits = manifest.host.websocket.clone();
        let services = &self.rules.services;
        if limits != services.limits {
            services.holds.set_limit(limits.max_connections);
            let sessions = &services.sessions;
            sessions.set_limits(limits.max_connections, limits.ping_interval);
            rules.services = Arc::new(Services {
                limits,
                ..Services::clone(services)
            });
        }
        self.gateway.exchange(rules.clone());
        (self.rules, self.private) = (rules, private.clone());
        self.timers.exchange(&manifest.host.timers);
        Ok(changed)
    }
}
