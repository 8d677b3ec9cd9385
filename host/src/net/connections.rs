//! The open connections of a listener: bounds them, and closes the connections that have been idle for
//! the longest when room is needed.
//!
//! Each connection needs a file descriptor. If clients could take all of them, the control port, the
//! upstreams and the components would have none.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use rustix::process::{Resource, getrlimit};
use tokio_util::sync::CancellationToken;

use crate::net::connection::ConnectionHandle;

/// The least and the most file descriptors that are reserved for everything but clients.
const MIN_RESERVED: u64 = 64;
const MAX_RESERVED: u64 = 16 * 1024;

/// The part of the reserve that the connections of the control port may take.
const CONTROL_SHARE: usize = 4;

/// The part of the connections that is closed at once. Finding them looks at all connections.
const CLOSED_SHARE: usize = 64;

/// How many connections the listeners may have, given the limit of open files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConnectionLimits {
    /// The connections of the public port.
    pub(crate) public: usize,
    /// The connections of the control port.
    pub(crate) control: usize,
}

impl ConnectionLimits {
    /// Returns the limits for this process.
    pub(crate) fn of_process() -> Self {
        Self::new(getrlimit(Resource::Nofile).current)
    }

    /// Returns the limits for this process once it has raised its limit of open files.
    pub(crate) fn after_raising() -> Self {
        Self::new(getrlimit(Resource::Nofile).maximum)
    }

    /// Returns the limits for a process that may open any number of files.
    pub(crate) fn unlimited() -> Self {
        Self::new(None)
    }

    /// Returns the limits for a process that may open `files`; `None` if there is no limit.
    fn new(files: Option<u64>) -> Self {
        let files = files.unwrap_or(u64::MAX);
        let reserved = (files / 4).clamp(MIN_RESERVED, MAX_RESERVED);
        let public = files.saturating_sub(reserved).max(1);
        Self {
            public: usize::try_from(public).unwrap_or(usize::MAX),
            control: usize::try_from(reserved).unwrap_or(usize::MAX) / CONTROL_SHARE,
        }
    }

    /// Returns a number of WebSockets that the public port has connections for.
    pub(crate) fn cap(self, max_connections: usize) -> usize {
        max_connections.min(self.public)
    }
}

/// The open connections of a listener.
pub(crate) struct Connections {
    /// Counts all connections, including those that were upgraded.
    open: Gauge,
    limit: usize,
    /// The connections that serve HTTP.
    http: Mutex<HashMap<u64, ConnectionHandle>>,
    next_id: AtomicU64,
}

/// Keeps a connection registered until it is dropped.
pub(crate) struct Registration {
    connections: Arc<Connections>,
    id: u64,
}

impl Connections {
    /// Creates a registry for at most `limit` connections, which `open` counts.
    pub(crate) fn new(open: Gauge, limit: usize) -> Arc<Self> {
        Arc::new(Self {
            open,
            limit,
            http: Mutex::default(),
            next_id: AtomicU64::new(0),
        })
    }

    /// Registers a connection that `abort` closes. Returns `None` at the limit, if no connection is
    /// idle and could be closed instead.
    pub(crate) fn register(
        self: &Arc<Self>,
        abort: CancellationToken,
    ) -> Option<(ConnectionHandle, Registration)> {
        let open = usize::try_from(self.open.get()).unwrap_or(0);
        if open >= self.limit && !self.close_idle() {
            return None;
        }
        let handle = ConnectionHandle::new(&self.open, abort);
        let id = self.next_id.fetch_add(1, Relaxed);
        self.http.lock().insert(id, handle.clone());
        let connections = self.clone();
        Some((handle, Registration { connections, id }))
    }

    /// Closes the connections that have been idle for the longest. Returns whether there are any.
    fn close_idle(&self) -> bool {
        let http = self.http.lock();
        let mut idle: Vec<_> = http
            .values()
            .filter_map(|handle| Some((handle.idle_since()?, handle)))
            .collect();
        let count = (self.limit / CLOSED_SHARE).max(1).min(idle.len());
        if count == 0 {
            return false;
        }
        idle.select_nth_unstable_by_key(count - 1, |(since, _)| *since);
        for (_, handle) in &idle[..count] {
            handle.close();
        }
        true
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.connections.http.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_part_of_the_files_is_reserved() {
        let limits = |files| {
            let limits = ConnectionLimits::new(files);
            (limits.public, limits.control)
        };
        assert_eq!(limits(Some(256)), (192, 16));
        assert_eq!(limits(Some(1024)), (768, 64));
        assert_eq!(limits(Some(1 << 20)), ((1 << 20) - (16 << 10), 4 << 10));
        assert_eq!(limits(Some(10)), (1, 16));
        assert_eq!(limits(None).1, 4 << 10);
        let limits = ConnectionLimits::new(Some(1024));
        assert_eq!((limits.cap(100_000), limits.cap(10)), (768, 10));
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_idle_connection_makes_room() {
        let connections = Connections::new(Gauge::default(), 3);
        let register = || connections.register(CancellationToken::new());
        let (busy, _busy) = register().expect("room");
        let _request = busy.busy();
        tokio::time::advance(Duration::from_secs(1)).await;
        let (first, _first) = register().expect("room");
        tokio::time::advance(Duration::from_secs(1)).await;
        let (second, _second) = register().expect("room");
        tokio::time::advance(Duration::from_secs(1)).await;
        drop(first.busy());
        tokio::time::advance(Duration::from_secs(1)).await;
        // `first` has served a request since, so `second` has been idle for longer.
        let (_third, third) = register().expect("an idle connection");
        assert!(second.is_closed() && !first.is_closed() && !busy.is_closed());
        let fourth = register().expect("an idle connection");
        assert!(first.is_closed() && !busy.is_closed());
        let _requests = (fourth.0.busy(), _third.busy());
        assert!(register().is_none(), "all connections are busy");
        drop(third);
        assert_eq!(connections.http.lock().len(), 4);
    }
}
