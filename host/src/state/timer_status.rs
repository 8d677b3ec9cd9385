//! What the timers of a host are doing, as the control port reports it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use serde::{Serialize, Serializer};

use crate::config::Timer;

/// The status of each timer of a host. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct TimerStatuses(Arc<Mutex<Vec<Arc<TimerStatus>>>>);

/// The status of one timer.
pub(crate) struct TimerStatus {
    target: String,
    schedule: String,
    state: Mutex<State>,
}

#[derive(Clone, Default)]
struct State {
    next: Option<SystemTime>,
    is_running: bool,
    last: Option<TimerRun>,
}

/// A timer, as the control port lists it.
#[derive(Debug, Serialize)]
pub(crate) struct TimerReport {
    /// What is called, such as `POST /tick`.
    pub(crate) timer: String,
    /// When it is called, such as `every 5s`.
    pub(crate) schedule: String,
    /// When it is called next. Missing during a call, and if there is no further time.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "optional_time"
    )]
    pub(crate) next: Option<SystemTime>,
    /// Whether a call is in progress.
    pub(crate) running: bool,
    /// The last call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last: Option<TimerRun>,
}

/// A call of a timer that has ended.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TimerRun {
    /// When it began.
    #[serde(serialize_with = "time")]
    pub(crate) at: SystemTime,
    /// How long it took, in milliseconds.
    pub(crate) duration: u64,
    /// How it ended.
    pub(crate) result: TimerResult,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// How a call of a timer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum TimerResult {
    Success,
    Failure,
    /// Another host on the bus calls the timer, or the bus is down.
    OtherHost,
}

impl TimerStatuses {
    /// Replaces the timers.
    pub(crate) fn set(&self, timers: Vec<Arc<TimerStatus>>) {
        *self.0.lock() = timers;
    }

    /// Returns the timers, in the order of the manifest.
    pub(crate) fn list(&self) -> Vec<TimerReport> {
        self.0.lock().iter().map(|timer| timer.report()).collect()
    }
}

impl TimerStatus {
    /// Creates the status of a timer that has not been called.
    pub(crate) fn new(timer: &Timer) -> Arc<Self> {
        Arc::new(Self {
            target: timer.target.to_string(),
            schedule: timer.schedule.to_string(),
            state: Mutex::default(),
        })
    }

    /// Records when the timer is called next.
    pub(crate) fn set_next(&self, time: SystemTime) {
        self.state.lock().next = Some(time);
    }

    /// Records that the timer has no further times.
    pub(crate) fn end(&self) {
        self.state.lock().next = None;
    }

    /// Records that a call begins.
    pub(crate) fn begin_run(&self) {
        let mut state = self.state.lock();
        state.is_running = true;
        state.next = None;
    }

    /// Records the end of a call that began at this time.
    pub(crate) fn end_run(
        &self,
        at: SystemTime,
        duration: Duration,
        result: TimerResult,
        error: Option<String>,
    ) {
        let mut state = self.state.lock();
        state.is_running = false;
        state.last = Some(TimerRun {
            at,
            duration: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            result,
            error,
        });
    }

    fn report(&self) -> TimerReport {
        let State {
            next,
            is_running,
            last,
        } = self.state.lock().clone();
        TimerReport {
            timer: self.target.clone(),
            schedule: self.schedule.clone(),
            next,
            running: is_running,
            last,
        }
    }
}

fn time<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_millis(*time))
}

fn optional_time<S: Serializer>(
    value: &Option<SystemTime>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => time(value, serializer),
        None => serializer.serialize_none(),
    }
}
