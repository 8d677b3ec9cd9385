//! The outbox of one client: writes frames to its connection, and queues what does not fit.
//!
//! Senders write to the connection directly. Only what the connection does not accept at once
//! is put into a bounded queue, which the session's task drains. A fan-out therefore costs one
//! system call per client and wakes no task.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, Read as _},
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use grip::Message;
use http::HeaderValue;
use parking_lot::{Mutex, MutexGuard};
use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream, time::Instant};

use crate::{
    metrics::close_reason::CloseReason,
    net::frame,
    pubsub::{frames::Frames, publication::Delivery, shard::SocketSubscriber},
    state::{
        activity::Activity,
        sessions::{Client, Stage},
    },
    ws::deflate::Deflate,
};

/// Added to the length of each queued entry, so that many small entries are bounded too.
const ENTRY_BYTES: usize = 64;

/// The most buffers passed to one vectored write.
const MAX_SLICES: usize = 16;

/// A byte stream that one task reads and several tasks write, without blocking.
pub(crate) trait Connection: Send + Sync + 'static {
    /// Reads available bytes. Returns 0 at EOF and `WouldBlock` if none are available.
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize>;
    /// Writes as much as fits. Returns `WouldBlock` if nothing fits.
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;
    /// Waits until reading may succeed. Only one task may wait.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Waits until writing may succeed. Only one task may wait.
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Returns whether everything that was written has left the process.
    fn is_flushed(&self) -> bool {
        true
    }
    /// Waits until everything that was written has left the process. Only one task may wait.
    fn poll_flush(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    /// Shuts the connection down in the background, if dropping it is not enough.
    fn shutdown(self: Arc<Self>) {}
}

impl Connection for TcpStream {
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut count = 0;
        let read = self.try_io(Interest::READABLE, || {
            count = (&*SockRef::from(self)).read(buffer)?;
            // A read that does not fill the buffer has emptied the socket. This clears the readiness,
            // as Tokio's own reads do, so that the next read needs no system call to find out.
            let is_short = 0 < count && count < buffer.len();
            if is_short {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(())
        });
        match read {
            Err(error) if count == 0 => Err(error),
            _ => Ok(count),
        }
    }
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match slices {
            [slice] => TcpStream::try_write(self, slice),
            slices => TcpStream::try_write_vectored(self, slices),
        }
    }
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(cx)
    }
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_write_ready(cx)
    }
}

/// What the outbox asks the session's task to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Send the backend a request, even without events.
    Refresh,
    /// Deliver what was published while there was no room for it.
    CatchUp,
    /// A close frame has been queued, for this reason: wait for the client's close frame.
    Close(CloseReason),
    /// End the session now, without a close handshake.
    Drop(CloseReason),
}

/// The sending side of one client, shared between its session and everything that sends to it.
pub(crate) struct Outbox {
    state: Mutex<State>,
    /// The session's task, woken for commands and to drain the queue.
    session: AtomicWaker,
    /// `state` may contain work for the session.
    has_work: AtomicBool,
    activity: Activity,
    /// The negotiated compression, if any.
    deflate: Option<Deflate>,
    /// The most bytes queued for a client that does not read.
    limit: usize,
    /// The most bytes queued before the connection is attached: the response to OPEN.
    opening_limit: usize,
}

#[derive(Default)]
struct State {
    /// `None` until the handshake is complete; frames are queued until then.
    connection: Option<Arc<dyn Connection>>,
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    /// The first entry of the queue has been written in part.
    partial: bool,
    /// A close frame has been queued or sent, so nothing may follow.
    closing: bool,
    refresh: bool,
    /// Items of a channel were missed.
    has_missed: bool,
    /// The values of `Grip-Last` for such channels.
    missed: Vec<HeaderValue>,
    /// A channel has items for which there was no room.
    is_behind: bool,
    /// The size of the largest of them.
    wanted: usize,
    close: Option<CloseReason>,
    drop: Option<CloseReason>,
    /// When something was last sent, if that is tracked.
    last_sent: Option<Box<Instant>>,
}

impl Outbox {
    /// Creates an outbox without a connection, which queues at most `limit` bytes. The response to
    /// OPEN, of at most `max_response_bytes`, is queued as a whole before the connection is attached.
    /// With `deflate`, messages are compressed.
    pub(crate) fn new(
        limit: usize,
        max_response_bytes: usize,
        deflate: Option<Deflate>,
    ) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            session: AtomicWaker::new(),
            has_work: AtomicBool::new(false),
            activity: Activity::new(),
            deflate,
            limit,
            opening_limit: limit.max(max_response_bytes),
        })
    }

    /// Attaches the connection; the session's task then sends what is queued.
    pub(super) fn attach(&self, connection: Arc<dyn Connection>) {
        let mut state = self.lock();
        state.connection = Some(connection);
        if !state.queue.is_empty() {
            self.wake_session(state);
        }
    }

    /// Drops the connection and the queue. Nothing is sent afterwards.
    pub(super) fn detach(&self) {
        let mut state = self.lock();
        let connection = state.connection.take();
        state.abort();
        drop(state);
        if let Some(connection) = connection {
            connection.shutdown();
        }
    }

    /// Sends whole frames. They are dropped after a close frame, and the client is closed with
    /// 1013 when the queue exceeds the limit.
    pub(crate) fn send(&self, frames: &Bytes) {
        self.send_locked(self.lock(), frames);
    }

    /// Sends whole frames if there is room, and returns whether there is. If not, the session gets
    /// [`Command::CatchUp`] once there is. After a close frame, they are dropped.
    fn send_if_room(&self, frames: &Bytes) -> bool {
        let mut state = self.lock();
        // The other half is for pings and what the backend sends.
        let (added, room) = (frames.len() + ENTRY_BYTES, self.limit(&state) / 2);
        if !state.closing && !state.queue.is_empty() && state.backlog() + added > room {
            state.is_behind = true;
            state.wanted = state.wanted.max(added);
            return false;
        }
        self.send_locked(state, frames);
        true
    }

    /// Sends whole frames, and returns whether the connection is not being closed.
    fn send_locked(&self, mut state: MutexGuard<'_, State>, frames: &Bytes) -> bool {
        if state.closing {
            return false;
        }
        let was_queued = !state.queue.is_empty();
        state.write_or_queue(frames);
        if state.backlog() > self.limit(&state) {
            state.overflow();
        }
        let is_open = !state.closing;
        if state.needs_session(was_queued) {
            self.wake_session(state);
        }
        is_open
    }

    /// Returns the limit of the backlog.
    fn limit(&self, state: &State) -> usize {
        match state.connection {
            Some(_) => self.limit,
            None => self.opening_limit,
        }
    }

    /// Sends whole frames as [`Self::send`] does. Returns their size in bytes, or `None` if the connection
    /// is closed, possibly because of them.
    pub(super) fn try_send(&self, frames: &Bytes) -> Option<usize> {
        let state = self.lock();
        if state.has_ended() {
            return None;
        }
        self.send_locked(state, frames).then_some(frames.len())
    }

    /// Returns whether nothing can be sent any more.
    pub(super) fn has_ended(&self) -> bool {
        self.lock().has_ended()
    }

    /// Sends a close frame, after which nothing is sent, and notifies the session. Returns false if the
    /// connection has been closed before.
    pub(crate) fn close(&self, frame: Bytes, reason: CloseReason) -> bool {
        let mut state = self.lock();
        if mem::replace(&mut state.closing, true) {
            return false;
        }
        // Exempt from the limit: the frame is small, and the last one.
        state.write_or_queue(&frame);
        state.close = Some(reason);
        self.wake_session(state);
        true
    }

    /// Requests a [`Command::Refresh`].
    pub(super) fn refresh(&self) {
        let mut state = self.lock();
        state.refresh = true;
        self.wake_session(state);
    }

    /// Returns the values of `Grip-Last` for channels of which items were missed.
    pub(super) fn take_missed(&self) -> Vec<HeaderValue> {
        let mut state = self.lock();
        state.has_missed = false;
        mem::take(&mut state.missed)
    }

    /// Closes a client that has missed items with 1013. For sessions without a backend to notify.
    pub(super) fn close_if_missed(&self) {
        let has_missed = self.lock().has_missed;
        if has_missed {
            self.overtaken();
        }
    }

    /// Ends the session without a close handshake. Returns false if the connection has been closed
    /// before.
    pub(crate) fn disconnect(&self, reason: CloseReason) -> bool {
        let mut state = self.lock();
        let had_ended = state.has_ended();
        state.drop.get_or_insert(reason);
        self.wake_session(state);
        !had_ended
    }

    /// Returns the stage of the connection.
    pub(crate) fn stage(&self) -> Stage {
        let state = self.lock();
        match (&state.connection, state.closing) {
            (_, true) => Stage::Closing,
            (None, false) => Stage::Opening,
            (Some(_), false) => Stage::Open,
        }
    }

    /// Sends a message, and returns the size of its frame in bytes.
    pub(super) fn send_message(&self, message: Message) -> usize {
        self.send_frames(&Frames::single(message))
    }

    /// Sends an encoded message, and returns the size of its frame in bytes.
    pub(super) fn send_frames(&self, frames: &Frames) -> usize {
        let bytes = frames.encoding(self.deflate);
        self.send(bytes);
        bytes.len()
    }

    /// Sends a message as [`Self::try_send`] does.
    pub(super) fn try_send_message(&self, message: Message) -> Option<usize> {
        let frames = Frames::single(message);
        self.try_send(frames.encoding(self.deflate))
    }

    /// Returns whether the client may send compressed messages.
    pub(super) fn accepts_compressed(&self) -> bool {
        self.deflate.is_some()
    }

    /// Turns tracking of [`Self::last_sent`] on or off.
    pub(super) fn track_sends(&self, on: bool) {
        self.lock().last_sent = on.then(|| Box::new(Instant::now()));
    }

    /// Returns when something was last sent, if that is tracked.
    pub(super) fn last_sent(&self) -> Option<Instant> {
        self.lock().last_sent.as_deref().copied()
    }

    /// Returns the record of the client's signs of life.
    pub(crate) fn activity(&self) -> &Activity {
        &self.activity
    }

    /// Drains the queue and returns the next command. For the session's task only.
    pub(super) fn poll_command(&self, cx: &mut Context<'_>) -> Poll<Command> {
        self.session.register(cx.waker());
        if !self.has_work.load(Relaxed) {
            return Poll::Pending;
        }
        let mut state = self.lock();
        if let Some(reason) = state.drop {
            return Poll::Ready(Command::Drop(reason));
        }
        let flushed = self.poll_flush(&mut state, cx);
        if let Some(reason) = state.close.take() {
            return Poll::Ready(Command::Close(reason));
        }
        if mem::take(&mut state.refresh) {
            return Poll::Ready(Command::Refresh);
        }
        if state.has_room_again(self.limit / 2) {
            state.is_behind = false;
            state.wanted = 0;
            return Poll::Ready(Command::CatchUp);
        }
        if flushed.is_ready() {
            self.has_work.store(false, Relaxed);
        }
        Poll::Pending
    }

    /// Waits until the queue is empty. For the session's task only.
    pub(super) fn poll_drained(&self, cx: &mut Context<'_>) -> Poll<()> {
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
                state.abort();
                Poll::Ready(())
            }
            flushed => flushed.map(|_| ()),
        }
    }

    fn wake_session(&self, state: MutexGuard<'_, State>) {
        self.has_work.store(true, Relaxed);
        // Unlocked first, so that the session does not wake up only to wait for the lock.
        drop(state);
        self.session.wake();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    /// Writes frames if the queue is empty, and queues the rest.
    fn write_or_queue(&mut self, frames: &Bytes) {
        if let Some(last_sent) = &mut self.last_sent {
            **last_sent = Instant::now();
        }
        let mut written = 0;
        if self.queue.is_empty()
            && let Some(connection) = &self.connection
        {
            match write(&**connection, frames) {
                Ok(count) if count == frames.len() => return,
                Ok(count) => written = count,
                Err(_) => {
                    self.abort();
                    return;
                }
            }
        }
        self.partial |= written > 0;
        self.queued_bytes += frames.len() - written;
        self.queue.push_back(frames.slice(written..));
    }

    /// Returns whether nothing can be sent any more.
    fn has_ended(&self) -> bool {
        self.closing || self.drop.is_some()
    }

    /// Returns the bytes that count against the limit. The entry being written does not:
    /// otherwise a single large message would close every client that receives it.
    fn backlog(&self) -> usize {
        let first = self.queue.front().map_or(0, Bytes::len);
        let others = self.queue.len().saturating_sub(1);
        self.queued_bytes - first + others * ENTRY_BYTES
    }

    /// Returns whether items for which there was no room can be offered again. Half of `room` must be
    /// free, so that the history is not read after each write.
    fn has_room_again(&self, room: usize) -> bool {
        let backlog = self.backlog();
        let has_room =
            self.queue.is_empty() || backlog <= room / 2 && backlog + self.wanted <= room;
        self.is_behind && self.connection.is_some() && has_room
    }

    /// Returns whether the session has to be woken. If `was_queued`, it drains the queue already.
    fn needs_session(&self, was_queued: bool) -> bool {
        let must_drain = !was_queued && !self.queue.is_empty() && self.connection.is_some();
        let must_flush = self.connection.as_ref().is_some_and(|it| !it.is_flushed());
        must_drain || must_flush || self.drop.is_some() || self.close.is_some()
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(connection) = &self.connection else {
            return Poll::Pending;
        };
        while !self.queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
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
        // Frees the capacity that a slow client needed once.
        self.queue = VecDeque::new();
        connection.poll_flush(cx)
    }

    /// Gives up sending, after a write error. Input can still be read until EOF.
    fn abort(&mut self) {
        self.queue = VecDeque::new();
        self.queued_bytes = 0;
        self.partial = false;
        self.closing = true;
    }

    /// Drops the queue and closes with 1013. An entry written in part is completed, so that the
    /// close frame is not taken for the rest of it.
    fn overflow(&mut self) {
        self.queue.truncate(usize::from(self.partial));
        self.queue.push_back(frame::close(
            frame::TRY_AGAIN_LATER,
            "the client does not keep up",
        ));
        self.queued_bytes = self.queue.iter().map(Bytes::len).sum();
        self.closing = true;
        self.close = Some(CloseReason::Slow);
    }
}

/// Removes `written` bytes from the front of the queue.
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

/// Writes until everything is written or the connection blocks, and returns the bytes written.
fn write(connection: &dyn Connection, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while written < bytes.len() {
        match connection.try_write(&[IoSlice::new(&bytes[written..])]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}

impl SocketSubscriber for Outbox {
    fn deliver(&self, delivery: &Delivery) {
        match delivery {
            Delivery::Frames(frames) => self.send(frames.encoding(self.deflate)),
            Delivery::Close(frame) => {
                self.close(frame.clone(), CloseReason::Published);
            }
            Delivery::Refresh => self.refresh(),
            Delivery::Missed(grip_last) => {
                let mut state = self.lock();
                state.has_missed = true;
                state.missed.extend(grip_last.clone());
                drop(state);
                self.refresh();
            }
        }
    }

    fn offer(&self, delivery: &Delivery) -> bool {
        match delivery {
            Delivery::Frames(frames) => self.send_if_room(frames.encoding(self.deflate)),
            delivery => {
                self.deliver(delivery);
                true
            }
        }
    }

    fn overtaken(&self) {
        let mut state = self.lock();
        if !state.closing {
            state.overflow();
            self.wake_session(state);
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
    fn refresh(&self) {
        Outbox::refresh(self);
    }
    fn queued(&self) -> usize {
        self.lock().queued_bytes
    }
    fn disconnect(&self, reason: CloseReason) {
        Outbox::disconnect(self, reason);
    }
}

#[cfg(test)]
mod tests;
