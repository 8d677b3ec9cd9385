//! Who has received what: losses, disorder, and how far the slowest socket is.

use std::collections::VecDeque;

/// A number further ahead than this was never published.
const JUMP_MAX: u32 = 1 << 20;

/// What one receipt completed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Completed {
    /// This many messages have now come to every socket, or been missed there.
    pub messages: u32,
}

/// Counts receipts by socket and publisher. Within a publisher, sequence
/// numbers rise by 1 from 1 and must arrive so.
pub struct Tally {
    sockets: u32,
    publishers: usize,
    /// The last number seen, by socket, then publisher.
    last: Vec<u32>,
    /// By publisher: how many sockets are past each number not yet complete.
    passed: Vec<VecDeque<u32>>,
    /// By publisher: all numbers up to this one are complete.
    complete: Vec<u32>,
    /// Receipts, each in its place.
    pub received: u64,
    /// Messages a later one overtook, or that never came.
    pub lost: u64,
    /// Messages that came twice or after a later one.
    pub disordered: u64,
}

impl Tally {
    /// For so many sockets and publishers.
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

    /// Takes a receipt.
    pub fn receive(&mut self, socket: usize, publisher: u16, sequence: u32) -> Completed {
        let publisher = usize::from(publisher);
        let last = match self.last.get_mut(socket * self.publishers + publisher) {
            Some(last)
                if publisher < self.publishers
                    && sequence > *last
                    && sequence - *last <= JUMP_MAX =>
            {
                std::mem::replace(last, sequence)
            }
            _ => {
                self.disordered += 1;
                return Completed::default();
            }
        };
        self.received += 1;
        self.lost += u64::from(sequence - last - 1);
        let complete = &mut self.complete[publisher];
        let passed = &mut self.passed[publisher];
        for number in last + 1..=sequence {
            let place = (number - *complete - 1) as usize;
            if passed.len() <= place {
                passed.resize(place + 1, 0);
            }
            passed[place] += 1;
        }
        let before = *complete;
        while passed.front() == Some(&self.sockets) {
            passed.pop_front();
            *complete += 1;
        }
        Completed {
            messages: *complete - before,
        }
    }

    /// Counts as lost what has not come of the `published` messages, one count
    /// for each publisher. To be called once, at the end.
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
    fn a_message_is_complete_when_the_slowest_socket_has_it() {
        let mut tally = Tally::new(2, 1);
        assert_eq!(tally.receive(0, 0, 1).messages, 0);
        assert_eq!(tally.receive(0, 0, 2).messages, 0);
        assert_eq!(tally.receive(1, 0, 1).messages, 1);
        assert_eq!(tally.receive(1, 0, 2).messages, 1);
        tally.finish(&[2]);
        assert_eq!((tally.received, tally.lost, tally.disordered), (4, 0, 0));
    }

    #[test]
    fn publishers_count_for_themselves() {
        let mut tally = Tally::new(1, 2);
        assert_eq!(tally.receive(0, 1, 1).messages, 1);
        assert_eq!(tally.receive(0, 0, 1).messages, 1);
        assert_eq!(tally.receive(0, 1, 2).messages, 1);
        assert_eq!((tally.lost, tally.disordered), (0, 0));
    }

    #[test]
    fn losses_and_disorder_are_seen() {
        let mut tally = Tally::new(2, 1);
        tally.receive(0, 0, 1);
        assert_eq!(tally.receive(0, 0, 4).messages, 0);
        assert_eq!(tally.lost, 2);
        assert_eq!(
            tally.receive(1, 0, 4).messages,
            4,
            "what was missed does not hold the window up"
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
