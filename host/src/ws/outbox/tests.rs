//! Tests of an outbox with a connection that accepts as many bytes as the test allows.

use std::{future::poll_fn, sync::atomic::AtomicUsize};

use bytes::Bytes;
use parking_lot::Mutex;

use super::*;

const MAX_RESPONSE_BYTES: usize = crate::config::Limits::DEFAULT.max_response_events_bytes;

/// Accepts `capacity` bytes, then blocks.
#[derive(Default)]
struct Pipe {
    capacity: AtomicUsize,
    broken: AtomicBool,
    written: Mutex<Vec<u8>>,
    writer: AtomicWaker,
}

impl Pipe {
    fn add_capacity(&self, bytes: usize) {
        self.capacity.fetch_add(bytes, Relaxed);
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
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let capacity = self.capacity.load(Relaxed);
        if self.broken.load(Relaxed) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if capacity == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let all: Vec<u8> = slices
            .iter()
            .flat_map(|slice| slice.iter().copied())
            .collect();
        let taken = capacity.min(all.len());
        self.capacity.fetch_sub(taken, Relaxed);
        self.written.lock().extend_from_slice(&all[..taken]);
        Ok(taken)
    }
    fn poll_readable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.register(cx.waker());
        if self.capacity.load(Relaxed) > 0 || self.broken.load(Relaxed) {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }
}

#[tokio::test]
async fn frames_sent_before_attaching_are_written_first() {
    let (outbox, pipe) = (
        Outbox::new(100, MAX_RESPONSE_BYTES, None),
        Arc::new(Pipe::default()),
    );
    pipe.add_capacity(100);
    outbox.send(&Bytes::from_static(b"one"));
    outbox.attach(pipe.clone());
    outbox.send(&Bytes::from_static(b"two"));
    poll_fn(|cx| outbox.poll_drained(cx)).await;
    assert_eq!(pipe.written(), b"onetwo");
}

#[tokio::test]
async fn a_slow_client_receives_everything_in_order() {
    let (outbox, pipe) = (
        Outbox::new(10_000, MAX_RESPONSE_BYTES, None),
        Arc::new(Pipe::default()),
    );
    outbox.attach(pipe.clone());
    let mut expected = Vec::new();
    for n in 0..100_u8 {
        outbox.send(&Bytes::copy_from_slice(&[n, n, n]));
        expected.extend([n, n, n]);
        pipe.add_capacity(2);
    }
    let drain = poll_fn(|cx| outbox.poll_drained(cx));
    let feed = async {
        for _ in 0..100 {
            pipe.add_capacity(1);
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(drain, feed);
    assert_eq!(pipe.written(), expected);
}

#[tokio::test]
async fn the_message_being_written_may_exceed_the_limit() {
    let (outbox, pipe) = (
        Outbox::new(1000, MAX_RESPONSE_BYTES, None),
        Arc::new(Pipe::default()),
    );
    outbox.attach(pipe.clone());
    pipe.add_capacity(10);
    let large = Bytes::from(vec![b'x'; 100_000]);
    outbox.send(&large);
    outbox.send(&Bytes::from_static(b"small"));
    assert_eq!(outbox.stage(), Stage::Open);
    outbox.send(&large);
    assert_eq!(outbox.stage(), Stage::Closing);
}

#[tokio::test]
async fn many_small_messages_exceed_the_limit_too() {
    let (outbox, pipe) = (
        Outbox::new(1000, MAX_RESPONSE_BYTES, None),
        Arc::new(Pipe::default()),
    );
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
async fn a_large_response_to_open_waits_for_the_connection() {
    let (outbox, pipe) = (
        Outbox::new(1, MAX_RESPONSE_BYTES, None),
        Arc::new(Pipe::default()),
    );
    for _ in 0..10 {
        outbox.send(&Bytes::from(vec![b'x'; MAX_RESPONSE_BYTES / 20]));
    }
    pipe.add_capacity(MAX_RESPONSE_BYTES);
    outbox.attach(pipe.clone());
    poll_fn(|cx| outbox.poll_drained(cx)).await;
    assert_eq!(pipe.written().len(), MAX_RESPONSE_BYTES / 2);
    assert_eq!(outbox.stage(), Stage::Open);
}

#[tokio::test]
async fn the_session_is_woken_once_for_the_queue() {
    let (outbox, pipe) = (
        Outbox::new(1000, MAX_RESPONSE_BYTES, None),
        Arc::new(Pipe::default()),
    );
    outbox.attach(pipe.clone());
    outbox.send(&Bytes::from_static(b"one"));
    assert!(outbox.has_work.load(Relaxed));
    outbox.has_work.store(false, Relaxed);
    outbox.send(&Bytes::from_static(b"two"));
    assert!(!outbox.has_work.load(Relaxed));
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed_with_1013_after_a_whole_frame() {
    let (outbox, pipe) = (
        Outbox::new(100, MAX_RESPONSE_BYTES, None),
        Arc::new(Pipe::default()),
    );
    outbox.attach(pipe.clone());
    pipe.add_capacity(2);
    for _ in 0..3 {
        outbox.send(&Bytes::from_static(b"four"));
    }
    assert_eq!(outbox.stage(), Stage::Closing);
    assert_eq!(
        poll_fn(|cx| outbox.poll_command(cx)).await,
        Command::Close(CloseReason::Slow)
    );
    outbox.send(&Bytes::from_static(b"after"));
    pipe.add_capacity(1000);
    poll_fn(|cx| outbox.poll_drained(cx)).await;
    let mut expected = b"four".to_vec();
    expected.extend_from_slice(&frame::close(
        frame::TRY_AGAIN_LATER,
        "the client does not keep up",
    ));
    assert_eq!(pipe.written(), expected);
}

#[tokio::test]
async fn commands_are_returned_once_and_drop_has_priority() {
    let outbox = Outbox::new(10, MAX_RESPONSE_BYTES, None);
    outbox.attach(Arc::new(Pipe::default()));
    outbox.refresh();
    assert_eq!(
        poll_fn(|cx| outbox.poll_command(cx)).await,
        Command::Refresh
    );
    outbox.refresh();
    // As the registry of sessions does it.
    let client: Arc<dyn Client> = outbox.clone();
    client.disconnect(CloseReason::Silent);
    assert_eq!(
        poll_fn(|cx| outbox.poll_command(cx)).await,
        Command::Drop(CloseReason::Silent)
    );
}

#[tokio::test]
async fn a_write_error_closes_the_outbox_without_a_command() {
    let (at_once, later) = (
        Outbox::new(100, MAX_RESPONSE_BYTES, None),
        Outbox::new(100, MAX_RESPONSE_BYTES, None),
    );
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
            assert_eq!(outbox.poll_command(cx), Poll::Pending);
            Poll::Ready(())
        })
        .await;
        assert_eq!(outbox.stage(), Stage::Closing);
        poll_fn(|cx| outbox.poll_drained(cx)).await;
    }
}

#[tokio::test]
async fn draining_the_queue_counts_as_progress() {
    let (outbox, pipe) = (
        Outbox::new(10_000, MAX_RESPONSE_BYTES, None),
        Arc::new(Pipe::default()),
    );
    outbox.attach(pipe.clone());
    outbox.activity().record_received(0);
    outbox.send(&Bytes::from(vec![b'x'; 1000]));
    let flush = || poll_fn(|cx| Poll::Ready(outbox.poll_command(cx)));
    for (now, capacity, received) in [(1, 0, 0), (2, 10, 2), (3, 0, 2), (4, 10, 4)] {
        pipe.add_capacity(capacity);
        assert!(flush().await.is_pending());
        outbox.activity().sweep(now);
        assert_eq!(outbox.activity().last_received(), received);
    }
}
