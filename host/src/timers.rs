//! A timer: one request, sent again and again.

use std::{sync::Arc, time::Duration};

use grip::header::GRIP_SIG;
use http::{HeaderName, HeaderValue, Request, header};
use http_body_util::BodyExt;
use rand::RngExt;
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, error};

use crate::{state::Services, ws::ws_over_http::REPLY_PATIENCE};
use spin_runtime::{
    backend::{BodyError, Caller, empty},
    manifest::Timer,
};

/// The timers that run, and what each is stopped with.
pub(crate) struct Timers {
    services: Arc<Services>,
    host: HeaderValue,
    stop: CancellationToken,
    cut: CancellationToken,
    calls: TaskTracker,
    running: Vec<Running>,
    /// Those that were stopped and may still be calling.
    leaving: Vec<Running>,
}

struct Running {
    timer: Timer,
    stop: CancellationToken,
    /// Is cancelled when its last call has ended.
    ended: CancellationToken,
}

impl Running {
    /// Whether both call the same.
    fn calls_as(&self, timer: &Timer) -> bool {
        self.timer.method == timer.method && self.timer.path == timer.path
    }
}

impl Timers {
    /// No timers yet. `host` is the `Host` header of their requests; `stop` ends them all, and
    /// `cut` also drops the calls under way.
    pub(crate) fn new(
        services: Arc<Services>,
        host: HeaderValue,
        stop: CancellationToken,
        cut: CancellationToken,
    ) -> Self {
        Self {
            services,
            host,
            stop,
            cut,
            calls: TaskTracker::new(),
            running: Vec::new(),
            leaving: Vec::new(),
        }
    }

    /// Runs these timers and no others. Those that run already go on undisturbed; one that calls the
    /// same as one that is stopped begins when the last call of that has ended.
    pub(crate) fn exchange(&mut self, timers: &[Timer]) {
        let mut before = std::mem::take(&mut self.running);
        let mut new = Vec::new();
        for timer in timers {
            match before.iter().position(|running| running.timer == *timer) {
                Some(index) => self.running.push(before.swap_remove(index)),
                None => new.push(timer),
            }
        }
        for running in &before {
            running.stop.cancel();
        }
        self.leaving.extend(before);
        self.leaving.retain(|running| !running.ended.is_cancelled());
        for timer in new {
            let running = self.start(timer);
            self.running.push(running);
        }
    }

    fn start(&self, timer: &Timer) -> Running {
        let before = self.leaving.iter().filter(|other| other.calls_as(timer));
        let before: Vec<_> = before.map(|other| other.ended.clone()).collect();
        let running = Running {
            timer: timer.clone(),
            stop: self.stop.child_token(),
            ended: CancellationToken::new(),
        };
        let (services, host) = (self.services.clone(), self.host.clone());
        let (stop, ended) = (running.stop.clone(), running.ended.clone().drop_guard());
        let timer = timer.clone();
        let cut = self.cut.clone();
        self.calls.spawn(cut.run_until_cancelled_owned(async move {
            let _ended = ended;
            for other in before {
                other.cancelled().await;
            }
            if !stop.is_cancelled() {
                run(timer, services, host, stop).await;
            }
        }));
        running
    }

    /// Waits, once all are stopped, until the calls under way have ended.
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + use<> {
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
    let ended = timeout(REPLY_PATIENCE, async {
        while let Some(part) = body.frame().await {
            part?;
        }
        Ok::<_, BodyError>(())
    });
    match ended.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            error!(timer = timer.path, "the answer ended early: {error}");
            return false;
        }
        Err(_) => {
            error!(
                timer = timer.path,
                "the answer's body did not end within {REPLY_PATIENCE:?}"
            );
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
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use grip::Key;
    use http::{Method, Response};
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use spin_runtime::{
        backend::{Answer, Backend, Body},
        manifest::WebSocketLimits,
    };
    use tokio::{sync::Semaphore, time::Instant};

    use super::*;
    use crate::http::signer::Signer;

    /// Timers over a backend, with what stops them and what cuts them off.
    fn timers(backend: Arc<dyn Backend>) -> (Timers, CancellationToken, CancellationToken) {
        let key = Key::parse("a key of some length, since it has to be").expect("a key");
        let (stop, cut) = (CancellationToken::new(), CancellationToken::new());
        let (signer, limits) = (Signer::new(key), WebSocketLimits::default());
        let services = Services::new(backend, "own", signer, limits, stop.clone());
        let host = HeaderValue::from_static("localhost");
        let timers = Timers::new(services.into(), host, stop.clone(), cut.clone());
        (timers, stop, cut)
    }

    fn every(pause: Duration, path: &str) -> Timer {
        Timer {
            method: Method::POST,
            path: path.to_owned(),
            least: pause,
            most: pause,
        }
    }

    /// Begins every answer, and ends none.
    struct Endless;

    impl Backend for Endless {
        fn call(&self, _: Request<Body>) -> Answer<'_> {
            let pieces = futures_util::stream::pending::<Result<Frame<_>, BodyError>>();
            let body = StreamBody::new(pieces).boxed_unsync();
            Box::pin(async { Ok(Response::new(body)) })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_without_an_end_does_not_stop_a_timer() {
        let (mut timers, stop, cut) = timers(Arc::new(Endless));
        let services = timers.services.clone();
        let timer = every(Duration::from_secs(1), "/tick");
        timers.exchange(std::slice::from_ref(&timer));
        tokio::time::sleep((REPLY_PATIENCE + timer.least) * 3).await;
        let text = services.metrics.text(&services.snapshot());
        let failures = "socket_host_timer_runs_total{timer=\"/tick\",outcome=\"failure\"} 3";
        assert!(text.lines().any(|line| line == failures), "{text}");

        // The call under way may finish when the host stops, and is dropped when it is cut off.
        stop.cancel();
        let before = Instant::now();
        tokio::time::sleep(REPLY_PATIENCE / 2).await;
        cut.cancel();
        timers.ended().await;
        assert_eq!(before.elapsed(), REPLY_PATIENCE / 2);
    }

    #[test]
    fn pauses_are_within_their_range() {
        let (least, most) = (Duration::from_secs(2), Duration::from_secs(6));
        let pauses: Vec<_> = (0..1000).map(|_| pause(least, most)).collect();
        assert!(pauses.iter().all(|pause| (least..=most).contains(pause)));
        assert!(pauses.iter().any(|pause| *pause < Duration::from_secs(3)));
        assert!(pauses.iter().any(|pause| *pause > Duration::from_secs(5)));
        assert_eq!(pause(least, least), least);
    }

    /// Answers when it is allowed to, and counts.
    struct Slow {
        begun: AtomicUsize,
        allowed: Semaphore,
    }

    impl Backend for Slow {
        fn call(&self, _: Request<Body>) -> Answer<'_> {
            self.begun.fetch_add(1, SeqCst);
            Box::pin(async {
                self.allowed.acquire().await.unwrap().forget();
                Ok(Response::new(empty()))
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_takes_the_place_of_another_does_not_call_beside_it() {
        let backend = Arc::new(Slow {
            begun: AtomicUsize::new(0),
            allowed: Semaphore::new(0),
        });
        let (mut timers, stop, _) = timers(backend.clone());
        let timer = |path: &str, hours: u64| every(Duration::from_secs(hours * 3600), path);
        // The clock is paused: it moves on when nobody has anything to do.
        let settled = || tokio::time::sleep(Duration::from_secs(1));
        let begun = || backend.begun.load(SeqCst);

        timers.exchange(&[timer("/a", 1)]);
        settled().await;
        assert_eq!(begun(), 1);
        // Twice, so that the second waits for the first as well, and once undone.
        timers.exchange(&[timer("/a", 2)]);
        timers.exchange(&[timer("/a", 3)]);
        timers.exchange(&[timer("/a", 4), timer("/b", 1)]);
        settled().await;
        assert_eq!(begun(), 2, "another path waits for nobody");
        backend.allowed.add_permits(2);
        settled().await;
        assert_eq!(begun(), 3, "the last one alone");
        stop.cancel();
        backend.allowed.add_permits(1);
        timers.ended().await;
        assert_eq!(begun(), 3);
    }
}
