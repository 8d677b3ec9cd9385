//! Timers: calls to the backend that are repeated.

mod ticker;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use grip::header::GRIP_SIG;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use spin_runtime::backend::{BackendError, BodyError, Caller, empty};
use tokio::time::{Instant, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument as _, debug, debug_span, error, info};

use self::ticker::Ticker;
use crate::{
    config::{Limits, Timer, TimerTarget},
    http::headers::TIMER_RUN,
    shutdown::Shutdown,
    state::{
        Services,
        timer_status::{TimerResult, TimerStatus},
    },
    telemetry::{
        panics::{self, Panicked},
        trace_context::SpanContext,
        tracer::{Span, SpanKind},
    },
};

/// How long the body of a response may take.
const BODY_TIMEOUT: Duration = Limits::DEFAULT.response_body_timeout;

/// The timers of a host.
pub(crate) struct Timers {
    services: Arc<Services>,
    /// The `Host` header of the requests.
    host: HeaderValue,
    shutdown: Shutdown,
    tasks: TaskTracker,
    started: bool,
    /// What runs, or will run once started.
    timers: Vec<Timer>,
    running: Vec<Running>,
    /// Stopped timers whose last call may be in progress.
    stopping: Vec<Running>,
}

/// A timer with its task.
struct Running {
    timer: Timer,
    status: Arc<TimerStatus>,
    stop: CancellationToken,
    /// Cancelled when the last call has ended.
    ended: CancellationToken,
}

impl Timers {
    /// Creates timers that send their requests to `address`.
    ///
    /// # Errors
    /// Fails if the address cannot be the value of a header.
    pub(crate) fn new(
        services: Arc<Services>,
        address: SocketAddr,
        shutdown: Shutdown,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            services,
            host: HeaderValue::from_str(&address.to_string())?,
            shutdown,
            tasks: TaskTracker::new(),
            started: false,
            timers: Vec::new(),
            running: Vec::new(),
            stopping: Vec::new(),
        })
    }

    /// Starts the timers. Until then, [`Self::replace`] only records them.
    pub(crate) fn start(&mut self) {
        self.started = true;
        self.update();
    }

    /// Runs these timers and no others. Timers that are running already are not disturbed.
    pub(crate) fn replace(&mut self, timers: Vec<Timer>) {
        self.timers = timers;
        if self.started {
            self.update();
        }
    }

    fn update(&mut self) {
        let mut previous = std::mem::take(&mut self.running);
        let mut new = Vec::new();
        for timer in &self.timers {
            match previous.iter().position(|running| running.timer == *timer) {
                Some(index) => self.running.push(previous.swap_remove(index)),
                None => new.push(timer.clone()),
            }
        }
        for running in &previous {
            running.stop.cancel();
        }
        self.stopping.extend(previous);
        self.stopping
            .retain(|running| !running.ended.is_cancelled());
        for timer in new {
            let running = self.spawn(timer);
            self.running.push(running);
        }
        let position = |status: &Running| {
            let mut timers = self.timers.iter();
            timers.position(|timer| *timer == status.timer)
        };
        self.running.sort_by_key(position);
        let statuses = self.running.iter().map(|running| running.status.clone());
        self.services.timers.set(statuses.collect());
    }

    /// Starts a timer once stopped timers with the same target have ended, so that their calls
    /// do not overlap.
    fn spawn(&self, timer: Timer) -> Running {
        let predecessors: Vec<_> = self
            .stopping
            .iter()
            .filter(|running| running.timer.target == timer.target)
            .map(|running| running.ended.clone())
            .collect();
        let running = Running {
            status: TimerStatus::new(&timer),
            timer: timer.clone(),
            stop: self.shutdown.stop.child_token(),
            ended: CancellationToken::new(),
        };
        let (services, host) = (self.services.clone(), self.host.clone());
        let status = running.status.clone();
        let (stop, ended) = (running.stop.clone(), running.ended.clone().drop_guard());
        let task = async move {
            let _ended = ended;
            for predecessor in predecessors {
                predecessor.cancelled().await;
            }
            if !stop.is_cancelled() {
                run(timer, &status, services, host, stop).await;
            }
        };
        let abort = self.shutdown.abort.clone();
        self.tasks.spawn(abort.run_until_cancelled_owned(task));
        running
    }

    /// Returns a future that completes when the host is stopping and the last calls have ended.
    pub(crate) fn drained(&self) -> impl Future<Output = ()> + use<> {
        let (tasks, stop) = (self.tasks.clone(), self.shutdown.stop.clone());
        let bus = self.services.bus.clone();
        async move {
            stop.cancelled().await;
            tasks.close();
            tasks.wait().await;
            if let Some(bus) = bus {
                bus.release_lease().await;
            }
        }
    }
}

/// Calls the target of a timer whenever it is due, until `stop`.
///
/// Calls never overlap: the timer continues when a call has ended, whether it failed or not.
async fn run(
    timer: Timer,
    status: &TimerStatus,
    services: Arc<Services>,
    host: HeaderValue,
    stop: CancellationToken,
) {
    let name = timer.target.name();
    let mut ticker = Ticker::new(timer.schedule, SystemTime::now);
    let announce = |next| status.set_next(next);
    while let Some(due) = stop.run_until_cancelled(ticker.tick(announce)).await {
        let Some(time) = due else {
            status.end();
            info!(timer = name, "timer has no further times");
            return;
        };
        let (begun, start) = (SystemTime::now(), Instant::now());
        let run = match &services.bus {
            None => None,
            Some(bus) => match bus.begin_run(name).await {
                Some(number) => Some(number),
                None => {
                    status.end_run(begun, start.elapsed(), TimerResult::OtherHost, None);
                    continue;
                }
            },
        };
        status.begin_run();
        let span = debug_span!("timer", name);
        // A call in progress finishes when the host stops.
        let call = call(&timer.target, time, run, &services, &host).instrument(span);
        let result = panics::catch(call).await;
        let result = result.unwrap_or_else(|panicked| Err(panicked.into()));
        services.metrics.timer(name, result.is_ok());
        let time = start.elapsed();
        match result {
            Ok(()) => {
                debug!(timer = name, "timer called");
                status.end_run(begun, time, TimerResult::Success, None);
            }
            Err(error) => {
                error!(timer = name, %error, "timer failed");
                let error = Some(error.to_string());
                status.end_run(begun, time, TimerResult::Failure, error);
            }
        }
    }
}

/// Why a call of a timer failed.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error("invalid request: {0}")]
    Request(#[from] http::Error),
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error("the response body failed: {0}")]
    Body(BodyError),
    #[error("the response body did not end within {BODY_TIMEOUT:?}")]
    BodyTimeout,
    #[error("the response has status {0}")]
    Status(StatusCode),
    #[error("the call {0}")]
    Panicked(#[from] Panicked),
}

/// Calls a target once, for the time at which it is due. With a bus, `run` is the number of the call.
async fn call(
    target: &TimerTarget,
    time: SystemTime,
    run: Option<u64>,
    services: &Services,
    host: &HeaderValue,
) -> Result<(), CallError> {
    let name = target.name();
    let tracer = &services.telemetry.tracer;
    let mut span = tracer.start(SpanKind::Internal, "timer", None);
    if let Some(span) = &mut span {
        span.record(|record| record.name = format!("timer {name}").into());
    }
    let result = match target {
        TimerTarget::Request { method, path } => {
            let context = span.as_ref().map(Span::context);
            send_request(method, path, run, services, host, context).await
        }
        TimerTarget::Component(id) => {
            let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            let timestamp = since_epoch.as_secs();
            let called = services.backend.call_cron(id, timestamp).await;
            called.map_err(CallError::from)
        }
    };
    if let Some(span) = &mut span
        && result.is_err()
    {
        span.record(|record| record.error = Some("the call failed"));
    }
    result
}

/// Sends a request, and waits for the end of the response.
async fn send_request(
    method: &Method,
    path: &str,
    run: Option<u64>,
    services: &Services,
    host: &HeaderValue,
    context: Option<SpanContext>,
) -> Result<(), CallError> {
    let mut request = Request::builder()
        .method(method.clone())
        .uri(path)
        .header(header::HOST, host)
        .header(header::CONTENT_LENGTH, 0)
        .header(HeaderName::from_static(GRIP_SIG), services.signer.token())
        .extension(Caller::Host);
    if let Some(run) = run {
        request = request.header(HeaderName::from_static(TIMER_RUN), run);
    }
    if let Some(context) = context {
        request = request.extension(context);
    }
    let request = request.body(empty())?;
    let response = services.backend.call(request).await?;
    let status = response.status();
    let mut body = response.into_body();
    let read = async {
        while let Some(frame) = body.frame().await {
            frame.map_err(CallError::Body)?;
        }
        Ok(())
    };
    timeout(BODY_TIMEOUT, read)
        .await
        .unwrap_or(Err(CallError::BodyTimeout))?;
    if status.is_success() {
        Ok(())
    } else {
        Err(CallError::Status(status))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use grip::Key;
    use http::Response;
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use parking_lot::Mutex;
    use spin_runtime::{
        CronSchedule,
        backend::{Backend, Body, CronFuture, ResponseFuture},
    };
    use tokio::sync::Semaphore;

    use super::*;
    use crate::{
        config::{HostConfig, TimerSchedule},
        http::signer::Signer,
    };

    /// Returns started timers for a backend.
    fn timers(backend: Arc<dyn Backend>) -> (Timers, Shutdown) {
        let key = Key::parse("a key that is long enough for tokens").expect("valid key");
        let shutdown = Shutdown::default();
        let config = HostConfig::default();
        let services = Services::new(
            backend,
            "test",
            Signer::new(key),
            &config,
            shutdown.drain.clone(),
        );
        let address = SocketAddr::from(([127, 0, 0, 1], 3000));
        let timers = Timers::new(services.into(), address, shutdown.clone());
        let mut timers = timers.expect("valid address");
        timers.start();
        (timers, shutdown)
    }

    fn every(pause: Duration, path: &str) -> Timer {
        Timer {
            target: TimerTarget::Request {
                method: Method::POST,
                path: path.to_owned(),
            },
            schedule: TimerSchedule::Every(pause..=pause),
        }
    }

    /// Panics in every call.
    struct Panicking;

    impl Backend for Panicking {
        fn call(&self, _: Request<Body>) -> ResponseFuture<'_> {
            Box::pin(async { panic!("on purpose") })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_fails_one_call() {
        let (mut timers, shutdown) = timers(Arc::new(Panicking));
        let services = timers.services.clone();
        timers.replace(vec![every(Duration::from_secs(1), "/tick")]);
        tokio::time::sleep(Duration::from_millis(2500)).await;
        let text = services.metrics.text(&services.snapshot());
        let failures = "socket_host_timer_runs_total{timer=\"/tick\",outcome=\"failure\"} 3";
        assert!(text.lines().any(|line| line == failures), "{text}");
        shutdown.stop.cancel();
        timers.drained().await;
    }

    /// Starts every response body and never ends it.
    struct EndlessBody;

    impl Backend for EndlessBody {
        fn call(&self, _: Request<Body>) -> ResponseFuture<'_> {
            let frames = futures_util::stream::pending::<Result<Frame<_>, BodyError>>();
            let body = StreamBody::new(frames).boxed_unsync();
            Box::pin(async { Ok(Response::new(body)) })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn endless_response_bodies_do_not_stop_a_timer() {
        let (mut timers, shutdown) = timers(Arc::new(EndlessBody));
        let services = timers.services.clone();
        let pause = Duration::from_secs(1);
        timers.replace(vec![every(pause, "/tick")]);
        tokio::time::sleep((BODY_TIMEOUT + pause) * 3).await;
        let text = services.metrics.text(&services.snapshot());
        let failures = "socket_host_timer_runs_total{timer=\"/tick\",outcome=\"failure\"} 3";
        assert!(text.lines().any(|line| line == failures), "{text}");

        // The call in progress may finish while the host drains, and is dropped by an abort.
        shutdown.stop.cancel();
        let start = Instant::now();
        tokio::time::sleep(BODY_TIMEOUT / 2).await;
        shutdown.abort.cancel();
        timers.drained().await;
        assert_eq!(start.elapsed(), BODY_TIMEOUT / 2);
    }

    /// Records the events of cron triggers, and fails each once it has a permit.
    struct FailingEvents {
        events: Mutex<Vec<(String, u64)>>,
        permits: Semaphore,
    }

    impl Backend for FailingEvents {
        fn call(&self, _: Request<Body>) -> ResponseFuture<'_> {
            Box::pin(async { panic!("a request instead of an event") })
        }

        fn call_cron<'a>(&'a self, component: &'a str, timestamp: u64) -> CronFuture<'a> {
            self.events.lock().push((component.to_owned(), timestamp));
            Box::pin(async move {
                self.permits.acquire().await.unwrap().forget();
                Err(BackendError::Failed {
                    component: component.to_owned(),
                    source: anyhow::anyhow!("trap"),
                })
            })
        }
    }

    #[tokio::test]
    async fn events_of_cron_triggers_do_not_overlap() {
        let backend = Arc::new(FailingEvents {
            events: Mutex::default(),
            permits: Semaphore::new(0),
        });
        let (mut timers, shutdown) = timers(backend.clone());
        let services = timers.services.clone();
        let schedule = CronSchedule::parse("* * * * * *").unwrap();
        timers.replace(vec![Timer {
            target: TimerTarget::Component("report".to_owned()),
            schedule: TimerSchedule::Cron(schedule),
        }]);
        let events = |count: usize| {
            let backend = backend.clone();
            async move {
                while backend.events.lock().len() < count {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        };
        events(1).await;
        // The next second passes during the call.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert_eq!(backend.events.lock().len(), 1);
        backend.permits.add_permits(1);
        events(2).await;
        shutdown.abort.cancel();
        let events = backend.events.lock().clone();
        assert_eq!(events[0].0, "report");
        assert!(events[1].1 > events[0].1 + 1, "{events:?}");
        let text = services.metrics.text(&services.snapshot());
        let failures = "socket_host_timer_runs_total{timer=\"report\",outcome=\"failure\"} 1";
        assert!(text.lines().any(|line| line == failures), "{text}");
    }

    /// Counts calls, and responds to each once it has a permit.
    struct Gated {
        calls: AtomicUsize,
        permits: Semaphore,
    }

    impl Backend for Gated {
        fn call(&self, _: Request<Body>) -> ResponseFuture<'_> {
            self.calls.fetch_add(1, SeqCst);
            Box::pin(async {
                self.permits.acquire().await.unwrap().forget();
                Ok(Response::new(empty()))
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_does_not_overlap_the_last_call_of_its_predecessor() {
        let backend = Arc::new(Gated {
            calls: AtomicUsize::new(0),
            permits: Semaphore::new(0),
        });
        let (mut timers, shutdown) = timers(backend.clone());
        let timer = |path: &str, hours: u64| every(Duration::from_secs(hours * 3600), path);
        // The clock is paused and advances only when all tasks are idle.
        let settle = || tokio::time::sleep(Duration::from_secs(1));
        let calls = || backend.calls.load(SeqCst);

        timers.replace(vec![timer("/a", 1)]);
        settle().await;
        assert_eq!(calls(), 1);
        // Replaced repeatedly: each waits for all of its predecessors.
        timers.replace(vec![timer("/a", 2)]);
        timers.replace(vec![timer("/a", 3)]);
        timers.replace(vec![timer("/a", 4), timer("/b", 1)]);
        settle().await;
        assert_eq!(calls(), 2, "another path does not wait");
        backend.permits.add_permits(2);
        settle().await;
        assert_eq!(calls(), 3, "only the last replacement is called");
        shutdown.stop.cancel();
        backend.permits.add_permits(1);
        timers.drained().await;
        assert_eq!(calls(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn timers_do_not_call_before_they_are_started() {
        let backend = Arc::new(Gated {
            calls: AtomicUsize::new(0),
            permits: Semaphore::new(100),
        });
        let (mut timers, _) = timers(backend.clone());
        timers.started = false;
        timers.replace(vec![every(Duration::from_secs(3600), "/a")]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(backend.calls.load(SeqCst), 0);
        timers.start();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(backend.calls.load(SeqCst), 1);
    }
}
