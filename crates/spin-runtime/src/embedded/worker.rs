//! The life of an instance: how many requests it gets, when it has had enough, and what its callers
//! learn when it ends early.
//!
//! wasmtime's `ProxyHandler` makes instances and hands them requests; this decides for it.

use std::{
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::task::AtomicWaker;
use tokio::{
    sync::{Notify, Semaphore},
    time::{Sleep, timeout},
};
use wasmtime::{Result, Store, StoreContextMut, component::GuestTaskId};
use wasmtime_wasi_http::handler::{
    HandlerState, Instance, ShouldAccept, WorkerExpiration, WorkerState, WorkerStatus,
};

use super::{
    component::{Component, Limits},
    engine::TICK,
    state::{Call, Guest},
};

/// What an instance that computes without end gets beyond the deadline of its requests, so that
/// their callers are the ones who end it, each at its own time.
const GRACE: Duration = Duration::from_millis(250);

/// An instance, as its requests and their answers see it.
pub struct Worker {
    component: Arc<str>,
    limits: Limits,
    /// Requests that it has been given.
    accepted: AtomicUsize,
    /// Of these, those whose caller has given up before an answer.
    given_up: AtomicUsize,
    /// Of these, those whose caller still waits.
    waiting: AtomicUsize,
    /// Answers whose body is still being read.
    bodies: AtomicUsize,
    /// Times the guest was found computing since it last showed progress.
    ticks: AtomicU32,
    /// Wakes the instance to look at all this again.
    waker: AtomicWaker,
    /// Set before the guest is stopped from outside.
    stopped: OnceLock<Stopped>,
    end: OnceLock<End>,
    ended: Notify,
}

/// Why the guest was stopped from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It computed past its deadline.
    Deadline,
    /// Nobody waits any more for anything it does.
    Abandoned,
    /// It went on for too long after its answers.
    Lingering,
}

/// How an instance ended.
#[derive(Clone, Debug)]
pub enum End {
    /// It had nothing left to do.
    Done,
    /// It trapped, or was stopped.
    Failed(Arc<wasmtime::Error>),
}

impl Worker {
    fn new(component: &Component) -> Self {
        Self {
            component: component.id.clone(),
            limits: component.limits,
            accepted: AtomicUsize::new(0),
            given_up: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            bodies: AtomicUsize::new(0),
            ticks: AtomicU32::new(0),
            waker: AtomicWaker::new(),
            stopped: OnceLock::new(),
            end: OnceLock::new(),
            ended: Notify::new(),
        }
    }

    /// The clock found the guest computing.
    ///
    /// # Errors
    /// When it has computed for as long as a request may take without showing progress. Requests
    /// have their own deadline; this is for what a guest does after its answer.
    pub fn tick(&self) -> Result<()> {
        let ticks = self.ticks.fetch_add(1, SeqCst) + 1;
        if TICK * ticks > self.limits.deadline + GRACE {
            let _ = self.stopped.set(Stopped::Lingering);
            wasmtime::bail!(
                "it computed for {:?} without a result",
                self.limits.deadline
            );
        }
        Ok(())
    }

    /// The guest has shown progress.
    pub fn progress(&self) {
        self.ticks.store(0, SeqCst);
    }

    /// How the instance ended, if it has.
    pub fn end(&self) -> Option<&End> {
        self.end.get()
    }

    /// Waits for the end.
    pub async fn ended(&self) -> &End {
        let mut ended = std::pin::pin!(self.ended.notified());
        loop {
            ended.as_mut().enable();
            if let Some(end) = self.end.get() {
                return end;
            }
            ended.as_mut().await;
            ended.set(self.ended.notified());
        }
    }

    /// Why it was stopped from outside, if it was.
    pub fn stopped(&self) -> Option<Stopped> {
        self.stopped.get().copied()
    }

    /// The body of an answer begins to be read.
    pub fn body_begins(&self) {
        self.bodies.fetch_add(1, SeqCst);
    }

    /// A body has been read to its end or dropped.
    pub fn body_ends(&self) {
        if self.bodies.fetch_sub(1, SeqCst) == 1 {
            self.waker.wake();
        }
    }

    /// Whether nobody waits for anything: all callers went away before they had an answer.
    fn is_abandoned(&self) -> bool {
        let accepted = self.accepted.load(SeqCst);
        accepted > 0 && self.given_up.load(SeqCst) == accepted
    }
}

/// A request on its way to an instance.
pub struct Ticket {
    call: Call,
    shared: Arc<Shared>,
}

/// What the caller of a request keeps of its [`Ticket`]. Dropping it gives the request up.
pub struct Stub(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// The instance that took the request.
    worker: OnceLock<Arc<Worker>>,
    /// The caller has its answer, or knows that none will come.
    settled: AtomicBool,
    given_up: AtomicBool,
    /// The instance knows that the request is given up.
    counted: AtomicBool,
    waker: AtomicWaker,
}

/// A ticket for a request, and the caller's part of it.
pub fn ticket(call: Call) -> (Ticket, Stub) {
    let shared = Arc::new(Shared::default());
    (
        Ticket {
            call,
            shared: shared.clone(),
        },
        Stub(shared),
    )
}

impl Stub {
    /// The instance that has the request, or had it.
    pub fn worker(&self) -> Option<&Arc<Worker>> {
        self.0.worker.get()
    }

    /// The caller has its answer or a failure: it waits no more.
    pub fn settle(&self) {
        if !self.0.settled.swap(true, SeqCst)
            && let Some(worker) = self.worker()
        {
            worker.waiting.fetch_sub(1, SeqCst);
        }
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        if !self.0.settled.load(SeqCst) {
            self.0.given_up.store(true, SeqCst);
            self.0.count_given_up();
            self.0.waker.wake();
        }
    }
}

impl Shared {
    /// Tells the instance once, whichever comes first: that it takes the request, or that the
    /// caller gives it up.
    fn count_given_up(&self) {
        if let Some(worker) = self.worker.get()
            && self.given_up.load(SeqCst)
            && !self.counted.swap(true, SeqCst)
        {
            worker.given_up.fetch_add(1, SeqCst);
            worker.waiting.fetch_sub(1, SeqCst);
            worker.waker.wake();
        }
    }
}

/// Resolves when the caller of a request gives it up: its instance then takes no more requests.
struct GivenUp(Arc<Shared>);

impl Future for GivenUp {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.waker.register(cx.waker());
        if self.0.given_up.load(SeqCst) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

/// Makes the instances of a component.
pub struct Instances(pub Arc<Component>);

impl HandlerState for Instances {
    type StoreData = Guest;
    type WorkerExpiration = Expiration;
    type WorkerState = Accepting;

    async fn instantiate(&self) -> Result<Instance<Guest, Expiration, Accepting>> {
        let component = &self.0;
        let limits = component.limits;
        let worker = Arc::new(Worker::new(component));
        // Waiting for a free instance counts against the deadline of whoever waits for the answer;
        // this limit is there for when nobody does.
        let start = async {
            let permit = component.permits.clone().acquire_owned().await?;
            let mut store = Guest::store(component.clone(), worker.clone(), permit)?;
            let proxy = component.pre.instantiate_async(&mut store).await?;
            Ok::<_, wasmtime::Error>((store, proxy))
        };
        let (store, proxy) = match timeout(limits.deadline, start).await {
            Ok(started) => started?,
            Err(_) => wasmtime::bail!("it did not start within {:?}", limits.deadline),
        };
        let expiration = Expiration {
            worker: worker.clone(),
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
            quiet: None,
            permits: component.permits.clone(),
        };
        let state = Accepting {
            worker,
            shared: component.shares_instances(),
        };
        Ok(Instance {
            store,
            proxy,
            view: Guest::inbound,
            expiration,
            state,
        })
    }
}

/// Ends an instance from outside of it: also one that never comes back from computing.
pub struct Expiration {
    worker: Arc<Worker>,
    sleep: Pin<Box<Sleep>>,
    /// Since when nobody reads an answer.
    quiet: Option<Instant>,
    permits: Arc<Semaphore>,
}

impl WorkerExpiration for Expiration {
    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        status: WorkerStatus,
        since: Instant,
    ) -> Poll<()> {
        let worker = self.worker.clone();
        worker.waker.register(cx.waker());
        let limits = worker.limits;
        let idle = status == WorkerStatus::Idle;
        if !idle && worker.is_abandoned() {
            let _ = worker.stopped.set(Stopped::Abandoned);
            return Poll::Ready(());
        }
        let (until, reason) = match status {
            // Where there is no room for another instance, one that idles makes room.
            WorkerStatus::Idle if self.permits.available_permits() == 0 => (since, None),
            WorkerStatus::Idle => (since + limits.idle, None),
            WorkerStatus::Requests => (since + limits.deadline + GRACE, Some(Stopped::Deadline)),
            // A body takes as long as its reader lets it.
            WorkerStatus::PostReturn if worker.bodies.load(SeqCst) > 0 => {
                self.quiet = None;
                return Poll::Pending;
            }
            WorkerStatus::PostReturn => {
                let quiet = *self.quiet.get_or_insert_with(Instant::now);
                (quiet.max(since) + limits.deadline, Some(Stopped::Lingering))
            }
        };
        if self.sleep.deadline() != until.into() {
            self.sleep.as_mut().reset(until.into());
        }
        std::task::ready!(self.sleep.as_mut().poll(cx));
        if let Some(reason) = reason {
            let _ = worker.stopped.set(reason);
        }
        Poll::Ready(())
    }
}

/// Says how many requests an instance takes, and sees each begin.
pub struct Accepting {
    worker: Arc<Worker>,
    shared: bool,
}

impl WorkerState for Accepting {
    type StoreData = Guest;
    type RequestData = Ticket;

    fn should_accept_request(&self, at_once: usize, so_far: usize) -> ShouldAccept {
        let limits = &self.worker.limits;
        let (most, most_at_once) = if self.shared {
            (limits.reuse, limits.concurrency)
        } else {
            (1, 1)
        };
        if so_far >= most {
            ShouldAccept::Never
        } else if at_once >= most_at_once {
            ShouldAccept::No
        } else {
            ShouldAccept::Yes
        }
    }

    fn on_request_start(
        &self,
        mut store: StoreContextMut<'_, Guest>,
        ticket: Ticket,
        task: GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + Sync>> {
        let Ticket { call, shared } = ticket;
        self.worker.accepted.fetch_add(1, SeqCst);
        self.worker.waiting.fetch_add(1, SeqCst);
        self.worker.progress();
        let _ = shared.worker.set(self.worker.clone());
        shared.count_given_up();
        store.set_epoch_deadline(1);
        let guest = store.data_mut();
        guest.calls.push((task, call));
        guest.outbound.call = call;
        Box::pin(GivenUp(shared))
    }

    fn drop(&self, store: Store<Guest>, result: Result<()>) {
        let worker = &self.worker;
        let end = match result {
            Ok(()) => End::Done,
            Err(error) => {
                match worker.stopped() {
                    Some(Stopped::Abandoned) => {
                        tracing::debug!(component = %worker.component, "stopped: nobody waits");
                    }
                    // Dropped with the runtime when the host ends: wasmtime then says "panicked",
                    // since it cannot know why the instance was not let finish.
                    _ if !std::thread::panicking() && error.to_string() == "worker panicked" => {
                        tracing::debug!(component = %worker.component, "dropped: the host ends");
                    }
                    // Whoever waits for an answer logs this with the route.
                    _ if worker.waiting.load(SeqCst) > 0 => {}
                    _ => tracing::error!(
                        component = %worker.component,
                        error = %format_args!("{error:#}"),
                        "failed after its answer"
                    ),
                }
                End::Failed(Arc::new(error))
            }
        };
        // Before the store closes what the guest was writing: a reader then knows that what it got
        // is not all.
        let _ = worker.end.set(end);
        worker.ended.notify_waiters();
        drop(store);
    }
}
