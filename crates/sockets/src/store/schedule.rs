//! Interleavings of concurrent tasks, for tests.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use proptest::prelude::*;

/// A sequence in which tasks take their steps. Afterwards, each runs to its end.
#[derive(Clone, Debug)]
pub(super) struct Schedule(Vec<usize>);

impl Schedule {
    /// Generates schedules for this number of tasks.
    pub(super) fn any(tasks: usize) -> impl Strategy<Value = Schedule> {
        prop::collection::vec(0..tasks, 0..60).prop_map(Schedule)
    }

    /// Runs the tasks and returns their results.
    pub(super) fn run<T, F: Future<Output = T>>(&self, tasks: &[&dyn Fn() -> F]) -> Vec<T> {
        let mut tasks: Vec<Option<Pin<Box<F>>>> =
            tasks.iter().map(|task| Some(Box::pin(task()))).collect();
        let mut results = Vec::new();
        let mut step = |task: &mut Option<Pin<Box<F>>>| {
            let mut context = Context::from_waker(Waker::noop());
            if let Some(future) = task
                && let Poll::Ready(result) = future.as_mut().poll(&mut context)
            {
                results.push(result);
                *task = None;
            }
        };
        for task in &self.0 {
            step(&mut tasks[*task]);
        }
        while tasks.iter().any(Option::is_some) {
            tasks.iter_mut().for_each(&mut step);
        }
        results
    }
}
