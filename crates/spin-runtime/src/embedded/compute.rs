//! Shares the processors among guests that compute.
//!
//! A guest that computes for longer than an epoch waits for its turn, and then computes for another
//! epoch. As many guests compute at a time as there are processors, and those that have just begun come
//! first. Between two turns, the Tokio runtime polls its I/O. However many guests compute,
//! everything else is thus served without delay: short requests, WebSockets, and the control port.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
    thread::available_parallelism,
};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use super::worker::Worker;

/// The epochs after which guests take turns equally. Otherwise, those that have almost finished would
/// not get another turn while new ones arrive.
const SHORT_EPOCHS: u32 = 3;

/// The turns of all guests, one for each processor. Clones share them.
#[derive(Clone)]
pub(crate) struct Processors {
    turns: Arc<Mutex<Turns>>,
    count: usize,
}

struct Turns {
    free: usize,
    next_number: u64,
    /// Empty while turns are free.
    waiting: BTreeMap<Rank, Waker>,
}

/// The epochs in which a guest has computed, up to [`SHORT_EPOCHS`], and the order of their arrival.
type Rank = (u32, u64);

/// The guests of a component that compute.
pub(crate) struct ComputeQueue {
    turns: Arc<Mutex<Turns>>,
    count: AtomicUsize,
    max: usize,
}

/// A turn to compute, which ends when this is dropped.
pub(crate) struct Turn(Arc<Mutex<Turns>>);

impl Processors {
    /// Returns the processors of this machine.
    pub(crate) fn of_machine() -> Self {
        Self::new(available_parallelism().map_or(1, Into::into))
    }

    fn new(count: usize) -> Self {
        let turns = Turns {
            free: count,
            next_number: 0,
            waiting: BTreeMap::new(),
        };
        Self {
            turns: Arc::new(Mutex::new(turns)),
            count,
        }
    }

    /// Creates the queue of a component, which is full when it has `max_waiting` guests for each
    /// processor.
    pub(crate) fn queue(&self, max_waiting: usize) -> Arc<ComputeQueue> {
        Arc::new(ComputeQueue {
            turns: self.turns.clone(),
            count: AtomicUsize::new(0),
            max: max_waiting.saturating_mul(self.count),
        })
    }
}

impl ComputeQueue {
    /// Returns whether enough guests compute that the component should get no further requests.
    pub(crate) fn is_full(&self) -> bool {
        self.count.load(SeqCst) >= self.max
    }

    /// Lets others run, and waits for the next turn of a guest that has computed for a number of
    /// epochs. `last` is its last turn.
    pub(crate) async fn next_turn(&self, last: Option<Turn>, epochs: u32) -> Turn {
        Yield::default().await;
        // Ends only now, so that the runtime polls its I/O before another guest computes.
        drop(last);
        let mut waiting = pin!(Waiting {
            turns: &self.turns,
            epochs,
            rank: None,
        });
        // A guest that gets a turn at once does not count.
        if let Poll::Ready(turn) = poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx))).await {
            return turn;
        }
        let counted = Counted::new(&self.count);
        let turn = waiting.await;
        drop(counted);
        // The guest must continue at the start of a poll, or it could keep the turn while it waits.
        Yield::default().await;
        turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut turns = self.0.lock();
        match turns.waiting.pop_first() {
            Some((_, waker)) => {
                drop(turns);
                waker.wake();
            }
            None => turns.free += 1,
        }
    }
}

/// Waits for a turn.
struct Waiting<'a> {
    turns: &'a Arc<Mutex<Turns>>,
    epochs: u32,
    /// Set while this waits. It is removed from the queue when the turn comes.
    rank: Option<Rank>,
}

impl Future for Waiting<'_> {
    type Output = Turn;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Turn> {
        let mut turns = self.turns.lock();
        let rank = match self.rank {
            Some(rank) => match turns.waiting.get_mut(&rank) {
                Some(waker) => {
                    waker.clone_from(cx.waker());
                    return Poll::Pending;
                }
                None => None,
            },
            None if turns.free > 0 => {
                turns.free -= 1;
                None
            }
            None => {
                let rank = (self.epochs.min(SHORT_EPOCHS), turns.next_number);
                turns.next_number += 1;
                turns.waiting.insert(rank, cx.waker().clone());
                Some(rank)
            }
        };
        drop(turns);
        self.rank = rank;
        if rank.is_some() {
            return Poll::Pending;
        }
        Poll::Ready(Turn(self.turns.clone()))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(rank) = self.rank {
            let was_waiting = self.turns.lock().waiting.remove(&rank).is_some();
            if !was_waiting {
                // Its turn has come in the meantime, and passes to the next one.
                drop(Turn(self.turns.clone()));
            }
        }
    }
}

/// Counts a guest that computes.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, SeqCst);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// Runs a guest, and ends its turn when it waits for something else or has finished.
pub(crate) async fn run<F: Future>(worker: &Worker, guest: F) -> F::Output {
    let mut guest = pin!(guest);
    poll_fn(|cx| {
        let polled = guest.as_mut().poll(cx);
        worker.end_turn();
        polled
    })
    .await
}

/// Yields as [`tokio::task::yield_now`] does, so that I/O and timers are polled before the guest
/// continues.
///
/// Wasmtime may poll a guest twice in a row and only observe the first time that it waits. The guest
/// must not continue in the second poll, so this ends only when it was woken.
#[derive(Default)]
struct Yield(Option<Arc<Woken>>);

#[derive(Default)]
struct Woken {
    is_woken: AtomicBool,
    waker: AtomicWaker,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.is_woken.store(true, SeqCst);
        self.waker.wake();
    }
}

impl Future for Yield {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(woken) = &self.0 {
            woken.waker.register(cx.waker());
            return if woken.is_woken.load(SeqCst) {
                Poll::Ready(())
            } else {
                Poll::Pending
            };
        }
        let woken = Arc::<Woken>::default();
        woken.waker.register(cx.waker());
        let waker = Waker::from(woken.clone());
        self.0 = Some(woken);
        let yielding = pin!(tokio::task::yield_now());
        // Wakes the waker after the driver was polled.
        let _ = yielding.poll(&mut Context::from_waker(&waker));
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn guests_that_have_computed_least_come_first() {
        let processors = Processors::new(1);
        let queue = processors.queue(3);
        let first = queue.next_turn(None, 1).await;
        let mut long = pin!(queue.next_turn(None, 9));
        let mut short = pin!(queue.next_turn(None, 2));
        let mut dropped = Box::pin(queue.next_turn(None, 1));
        assert!(!queue.is_full());
        for waiting in [long.as_mut(), short.as_mut(), dropped.as_mut()] {
            assert!(waiting.now_or_never().is_none());
        }
        assert!(!queue.is_full(), "they only let others run");
        tokio::task::yield_now().await;
        for waiting in [long.as_mut(), short.as_mut(), dropped.as_mut()] {
            assert!(waiting.now_or_never().is_none());
        }
        assert!(queue.is_full() && !processors.queue(3).is_full());
        // The turn of a guest that has ended passes to the next one.
        drop(first);
        drop(dropped);
        assert!(long.as_mut().now_or_never().is_none());
        drop(short.await);
        drop(long.await);
        assert_eq!(processors.turns.lock().free, 1);
    }

    #[tokio::test]
    async fn a_turn_ends_after_others_could_run() {
        let processors = Processors::new(1);
        let queue = processors.queue(1);
        let turn = queue.next_turn(None, 1).await;
        let mut next = pin!(queue.next_turn(Some(turn), 2));
        assert!(next.as_mut().now_or_never().is_none());
        assert_eq!(processors.turns.lock().free, 0);
        drop(next.await);
        assert_eq!(processors.turns.lock().free, 1);
    }

    #[tokio::test]
    async fn a_guest_that_yields_does_not_continue_in_the_same_poll() {
        let mut yielding = pin!(Yield::default());
        poll_fn(|cx| {
            assert!(yielding.as_mut().poll(cx).is_pending());
            assert!(yielding.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        yielding.await;
    }
}
