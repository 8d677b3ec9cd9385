//! An outbox in front of a connection that takes as much as the test lets it.

use bytes::Bytes;
use std::{future::poll_fn, sync::atomic::AtomicUsize};

use parking_lot::Mutex;

use super::*;

/// Takes `room` bytes, then blocks.
#[derive(Default)]
struct Pipe {
    room: AtomicUsize,
    broken: AtomicBool,
    written: Mutex<Vec<u8>>,
    writer: AtomicWaker,
}

impl Pipe {
    fn make_room(&self, bytes: usize) {
        self.room.fetch_add(bytes, Relaxed);
        self.writer.wake();
    }
    fn written(&self) -> Vec<u8> {
        self.written.lock().clone()
    }
}

impl Connection for Pipe {
    fn try_read(&self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
    fn try_write(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let room = self.room.load(Relaxed);
        if self.broken.load(Relaxed) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let all: Vec<u8> = from
            .iter()
            .flat_map(|slice| slice.iter().copied())
            .collect();
        let taken = room.min(all.len());
        self.room.fetch_sub(taken, Relaxed);
        self.written.lock().extend_from_slice(&all[..taken]);
        Ok(taken)
    }
    fn poll_readable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.register(cx.waker());
        if self.room.load(Relaxed) > 0 || self.broken.load(Relaxed) {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }
}

#[tokio::test]
async fn what_came_before_the_connection_goes_out_with_it() {
    let (outbox, pipe) = (Outbox::new(100), Arc::new(Pipe::default()));
    pipe.make_room(100);
    outbox.send(&Bytes::from_static(b"one"));
    outbox.attach(pipe.clone());
    outbox.send(&Bytes::from_static(b"two"));
    poll_fn(|cx| outbox.poll_drained(cx)).await;
    assert_eq!(pipe.written(), b"onetwo");
}

#[tokio::test]
async fn a_client_that_reads_slowly_gets_all_in_order() {
    let (outbox, pipe) = (Outbox::new(10_000), Arc::new(Pipe::default()));
    outbox.attach(pipe.clone());
    let mut wanted = Vec::new();
    for n in 0..100_u8 {
        outbox.send(&Bytes::copy_from_slice(&[n, n, n]));
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
    tokio::join!(drain, feed);
    assert_eq!(pipe.written(), wanted);
}

#[tokio::test]
async fn a_message_of_any_size_may_be_under_way() {
    let (outbox, pipe) = (Outbox::new(1000), Arc::new(Pipe::default()));
    outbox.attach(pipe.clone());
    pipe.make_room(10);
    let large = Bytes::from(vec![b'x'; 100_000]);
    outbox.send(&large);
    outbox.send(&Bytes::from_static(b"small"));
    assert_eq!(outbox.stage(), Stage::Open);
    outbox.send(&large);
    assert_eq!(outbox.stage(), Stage::Closing);
}

#[tokio::test]
async fn many_small_messages_are_bounded_too() {
    let (outbox, pipe) = (Outbox::new(1000), Arc::new(Pipe::default()));
    outbox.attach(pipe.clone());
    let most = 1000 / (ENTRY_BYTES + 1);
    for _ in 0..=most {
        outbox.send(&Bytes::from_static(b"x"));
    }
    assert_eq!(outbox.stage(), Stage::Open);
    outbox.send(&Bytes::from_static(b"x"));
    assert_eq!(outbox.stage(), Stage::Closing);
}

#[tokio::test]
async fn all_that_answers_an_open_waits_for_the_connection() {
    let (outbox, pipe) = (Outbox::new(1), Arc::new(Pipe::default()));
    for _ in 0..10 {
        outbox.send(&Bytes::from(vec![b'x'; MAX_REPLY / 20]));
    }
    pipe.make_room(MAX_REPLY);
    outbox.attach(pipe.clone());
    poll_fn(|cx| outbox.poll_drained(cx)).await;
    assert_eq!(pipe.written().len(), MAX_REPLY / 2);
    assert_eq!(outbox.stage(), Stage::Open);
}

#[tokio::test]
async fn the_session_is_called_once_for_what_waits() {
    let (outbox, pipe) = (Outbox::new(1000), Arc::new(Pipe::default()));
    outbox.attach(pipe.clone());
    outbox.send(&Bytes::from_static(b"one"));
    assert!(outbox.attention.load(Relaxed));
    outbox.attention.store(false, Relaxed);
    outbox.send(&Bytes::from_static(b"two"));
    assert!(!outbox.attention.load(Relaxed));
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed_with_1013_between_frames() {
    let (outbox, pipe) = (Outbox::new(100), Arc::new(Pipe::default()));
    outbox.attach(pipe.clone());
    pipe.make_room(2);
    for _ in 0..3 {
        outbox.send(&Bytes::from_static(b"four"));
    }
    assert_eq!(outbox.stage(), Stage::Closing);
    assert_eq!(
        poll_fn(|cx| outbox.poll_order(cx)).await,
        Command::Close(CloseReason::Slow)
    );
    outbox.send(&Bytes::from_static(b"after"));
    pipe.make_room(1000);
    poll_fn(|cx| outbox.poll_drained(cx)).await;
    let mut wanted = b"four".to_vec();
    wanted.extend_from_slice(&frame::close(AGAIN, "the client does not keep up"));
    assert_eq!(pipe.written(), wanted);
}

#[tokio::test]
async fn orders_come_once_and_dropping_wins() {
    let outbox = Outbox::new(10);
    outbox.attach(Arc::new(Pipe::default()));
    outbox.refresh();
    assert_eq!(poll_fn(|cx| outbox.poll_order(cx)).await, Command::Refresh);
    outbox.refresh();
    outbox.disconnect(CloseReason::Silent);
    assert_eq!(
        poll_fn(|cx| outbox.poll_order(cx)).await,
        Command::Drop(CloseReason::Silent)
    );
}

#[tokio::test]
async fn a_client_that_cannot_be_written_to_is_read_to_its_end() {
    let (at_once, later) = (Outbox::new(100), Outbox::new(100));
    let pipes = [&at_once, &later].map(|outbox| {
        let pipe = Arc::new(Pipe::default());
        outbox.attach(pipe.clone());
        pipe
    });
    later.send(&Bytes::from_static(b"waits"));
    pipes.iter().for_each(|it| it.broken.store(true, Relaxed));
    at_once.send(&Bytes::from_static(b"lost"));
    for outbox in [at_once, later] {
        poll_fn(|cx| {
            assert_eq!(outbox.poll_order(cx), Poll::Pending);
            Poll::Ready(())
        })
        .await;
        assert_eq!(outbox.stage(), Stage::Closing);
        poll_fn(|cx| outbox.poll_drained(cx)).await;
    }
}

#[tokio::test]
async fn draining_the_queue_is_a_sign_of_life() {
    let (outbox, pipe) = (Outbox::new(10_000), Arc::new(Pipe::default()));
    outbox.attach(pipe.clone());
    outbox.activity().record_received(0);
    outbox.send(&Bytes::from(vec![b'x'; 1000]));
    let flush = || poll_fn(|cx| Poll::Ready(outbox.poll_order(cx)));
    for (now, room, received) in [(1, 0, 0), (2, 10, 2), (3, 0, 2), (4, 10, 4)] {
        pipe.make_room(room);
        assert!(flush().await.is_pending());
        outbox.activity().sweep(now);
        assert_eq!(outbox.activity().last_received(), received);
    }
}
