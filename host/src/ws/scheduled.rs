//! Messages that a backend schedules for its client: a keep-alive message and a delayed one.

use std::{future::Future, pin::Pin, task::Context, time::Duration};

use grip::{Message, control::KeepAliveMode};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::ws::outbox::Outbox;

/// The default timeout of a keep-alive message; as in Pushpin.
const DEFAULT_KEEP_ALIVE: Duration = Duration::from_secs(55);

/// The default delay of a delayed message; as in Pushpin.
const DEFAULT_DELAY: Duration = Duration::from_secs(1);

/// The scheduled messages of one session. Most sessions have none, and so need no Tokio timer.
pub(super) struct ScheduledMessages {
    keep_alive: Option<KeepAlive>,
    delayed: Option<Delayed>,
    /// Completes when the first of the two is due.
    sleep: Pin<Box<Sleep>>,
}

struct KeepAlive {
    message: Message,
    timeout: Duration,
    due: Instant,
}

struct Delayed {
    message: Message,
    due: Instant,
}

impl Default for ScheduledMessages {
    fn default() -> Self {
        Self {
            keep_alive: None,
            delayed: None,
            sleep: Box::pin(sleep_until(Instant::now())),
        }
    }
}

impl ScheduledMessages {
    /// Returns whether there is nothing to send.
    pub(super) fn is_empty(&self) -> bool {
        self.keep_alive.is_none() && self.delayed.is_none()
    }

    /// Schedules a message for whenever nothing was sent for `timeout` seconds, or, depending on
    /// `mode`, for every `timeout` seconds.
    pub(super) fn start_keep_alive(
        &mut self,
        message: Message,
        mode: KeepAliveMode,
        timeout: Option<u32>,
        outbox: &Outbox,
    ) {
        let timeout = seconds(timeout, DEFAULT_KEEP_ALIVE);
        outbox.track_sends(mode == KeepAliveMode::Idle);
        self.keep_alive = Some(KeepAlive {
            message,
            timeout,
            due: Instant::now() + timeout,
        });
    }

    /// Cancels the keep-alive message.
    pub(super) fn stop_keep_alive(&mut self, outbox: &Outbox) {
        outbox.track_sends(false);
        self.keep_alive = None;
    }

    /// Schedules a message in `timeout` seconds, and sends a message that is already delayed now.
    pub(super) fn send_delayed(&mut self, message: Message, timeout: Option<u32>, outbox: &Outbox) {
        self.flush_delayed(outbox);
        self.delayed = Some(Delayed {
            message,
            due: Instant::now() + seconds(timeout, DEFAULT_DELAY),
        });
    }

    /// Sends the delayed message now, if any.
    pub(super) fn flush_delayed(&mut self, outbox: &Outbox) {
        if let Some(delayed) = self.delayed.take() {
            outbox.send_message(delayed.message);
        }
    }

    /// Sends the messages that are due, and registers the task to be woken for the next one.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, outbox: &Outbox) {
        loop {
            let now = Instant::now();
            if self
                .delayed
                .as_ref()
                .is_some_and(|delayed| delayed.due <= now)
            {
                self.flush_delayed(outbox);
            }
            if let Some(keep_alive) = &mut self.keep_alive {
                keep_alive.send_if_due(now, outbox);
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
    fn send_if_due(&mut self, now: Instant, outbox: &Outbox) {
        // Sends by others do not wake this task, so the deadline is adjusted here.
        if let Some(sent) = outbox.last_sent() {
            self.due = self.due.max(sent + self.timeout);
        }
        if self.due <= now {
            outbox.send_message(self.message.clone());
            self.due = now + self.timeout;
        }
    }
}

fn seconds(value: Option<u32>, default: Duration) -> Duration {
    match value {
        None | Some(0) => default,
        Some(seconds) => Duration::from_secs(seconds.into()),
    }
}
