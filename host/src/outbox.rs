//! The outbox of one client: what waits to be sent, and the connection it goes out on.
//!
//! Whoever has something to send writes it to the connection there and then; only
//! what the connection does not take at once waits in a bounded queue, which the
//! session's task drains. A fan-out costs so one system call a client and wakes
//! no task.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use tokio::{net::TcpStream, time::Instant};

use crate::{
    block::Subscriber,
    ending::Ending,
    exchange::MAX_REPLY,
    frame::{self, AGAIN},
    publication::Delivery,
};

/// What each entry of the queue counts for beside its bytes, so that many small ones are
/// bounded too.
const ENTRY_BYTES: usize = 64;

/// A client that is not listened to, and so cannot be silent.
const NEVER_SILENT: u32 = u32::MAX;

/// Buffers given to one system call.
const VECTORED: usize = 16;

/// A byte stream that many tasks may write to and one reads from, without blocking.
pub trait Connection: Send + Sync + 'static {
    /// Reads what is there; `WouldBlock` when nothing is, 0 at the end.
    fn try_read(&self, into: &mut [u8]) -> io::Result<usize>;
    /// Writes what fits; `WouldBlock` when nothing does.
    fn try_write(&self, from: &[IoSlice<'_>]) -> io::Result<usize>;
    /// Waits until reading may succeed. For one task only.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Waits until writing may succeed. For one task only.
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

impl Connection for TcpStream {
    fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        TcpStream::try_read(self, into)
    }
    fn try_write(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        match from {
            [one] => TcpStream::try_write(self, one),
            many => TcpStream::try_write_vectored(self, many),
        }
    }
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(cx)
    }
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_write_ready(cx)
    }
}

/// What the session is asked to do by others than its client and its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Ask the backend to look after the connection, with no event to tell.
    Refresh,
    /// A close frame was put into the outbox, for this cause; wait for the client's own.
    Close(Ending),
    /// The client is gone without a word: end the session now.
    Drop(Ending),
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its handshake is not through.
    Opening,
    /// Messages flow.
    Open,
    /// A close frame was sent or waits to be.
    Closing,
}

impl Stage {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Opening, Self::Open, Self::Closing];

    /// Its name, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Open => "open",
            Self::Closing => "closing",
        }
    }
}

/// See the module's words. Shared between the session and everyone who sends to it.
pub struct Outbox {
    state: Mutex<State>,
    /// The session's task: woken for orders and when it has to drain the queue.
    session: AtomicWaker,
    /// There may be something for the session in `state`.
    attention: AtomicBool,
    /// When the client was last heard, in seconds of the sweeper's clock, or [`NEVER_SILENT`].
    heard: AtomicU32,
    /// Bytes came from the client or were taken by it since the sweeper looked.
    moved: AtomicBool,
    /// When it was last pinged for being silent.
    pinged: AtomicU32,
    limit: usize,
}

#[derive(Default)]
struct State {
    /// `None` until the handshake is through; frames wait for it.
    connection: Option<Arc<dyn Connection>>,
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    /// The first of the queue was written in part.
    partial: bool,
    /// A close frame is in the queue or gone out: nothing may follow it.
    closing: bool,
    refresh: bool,
    close: Option<Ending>,
    drop: Option<Ending>,
    /// When something was last sent, for those who asked to know.
    sent: Option<Box<Instant>>,
}

impl Outbox {
    /// An outbox that holds at most `limit` bytes for a client that does not read. The client is
    /// not listened to yet.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            session: AtomicWaker::new(),
            attention: AtomicBool::new(false),
            heard: AtomicU32::new(NEVER_SILENT),
            moved: AtomicBool::new(false),
            pinged: AtomicU32::new(0),
            limit,
        })
    }

    /// Connects it: what waits goes out.
    pub fn attach(&self, connection: Arc<dyn Connection>) {
        let mut state = self.lock();
        state.connection = Some(connection);
        if !state.queue.is_empty() {
            self.call_session(state);
        }
    }

    /// Gives the connection up, with what waits; nothing is sent from now on.
    pub fn detach(&self) {
        let mut state = self.lock();
        state.connection = None;
        state.break_off();
    }

    /// Sends whole frames. They are dropped when a close frame was sent before, and
    /// the client is closed with 1013 when it has left more than the limit unread.
    pub fn send(&self, frames: &Bytes) {
        let mut state = self.lock();
        if state.closing {
            return;
        }
        let was_waiting = !state.queue.is_empty();
        state.put(frames);
        let limit = match state.connection {
            Some(_) => self.limit,
            // Nothing can go out yet of what the backend answered to the OPEN.
            None => self.limit.max(MAX_REPLY),
        };
        if state.waiting() > limit {
            state.overflow();
        }
        if state.needs_session(was_waiting) {
            self.call_session(state);
        }
    }

    /// Sends a close frame, after which nothing is sent, and tells the session why.
    pub fn close(&self, frame: Bytes, why: Ending) {
        let mut state = self.lock();
        if !mem::replace(&mut state.closing, true) {
            // Beyond the limit too: it is small, and the last.
            state.put(&frame);
            state.close = Some(why);
            self.call_session(state);
        }
    }

    /// Asks the session for something.
    pub fn refresh(&self) {
        let mut state = self.lock();
        state.refresh = true;
        self.call_session(state);
    }

    /// Ends the session without a close handshake.
    pub fn drop_client(&self, why: Ending) {
        let mut state = self.lock();
        state.drop.get_or_insert(why);
        self.call_session(state);
    }

    /// How far the connection is.
    pub fn stage(&self) -> Stage {
        let state = self.lock();
        match (&state.connection, state.closing) {
            (_, true) => Stage::Closing,
            (None, false) => Stage::Opening,
            (Some(_), false) => Stage::Open,
        }
    }

    /// Begins or stops to note when something is sent.
    pub fn note_sends(&self, on: bool) {
        self.lock().sent = on.then(|| Box::new(Instant::now()));
    }

    /// When something was last sent, while that is noted.
    pub fn last_sent(&self) -> Option<Instant> {
        self.lock().sent.as_deref().copied()
    }

    /// Notes that the client was heard at `now`, in seconds of the sweeper's clock.
    pub fn heard_at(&self, now: u32) {
        self.heard.store(now, Relaxed);
    }

    /// Notes that the client is not listened to, and so cannot be silent, until it is heard again.
    pub fn not_listened(&self) {
        self.heard.store(NEVER_SILENT, Relaxed);
    }

    /// Notes that the client is alive: bytes came from it, or it took some that waited. A large
    /// message may be under way for long before it is heard.
    pub fn moved(&self) {
        self.moved.store(true, Relaxed);
    }

    /// The sweeper's look at `now`: what has moved was heard.
    pub fn note_moved(&self, now: u32) {
        let heard = self.last_heard();
        if self.moved.swap(false, Relaxed) && heard != NEVER_SILENT {
            // Unless it is not listened to since.
            let _ = self.heard.compare_exchange(heard, now, Relaxed, Relaxed);
        }
    }

    /// Notes that the client was pinged at `now`, as it was silent.
    pub fn pinged_at(&self, now: u32) {
        self.pinged.store(now, Relaxed);
    }

    /// When the client was last pinged for being silent; 0 is never.
    pub fn last_pinged(&self) -> u32 {
        self.pinged.load(Relaxed)
    }

    /// When the client was last heard; in the future while it is not listened to.
    pub fn last_heard(&self) -> u32 {
        self.heard.load(Relaxed)
    }

    /// The session's part: the next order for it; on the way, drains the queue.
    pub fn poll_order(&self, cx: &mut Context<'_>) -> Poll<Order> {
        self.session.register(cx.waker());
        if !self.attention.load(Relaxed) {
            return Poll::Pending;
        }
        let mut state = self.lock();
        if let Some(why) = state.drop {
            return Poll::Ready(Order::Drop(why));
        }
        let flushed = self.poll_flush(&mut state, cx);
        if let Some(why) = state.close.take() {
            return Poll::Ready(Order::Close(why));
        }
        if mem::take(&mut state.refresh) {
            return Poll::Ready(Order::Refresh);
        }
        if flushed.is_ready() {
            self.attention.store(false, Relaxed);
        }
        Poll::Pending
    }

    /// Waits until everything is written.
    pub fn poll_drained(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.session.register(cx.waker());
        self.poll_flush(&mut self.lock(), cx)
    }

    fn poll_flush(&self, state: &mut State, cx: &mut Context<'_>) -> Poll<()> {
        let before = state.queued_bytes;
        let flushed = state.poll_flush(cx);
        if state.queued_bytes < before {
            self.moved();
        }
        match flushed {
            Poll::Ready(Err(_)) => {
                state.break_off();
                Poll::Ready(())
            }
            flushed => flushed.map(|_| ()),
        }
    }

    fn call_session(&self, state: MutexGuard<'_, State>) {
        self.attention.store(true, Relaxed);
        // Given up first: the session should not wake up to wait for the lock.
        drop(state);
        self.session.wake();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Writes at once when nothing waits; what is left waits.
    fn put(&mut self, frames: &Bytes) {
        if let Some(sent) = &mut self.sent {
            **sent = Instant::now();
        }
        let mut written = 0;
        if self.queue.is_empty()
            && let Some(connection) = &self.connection
        {
            match write(&**connection, frames) {
                Ok(all) if all == frames.len() => return,
                Ok(some) => written = some,
                Err(_) => {
                    self.break_off();
                    return;
                }
            }
        }
        self.partial |= written > 0;
        self.queued_bytes += frames.len() - written;
        self.queue.push_back(frames.slice(written..));
    }

    /// What waits behind the frames that are on their way: these may be as large as they like,
    /// or one large message would close every client that it is sent to.
    fn waiting(&self) -> usize {
        let first = self.queue.front().map_or(0, Bytes::len);
        let behind = self.queue.len().saturating_sub(1);
        self.queued_bytes - first + behind * ENTRY_BYTES
    }

    /// `was_waiting`: the session drains the queue already.
    fn needs_session(&self, was_waiting: bool) -> bool {
        let drains = !was_waiting && !self.queue.is_empty() && self.connection.is_some();
        drains || self.drop.is_some() || self.close.is_some()
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(connection) = &self.connection else {
            return Poll::Pending;
        };
        while !self.queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); VECTORED];
            let mut used = 0;
            for (slice, bytes) in slices.iter_mut().zip(&self.queue) {
                *slice = IoSlice::new(bytes);
                used += 1;
            }
            match connection.try_write(&slices[..used]) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(written) => consume(
                    &mut self.queue,
                    &mut self.queued_bytes,
                    &mut self.partial,
                    written,
                ),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(connection.poll_writable(cx))?
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        // One that was slow once needs no room for that any more.
        self.queue = VecDeque::new();
        Poll::Ready(Ok(()))
    }

    /// Nothing can be sent any more. What the client said before is there to be read, and then
    /// its end.
    fn break_off(&mut self) {
        self.queue = VecDeque::new();
        self.queued_bytes = 0;
        self.partial = false;
        self.closing = true;
    }

    /// Drops what waits and closes with 1013; what was begun is finished, so that
    /// the close frame is not read as the rest of another.
    fn overflow(&mut self) {
        self.queue.truncate(usize::from(self.partial));
        self.queue
            .push_back(frame::close(AGAIN, "the client does not keep up"));
        self.queued_bytes = self.queue.iter().map(Bytes::len).sum();
        self.closing = true;
        self.close = Some(Ending::Slow);
    }
}

fn consume(
    queue: &mut VecDeque<Bytes>,
    queued_bytes: &mut usize,
    partial: &mut bool,
    mut written: usize,
) {
    *queued_bytes -= written;
    while let Some(first) = queue.front_mut() {
        if written < first.len() {
            first.advance(written);
            *partial |= written > 0;
            return;
        }
        written -= first.len();
        *partial = false;
        queue.pop_front();
    }
}

/// Writes until all is written or the connection takes no more, and says how much that was.
fn write(connection: &dyn Connection, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while written < bytes.len() {
        match connection.try_write(&[IoSlice::new(&bytes[written..])]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}

impl Subscriber for Outbox {
    fn deliver(&self, delivery: &Delivery) {
        match delivery {
            Delivery::Frames { bytes, .. } => self.send(bytes),
            Delivery::Close(frame) => self.close(frame.clone(), Ending::Published),
            Delivery::Refresh => self.refresh(),
        }
    }
}

#[cfg(test)]
mod tests;
