//! Counts delivered, lost and misordered messages, and tracks the slowest socket.

use std::collections::VecDeque;

/// The maximum gap between two sequence numbers. Larger ones were never published.
const GAP_MAX: u32 = 1 << 20;

/// Counts deliveries by socket and publisher. The sequence numbers of a publisher start at 1 and
/// must arrive in order, without gaps.
pub struct Tally {
    sockets: u32,
    publishers: usize,
    /// The last sequence number received, by socket, then publisher.
    last: Vec<u32>,
    /// By publisher: the number of sockets past each message that is not yet complete.
    passed: Vec<VecDeque<u32>>,
    /// By publisher: all messages up to this sequence number are complete.
    complete: Vec<u32>,
    /// Messages received in order.
    pub received: u64,
    /// Messages skipped by a later one, or never received.
    pub lost: u64,
    /// Messages received twice or after a later one.
    pub disordered: u64,
}

impl Tally {
    /// Creates a tally for this many sockets and publishers.
    pub fn new(sockets: usize, publishers: usize) -> Self {
        Self {
            sockets: sockets as u32,
            publishers,
            last: vec![0; sockets * publishers],
            passed: vec![VecDeque::new(); publishers],
            complete: vec![0; publishers],
            received: 0,
            lost: 0,
            disordered: 0,
        }
    }

    /// Records a delivery. Returns the number of messages that are now complete: every socket has
    /// received or missed them.
    pub fn receive(&mut self, socket: usize, publisher: u16, sequence: u32) -> u32 {
        let publisher = usize::from(publisher);
        let last = match self.last.get_mut(socket * self.publishers + publisher) {
            Some(last)
                if publisher < self.publishers
                    && sequence > *last
                    && sequence - *last <= GAP_MAX =>
            {
                std::mem::replace(last, sequence)
            }
            _ => {
                self.disordered += 1;
                return 0;
            }
        };
        self.received += 1;
        self.lost += u64::from(sequence - last - 1);
        let complete = &mut self.complete[publisher];
        let passed = &mut self.passed[publisher];
        for number in last + 1..=sequence {
            let index = (number - *complete - 1) as usize;
            if passed.len() <= index {
                passed.resize(index + 1, 0);
            }
            passed[index] += 1;
        }
        let before = *complete;
        while passed.front() == Some(&self.sockets) {
            passed.pop_front();
            *complete += 1;
        }
        *complete - before
    }

    /// Counts the missing ones of the `published` messages, given by publisher, as lost. Call it
    /// once, at the end.
    pub fn finish(&mut self, published: &[u32]) {
        for last in self.last.chunks(self.publishers) {
            for (last, published) in last.iter().zip(published) {
                self.lost += u64::from(published.saturating_sub(*last));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_complete_once_the_slowest_socket_has_them() {
        let mut tally = Tally::new(2, 1);
        assert_eq!(tally.receive(0, 0, 1), 0);
        assert_eq!(tally.receive(0, 0, 2), 0);
        assert_eq!(tally.receive(1, 0, 1), 1);
        assert_eq!(tally.receive(1, 0, 2), 1);
        tally.finish(&[2]);
        assert_eq!((tally.received, tally.lost, tally.disordered), (4, 0, 0));
    }

    #[test]
    fn each_publisher_has_its_own_sequence() {
        let mut tally = Tally::new(1, 2);
        assert_eq!(tally.receive(0, 1, 1), 1);
        assert_eq!(tally.receive(0, 0, 1), 1);
        assert_eq!(tally.receive(0, 1, 2), 1);
        assert_eq!((tally.lost, tally.disordered), (0, 0));
    }

    #[test]
    fn lost_and_misordered_messages_are_counted() {
        let mut tally = Tally::new(2, 1);
        tally.receive(0, 0, 1);
        assert_eq!(tally.receive(0, 0, 4), 0);
        assert_eq!(tally.lost, 2);
        assert_eq!(
            tally.receive(1, 0, 4),
            4,
            "missed messages count as complete"
        );
        assert_eq!(tally.lost, 5);
        tally.receive(0, 0, 3);
        tally.receive(0, 0, 4);
        tally.receive(0, 9, 1);
        tally.receive(0, 0, u32::MAX);
        assert_eq!(tally.disordered, 4);
        tally.finish(&[6]);
        assert_eq!(tally.lost, 9);
    }
}
