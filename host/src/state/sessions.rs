//! The registry of open sessions: counts and bounds them, pings silent clients, and closes all of
//! them at shutdown.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{sync::Notify, time::MissedTickBehavior};
use uuid::Uuid;

use crate::{
    metrics::close_reason::CloseReason,
    net::frame,
    state::{activity::Activity, gradual::end_gradually},
};

/// How often silent clients are looked for; also the resolution of the shared clock.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Clients handled per batch before yielding.
const SWEEP_BATCH: usize = 128;

/// The payload of the host's own pings, which tells their pongs from those of others.
pub(crate) const PING: &[u8] = b"socket-host";

/// The client of a session, as the registry sees it.
pub(crate) trait Client: Send + Sync + 'static {
    /// Returns the stage of the connection.
    fn stage(&self) -> Stage;
    /// Returns the record of the client's signs of life.
    fn activity(&self) -> &Activity;
    /// Sends complete frames.
    fn send(&self, frames: &Bytes);
    /// Sends a close frame, after which nothing is sent, and ends the session with this reason.
    fn close(&self, frame: Bytes, reason: CloseReason);
    /// Asks the session to send the backend a request.
    fn refresh(&self);
    /// Returns the bytes that wait to be sent.
    fn queued(&self) -> usize;
    /// Ends the session without a closing handshake.
    fn disconnect(&self, reason: CloseReason);
}

/// How far a connection has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The handshake is not complete.
    Opening,
    /// Messages flow.
    Open,
    /// A close frame was sent or is queued.
    Closing,
}

impl Stage {
    /// Every stage.
    pub(crate) const ALL: [Self; 3] = [Self::Opening, Self::Open, Self::Closing];

    /// Returns the name used in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Open => "open",
            Self::Closing => "closing",
        }
    }
}

/// What is known about the client of a session, in a compact form.
#[derive(Clone, Debug)]
pub(crate) struct SessionInfo {
    /// The value of `Connection-Id`.
    pub(crate) connection: Uuid,
    /// The path of the WebSocket.
    pub(crate) path: Box<str>,
    /// The address of the client.
    pub(crate) address: IpAddr,
}

/// What the control port does to a session.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SessionAction {
    /// Sends a close frame.
    Close { code: u16, reason: String },
    /// Sends a text message.
    SendText(String),
    /// Sends a binary message.
    SendBinary(Vec<u8>),
    /// Sends the backend a request, even without events.
    Refresh,
}

/// A session, as the control port lists it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct SessionReport {
    /// The id of the connection.
    pub(crate) connection: String,
    /// The path of the WebSocket.
    pub(crate) path: String,
    /// The address of the client.
    pub(crate) address: IpAddr,
    /// How far the connection has got.
    pub(crate) state: &'static str,
    /// The seconds since the handshake has begun.
    pub(crate) age: u32,
    /// The bytes that wait to be sent.
    pub(crate) queued: usize,
}

/// The sessions of a host that were asked for.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct SessionPage {
    /// The newest first.
    pub(crate) sessions: Vec<SessionReport>,
    /// The number of all sessions.
    pub(crate) total: usize,
    /// Where the next page begins, unless this is the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<u64>,
}

/// All sessions of a host.
pub(crate) struct Sessions {
    sessions: Mutex<HashMap<u64, Registered>>,
    next_id: AtomicU64,
    max_sessions: AtomicUsize,
    ping_interval: Mutex<Option<Duration>>,
    /// Seconds since the start. See [`Activity`].
    clock: AtomicU32,
    emptied: Notify,
}

struct Registered {
    client: Arc<dyn Client>,
    info: SessionInfo,
    /// When it was registered, by the shared clock.
    since: u32,
}

/// Keeps a session registered until it is dropped.
pub(crate) struct SessionGuard {
    sessions: Arc<Sessions>,
    id: u64,
}

impl Sessions {
    /// Creates a registry for at most `max_sessions` sessions, without pings.
    pub(crate) fn new(max_sessions: usize) -> Arc<Self> {
        Arc::new(Self {
            sessions: Mutex::default(),
            next_id: AtomicU64::new(0),
            max_sessions: AtomicUsize::new(max_sessions),
            ping_interval: Mutex::new(None),
            clock: AtomicU32::new(0),
            emptied: Notify::new(),
        })
    }

    /// Changes the limits. Sessions over the new maximum stay open.
    ///
    /// A client that is silent for `ping_interval` is pinged, and disconnected when it stays silent
    /// for as long again; `None` disables pings.
    pub(crate) fn set_limits(&self, max_sessions: usize, ping_interval: Option<Duration>) {
        self.max_sessions.store(max_sessions, Relaxed);
        *self.ping_interval.lock() = ping_interval;
    }

    /// Registers a session, or returns `None` when the maximum is reached.
    pub(crate) fn register(
        self: &Arc<Self>,
        client: Arc<dyn Client>,
        info: SessionInfo,
    ) -> Option<SessionGuard> {
        let mut sessions = self.sessions.lock();
        if sessions.len() >= self.max_sessions.load(Relaxed) {
            return None;
        }
        let id = self.next_id.fetch_add(1, Relaxed);
        let since = self.now();
        let registered = Registered {
            client,
            info,
            since,
        };
        sessions.insert(id, registered);
        Some(SessionGuard {
            sessions: self.clone(),
            id,
        })
    }

    /// Returns the number of sessions.
    pub(crate) fn len(&self) -> usize {
        self.sessions.lock().len()
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of sessions at each stage.
    pub(crate) fn by_stage(&self) -> [(Stage, usize); 3] {
        let mut counts = Stage::ALL.map(|stage| (stage, 0));
        for client in self.clients() {
            let stage = client.stage();
            for (_, count) in counts.iter_mut().filter(|(counted, _)| *counted == stage) {
                *count += 1;
            }
        }
        counts
    }

    /// Acts on the session with this id of a connection, and returns whether there is one that is not
    /// being closed.
    pub(crate) fn act(&self, connection: &Uuid, action: &SessionAction) -> bool {
        let client = self.find(connection);
        let Some(client) = client.filter(|it| it.stage() != Stage::Closing) else {
            return false;
        };
        match action {
            SessionAction::Close { code, reason } => {
                client.close(frame::close(*code, reason), CloseReason::Control);
            }
            SessionAction::SendText(text) => {
                client.send(&frame::text(Bytes::copy_from_slice(text.as_bytes())));
            }
            SessionAction::SendBinary(content) => {
                client.send(&frame::binary(Bytes::copy_from_slice(content)));
            }
            SessionAction::Refresh => client.refresh(),
        }
        true
    }

    fn find(&self, connection: &Uuid) -> Option<Arc<dyn Client>> {
        let sessions = self.sessions.lock();
        let mut sessions = sessions.values();
        let found = sessions.find(|session| session.info.connection == *connection);
        found.map(|session| session.client.clone())
    }

    /// Returns the newest `limit` sessions, or those before the position `before`.
    pub(crate) fn page(&self, before: Option<u64>, limit: usize) -> SessionPage {
        let before = before.unwrap_or(u64::MAX);
        let (mut ids, total) = {
            let sessions = self.sessions.lock();
            let ids = sessions.keys().copied().filter(|id| *id < before);
            (ids.collect::<Vec<_>>(), sessions.len())
        };
        // Sorted without the lock, which each handshake needs.
        ids.sort_unstable_by(|a, b| b.cmp(a));
        let is_last = ids.len() <= limit;
        ids.truncate(limit);
        let now = self.now();
        let found: Vec<_> = {
            let sessions = self.sessions.lock();
            let found = ids.iter().filter_map(|id| sessions.get(id));
            let found = found.map(|it| (it.client.clone(), it.info.clone(), it.since));
            found.collect()
        };
        let reports = found
            .into_iter()
            .map(|(client, info, since)| SessionReport {
                connection: info.connection.to_string(),
                path: info.path.into(),
                address: info.address,
                state: client.stage().name(),
                age: now.saturating_sub(since),
                queued: client.queued(),
            });
        SessionPage {
            sessions: reports.collect(),
            total,
            next: ids.last().copied().filter(|_| !is_last),
        }
    }

    /// Returns the shared clock, in seconds.
    pub(crate) fn now(&self) -> u32 {
        self.clock.load(Relaxed)
    }

    /// Pings silent clients and disconnects those that stay silent. Never returns.
    pub(crate) async fn sweep(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
        // While this process was suspended no client could answer.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ping = frame::ping(Bytes::from_static(PING));
        loop {
            ticks.tick().await;
            let interval = *self.ping_interval.lock();
            for batch in self.tick(interval).chunks(SWEEP_BATCH) {
                batch.iter().for_each(|silent| silent.act(&ping));
                tokio::task::yield_now().await;
            }
        }
    }

    /// Advances the clock by one second and returns the silent clients.
    fn tick(&self, ping_interval: Option<Duration>) -> Vec<SilentClient> {
        let now = self.clock.fetch_add(1, Relaxed) + 1;
        let Some(ping_interval) = ping_interval else {
            return Vec::new();
        };
        let timeout = u32::try_from(ping_interval.as_secs())
            .unwrap_or(u32::MAX)
            .max(1);
        // Clients that connected in the same second should not all be pinged in the same second.
        let spread = u64::from(timeout / 4 + 1);
        let sessions = self.sessions.lock();
        let silent = sessions
            .iter()
            .filter_map(|(id, Registered { client, .. })| {
                let activity = client.activity();
                activity.sweep(now);
                let received = activity.last_received();
                let pinged = activity.last_pinged();
                let was_pinged = pinged > received;
                let (since, timeout) = if was_pinged {
                    (pinged, timeout)
                } else {
                    // Less than `spread`, which is at most `timeout`.
                    (received, timeout - (id % spread) as u32)
                };
                (now.saturating_sub(since) >= timeout).then(|| SilentClient {
                    client: client.clone(),
                    now,
                    was_pinged,
                })
            });
        silent.collect()
    }

    /// Closes every session with `code` and waits until they have ended.
    pub(crate) async fn close_all(&self, code: u16, reason: &str) {
        let frame = frame::close(code, reason);
        loop {
            let emptied = self.emptied.notified();
            let clients = self.clients();
            if clients.is_empty() {
                return;
            }
            for client in clients {
                client.close(frame.clone(), CloseReason::Shutdown);
            }
            // A session that was opening in the meantime is closed by the next round.
            let _ = tokio::time::timeout(SWEEP_INTERVAL, emptied).await;
        }
    }

    /// Closes every session with `code` within `time`, one by one. Those that have not ended yet then
    /// have at least been sent a close frame.
    pub(crate) async fn close_gradually(&self, code: u16, reason: &str, time: Duration) {
        let frame = frame::close(code, reason);
        let open = || {
            let mut clients = self.clients();
            clients.retain(|client| client.stage() == Stage::Open);
            clients
        };
        end_gradually(time, open, |client| {
            client.close(frame.clone(), CloseReason::Shutdown);
        })
        .await;
    }

    fn clients(&self) -> Vec<Arc<dyn Client>> {
        let sessions = self.sessions.lock();
        sessions.values().map(|it| it.client.clone()).collect()
    }
}

/// A client that has been silent for too long.
struct SilentClient {
    client: Arc<dyn Client>,
    now: u32,
    was_pinged: bool,
}

impl SilentClient {
    fn act(&self, ping: &Bytes) {
        if self.was_pinged {
            self.client.disconnect(CloseReason::Silent);
        } else {
            self.client.activity().record_ping(self.now);
            self.client.send(ping);
        }
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        let mut sessions = self.sessions.sessions.lock();
        sessions.remove(&self.id);
        if sessions.is_empty() {
            self.sessions.emptied.notify_waiters();
        }
    }
}

#[cfg(test)]
impl SessionInfo {
    /// Returns the information about a client of a test.
    pub(crate) fn test() -> Self {
        Self {
            connection: Uuid::new_v4(),
            path: "/ws".into(),
            address: [127, 0, 0, 1].into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records what the registry does to it.
    struct TestClient {
        activity: Activity,
        disconnected: Mutex<Option<CloseReason>>,
    }

    impl TestClient {
        /// A client whose handshake is in progress.
        fn opening() -> Arc<Self> {
            Arc::new(Self {
                activity: Activity::new(),
                disconnected: Mutex::new(None),
            })
        }

        /// A client that sent a message when the clock started.
        fn open() -> Arc<Self> {
            let client = Self::opening();
            client.activity.record_received(0);
            client
        }

        fn is_disconnected(&self) -> bool {
            *self.disconnected.lock() == Some(CloseReason::Silent)
        }
    }

    impl Client for TestClient {
        fn stage(&self) -> Stage {
            Stage::Open
        }
        fn activity(&self) -> &Activity {
            &self.activity
        }
        fn send(&self, _: &Bytes) {}
        fn close(&self, _: Bytes, _: CloseReason) {}
        fn refresh(&self) {}
        fn queued(&self) -> usize {
            7
        }
        fn disconnect(&self, reason: CloseReason) {
            *self.disconnected.lock() = Some(reason);
        }
    }

    const INTERVAL: Option<Duration> = Some(Duration::from_secs(3));

    #[test]
    fn slow_handshakes_and_slow_messages_are_not_silence() {
        let sessions = Sessions::new(10);
        let (opening, progressing) = (TestClient::opening(), TestClient::open());
        let _guards = (
            sessions.register(opening.clone(), SessionInfo::test()),
            sessions.register(progressing.clone(), SessionInfo::test()),
        );
        for _ in 0..100 {
            progressing.activity.record_progress();
            assert!(sessions.tick(INTERVAL).is_empty());
        }
        opening.activity.record_received(sessions.now());
        for _ in 0..2 {
            assert!(sessions.tick(INTERVAL).is_empty());
        }
        assert_eq!(sessions.tick(INTERVAL).len(), 2);
    }

    #[test]
    fn sessions_over_the_maximum_are_refused() {
        let sessions = Sessions::new(1);
        let first = sessions.register(TestClient::open(), SessionInfo::test());
        assert!(
            first.is_some()
                && sessions
                    .register(TestClient::open(), SessionInfo::test())
                    .is_none()
        );
        drop(first);
        assert!(
            sessions.is_empty()
                && sessions
                    .register(TestClient::open(), SessionInfo::test())
                    .is_some()
        );
    }

    #[test]
    fn silent_clients_are_pinged_and_then_disconnected() {
        let sessions = Sessions::new(10);
        let (silent, alive) = (TestClient::open(), TestClient::open());
        let _guards = (
            sessions.register(silent.clone(), SessionInfo::test()),
            sessions.register(alive.clone(), SessionInfo::test()),
        );
        let tick = |interval| {
            let silent = sessions.tick(Some(Duration::from_secs(interval)));
            silent.iter().for_each(|silent| silent.act(&Bytes::new()));
        };
        for seconds in 1..=6 {
            assert!(!silent.is_disconnected(), "after {seconds} seconds");
            tick(3);
            alive.activity.record_received(sessions.now());
        }
        assert!(silent.is_disconnected());
        assert!(!alive.is_disconnected());
        // A client is always pinged first, also when the interval was made shorter.
        for _ in 0..20 {
            tick(30);
        }
        tick(3);
        assert_eq!(alive.activity.last_pinged(), sessions.now());
        assert!(!alive.is_disconnected());
        for _ in 0..3 {
            tick(3);
        }
        assert!(alive.is_disconnected());
    }

    #[test]
    fn pings_of_clients_that_connected_together_are_spread() {
        let sessions = Sessions::new(100);
        let _guards: Vec<_> = (0..40)
            .map(|_| sessions.register(TestClient::open(), SessionInfo::test()))
            .collect();
        let pinged = (1..=20).map(|_| {
            let silent = sessions.tick(Some(Duration::from_secs(20)));
            silent.iter().for_each(|silent| silent.act(&Bytes::new()));
            silent.len()
        });
        let pinged: Vec<_> = pinged.collect();
        assert_eq!(pinged.iter().sum::<usize>(), 40);
        assert_eq!(pinged.iter().max(), Some(&7));
    }

    #[test]
    fn sessions_are_listed_in_pages() {
        let sessions = Sessions::new(10);
        let infos: Vec<_> = (0..5).map(|_| SessionInfo::test()).collect();
        let register = |info: &SessionInfo| sessions.register(TestClient::open(), info.clone());
        let mut guards: Vec<_> = infos.iter().map(register).collect();
        sessions.tick(None);
        let newest: Vec<_> = infos
            .iter()
            .rev()
            .map(|it| it.connection.to_string())
            .collect();
        let listed = |page: &SessionPage| {
            let ids = page.sessions.iter().map(|it| it.connection.clone());
            ids.collect::<Vec<_>>()
        };
        let first = sessions.page(None, 2);
        assert_eq!((listed(&first), first.total), (newest[..2].to_vec(), 5));
        assert_eq!((first.sessions[0].age, first.sessions[0].queued), (1, 7));
        // One of the next page ends meanwhile.
        guards.remove(2);
        let second = sessions.page(first.next, 2);
        assert_eq!((listed(&second), second.next), (newest[3..].to_vec(), None));
        assert!(sessions.find(&infos[0].connection).is_some());
        assert!(sessions.find(&infos[2].connection).is_none());
    }
}
