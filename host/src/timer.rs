//! A timer: one request, sent again and again.

use std::{sync::Arc, time::Duration};

use grip::header::GRIP_SIG;
use http::{HeaderName, HeaderValue, Request, header};
use http_body_util::BodyExt;
use rand::RngExt;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, error};

use crate::services::Services;
use runtime::{
    backend::{Caller, empty},
    manifest::Timer,
};

/// The timers that run, and what each is stopped with.
pub struct Timers {
    services: Arc<Services>,
    host: HeaderValue,
    stop: CancellationToken,
    calls: TaskTracker,
    running: Vec<(Timer, CancellationToken)>,
}

impl Timers {
    /// No timers yet. `host` is the `Host` header of their requests; `stop` ends them all.
    pub fn new(services: Arc<Services>, host: HeaderValue, stop: CancellationToken) -> Self {
        Self {
            services,
            host,
            stop,
            calls: TaskTracker::new(),
            running: Vec::new(),
        }
    }

    /// Runs these timers and no others. Those that run already go on undisturbed.
    pub fn exchange(&mut self, timers: &[Timer]) {
        let mut before = std::mem::take(&mut self.running);
        for timer in timers {
            let kept = before.iter().position(|(running, _)| running == timer);
            let running = match kept {
                Some(index) => before.swap_remove(index),
                None => {
                    let stop = self.stop.child_token();
                    let (services, host) = (self.services.clone(), self.host.clone());
                    self.calls
                        .spawn(run(timer.clone(), services, host, stop.clone()));
                    (timer.clone(), stop)
                }
            };
            self.running.push(running);
        }
        for (_, stop) in before {
            stop.cancel();
        }
    }

    /// Waits, once all are stopped, until the calls under way have ended.
    pub fn ended(&self) -> impl Future<Output = ()> + use<> {
        let (calls, stop) = (self.calls.clone(), self.stop.clone());
        async move {
            stop.cancelled().await;
            calls.close();
            calls.wait().await;
        }
    }
}

/// Calls `timer`'s request at once, and again after each pause, until `stop`.
///
/// Calls never overlap: the pause begins when the call has ended. One that fails is
/// logged, and tried again after the next pause. `host` is its `Host` header.
async fn run(timer: Timer, services: Arc<Services>, host: HeaderValue, stop: CancellationToken) {
    loop {
        // A call under way when the host stops is finished.
        let succeeded = call(&timer, &services, &host).await;
        services.metrics.timer(&timer.path, succeeded);
        tokio::select! {
            () = tokio::time::sleep(pause(timer.least, timer.most)) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Calls once, and says whether that went well.
async fn call(timer: &Timer, services: &Services, host: &HeaderValue) -> bool {
    let request = Request::builder()
        .method(timer.method.clone())
        .uri(&timer.path)
        .header(header::HOST, host)
        .header(header::CONTENT_LENGTH, 0)
        .header(HeaderName::from_static(GRIP_SIG), services.signer.token())
        .extension(Caller::Host)
        .body(empty());
    let request = match request {
        Ok(request) => request,
        Err(error) => {
            error!(timer = timer.path, "cannot be sent: {error}");
            return false;
        }
    };
    let response = match services.backend.call(request).await {
        Ok(response) => response,
        Err(error) => {
            error!(timer = timer.path, "{error}");
            return false;
        }
    };
    let status = response.status();
    // The call lasts until its body has come to its end.
    let mut body = response.into_body();
    while let Some(part) = body.frame().await {
        if let Err(error) = part {
            error!(timer = timer.path, "the answer ended early: {error}");
            return false;
        }
    }
    if status.is_success() {
        debug!(timer = timer.path, %status, "called");
    } else {
        error!(timer = timer.path, %status, "answered with a failure");
    }
    status.is_success()
}

/// A pause between the two, uniformly.
fn pause(least: Duration, most: Duration) -> Duration {
    if least < most {
        rand::rng().random_range(least..=most)
    } else {
        least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_within_their_range() {
        let (least, most) = (Duration::from_secs(2), Duration::from_secs(6));
        let pauses: Vec<_> = (0..1000).map(|_| pause(least, most)).collect();
        assert!(pauses.iter().all(|pause| (least..=most).contains(pause)));
        assert!(pauses.iter().any(|pause| *pause < Duration::from_secs(3)));
        assert!(pauses.iter().any(|pause| *pause > Duration::from_secs(5)));
        assert_eq!(pause(least, least), least);
    }
}
