//! The signals that the host handles: those that stop it, and SIGHUP, which reloads certificates.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::{
    signal::unix::{self, SignalKind, signal},
    time::Instant,
};

/// Signals of different kinds within this time are one request to stop.
///
/// Spin sends SIGTERM to a plugin on Ctrl-C, while the terminal sends SIGINT to both. A service
/// manager may send SIGHUP together with SIGTERM.
const SAME_REQUEST: Duration = Duration::from_secs(1);

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// End the process.
    Stop,
    /// Read the certificates again: SIGHUP to a process without a terminal.
    Reload,
}

/// Receives SIGINT, SIGTERM and SIGHUP.
pub(crate) struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    /// `None` for a process that was started to outlive its terminal.
    hangup: Option<unix::Signal>,
    /// The process has a controlling terminal, so SIGHUP means that it was closed.
    has_terminal: bool,
    requests: Requests,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Interrupt,
    Terminate,
    Hangup,
}

impl Signals {
    pub(crate) fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: (!ignores_hangup())
                .then(|| listen(SignalKind::hangup()))
                .transpose()?,
            // The controlling terminal of this process, whatever its standard streams are.
            has_terminal: std::fs::File::open("/dev/tty").is_ok(),
            requests: Requests::default(),
        })
    }

    /// Waits for the next request to stop.
    pub(crate) async fn next(&mut self) {
        while self.receive().await != Request::Stop {}
    }

    /// Waits for the next request.
    pub(crate) async fn receive(&mut self) -> Request {
        loop {
            let kind = self.receive_signal().await;
            if kind == Kind::Hangup && !self.has_terminal {
                return Request::Reload;
            }
            if self.requests.is_new(kind, Instant::now()) {
                return Request::Stop;
            }
        }
    }

    async fn receive_signal(&mut self) -> Kind {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => Kind::Interrupt,
            _ = self.terminate.recv() => Kind::Terminate,
            _ = hangup => Kind::Hangup,
        }
    }
}

/// Groups signals into requests to stop.
#[derive(Default)]
struct Requests {
    /// The time of the latest request, and its kinds of signals.
    latest: Option<(Instant, Vec<Kind>)>,
}

impl Requests {
    /// Returns whether a signal is a new request. It is not if a signal of another kind has just
    /// made that request.
    fn is_new(&mut self, kind: Kind, now: Instant) -> bool {
        if let Some((time, kinds)) = &mut self.latest
            && now.duration_since(*time) < SAME_REQUEST
            && !kinds.contains(&kind)
        {
            kinds.push(kind);
            return false;
        }
        self.latest = Some((now, vec![kind]));
        true
    }
}

/// Returns whether the process was started with SIGHUP ignored, as by `nohup`. Only known on
/// Linux.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // A bit mask that starts with signal 1, which is SIGHUP.
    ignored
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::{
        Kind::{Hangup, Interrupt, Terminate},
        *,
    };

    /// Returns the signals, with their times in milliseconds, that are new requests.
    fn requests(signals: &[(Kind, u64)]) -> Vec<(Kind, u64)> {
        let (start, mut requests) = (Instant::now(), Requests::default());
        let mut signals = signals.to_vec();
        signals.retain(|(kind, time)| requests.is_new(*kind, start + Duration::from_millis(*time)));
        signals
    }

    #[test]
    fn different_signals_at_once_are_one_request() {
        for first in [
            [Interrupt, Terminate],
            [Terminate, Interrupt],
            [Terminate, Hangup],
        ] {
            let signals = first.map(|kind| (kind, 0));
            assert_eq!(requests(&signals), signals[..1]);
        }
        let all = [(Hangup, 0), (Terminate, 10), (Interrupt, 20)];
        assert_eq!(requests(&all), all[..1]);
    }

    #[test]
    fn the_same_signal_again_is_another_request() {
        let twice = [(Interrupt, 0), (Interrupt, 1)];
        assert_eq!(requests(&twice), twice);
        // Ctrl-C twice in a plugin.
        let plugin = [
            (Interrupt, 0),
            (Terminate, 1),
            (Interrupt, 200),
            (Terminate, 201),
        ];
        assert_eq!(requests(&plugin), [(Interrupt, 0), (Interrupt, 200)]);
        let plugin = [
            (Terminate, 0),
            (Interrupt, 1),
            (Interrupt, 200),
            (Terminate, 201),
        ];
        assert_eq!(requests(&plugin), [(Terminate, 0), (Interrupt, 200)]);
    }

    #[test]
    fn a_late_signal_is_another_request() {
        let late = [(Interrupt, 0), (Terminate, 1000)];
        assert_eq!(requests(&late), late);
    }
}
