//! Stops a host: drains its connections, and then stops Spin.

use std::time::Duration;

use anyhow::anyhow;
use tokio::time::sleep;
use tracing::warn;

use crate::{Host, config::Limits, net::frame, spin::SpinProcess, telemetry::panics};

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

    /// Stops accepting connections, closes WebSockets with 1001, and waits up to 30 seconds for
    /// requests to finish. Returns whether everything finished; the rest is aborted. Then stops the
    /// Spin process that this host has started, and exports the last spans and metrics.
    pub async fn stop(mut self) -> bool {
        self.shutdown.drain.cancel();
        let mut spin = self.spin.take();
        let drained = async {
            let sessions = &self.services.sessions;
            sessions
                .close_all(frame::GOING_AWAY, "the server is shutting down")
                .await;
            while self.serving.join_next().await.is_some() {}
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
        self.export.flush().await;
        in_time
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.shutdown.drain.cancel();
        self.shutdown.abort.cancel();
    }
}

/// Waits until draining must end, and returns the time limit. Once Spin has exited, draining only lasts
/// until clients have answered a close: nothing can respond to requests and events.
async fn drain_timeout(spin: Option<&mut SpinProcess>) -> Duration {
    let drain_timeout = Limits::DEFAULT.drain_timeout;
    let close_timeout = Limits::DEFAULT.close_timeout;
    let spin_ended = async {
        match spin {
            Some(spin) => {
                spin.exited().await;
                sleep(close_timeout).await;
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = sleep(drain_timeout) => drain_timeout,
        () = spin_ended => close_timeout,
    }
}
