//! Stops a host: drains its connections, and then stops Spin.

use std::time::Duration;

use anyhow::anyhow;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::{Host, config::Limits, net::frame, spin::SpinProcess, telemetry::panics};

/// The time for requests to the control port to finish, after everything else has.
const CONTROL_DRAIN_TIMEOUT: Duration = Limits::DEFAULT.drain_request_timeout;

impl Host {
    /// Waits until the Spin process that this host has started exits, and returns an error that
    /// describes how. Never completes if there is none.
    pub async fn spin_exited(&mut self) -> anyhow::Error {
        match &mut self.spin {
            Some(spin) => spin.exited().await,
            None => std::future::pending().await,
        }
    }

    /// Waits until the host cannot go on, and returns an error that describes why: Spin has exited, or
    /// a task has panicked that the host cannot do without.
    pub async fn failed(&mut self) -> anyhow::Error {
        tokio::select! {
            error = self.spin_exited() => error,
            task = panics::fatal() => anyhow!("internal error: the {task} has panicked"),
        }
    }

    /// Returns what describes the clients that draining waits for.
    pub(crate) fn drain_status(&self) -> impl Fn() -> String + use<> {
        let services = self.services.clone();
        move || {
            let sockets = services.sessions.len();
            let held = services.holds.streams() + services.holds.responses();
            format!("Draining: {sockets} WebSockets, {held} held requests")
        }
    }

    /// Stops accepting connections, closes WebSockets with 1001, and waits up to 30 seconds for
    /// requests to finish. Returns whether everything finished; the rest is aborted. Then stops the
    /// Spin process that this host has started, and exports the last spans and metrics.
    ///
    /// With [`HostOptions::drain_over`](crate::HostOptions::drain_over), first closes WebSockets with
    /// 1012, and ends held requests, one by one. Meanwhile new clients are served.
    pub async fn stop(mut self) -> bool {
        self.shutdown.stop.cancel();
        let mut spin = self.spin.take();
        let (mut code, mut reason) = (frame::GOING_AWAY, "the server is shutting down");
        if let Some(time) = self.drain_over {
            (code, reason) = (frame::SERVICE_RESTART, "the server is restarting");
            info!(?time, "draining gradually");
            let drained = async {
                tokio::join!(
                    self.services.sessions.close_gradually(code, reason, time),
                    self.services.holds.release_gradually(time),
                    self.tunnels.close_gradually(time),
                );
            };
            tokio::select! {
                () = drained => {}
                () = exited(spin.as_mut()) => {}
            }
        }
        self.shutdown.drain.cancel();
        let drained = async {
            let sessions = &self.services.sessions;
            sessions.close_all(code, reason).await;
            while self.serving.join_next().await.is_some() {}
            // Those that the last connections have opened.
            sessions.close_all(code, reason).await;
            self.tunnels.closed().await;
        };
        let in_time = tokio::select! {
            () = drained => true,
            timeout = drain_timeout(spin.as_mut()) => {
                warn!(?timeout, "drain timed out, aborting the rest");
                false
            }
        };
        if let Some(spin) = spin {
            spin.stop().await;
        }
        // Otherwise the exit would reset requests that have just been sent.
        self.shutdown.drain_control.cancel();
        let _ = timeout(CONTROL_DRAIN_TIMEOUT, &mut self.control).await;
        self.export.flush().await;
        in_time
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.shutdown.stop.cancel();
        self.shutdown.drain.cancel();
        self.shutdown.drain_control.cancel();
        self.shutdown.abort.cancel();
    }
}

/// Waits until draining must end, and returns the time limit. Once Spin has exited, draining only lasts
/// until clients have answered a close: nothing can respond to requests and events.
async fn drain_timeout(spin: Option<&mut SpinProcess>) -> Duration {
    let drain_timeout = Limits::DEFAULT.drain_timeout;
    let close_timeout = Limits::DEFAULT.close_timeout;
    let spin_ended = async {
        exited(spin).await;
        sleep(close_timeout).await;
    };
    tokio::select! {
        () = sleep(drain_timeout) => drain_timeout,
        () = spin_ended => close_timeout,
    }
}

/// Waits until Spin has exited. Never completes without Spin.
async fn exited(spin: Option<&mut SpinProcess>) {
    match spin {
        Some(spin) => drop(spin.exited().await),
        None => std::future::pending().await,
    }
}
