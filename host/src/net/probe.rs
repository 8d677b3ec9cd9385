//! Asks an accept loop whether it runs.

use tokio::sync::{mpsc, oneshot};

/// Asks an accept loop. Clones ask the same one.
#[derive(Clone)]
pub(crate) struct Probe(mpsc::Sender<oneshot::Sender<()>>);

/// The questions to an accept loop.
pub(super) struct Probes(mpsc::Receiver<oneshot::Sender<()>>);

/// Creates a probe, and the questions that it asks.
pub(super) fn probe() -> (Probe, Probes) {
    let (sender, receiver) = mpsc::channel(1);
    (Probe(sender), Probes(receiver))
}

impl Probe {
    /// Waits until the accept loop answers. A loop that has ended, because the host drains, counts as
    /// one that answers.
    pub(crate) async fn answered(&self) {
        let (answer, answered) = oneshot::channel();
        if self.0.send(answer).await.is_ok() {
            // Fails if the loop ends before it answers.
            let _ = answered.await;
        }
    }
}

impl Probes {
    /// Answers the next question. Never completes if there is none to come.
    pub(super) async fn answer(&mut self) {
        match self.0.recv().await {
            Some(answer) => drop(answer.send(())),
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_answers_while_it_runs_and_after_its_end() {
        let (probe, mut probes) = probe();
        let is_answered = async || {
            timeout(Duration::from_secs(1), probe.answered())
                .await
                .is_ok()
        };
        assert!(!is_answered().await, "nothing runs");
        let task = tokio::spawn(async move {
            loop {
                probes.answer().await;
            }
        });
        assert!(is_answered().await);
        task.abort();
        let _ = task.await;
        assert!(is_answered().await);
    }
}
