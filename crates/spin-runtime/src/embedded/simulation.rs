//! What a test puts in place of the world around components: time, randomness, key-value stores,
//! servers, and the reader of their output.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{Request, Response};
use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use sha2::{Digest as _, Sha256};
use tokio::{sync::oneshot, task::unconstrained, time::Instant};
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtxBuilder};
use wasmtime_wasi_http::{Error, WasiBody};

use super::body;
use crate::backend::Body;

pub use super::{
    key_value::{Cursor, KeyPage, Pending, Store, StoreError, Swap},
    output::source::OutputSource,
};

/// The pending response of a simulated server.
pub type ServerFuture =
    Pin<Box<dyn Future<Output = Result<Response<Body>, ServerError>> + Send + 'static>>;

/// A simulated world, in [`EmbeddedOptions`](super::EmbeddedOptions).
///
/// Requests with the same seed take the same course if they run in a single-threaded Tokio runtime
/// whose clock is paused. Sockets and connections to Redis are denied, and no log files are written.
#[derive(Clone)]
pub struct Simulation {
    /// The clock of the components.
    pub clock: SimulatedClock,
    /// The seed of all random numbers.
    pub seed: u64,
    /// The key-value stores by label.
    pub stores: BTreeMap<String, Arc<dyn Store>>,
    /// Answers the components' requests to other servers.
    pub servers: Arc<dyn Servers>,
    /// Receives the output of the components.
    pub output: Arc<dyn OutputSink>,
}

/// Answers requests that components send to servers which `allowed_outbound_hosts` allows.
pub trait Servers: Send + Sync + 'static {
    /// Answers a request with an absolute URI. `component` is the id of the sender.
    fn send(&self, component: &str, request: Request<Body>) -> ServerFuture;
}

/// Why a simulated server does not respond.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerError {
    /// The server refuses the connection.
    #[error("connection refused")]
    ConnectionRefused,
    /// Any other error, with the text that the component gets.
    #[error("{0}")]
    Other(String),
}

/// Receives the output of components.
pub trait OutputSink: Send + Sync + 'static {
    /// Receives complete lines of the component with the id `component`.
    fn write(&self, component: &str, source: OutputSource, lines: &[u8]);
}

/// A clock that follows Tokio's, which a test can pause and advance.
#[derive(Clone, Copy, Debug)]
pub struct SimulatedClock {
    start: SystemTime,
    started: Instant,
}

impl SimulatedClock {
    /// Starts a clock that shows `time`, in the context of a Tokio runtime.
    pub fn start(time: SystemTime) -> Self {
        Self {
            start: time,
            started: Instant::now(),
        }
    }

    /// Returns the time.
    pub fn now(&self) -> SystemTime {
        self.start + self.started.elapsed()
    }
}

impl HostWallClock for SimulatedClock {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(1)
    }

    fn now(&self) -> Duration {
        let now = SimulatedClock::now(self).duration_since(UNIX_EPOCH);
        now.unwrap_or_default()
    }
}

impl HostMonotonicClock for SimulatedClock {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        let elapsed = self.started.elapsed().as_nanos();
        u64::try_from(elapsed).unwrap_or(u64::MAX)
    }
}

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stores: Vec<_> = self.stores.keys().collect();
        f.debug_struct("Simulation")
            .field("clock", &self.clock)
            .field("seed", &self.seed)
            .field("stores", &stores)
            .finish_non_exhaustive()
    }
}

/// A [`Simulation`] in use.
pub(crate) struct World {
    simulation: Simulation,
    /// The number of generators that were created for each purpose.
    generators: Mutex<BTreeMap<String, u64>>,
}

impl World {
    pub(crate) fn new(simulation: Simulation) -> Self {
        Self {
            simulation,
            generators: Mutex::default(),
        }
    }

    /// Returns the next random number generator for a purpose. Those of other purposes do not affect
    /// its numbers.
    pub(crate) fn rng(&self, purpose: &str) -> StdRng {
        let mut generators = self.generators.lock();
        let number = generators.entry(purpose.to_owned()).or_default();
        *number += 1;
        let seed = Sha256::new()
            .chain_update(self.simulation.seed.to_le_bytes())
            .chain_update(number.to_le_bytes())
            .chain_update(purpose);
        StdRng::from_seed(seed.finalize().into())
    }

    /// Gives a new instance of a component its time and its random numbers, and no sockets.
    pub(crate) fn configure(&self, wasi: &mut WasiCtxBuilder, component: &str) {
        let mut rng = self.rng(&format!("instance {component}"));
        wasi.wall_clock(self.simulation.clock)
            .monotonic_clock(self.simulation.clock)
            .insecure_random_seed(rng.random())
            .insecure_random(rng.fork())
            .secure_random(rng)
            .allow_tcp(false)
            .allow_udp(false)
            // Otherwise, other threads would read files, and finish in any order.
            .allow_blocking_current_thread(true);
    }

    /// Sends a component's request to a server.
    pub(crate) async fn send(
        &self,
        component: &str,
        request: Request<WasiBody>,
    ) -> Result<Response<WasiBody>, Error> {
        let request = request.map(body::from_guest);
        let response = self.simulation.servers.send(component, request).await;
        response
            .map(|response| response.map(body::to_guest))
            .map_err(|error| match error {
                ServerError::ConnectionRefused => Error::ConnectionRefused,
                ServerError::Other(text) => Error::InternalError(Some(text)),
            })
    }

    /// Passes on the output of a component.
    pub(crate) fn write(&self, component: &str, source: OutputSource, lines: &[u8]) {
        self.simulation.output.write(component, source, lines);
    }
}

/// Blocks the only thread of a simulation until another thread has sent a result. Meanwhile, no time
/// passes, and nothing else happens.
pub(crate) fn block_on<T>(result: oneshot::Receiver<T>) -> Result<T, oneshot::error::RecvError> {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut cx = Context::from_waker(&waker);
    let mut result = std::pin::pin!(unconstrained(result));
    loop {
        match result.as_mut().poll(&mut cx) {
            Poll::Ready(result) => return result,
            Poll::Pending => thread::park(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::backend::empty;

    /// A world in which nothing answers.
    struct Nobody;

    impl Servers for Nobody {
        fn send(&self, _: &str, _: Request<Body>) -> ServerFuture {
            Box::pin(async { Err(ServerError::ConnectionRefused) })
        }
    }

    impl OutputSink for Nobody {
        fn write(&self, _: &str, _: OutputSource, _: &[u8]) {}
    }

    fn world(seed: u64) -> World {
        World::new(Simulation {
            clock: SimulatedClock::start(UNIX_EPOCH),
            seed,
            stores: BTreeMap::new(),
            servers: Arc::new(Nobody),
            output: Arc::new(Nobody),
        })
    }

    #[test]
    fn generators_depend_on_the_seed_their_purpose_and_their_number() {
        let draw = |world: &World, purpose: &str| world.rng(purpose).random::<u64>();
        let (one, same, other) = (world(1), world(1), world(2));
        let first = draw(&one, "a");
        // Those of another purpose do not shift the numbers.
        draw(&same, "b");
        assert_eq!(draw(&same, "a"), first);
        assert_ne!(draw(&one, "a"), first);
        assert_ne!(draw(&one, "b"), first);
        assert_ne!(draw(&other, "a"), first);
    }

    #[tokio::test(start_paused = true)]
    async fn clocks_follow_tokio() {
        let start = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let clock = SimulatedClock::start(start);
        let second = Duration::from_secs(1);
        advance(second).await;
        assert_eq!(SimulatedClock::now(&clock), start + second);
        let since_epoch = HostWallClock::now(&clock);
        assert_eq!(since_epoch, Duration::from_secs(1_000_001));
        assert_eq!(HostMonotonicClock::now(&clock), 1_000_000_000);
    }

    #[tokio::test]
    async fn errors_of_servers_are_those_of_wasi() {
        let request = Request::get("http://a.test/").body(body::to_guest(empty()));
        let error = world(1).send("a", request.unwrap()).await.unwrap_err();
        assert!(matches!(error, Error::ConnectionRefused), "{error:?}");
    }

    #[tokio::test]
    async fn a_blocked_thread_gets_the_result_of_another() {
        let (sender, receiver) = oneshot::channel();
        let thread = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            sender.send(7)
        });
        assert_eq!(block_on(receiver), Ok(7));
        thread.join().unwrap().unwrap();
        let (sender, receiver) = oneshot::channel::<u32>();
        drop(sender);
        assert!(block_on(receiver).is_err());
    }
}
