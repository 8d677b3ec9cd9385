//! The watchdog of the service manager, which restarts a host that has stopped working.

use std::{env, process, time::Duration};

use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use super::notifier::{Notifier, State};
use crate::net::probe::Probe;

pub(super) const WATCHDOG_USEC: &str = "WATCHDOG_USEC";
pub(super) const WATCHDOG_PID: &str = "WATCHDOG_PID";

/// Starts to notify the service manager, if it expects that. Stops when the handle is dropped.
pub(crate) fn start(notifier: &Notifier, probes: Vec<Probe>) -> Option<AbortOnDropHandle<()>> {
    let limit = time_limit().filter(|_| notifier.is_connected())?;
    let task = tokio::spawn(run(notifier.clone(), limit, probes));
    Some(AbortOnDropHandle::new(task))
}

/// Returns the time within which the service manager expects a message from this process, if it does.
fn time_limit() -> Option<Duration> {
    let variable = |name| env::var(name).ok();
    parse(
        variable(WATCHDOG_USEC).as_deref(),
        variable(WATCHDOG_PID).as_deref(),
    )
}

fn parse(micros: Option<&str>, pid: Option<&str>) -> Option<Duration> {
    // The variables may be those of a parent.
    if pid.is_some_and(|pid| pid.parse() != Ok(process::id())) {
        return None;
    }
    let micros = micros?.parse().ok().filter(|micros| *micros > 0)?;
    Some(Duration::from_micros(micros))
}

/// Sends a message to the service manager whenever half of the time has passed and all accept loops
/// have answered. Never returns.
///
/// A runtime whose threads are blocked does not get here, or gets no answer.
async fn run(notifier: Notifier, limit: Duration, probes: Vec<Probe>) {
    let period = (limit / 2).max(Duration::from_millis(1));
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let answered = async {
            for probe in &probes {
                probe.answered().await;
            }
        };
        match timeout(period, answered).await {
            Ok(()) => notifier.send(&[State::Watchdog]).await,
            Err(_) => warn!("no answer from the accept loops; not notifying the watchdog"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::Response;
    use spin_runtime::backend::empty;
    use tokio::net::UnixDatagram;

    use super::*;
    use crate::{
        net::{
            draining::Draining,
            listener::{Admission, Listener},
        },
        shutdown::Shutdown,
    };

    #[test]
    fn the_time_limit_is_for_this_process() {
        let own = process::id().to_string();
        let limit = Some(Duration::from_millis(1500));
        for (micros, pid, expected) in [
            (Some("1500000"), Some(&*own), limit),
            (Some("1500000"), None, limit),
            (Some("1500000"), Some("1"), None),
            (Some("0"), None, None),
            (Some("soon"), None, None),
            (None, Some(&*own), None),
        ] {
            assert_eq!(parse(micros, pid), expected, "{micros:?} {pid:?}");
        }
    }

    #[tokio::test]
    async fn an_accept_loop_that_does_not_run_misses_the_watchdog() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::connect(Some(path.into()));
        let shutdown = Shutdown::default();
        let address = ([127, 0, 0, 1], 0).into();
        let listener = Listener::bind(address, "--listen", &shutdown).await;
        let listener = listener.unwrap();
        let limit = Duration::from_millis(50);
        tokio::spawn(run(notifier, limit, vec![listener.probe()]));
        let mut message = [0; 100];
        let received = timeout(limit * 10, manager.recv(&mut message)).await;
        assert!(received.is_err(), "the listener is not served yet");
        tokio::spawn(listener.serve(
            Arc::new(|_, _| async { Response::new(empty()) }),
            Admission::up_to(1),
            Draining::at_once(shutdown.drain.clone()),
        ));
        for _ in 0..3 {
            let length = manager.recv(&mut message).await.unwrap();
            assert_eq!(&message[..length], b"WATCHDOG=1\n");
        }
    }
}
