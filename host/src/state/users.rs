//! The users that backends have bound sessions to.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{metrics::close_reason::CloseReason, net::frame, state::sessions::Client};

/// The users of a host's sessions. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Users(Arc<Mutex<HashMap<Arc<str>, Bindings>>>);

/// The bound sessions of a user, by their connection ids.
type Bindings = HashMap<Box<str>, Binding>;

struct Binding {
    client: Arc<dyn Client>,
    path: Box<str>,
    since: Instant,
    expires: Option<Instant>,
}

/// Binds a session to a user until it is dropped.
pub(crate) struct UserGuard {
    users: Users,
    user: Arc<str>,
    connection: Box<str>,
}

/// A session of a user, as the control port lists it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UserSession {
    /// The id of the connection.
    pub(crate) connection: String,
    /// The path of the WebSocket.
    pub(crate) path: String,
    /// The seconds since it was bound to the user.
    pub(crate) age: u64,
    /// The seconds until it must be bound again.
    #[serde(rename = "expires-in", skip_serializing_if = "Option::is_none")]
    pub(crate) expires_in: Option<u64>,
}

impl Users {
    /// Binds a session to a user, for `lifetime` if it is limited.
    pub(crate) fn bind(
        &self,
        user: &str,
        connection: &str,
        path: &str,
        client: Arc<dyn Client>,
        lifetime: Option<Duration>,
    ) -> UserGuard {
        let binding = Binding {
            client,
            path: path.into(),
            since: Instant::now(),
            expires: expiry(lifetime),
        };
        let mut users = self.0.lock();
        let user = match users.get_key_value(user) {
            Some((user, _)) => user.clone(),
            None => Arc::from(user),
        };
        let bindings = users.entry(user.clone()).or_default();
        bindings.insert(connection.into(), binding);
        UserGuard {
            users: self.clone(),
            user,
            connection: connection.into(),
        }
    }

    /// Returns the sessions of a user, in no particular order.
    pub(crate) fn sessions(&self, user: &str) -> Vec<UserSession> {
        let now = Instant::now();
        let users = self.0.lock();
        let bindings = users.get(user).into_iter().flatten();
        let sessions = bindings.map(|(connection, binding)| UserSession {
            connection: connection.to_string(),
            path: binding.path.to_string(),
            age: now.duration_since(binding.since).as_secs(),
            expires_in: binding
                .expires
                .map(|expires| expires.saturating_duration_since(now).as_secs()),
        });
        sessions.collect()
    }

    /// Closes the sessions of a user, and returns their number.
    pub(crate) fn close(&self, user: &str, code: u16, reason: &str) -> usize {
        let clients: Vec<_> = match self.0.lock().get(user) {
            Some(bindings) => bindings.values().map(|it| it.client.clone()).collect(),
            None => return 0,
        };
        let frame = frame::close(code, reason);
        for client in &clients {
            client.close(frame.clone(), CloseReason::Control);
        }
        clients.len()
    }
}

fn expiry(lifetime: Option<Duration>) -> Option<Instant> {
    Instant::now().checked_add(lifetime?)
}

impl UserGuard {
    /// Changes when the binding ends.
    pub(crate) fn renew(&self, lifetime: Option<Duration>) {
        let mut users = self.users.0.lock();
        let bindings = users.get_mut(&self.user);
        if let Some(binding) = bindings.and_then(|bindings| bindings.get_mut(&self.connection)) {
            binding.expires = expiry(lifetime);
        }
    }

    /// Returns the id of the user.
    pub(crate) fn user(&self) -> &str {
        &self.user
    }
}

impl Drop for UserGuard {
    fn drop(&mut self) {
        let mut users = self.users.0.lock();
        if let Some(bindings) = users.get_mut(&self.user) {
            bindings.remove(&self.connection);
            if bindings.is_empty() {
                users.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::outbox::Outbox;

    #[test]
    fn sessions_are_listed_by_user_until_they_end() {
        let users = Users::default();
        let bind = |user, connection| {
            let client = Outbox::new(1000, 0, None);
            users.bind(
                user,
                connection,
                "/ws",
                client,
                Some(Duration::from_secs(9)),
            )
        };
        let guards = [bind("ada", "1"), bind("ada", "2"), bind("bob", "3")];
        let mut sessions = users.sessions("ada");
        sessions.sort_by(|a, b| a.connection.cmp(&b.connection));
        assert_eq!(sessions.len(), 2);
        assert_eq!((&*sessions[1].connection, &*sessions[1].path), ("2", "/ws"));
        assert_eq!(users.close("ada", 4001, "bye"), 2);
        assert_eq!(users.close("eve", 4001, "bye"), 0);
        drop(guards);
        assert!(users.sessions("ada").is_empty() && users.0.lock().is_empty());
    }

    #[test]
    fn bindings_can_be_renewed() {
        let users = Users::default();
        let client = Outbox::new(1000, 0, None);
        let guard = users.bind("ada", "1", "/ws", client, None);
        assert_eq!(users.sessions("ada")[0].expires_in, None);
        guard.renew(Some(Duration::from_secs(3600)));
        let expires_in = users.sessions("ada")[0].expires_in;
        assert!(
            expires_in.is_some_and(|seconds| seconds > 3500),
            "{expires_in:?}"
        );
    }
}
