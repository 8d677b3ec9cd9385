//! A connection in memory, and frames as a client sends and gets them.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    task::{Context, Poll},
};

use parking_lot::{Mutex, MutexGuard};

use futures_util::task::AtomicWaker;
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
    /// How much more the client takes; `None`: everything.
    pub(crate) room: Option<usize>,
    pub(crate) ended: bool,
    pub(crate) broken: bool,
}

impl Wire {
    /// Its state.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Changes its state, and wakes who waits for that.
    pub(crate) fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.reader.wake();
        self.writer.wake();
    }
}

impl Connection for Wire {
    fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut state = self.lock();
        if state.broken {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if state.to_host.is_empty() && !state.ended {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        io::Read::read(&mut state.to_host, into)
    }
    fn try_write(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.lock();
        if state.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let from = from.iter().flat_map(|slice| slice.iter().copied());
        let before = state.to_client.len();
        match state.room {
            Some(0) => return Err(io::ErrorKind::WouldBlock.into()),
            Some(room) => state.to_client.extend(from.take(room)),
            None => state.to_client.extend(from),
        }
        let written = state.to_client.len() - before;
        state.room = state.room.map(|room| room - written);
        Ok(written)
    }
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.reader.register(cx.waker());
        let state = self.lock();
        match state.to_host.is_empty() && !state.ended && !state.broken {
            true => Poll::Pending,
            false => Poll::Ready(Ok(())),
        }
    }
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.register(cx.waker());
        match self.lock().room == Some(0) && !self.lock().broken {
            true => Poll::Pending,
            false => Poll::Ready(Ok(())),
        }
    }
}

/// The frame of a client, masked.
pub(crate) fn masked(opcode: OpCode, content: &[u8], last: bool) -> Vec<u8> {
    let header = FrameHeader {
        is_final: last,
        opcode,
        mask: Some([1, 2, 3, 4]),
        ..FrameHeader::default()
    };
    let frame = Frame::from_payload(header, content.to_vec().into());
    let mut bytes = Vec::new();
    frame.format(&mut bytes).expect("memory");
    bytes
}

/// What a client got, as far as it is whole: opcode and content of each frame.
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
        assert_eq!(first & 0xf0, 0x80, "no whole frame");
        frames.push((first & 0xf, rest[..length].to_vec()));
        bytes = &rest[length..];
    }
    frames
}

pub(crate) const CLOSE: u8 = 8;
