//! Why components fail, for logs and metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use wasmtime::{Error, Trap, component::ResourceTableError};

/// Why a component failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureReason {
    /// An instance failed to start.
    Start,
    /// It trapped: a panic, an access outside its memory, or an error of the host.
    Trap,
    /// It trapped after it was denied more memory.
    Memory,
    /// It recursed too deeply.
    Stack,
    /// It opened too many handles.
    Handles,
    /// It did not respond in time.
    Timeout,
    /// It kept running for too long after its responses.
    Lingering,
    /// It returned an error, or no response.
    NoResponse,
}

impl FailureReason {
    const ALL: [Self; 8] = [
        Self::Start,
        Self::Trap,
        Self::Memory,
        Self::Stack,
        Self::Handles,
        Self::Timeout,
        Self::Lingering,
        Self::NoResponse,
    ];

    /// Returns the reason of an error with which an instance exited. `lacked_memory` says whether it
    /// was denied memory.
    pub(crate) fn of_exit(error: &Error, lacked_memory: bool) -> Self {
        if let Some(ResourceTableError::Full) = error.downcast_ref() {
            return Self::Handles;
        }
        match error.downcast_ref() {
            Some(Trap::StackOverflow) => Self::Stack,
            _ if lacked_memory => Self::Memory,
            _ => Self::Trap,
        }
    }

    /// Returns the name used in logs and metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Trap => "trap",
            Self::Memory => "memory",
            Self::Stack => "stack",
            Self::Handles => "handles",
            Self::Timeout => "timeout",
            Self::Lingering => "lingering",
            Self::NoResponse => "no-response",
        }
    }
}

/// Counts the failures of a component by reason.
#[derive(Default)]
pub(crate) struct FailureCounts([AtomicU64; FailureReason::ALL.len()]);

impl FailureCounts {
    pub(crate) fn add(&self, reason: FailureReason) {
        self.0[reason as usize].fetch_add(1, Relaxed);
    }

    /// Returns the number of failures for each reason.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (FailureReason, u64)> {
        FailureReason::ALL
            .into_iter()
            .map(|reason| (reason, self.0[reason as usize].load(Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_reason() {
        let counts = FailureCounts::default();
        for (index, reason) in FailureReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            (0..=index).for_each(|_| counts.add(reason));
        }
        for (index, (reason, count)) in counts.iter().enumerate() {
            assert_eq!((reason as usize, count), (index, index as u64 + 1));
        }
    }

    #[test]
    fn errors_have_reasons() {
        let reason = |error: Error| FailureReason::of_exit(&error, false);
        assert_eq!(
            reason(ResourceTableError::Full.into()),
            FailureReason::Handles
        );
        assert_eq!(reason(Trap::StackOverflow.into()), FailureReason::Stack);
        let trap = || Error::from(Trap::UnreachableCodeReached).context("a backtrace");
        assert_eq!(reason(trap()), FailureReason::Trap);
        assert_eq!(FailureReason::of_exit(&trap(), true), FailureReason::Memory);
    }
}
