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
    frame::{self, AGAIN},
    publication::Delivery,
};

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
    /// The client does not read, or is gone: end the session now.
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
    /// When the client was last heard, in seconds of the sweeper's clock.
    heard: AtomicU32,
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
    /// An outbox that holds at most `limit` bytes for a client that does not read.
    pub fn new(limit: usize, now: u32) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            session: AtomicWaker::new(),
            attention: AtomicBool::new(false),
            heard: AtomicU32::new(now),
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
        state.queue = VecDeque::new();
        state.queued_bytes = 0;
        state.partial = false;
        state.closing = true;
    }

    /// Sends whole frames. They are dropped when a close frame was sent before, and
    /// the client is closed with 1013 when it has left more than the limit unread.
    pub fn send(&self, frames: Bytes) {
        let mut state = self.lock();
        if state.closing {
            return;
        }
        state.put(frames);
        if state.queued_bytes > self.limit {
            state.overflow();
        }
        if state.needs_session() {
            self.call_session(state);
        }
    }

    /// Sends a close frame, after which nothing is sent, and tells the session why.
    pub fn close(&self, frame: Bytes, why: Ending) {
        let mut state = self.lock();
        if !mem::replace(&mut state.closing, true) {
            // Beyond the limit too: it is small, and the last.
            state.put(frame);
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

    /// When the client was last heard.
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
        let flushed = state.poll_flush(cx);
        if let Poll::Ready(Err(_)) = flushed {
            return Poll::Ready(Order::Drop(Ending::Vanished));
        }
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
    pub fn poll_drained(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.session.register(cx.waker());
        self.lock().poll_flush(cx)
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
    fn put(&mut self, mut frames: Bytes) {
        if let Some(sent) = &mut self.sent {
            **sent = Instant::now();
        }
        let whole = frames.len();
        if self.queue.is_empty()
            && let Some(connection) = &self.connection
        {
            match write_all(&**connection, &mut frames) {
                Ok(true) => return,
                Ok(false) => {}
                Err(_) => {
                    self.drop.get_or_insert(Ending::Vanished);
                    return;
                }
            }
        }
        self.partial |= self.queue.is_empty() && frames.len() < whole;
        self.queued_bytes += frames.len();
        self.queue.push_back(frames);
    }

    fn needs_session(&self) -> bool {
        self.drop.is_some()
            || self.close.is_some()
            || (!self.queue.is_empty() && self.connection.is_some())
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
        Poll::Ready(Ok(()))
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

/// Writes until all is written (true) or the connection takes no more (false).
fn write_all(connection: &dyn Connection, bytes: &mut Bytes) -> io::Result<bool> {
    while !bytes.is_empty() {
        match connection.try_write(&[IoSlice::new(bytes)]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes.advance(written),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

impl Subscriber for Outbox {
    fn deliver(&self, delivery: &Delivery) {
        match delivery {
            Delivery::Frames { bytes, .. } => self.send(bytes.clone()),
            Delivery::Close(frame) => self.close(frame.clone(), Ending::Published),
            Delivery::Refresh => self.refresh(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::atomic::AtomicUsize};

    use super::*;

    /// Takes `room` bytes, then blocks.
    #[derive(Default)]
    struct Pipe {
        room: AtomicUsize,
        written: Mutex<Vec<u8>>,
        writer: AtomicWaker,
    }

    impl Pipe {
        fn make_room(&self, bytes: usize) {
            self.room.fetch_add(bytes, Relaxed);
            self.writer.wake();
        }
        fn written(&self) -> Vec<u8> {
            self.written.lock().unwrap().clone()
        }
    }

    impl Connection for Pipe {
        fn try_read(&self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::WouldBlock.into())
        }
        fn try_write(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
            let room = self.room.load(Relaxed);
            if room == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let all: Vec<u8> = from
                .iter()
                .flat_map(|slice| slice.iter().copied())
                .collect();
            let taken = room.min(all.len());
            self.room.fetch_sub(taken, Relaxed);
            self.written
                .lock()
                .unwrap()
                .extend_from_slice(&all[..taken]);
            Ok(taken)
        }
        fn poll_readable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
        fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.writer.register(cx.waker());
            if self.room.load(Relaxed) > 0 {
                Poll::Ready(Ok(()))
            } else {
                Poll::Pending
            }
        }
    }

    #[tokio::test]
    async fn what_came_before_the_connection_goes_out_with_it() {
        let (outbox, pipe) = (Outbox::new(100, 0), Arc::new(Pipe::default()));
        pipe.make_room(100);
        outbox.send(Bytes::from_static(b"one"));
        outbox.attach(pipe.clone());
        outbox.send(Bytes::from_static(b"two"));
        poll_fn(|cx| outbox.poll_drained(cx)).await.unwrap();
        assert_eq!(pipe.written(), b"onetwo");
    }

    #[tokio::test]
    async fn a_client_that_reads_slowly_gets_all_in_order() {
        let (outbox, pipe) = (Outbox::new(1000, 0), Arc::new(Pipe::default()));
        outbox.attach(pipe.clone());
        let mut wanted = Vec::new();
        for n in 0..100_u8 {
            outbox.send(Bytes::copy_from_slice(&[n, n, n]));
            wanted.extend([n, n, n]);
            pipe.make_room(2);
        }
        let drain = poll_fn(|cx| outbox.poll_drained(cx));
        let feed = async {
            for _ in 0..100 {
                pipe.make_room(1);
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(async { drain.await.unwrap() }, feed);
        assert_eq!(pipe.written(), wanted);
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_closed_with_1013_between_frames() {
        let (outbox, pipe) = (Outbox::new(10, 0), Arc::new(Pipe::default()));
        outbox.attach(pipe.clone());
        pipe.make_room(2);
        for _ in 0..5 {
            outbox.send(Bytes::from_static(b"four"));
        }
        assert_eq!(outbox.stage(), Stage::Closing);
        assert_eq!(
            poll_fn(|cx| outbox.poll_order(cx)).await,
            Order::Close(Ending::Slow)
        );
        outbox.send(Bytes::from_static(b"after"));
        pipe.make_room(1000);
        poll_fn(|cx| outbox.poll_drained(cx)).await.unwrap();
        let mut wanted = b"four".to_vec();
        wanted.extend_from_slice(&frame::close(AGAIN, "the client does not keep up"));
        assert_eq!(pipe.written(), wanted);
    }

    #[tokio::test]
    async fn orders_come_once_and_dropping_wins() {
        let outbox = Outbox::new(10, 0);
        outbox.attach(Arc::new(Pipe::default()));
        outbox.refresh();
        assert_eq!(poll_fn(|cx| outbox.poll_order(cx)).await, Order::Refresh);
        outbox.refresh();
        outbox.drop_client(Ending::Silent);
        assert_eq!(
            poll_fn(|cx| outbox.poll_order(cx)).await,
            Order::Drop(Ending::Silent)
        );
    }
}
