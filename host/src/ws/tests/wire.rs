//! A connection in memory, and the frames that a client sends and receives.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;
use parking_lot::{Mutex, MutexGuard};
use tungstenite::protocol::frame::{Frame, FrameHeader, coding::OpCode};

use crate::ws::outbox::Connection;

/// A connection in memory.
#[derive(Default)]
pub(crate) struct Wire {
    state: Mutex<State>,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) to_host: VecDeque<u8>,
    pub(crate) to_client: Vec<u8>,
    /// How many more bytes the client reads; `None` means everything.
    pub(crate) capacity: Option<usize>,
    pub(crate) eof: bool,
    pub(crate) broken: bool,
}

impl Wire {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Changes the state and wakes the session.
    pub(crate) fn update(&self, update: impl FnOnce(&mut State)) {
        update(&mut self.lock());
        self.reader.wake();
        self.writer.wake();
    }
}

impl Connection for Wire {
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.lock();
        if state.broken {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if state.to_host.is_empty() && !state.eof {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        io::Read::read(&mut state.to_host, buffer)
    }
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.lock();
        if state.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let bytes = slices.iter().flat_map(|slice| slice.iter().copied());
        let before = state.to_client.len();
        match state.capacity {
            Some(0) => return Err(io::ErrorKind::WouldBlock.into()),
            Some(capacity) => state.to_client.extend(bytes.take(capacity)),
            None => state.to_client.extend(bytes),
        }
        let written = state.to_client.len() - before;
        state.capacity = state.capacity.map(|capacity| capacity - written);
        Ok(written)
    }
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.reader.register(cx.waker());
        let state = self.lock();
        if state.to_host.is_empty() && !state.eof && !state.broken {
            Poll::Pending
        } else {
            Poll::Ready(Ok(()))
        }
    }
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.register(cx.waker());
        if self.lock().capacity == Some(0) && !self.lock().broken {
            Poll::Pending
        } else {
            Poll::Ready(Ok(()))
        }
    }
}

/// Returns a client's frame, which is masked.
pub(crate) fn masked(opcode: OpCode, content: &[u8], is_final: bool) -> Vec<u8> {
    let header = FrameHeader {
        is_final,
        opcode,
        mask: Some([1, 2, 3, 4]),
        ..FrameHeader::default()
    };
    let frame = Frame::from_payload(header, content.to_vec().into());
    let mut bytes = Vec::new();
    frame.format(&mut bytes).expect("memory");
    bytes
}

/// Returns the opcode and content of each complete frame that a client has received.
pub(crate) fn received(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while let [first, length, rest @ ..] = bytes {
        let (length, rest) = match (*length, rest) {
            (126, [high, low, rest @ ..]) => (usize::from(u16::from_be_bytes([*high, *low])), rest),
            (length @ ..126, rest) => (usize::from(length), rest),
            _ => break,
        };
        if rest.len() < length {
            break;
        }
        assert_eq!(first & 0xf0, 0x80, "a fragmented frame");
        frames.push((first & 0xf, rest[..length].to_vec()));
        bytes = &rest[length..];
    }
    frames
}

pub(crate) const CLOSE: u8 = 8;
