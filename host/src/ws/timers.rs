//! What a backend has sent to its client later: a keep-alive message and a delayed one.

use std::{future::Future, pin::Pin, task::Context, time::Duration};

use bytes::Bytes;
use grip::control::KeepAliveMode;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::ws::outbox::Outbox;

/// When a keep-alive message does not say after how long; as in Pushpin.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(55);

/// When a delayed message does not say for how long; as in Pushpin.
const DELAY: Duration = Duration::from_secs(1);

/// See the module's words. Most sessions have none of it, and so no timer.
pub(crate) struct Timers {
    keep_alive: Option<KeepAlive>,
    delayed: Option<Delayed>,
    /// Until the first of the two.
    sleep: Pin<Box<Sleep>>,
}

struct KeepAlive {
    frame: Bytes,
    timeout: Duration,
    due: Instant,
}

struct Delayed {
    frame: Bytes,
    due: Instant,
}

impl Default for Timers {
    /// With nothing to send yet.
    fn default() -> Self {
        Self {
            keep_alive: None,
            delayed: None,
            sleep: Box::pin(sleep_until(Instant::now())),
        }
    }
}

impl Timers {
    /// Whether there is nothing to send.
    pub(crate) fn is_empty(&self) -> bool {
        self.keep_alive.is_none() && self.delayed.is_none()
    }

    /// Sends `frame` whenever nothing was sent for `timeout` seconds, or each time that
    /// so many have passed.
    pub(crate) fn keep_alive(
        &mut self,
        frame: Bytes,
        mode: KeepAliveMode,
        timeout: Option<u32>,
        outbox: &Outbox,
    ) {
        let timeout = seconds(timeout, KEEP_ALIVE_TIMEOUT);
        outbox.note_sends(mode == KeepAliveMode::Idle);
        self.keep_alive = Some(KeepAlive {
            frame,
            timeout,
            due: Instant::now() + timeout,
        });
    }

    /// Sends no keep-alive message any more.
    pub(crate) fn stop_keep_alive(&mut self, outbox: &Outbox) {
        outbox.note_sends(false);
        self.keep_alive = None;
    }

    /// Sends `frame` after `timeout` seconds, and now what is delayed already.
    pub(crate) fn delay(&mut self, frame: Bytes, timeout: Option<u32>, outbox: &Outbox) {
        self.flush(outbox);
        self.delayed = Some(Delayed {
            frame,
            due: Instant::now() + seconds(timeout, DELAY),
        });
    }

    /// Sends what is delayed now.
    pub(crate) fn flush(&mut self, outbox: &Outbox) {
        if let Some(delayed) = self.delayed.take() {
            outbox.send(&delayed.frame);
        }
    }

    /// Sends what is due, and has the task woken for what will be.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, outbox: &Outbox) {
        loop {
            let now = Instant::now();
            if self
                .delayed
                .as_ref()
                .is_some_and(|delayed| delayed.due <= now)
            {
                self.flush(outbox);
            }
            if let Some(keep_alive) = &mut self.keep_alive {
                keep_alive.check(now, outbox);
            }
            let due = [
                self.delayed.as_ref().map(|delayed| delayed.due),
                self.keep_alive.as_ref().map(|keep_alive| keep_alive.due),
            ];
            let Some(due) = due.into_iter().flatten().min() else {
                return;
            };
            if self.sleep.deadline() != due {
                self.sleep.as_mut().reset(due);
            }
            if self.sleep.as_mut().poll(cx).is_pending() {
                return;
            }
        }
    }
}

impl KeepAlive {
    fn check(&mut self, now: Instant, outbox: &Outbox) {
        // Sending does not wake this task, but says when it was.
        if let Some(sent) = outbox.last_sent() {
            self.due = self.due.max(sent + self.timeout);
        }
        if self.due <= now {
            outbox.send(&self.frame);
            self.due = now + self.timeout;
        }
    }
}

fn seconds(given: Option<u32>, default: Duration) -> Duration {
    match given {
        None | Some(0) => default,
        Some(seconds) => Duration::from_secs(seconds.into()),
    }
}
