//! Timers: calls of the application that are repeated.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use http::{Method, Request, Uri};
use rand::{RngExt as _, rngs::StdRng};
use spin_runtime::{CronSchedule, backend::Backend as _, manifest::CronTrigger};
use tokio::time::sleep;

use crate::{
    host::Host,
    manifest::{Schedule, Timer},
    request::ClientRequest,
    response::Response,
    serve,
};

/// Calls a timer whenever it is due. Calls do not overlap.
pub(crate) async fn run(host: Arc<Host>, timer: Timer, mut rng: StdRng) {
    let mut is_first = true;
    loop {
        let pause = match &timer.schedule {
            Schedule::Every(_) if is_first => Some(Duration::ZERO),
            Schedule::Every(pause) => Some(rng.random_range(pause.clone())),
            Schedule::Cron(schedule) => until_next(&host, schedule),
        };
        let Some(pause) = pause else { return };
        is_first = false;
        sleep(pause).await;
        let response = Response::new();
        call(&host, timer.method.clone(), &timer.path, &response).await;
        if !response.status().is_success() {
            let error = format!("timer: unexpected status {}", response.status());
            host.fail(&timer.path, error);
        }
    }
}

/// Calls a component for the events of a cron trigger. Calls do not overlap.
pub(crate) async fn run_cron(host: Arc<Host>, trigger: CronTrigger) {
    while let Some(pause) = until_next(&host, &trigger.schedule) {
        sleep(pause).await;
        // Recorded as a failure.
        let _ = call_cron(&host, &trigger.component).await;
    }
}

fn until_next(host: &Host, schedule: &CronSchedule) -> Option<Duration> {
    let now = host.clock.now();
    let next = schedule.next_after(now)?;
    next.duration_since(now).ok()
}

/// Sends the request of a timer, and waits for the end of the response.
pub(crate) async fn call(host: &Host, method: Method, path: &str, response: &Response) {
    let mut request = Request::new("");
    *request.method_mut() = method;
    // Reading the manifest has validated the path.
    *request.uri_mut() = path.parse().unwrap_or(Uri::from_static("/"));
    serve::serve_host(host, &ClientRequest::new(request), response).await;
}

/// Calls a component for an event of a cron trigger that is due now.
pub(crate) async fn call_cron(host: &Host, component: &str) -> Result<(), String> {
    let now = host.clock.now().duration_since(UNIX_EPOCH);
    let timestamp = now.unwrap_or_default().as_secs();
    let called = host.backend.call_cron(component, timestamp).await;
    called.map_err(|error| {
        let error = error.to_string();
        host.fail(component, &error);
        error
    })
}
