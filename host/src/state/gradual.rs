//! Ends what is open gradually, such as the WebSockets of a host that is restarted.

use std::time::Duration;

use rand::seq::SliceRandom as _;
use tokio::time::{Instant, sleep_until};

/// How often what is open is looked at again. New WebSockets are among it.
const ROUND: Duration = Duration::from_secs(1);

/// The steps of a round.
const STEPS: u32 = 50;

/// Ends everything within `time`, evenly and in random order. `open` returns what is still open, and
/// `end` ends one of it.
///
/// Clients that are cut off at once would also come back at once.
pub(crate) async fn end_gradually<T>(time: Duration, open: impl Fn() -> Vec<T>, end: impl Fn(&T)) {
    let mut round_start = Instant::now();
    let deadline = round_start + time;
    while round_start < deadline {
        let remaining = deadline - round_start;
        let rounds = remaining.as_secs_f64() / ROUND.as_secs_f64();
        let mut open = open();
        open.shuffle(&mut rand::rng());
        // The fraction counts with its probability, so that few are spread as well as many.
        let share = open.len() as f64 / rounds.max(1.0) + rand::random::<f64>();
        open.truncate(share as usize);
        let round = remaining.min(ROUND);
        let step = open.len().div_ceil(STEPS as usize).max(1);
        for (index, batch) in (0..).zip(open.chunks(step)) {
            sleep_until(round_start + round * index / STEPS).await;
            batch.iter().for_each(&end);
        }
        round_start += round;
        sleep_until(round_start).await;
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::BTreeSet};

    use super::*;

    /// Ends `count` items within 30 s, and returns the time of each in seconds.
    async fn end_times(count: usize) -> Vec<(usize, f64)> {
        let start = Instant::now();
        let open = RefCell::new((0..count).collect::<BTreeSet<usize>>());
        let ended = RefCell::new(Vec::new());
        let list = || open.borrow().iter().copied().collect();
        end_gradually(Duration::from_secs(30), list, |item| {
            open.borrow_mut().remove(item);
            let time = start.elapsed().as_secs_f64();
            ended.borrow_mut().push((*item, time));
        })
        .await;
        assert_eq!(start.elapsed(), Duration::from_secs(30));
        assert!(open.borrow().is_empty());
        ended.into_inner()
    }

    #[tokio::test(start_paused = true)]
    async fn many_are_ended_evenly_and_in_random_order() {
        let ended = end_times(3000).await;
        for second in 0..30 {
            let range = f64::from(second)..f64::from(second + 1);
            let count = ended
                .iter()
                .filter(|(_, time)| range.contains(time))
                .count();
            assert!((95..=105).contains(&count), "{count} in second {second}");
        }
        assert!(!ended.is_sorted());
    }

    #[tokio::test(start_paused = true)]
    async fn few_are_spread_too() {
        let mut sum = 0.0;
        for _ in 0..200 {
            let ended = end_times(2).await;
            sum += ended.iter().map(|(_, time)| time).sum::<f64>() / 2.0;
        }
        let mean = sum / 200.0;
        assert!((12.0..18.0).contains(&mean), "{mean}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_time_is_one_round() {
        let ended = RefCell::new(0);
        let start = Instant::now();
        let list = || {
            if *ended.borrow() == 0 {
                vec![(); 10]
            } else {
                vec![]
            }
        };
        end_gradually(Duration::from_millis(100), list, |()| {
            *ended.borrow_mut() += 1
        })
        .await;
        assert_eq!(*ended.borrow(), 10);
        assert_eq!(start.elapsed(), Duration::from_millis(100));
    }
}
