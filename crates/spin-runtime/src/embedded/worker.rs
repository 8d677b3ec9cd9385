//! What an instance and the callers of its requests know about each other.

use std::{
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};
use wasmtime::Result;

use super::{
    call::Call, capacity::WaitingRequest, compute::Turn, engine::EPOCH_INTERVAL,
    failure::FailureReason, uploads::UploadProgress,
};
use crate::{backend::RequestBodyError, limits::Limits};

/// How long an instance may exceed the timeout of its requests. It lets each caller cancel its own
/// request first.
pub(crate) const GRACE_PERIOD: Duration = Duration::from_millis(250);

/// The state of an instance, shared with the callers of its requests and with response bodies.
pub(crate) struct Worker {
    component: Arc<str>,
    limits: Limits,
    /// The requests that it has accepted.
    accepted: AtomicUsize,
    /// The accepted requests that were canceled before they had a response.
    canceled: AtomicUsize,
    /// The accepted requests whose caller is still waiting.
    waiting: AtomicUsize,
    /// The response bodies that are still being read.
    open_bodies: AtomicUsize,
    /// When a part of a request's body was last read.
    last_upload: Mutex<Option<Instant>>,
    /// The epochs in which the guest was computing, since it last made progress.
    ticks: AtomicU32,
    /// Its turn to compute.
    turn: Mutex<Option<Turn>>,
    waits_for_turn: AtomicBool,
    /// The guest has waited for something else.
    has_waited: AtomicBool,
    /// Wakes the instance when any of these has changed.
    waker: AtomicWaker,
    /// Set before the guest is stopped by the host.
    stop_reason: OnceLock<StopReason>,
    /// Set before the exit of a guest that failed.
    failure: OnceLock<FailureReason>,
    exit: OnceLock<Exit>,
    exited: Notify,
}

/// Why the host stopped a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// A request exceeded its timeout.
    TimedOut,
    /// All of its requests were canceled.
    Canceled,
    /// It kept running for too long after its responses.
    Lingering,
}

/// How an instance exited.
#[derive(Clone, Debug)]
pub(crate) enum Exit {
    /// It had no more work.
    Completed,
    /// It trapped, or the host stopped it.
    Failed(Arc<wasmtime::Error>),
}

impl Worker {
    pub(crate) fn new(component: Arc<str>, limits: Limits) -> Self {
        Self {
            component,
            limits,
            accepted: AtomicUsize::new(0),
            canceled: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            open_bodies: AtomicUsize::new(0),
            last_upload: Mutex::new(None),
            ticks: AtomicU32::new(0),
            turn: Mutex::new(None),
            waits_for_turn: AtomicBool::new(false),
            has_waited: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            stop_reason: OnceLock::new(),
            failure: OnceLock::new(),
            exit: OnceLock::new(),
            exited: Notify::new(),
        }
    }

    /// Returns the id of the component.
    pub(crate) fn component(&self) -> &str {
        &self.component
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Records that an epoch ended while the guest was computing. Returns the number of such epochs
    /// since it last made progress.
    ///
    /// # Errors
    /// Fails if the guest has computed for the duration of a request without progress. Requests
    /// have their own timeout, so this stops guests that compute after their response.
    pub(crate) fn tick(&self) -> Result<u32> {
        let ticks = self.ticks.fetch_add(1, SeqCst) + 1;
        let limit = self.limits.request_timeout;
        if EPOCH_INTERVAL * ticks > limit + GRACE_PERIOD {
            self.set_stop_reason(StopReason::Lingering);
            wasmtime::bail!("component computed for {limit:?} without progress");
        }
        Ok(ticks)
    }

    /// Lets the guest compute.
    pub(crate) fn begin_turn(&self, turn: Turn) {
        *self.turn.lock() = Some(turn);
        self.waits_for_turn.store(false, SeqCst);
    }

    /// Returns the turn of the guest, if it has one. The guest then waits for another one.
    pub(crate) fn take_turn(&self) -> Option<Turn> {
        self.waits_for_turn.store(true, SeqCst);
        self.turn.lock().take()
    }

    /// Records that the guest does not compute: it waits, or has ended.
    pub(crate) fn end_turn(&self) {
        let turn = self.turn.lock().take();
        drop(turn);
        if !self.waits_for_turn.load(SeqCst) {
            self.has_waited.store(true, SeqCst);
        }
    }

    /// Returns whether the guest has waited for something else than a turn since the last call.
    pub(crate) fn has_waited(&self) -> bool {
        self.has_waited.swap(false, SeqCst)
    }

    /// Records that the guest made progress.
    pub(crate) fn progress(&self) {
        self.ticks.store(0, SeqCst);
    }

    /// Returns when a part of a request's body was last read.
    pub(crate) fn last_upload(&self) -> Option<Instant> {
        *self.last_upload.lock()
    }

    /// Records that the instance accepted a request.
    pub(crate) fn accept(self: &Arc<Self>, shared: &SharedRequest) {
        self.accepted.fetch_add(1, SeqCst);
        self.waiting.fetch_add(1, SeqCst);
        self.progress();
        let _ = shared.accepted_at.set(Instant::now());
        let _ = shared.worker.set(self.clone());
        shared.count_cancellation();
    }

    /// Returns whether a caller is waiting for a response.
    pub(crate) fn has_waiting_callers(&self) -> bool {
        self.waiting.load(SeqCst) > 0
    }

    /// Returns whether all accepted requests were canceled.
    pub(crate) fn is_canceled(&self) -> bool {
        let accepted = self.accepted.load(SeqCst);
        accepted > 0 && self.canceled.load(SeqCst) == accepted
    }

    /// Records that a response body is being read.
    pub(crate) fn open_body(&self) {
        self.open_bodies.fetch_add(1, SeqCst);
    }

    /// Records that a response body has been read or dropped.
    pub(crate) fn close_body(&self) {
        if self.open_bodies.fetch_sub(1, SeqCst) == 1 {
            self.waker.wake();
        }
    }

    pub(crate) fn has_open_bodies(&self) -> bool {
        self.open_bodies.load(SeqCst) > 0
    }

    /// Registers the task to wake when the state changes.
    pub(crate) fn register(&self, cx: &Context<'_>) {
        self.waker.register(cx.waker());
    }

    /// Returns why the host stopped the guest, if it did.
    pub(crate) fn stop_reason(&self) -> Option<StopReason> {
        self.stop_reason.get().copied()
    }

    /// Sets the reason, unless there already is one.
    pub(crate) fn set_stop_reason(&self, reason: StopReason) {
        let _ = self.stop_reason.set(reason);
    }

    /// Returns why the guest failed, if it did.
    pub(crate) fn failure(&self) -> Option<FailureReason> {
        self.failure.get().copied()
    }

    /// Sets why the guest failed.
    pub(crate) fn set_failure(&self, reason: FailureReason) {
        let _ = self.failure.set(reason);
    }

    /// Returns how the instance exited, if it has.
    pub(crate) fn exit(&self) -> Option<&Exit> {
        self.exit.get()
    }

    /// Returns whether the instance has failed.
    pub(crate) fn has_failed(&self) -> bool {
        matches!(self.exit(), Some(Exit::Failed(_)))
    }

    /// Records the exit and wakes the callers that wait for it.
    pub(crate) fn set_exit(&self, exit: Exit) {
        self.end_turn();
        let _ = self.exit.set(exit);
        self.exited.notify_waiters();
    }

    /// Waits for the exit of the instance.
    pub(crate) async fn exited(&self) -> &Exit {
        let mut exited = std::pin::pin!(self.exited.notified());
        loop {
            exited.as_mut().enable();
            if let Some(exit) = self.exit.get() {
                return exit;
            }
            exited.as_mut().await;
            exited.set(self.exited.notified());
        }
    }
}

/// The instance's side of a request.
pub(crate) struct RequestToken {
    pub(crate) call: Call,
    pub(crate) shared: Arc<SharedRequest>,
    /// Counts the request until an instance accepts it.
    pub(crate) waiting: WaitingRequest,
}

/// The caller's side of a request. Dropping it cancels the request, unless it is settled.
pub(crate) struct CallerGuard(Arc<SharedRequest>);

/// The state of a request, shared by its caller and its instance.
#[derive(Default)]
pub(crate) struct SharedRequest {
    /// The instance that accepted the request, and when.
    worker: OnceLock<Arc<Worker>>,
    accepted_at: OnceLock<Instant>,
    /// Whether the caller has a response or an error.
    settled: AtomicBool,
    canceled: AtomicBool,
    /// Whether the instance has counted the cancellation.
    counted: AtomicBool,
    waker: AtomicWaker,
    upload: Mutex<UploadProgress>,
}

/// Creates both sides of a request.
pub(crate) fn request_token(call: Call, waiting: WaitingRequest) -> (RequestToken, CallerGuard) {
    let shared = Arc::new(SharedRequest::default());
    let guard = CallerGuard(shared.clone());
    let token = RequestToken {
        call,
        shared,
        waiting,
    };
    (token, guard)
}

impl CallerGuard {
    /// Returns how the body of the request is arriving.
    pub(crate) fn upload(&self) -> UploadProgress {
        *self.0.upload.lock()
    }

    /// Returns the instance that accepted the request.
    pub(crate) fn worker(&self) -> Option<&Arc<Worker>> {
        self.0.worker.get()
    }

    /// Returns when an instance accepted the request.
    pub(crate) fn accepted_at(&self) -> Option<Instant> {
        self.0.accepted_at.get().copied()
    }

    /// Cancels the request, unless an instance has accepted it. Returns whether it is certain that none
    /// has.
    pub(crate) fn cancel_unaccepted(&self) -> bool {
        if self.worker().is_some() {
            return false;
        }
        self.0.canceled.store(true, SeqCst);
        self.0.count_cancellation();
        self.worker().is_none()
    }

    /// Records that the caller has a response or an error.
    pub(crate) fn settle(&self) {
        if !self.0.settled.swap(true, SeqCst)
            && let Some(worker) = self.worker()
        {
            worker.waiting.fetch_sub(1, SeqCst);
        }
    }
}

impl Drop for CallerGuard {
    fn drop(&mut self) {
        if !self.0.settled.load(SeqCst) {
            self.0.canceled.store(true, SeqCst);
            self.0.count_cancellation();
            self.0.waker.wake();
        }
    }
}

impl SharedRequest {
    /// Records that the guest has read a part of the body, or waits for one.
    pub(crate) fn record_upload(&self, was_read: bool, error: Option<RequestBodyError>) {
        let mut upload = self.upload.lock();
        upload.is_awaited = !was_read;
        upload.error = upload.error.or(error);
        if was_read {
            let now = Instant::now();
            upload.last_read = Some(now);
            drop(upload);
            if let Some(worker) = self.worker.get() {
                *worker.last_upload.lock() = Some(now);
                worker.progress();
            }
        }
    }

    /// Counts the cancellation once. It is called when the request is accepted and when it is
    /// canceled, because either can happen first.
    fn count_cancellation(&self) {
        if let Some(worker) = self.worker.get()
            && self.canceled.load(SeqCst)
            && !self.counted.swap(true, SeqCst)
        {
            worker.canceled.fetch_add(1, SeqCst);
            worker.waiting.fetch_sub(1, SeqCst);
            worker.waker.wake();
        }
    }
}

/// Resolves when the caller cancels the request. The instance then accepts no more requests.
pub(crate) struct Canceled(pub(crate) Arc<SharedRequest>);

impl Future for Canceled {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.waker.register(cx.waker());
        if self.0.canceled.load(SeqCst) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}
