//! The sessions there are: counted, bounded, swept for silent clients, closed on shutdown.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::Notify, time::MissedTickBehavior};

use crate::{
    ending::Ending,
    frame,
    outbox::{Outbox, Stage},
};

/// How often the sweeper looks; also the grain of its clock.
const SWEEP: Duration = Duration::from_secs(1);

/// So many clients are seen to in one go.
const SOME: usize = 128;

/// What the sweeper's pings carry, to tell their pongs from others.
pub const PING: &[u8] = b"socket-host";

/// All sessions of a host.
pub struct Sessions {
    open: Mutex<HashMap<u64, Arc<Outbox>>>,
    next: AtomicU64,
    most: AtomicUsize,
    ping_interval: Mutex<Option<Duration>>,
    /// Seconds since the start, by the sweeper. One clock for all sockets, so that
    /// hearing a client costs a store and an idle one has no timer of its own.
    now: AtomicU32,
    emptied: Notify,
}

/// A session's place among the others; dropping it gives the place up.
pub struct Registration {
    sessions: Arc<Sessions>,
    number: u64,
}

impl Sessions {
    /// Room for `most` sessions, of clients that may be silent for ever.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            open: Mutex::default(),
            next: AtomicU64::new(0),
            most: AtomicUsize::new(most),
            ping_interval: Mutex::new(None),
            now: AtomicU32::new(0),
            emptied: Notify::new(),
        })
    }

    /// Sets how many sessions there may be, and for how long a client may be silent before it is
    /// pinged, and then again before it is dropped; `None`: for ever. Those there are stay.
    pub fn bound(&self, most: usize, ping_interval: Option<Duration>) {
        self.most.store(most, Relaxed);
        *self.ping_interval() = ping_interval;
    }

    /// Adds a session, unless there are as many as there may be.
    pub fn register(self: &Arc<Self>, outbox: &Arc<Outbox>) -> Option<Registration> {
        let mut open = self.lock();
        if open.len() >= self.most.load(Relaxed) {
            return None;
        }
        let number = self.next.fetch_add(1, Relaxed);
        open.insert(number, outbox.clone());
        Some(Registration {
            sessions: self.clone(),
            number,
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// How many there are at each stage.
    pub fn by_stage(&self) -> [(Stage, usize); 3] {
        let outboxes: Vec<_> = self.lock().values().cloned().collect();
        let mut counts = Stage::ALL.map(|stage| (stage, 0));
        for outbox in outboxes {
            let stage = outbox.stage();
            for (_, count) in counts.iter_mut().filter(|(counted, _)| *counted == stage) {
                *count += 1;
            }
        }
        counts
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sweeper's clock, in seconds.
    pub fn now(&self) -> u32 {
        self.now.load(Relaxed)
    }

    /// Pings clients that were silent for the ping interval, and drops those that stay
    /// silent for as long again. Runs until it is dropped.
    pub async fn sweep(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(SWEEP);
        // Time in which this process did not run is no time in which a client could answer.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ping = frame::ping(Bytes::from_static(PING));
        loop {
            ticks.tick().await;
            let interval = *self.ping_interval();
            for some in self.tick(interval).chunks(SOME) {
                some.iter().for_each(|silent| silent.act(&ping));
                tokio::task::yield_now().await;
            }
        }
    }

    fn ping_interval(&self) -> MutexGuard<'_, Option<Duration>> {
        self.ping_interval
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A second of the sweeper's clock; gives the silent clients.
    fn tick(&self, interval: Option<Duration>) -> Vec<Silent> {
        let now = self.now.fetch_add(1, Relaxed) + 1;
        let Some(interval) = interval else {
            return Vec::new();
        };
        let patience = u32::try_from(interval.as_secs()).unwrap_or(u32::MAX).max(1);
        // Not all of them in one second who connected in one.
        let spread = u64::from(patience / 4 + 1);
        let open = self.lock();
        let silent = open.iter().filter_map(|(number, outbox)| {
            outbox.note_moved(now);
            let heard = outbox.last_heard();
            let pinged = outbox.last_pinged();
            let (since, patience) = match pinged > heard {
                true => (pinged, patience),
                // Less than the spread, which is less than the patience.
                false => (heard, patience - (number % spread) as u32),
            };
            (now.saturating_sub(since) >= patience).then(|| Silent {
                outbox: outbox.clone(),
                now,
                was_pinged: pinged > heard,
            })
        });
        silent.collect()
    }

    /// Closes every session with `code`, and returns when they are gone.
    pub async fn close_all(&self, code: u16, reason: &str) {
        let frame = frame::close(code, reason);
        loop {
            let emptied = self.emptied.notified();
            let open: Vec<_> = self.lock().values().cloned().collect();
            if open.is_empty() {
                return;
            }
            for outbox in open {
                outbox.close(frame.clone(), Ending::Shutdown);
            }
            // One that was being opened meanwhile is found by the next look.
            let _ = tokio::time::timeout(SWEEP, emptied).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Outbox>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client that has been silent for long.
struct Silent {
    outbox: Arc<Outbox>,
    now: u32,
    was_pinged: bool,
}

impl Silent {
    fn act(&self, ping: &Bytes) {
        match self.was_pinged {
            true => self.outbox.drop_client(Ending::Silent),
            false => {
                self.outbox.pinged_at(self.now);
                self.outbox.send(ping);
            }
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut open = self.sessions.lock();
        open.remove(&self.number);
        if open.is_empty() {
            self.sessions.emptied.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::outbox::Order;

    /// Who was heard when the clock began.
    fn client() -> Arc<Outbox> {
        let outbox = Outbox::new(100);
        outbox.heard_at(0);
        outbox
    }

    #[test]
    fn nobody_is_silent_whose_opening_takes_long_or_whose_bytes_move() {
        let sessions = Sessions::new(10);
        let (opening, moving) = (Outbox::new(100), client());
        let _registered = (sessions.register(&opening), sessions.register(&moving));
        for _ in 0..100 {
            moving.moved();
            assert!(sessions.tick(Some(Duration::from_secs(3))).is_empty());
        }
        opening.heard_at(sessions.now());
        for _ in 0..2 {
            assert!(sessions.tick(Some(Duration::from_secs(3))).is_empty());
        }
        assert_eq!(sessions.tick(Some(Duration::from_secs(3))).len(), 2);
    }

    #[test]
    fn there_is_room_for_so_many() {
        let sessions = Sessions::new(1);
        let outbox = Outbox::new(1);
        let first = sessions.register(&outbox);
        assert!(first.is_some() && sessions.register(&outbox).is_none());
        drop(first);
        assert!(sessions.is_empty() && sessions.register(&outbox).is_some());
    }

    #[tokio::test]
    async fn a_silent_client_is_dropped_and_another_is_not() {
        let sessions = Sessions::new(10);
        let (silent, alive) = (client(), client());
        let _registered = (sessions.register(&silent), sessions.register(&alive));
        let is_dropped = async |outbox: &Outbox| {
            let order = poll_fn(|cx| std::task::Poll::Ready(outbox.poll_order(cx))).await;
            order == std::task::Poll::Ready(Order::Drop(Ending::Silent))
        };
        let second = |interval| {
            let ping = Bytes::from_static(b"ping");
            let silent = sessions.tick(Some(Duration::from_secs(interval)));
            silent.iter().for_each(|silent| silent.act(&ping));
        };
        for seconds in 1..=6 {
            assert!(!is_dropped(&silent).await, "after {seconds} seconds");
            second(3);
            alive.heard_at(sessions.now());
        }
        assert!(is_dropped(&silent).await);
        assert!(!is_dropped(&alive).await);
        // One who was heard long ago is pinged first, also when the interval has become shorter.
        for _ in 0..20 {
            second(30);
        }
        second(3);
        assert_eq!(alive.last_pinged(), sessions.now());
        assert!(!is_dropped(&alive).await);
        for _ in 0..3 {
            second(3);
        }
        assert!(is_dropped(&alive).await);
    }

    #[tokio::test]
    async fn clients_that_came_together_are_not_pinged_together() {
        let sessions = Sessions::new(100);
        let clients: Vec<_> = (0..40).map(|_| client()).collect();
        let registered = clients.iter().map(|outbox| sessions.register(outbox));
        let _registered: Vec<_> = registered.collect();
        let pinged = (1..=20).map(|_| {
            let silent = sessions.tick(Some(Duration::from_secs(20)));
            silent.iter().for_each(|it| it.act(&Bytes::new()));
            silent.len()
        });
        let pinged: Vec<_> = pinged.collect();
        assert_eq!(pinged.iter().sum::<usize>(), 40);
        assert_eq!(pinged.iter().max(), Some(&7));
    }
}
