//! Messages that a component schedules for its client: a keep-alive message and a delayed one.

use std::time::Duration;

use grip::{Message, control::KeepAliveMode};
use tokio::time::Instant;

/// The defaults of Pushpin.
const DEFAULT_KEEP_ALIVE: Duration = Duration::from_secs(55);
const DEFAULT_DELAY: Duration = Duration::from_secs(1);

/// The scheduled messages of a session.
#[derive(Default)]
pub(super) struct Scheduled {
    keep_alive: Option<KeepAlive>,
    delayed: Option<(Message, Instant)>,
}

struct KeepAlive {
    message: Message,
    timeout: Duration,
    mode: KeepAliveMode,
    due: Instant,
}

impl Scheduled {
    pub(super) fn start_keep_alive(
        &mut self,
        message: Message,
        mode: KeepAliveMode,
        timeout: Option<u32>,
    ) {
        let timeout = seconds(timeout, DEFAULT_KEEP_ALIVE);
        self.keep_alive = Some(KeepAlive {
            message,
            timeout,
            mode,
            due: Instant::now() + timeout,
        });
    }

    pub(super) fn stop_keep_alive(&mut self) {
        self.keep_alive = None;
    }

    /// Schedules a message. Returns one that was scheduled before, which is due now.
    pub(super) fn delay(&mut self, message: Message, timeout: Option<u32>) -> Option<Message> {
        let due = Instant::now() + seconds(timeout, DEFAULT_DELAY);
        let previous = self.delayed.replace((message, due));
        previous.map(|(message, _)| message)
    }

    /// Returns the delayed message, which is then no longer scheduled.
    pub(super) fn flush(&mut self) -> Option<Message> {
        self.delayed.take().map(|(message, _)| message)
    }

    /// Records that the client was sent something.
    pub(super) fn sent(&mut self) {
        if let Some(keep_alive) = &mut self.keep_alive
            && keep_alive.mode == KeepAliveMode::Idle
        {
            keep_alive.due = Instant::now() + keep_alive.timeout;
        }
    }

    /// Returns when the next message is due.
    pub(super) fn due(&self) -> Option<Instant> {
        let keep_alive = self.keep_alive.as_ref().map(|keep_alive| keep_alive.due);
        let delayed = self.delayed.as_ref().map(|(_, due)| *due);
        keep_alive.into_iter().chain(delayed).min()
    }

    /// Returns the messages that are due.
    pub(super) fn take_due(&mut self) -> Vec<Message> {
        let now = Instant::now();
        let mut messages = Vec::new();
        if self.delayed.as_ref().is_some_and(|(_, due)| *due <= now) {
            messages.extend(self.flush());
        }
        if let Some(keep_alive) = &mut self.keep_alive
            && keep_alive.due <= now
        {
            keep_alive.due = now + keep_alive.timeout;
            messages.push(keep_alive.message.clone());
        }
        messages
    }
}

fn seconds(timeout: Option<u32>, default: Duration) -> Duration {
    timeout.map_or(default, |timeout| {
        Duration::from_secs(timeout.max(1).into())
    })
}
