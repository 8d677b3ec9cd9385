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
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use parking_lot::{Mutex, MutexGuard};

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use tokio::{net::TcpStream, time::Instant};

use crate::{
    metrics::close_reason::CloseReason,
    net::frame::{self, AGAIN},
    pubsub::{publication::Delivery, shard::Subscriber},
    state::{
        activity::Activity,
        sessions::{Client, Stage},
    },
    ws::ws_over_http::MAX_REPLY,
};

/// What each entry of the queue counts for beside its bytes, so that many small ones are
/// bounded too.
const ENTRY_BYTES: usize = 64;

/// Buffers given to one system call.
const VECTORED: usize = 16;

/// A byte stream that many tasks may write to and one reads from, without blocking.
pub(crate) trait Connection: Send + Sync + 'static {
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
pub(crate) enum Command {
    /// Ask the backend to look after the connection, with no event to tell.
    Refresh,
    /// A close frame was put into the outbox, for this cause; wait for the client's own.
    Close(CloseReason),
    /// The client is gone without a word: end the session now.
    Drop(CloseReason),
}

/// See the module's words. Shared between the session and everyone who sends to it.
pub(crate) struct Outbox {
    state: Mutex<State>,
    /// The session's task: woken for orders and when it has to drain the queue.
    session: AtomicWaker,
    /// There may be something for the session in `state`.
    attention: AtomicBool,
    activity: Activity,
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
    close: Option<CloseReason>,
    drop: Option<CloseReason>,
    /// When something was last sent, for those who asked to know.
    sent: Option<Box<Instant>>,
}

impl Outbox {
    /// An outbox that holds at most `limit` bytes for a client that does not read. The client is
    /// not listened to yet.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            session: AtomicWaker::new(),
            attention: AtomicBool::new(false),
            activity: Activity::new(),
            limit,
        })
    }

    /// Connects it: what waits goes out.
    pub(crate) fn attach(&self, connection: Arc<dyn Connection>) {
        let mut state = self.lock();
        state.connection = Some(connection);
        if !state.queue.is_empty() {
            self.call_session(state);
        }
    }

    /// Gives the connection up, with what waits; nothing is sent from now on.
    pub(crate) fn detach(&self) {
        let mut state = self.lock();
        state.connection = None;
        state.break_off();
    }

    /// Sends whole frames. They are dropped when a close frame was sent before, and
    /// the client is closed with 1013 when it has left more than the limit unread.
    pub(crate) fn send(&self, frames: &Bytes) {
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
    pub(crate) fn close(&self, frame: Bytes, why: CloseReason) {
        let mut state = self.lock();
        if !mem::replace(&mut state.closing, true) {
            // Beyond the limit too: it is small, and the last.
            state.put(&frame);
            state.close = Some(why);
            self.call_session(state);
        }
    }

    /// Asks the session for something.
    pub(crate) fn refresh(&self) {
        let mut state = self.lock();
        state.refresh = true;
        self.call_session(state);
    }

    /// Ends the session without a close handshake.
    pub(crate) fn disconnect(&self, why: CloseReason) {
        let mut state = self.lock();
        state.drop.get_or_insert(why);
        self.call_session(state);
    }

    /// How far the connection is.
    pub(crate) fn stage(&self) -> Stage {
        let state = self.lock();
        match (&state.connection, state.closing) {
            (_, true) => Stage::Closing,
            (None, false) => Stage::Opening,
            (Some(_), false) => Stage::Open,
        }
    }

    /// Begins or stops to note when something is sent.
    pub(crate) fn note_sends(&self, on: bool) {
        self.lock().sent = on.then(|| Box::new(Instant::now()));
    }

    /// When something was last sent, while that is noted.
    pub(crate) fn last_sent(&self) -> Option<Instant> {
        self.lock().sent.as_deref().copied()
    }

    /// Returns the record of the client's signs of life.
    pub(crate) fn activity(&self) -> &Activity {
        &self.activity
    }

    /// The session's part: the next order for it; on the way, drains the queue.
    pub(crate) fn poll_order(&self, cx: &mut Context<'_>) -> Poll<Command> {
        self.session.register(cx.waker());
        if !self.attention.load(Relaxed) {
            return Poll::Pending;
        }
        let mut state = self.lock();
        if let Some(why) = state.drop {
            return Poll::Ready(Command::Drop(why));
        }
        let flushed = self.poll_flush(&mut state, cx);
        if let Some(why) = state.close.take() {
            return Poll::Ready(Command::Close(why));
        }
        if mem::take(&mut state.refresh) {
            return Poll::Ready(Command::Refresh);
        }
        if flushed.is_ready() {
            self.attention.store(false, Relaxed);
        }
        Poll::Pending
    }

    /// Waits until everything is written.
    pub(crate) fn poll_drained(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.session.register(cx.waker());
        self.poll_flush(&mut self.lock(), cx)
    }

    fn poll_flush(&self, state: &mut State, cx: &mut Context<'_>) -> Poll<()> {
        let before = state.queued_bytes;
        let flushed = state.poll_flush(cx);
        if state.queued_bytes < before {
            self.activity.record_progress();
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
        self.state.lock()
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
        self.close = Some(CloseReason::Slow);
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
            Delivery::Close(frame) => self.close(frame.clone(), CloseReason::Published),
            Delivery::Refresh => self.refresh(),
        }
    }
}

impl Client for Outbox {
    fn stage(&self) -> Stage {
        Outbox::stage(self)
    }
    fn activity(&self) -> &Activity {
        Outbox::activity(self)
    }
    fn send(&self, frames: &Bytes) {
        Outbox::send(self, frames);
    }
    fn close(&self, frame: Bytes, reason: CloseReason) {
        Outbox::close(self, frame, reason);
    }
    fn disconnect(&self, reason: CloseReason) {
        Outbox::disconnect(self, reason);
    }
}

#[cfg(test)]
mod tests;
