//! What the frame reader needs of `host/src/ws/outbox.rs`, which depends on most of the host.

use std::{
    io::{self, IoSlice},
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use bytes::Bytes;

use crate::ws::deflate::Deflate;

/// A byte stream, as in the host.
pub(crate) trait Connection: Send + Sync + 'static {
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize>;
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// An outbox whose connection accepts everything at once.
pub(crate) struct Outbox {
    connection: OnceLock<Arc<dyn Connection>>,
    deflate: Option<Deflate>,
    activity: Activity,
}

/// A record that nothing reads.
pub(crate) struct Activity;

impl Outbox {
    pub(crate) fn new(_: usize, _: usize, deflate: Option<Deflate>) -> Arc<Self> {
        Arc::new(Self {
            connection: OnceLock::new(),
            deflate,
            activity: Activity,
        })
    }

    pub(super) fn attach(&self, connection: Arc<dyn Connection>) {
        assert!(self.connection.set(connection).is_ok());
    }

    pub(crate) fn send(&self, frames: &Bytes) {
        let connection = self.connection.get().expect("an attached connection");
        let written = connection.try_write(&[IoSlice::new(frames)]);
        assert!(written.is_ok_and(|count| count == frames.len()));
    }

    pub(super) fn accepts_compressed(&self) -> bool {
        self.deflate.is_some()
    }

    pub(crate) fn activity(&self) -> &Activity {
        &self.activity
    }
}

impl Activity {
    pub(crate) fn record_progress(&self) {}
}
