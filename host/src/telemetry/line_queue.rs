//! Lines that a thread writes to stderr, so that a terminal or a pipe that is not read blocks nobody.

use std::{
    io::{self, Write},
    sync::{
        Arc, LazyLock,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use prometheus_client::metrics::counter::Counter;

use crate::config::Limits;

/// The most bytes that wait to be written. Further lines are dropped.
const MAX_QUEUED_BYTES: usize = Limits::DEFAULT.access_log_queue_bytes;

/// Added to the length of each line, so that many short lines are bounded too.
const LINE_BYTES: usize = 64;

/// The most bytes written at once, unless a line is longer.
const MAX_WRITE_BYTES: usize = 64 * 1024;

/// Counts the lines of the process that were dropped.
static DROPPED: LazyLock<Counter> = LazyLock::new(Counter::default);

/// Returns the counter of lines that were dropped.
pub(crate) fn dropped_lines() -> Counter {
    DROPPED.clone()
}

/// A bounded queue of lines. Clones share it.
#[derive(Clone)]
pub(crate) struct LineQueue {
    lines: Sender<Vec<u8>>,
    queued: Arc<Queued>,
    dropped: Counter,
}

/// The bytes that wait to be written.
#[derive(Default)]
struct Queued {
    bytes: Mutex<usize>,
    empty: Condvar,
}

impl LineQueue {
    /// Starts the thread that writes lines.
    ///
    /// # Errors
    /// Fails if the system refuses the thread.
    pub(crate) fn start(output: impl Write + Send + 'static) -> io::Result<Self> {
        let (lines, receiver) = channel();
        let queued = Arc::new(Queued::default());
        let queue = Self {
            lines,
            queued: queued.clone(),
            dropped: DROPPED.clone(),
        };
        let thread = thread::Builder::new().name("access-log".to_owned());
        thread.spawn(move || write_lines(output, &receiver, &queued))?;
        Ok(queue)
    }

    /// Queues a line, or drops and counts it if too much is queued.
    fn push(&self, line: &[u8]) {
        let added = line.len() + LINE_BYTES;
        let mut bytes = self.queued.bytes.lock();
        if *bytes + added > MAX_QUEUED_BYTES {
            self.dropped.inc();
            return;
        }
        *bytes += added;
        // Fails only if the thread has ended, which it does not while there is a queue.
        let _ = self.lines.send(line.to_vec());
    }

    /// Waits until everything is written, at most for `timeout`.
    pub(crate) fn flush(&self, timeout: Duration) {
        let mut bytes = self.queued.bytes.lock();
        let is_queued = |bytes: &mut usize| *bytes > 0;
        self.queued
            .empty
            .wait_while_for(&mut bytes, is_queued, timeout);
    }
}

/// Each write is a whole line.
impl Write for LineQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_lines(mut output: impl Write, lines: &Receiver<Vec<u8>>, queued: &Queued) {
    while let Ok(mut text) = lines.recv() {
        let mut written = LINE_BYTES;
        while text.len() < MAX_WRITE_BYTES
            && let Ok(line) = lines.try_recv()
        {
            text.extend_from_slice(&line);
            written += LINE_BYTES;
        }
        written += text.len();
        // A closed stderr is no reason to stop serving.
        let _ = output.write_all(&text);
        let mut bytes = queued.bytes.lock();
        *bytes -= written;
        if *bytes == 0 {
            queued.empty.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{SyncSender, sync_channel};

    use super::*;

    /// Passes on what is written, and blocks until it is received.
    struct Blocked(SyncSender<Vec<u8>>);

    impl Write for Blocked {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_written_in_order() {
        let (sender, receiver) = sync_channel(1000);
        let mut queue = LineQueue::start(Blocked(sender)).unwrap();
        let lines: Vec<_> = (0..100).map(|number| format!("{number}\n")).collect();
        for line in &lines {
            queue.write_all(line.as_bytes()).unwrap();
        }
        queue.flush(Duration::from_secs(60));
        let written: Vec<u8> = receiver.try_iter().flatten().collect();
        assert_eq!(String::from_utf8_lossy(&written), lines.concat());
    }

    #[test]
    fn an_output_that_blocks_costs_bounded_memory_and_no_time() {
        let (sender, receiver) = sync_channel(0);
        let queue = LineQueue::start(Blocked(sender)).unwrap();
        let dropped = queue.dropped.get();
        let line = vec![b'x'; 1000];
        let fit = MAX_QUEUED_BYTES / (line.len() + LINE_BYTES);
        for _ in 0..fit + 7 {
            queue.push(&line);
        }
        assert_eq!(queue.dropped.get() - dropped, 7);
        queue.flush(Duration::from_millis(1));
        let mut written = 0;
        while written < fit * line.len() {
            written += receiver.recv().unwrap().len();
        }
        queue.flush(Duration::from_secs(60));
        queue.push(&line);
        assert_eq!(receiver.recv().unwrap(), line);
    }
}
