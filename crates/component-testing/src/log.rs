//! What components write, and what the host logs about them.

use std::{collections::BTreeMap, io, sync::Arc};

use parking_lot::Mutex;
use spin_runtime::simulation::{OutputSink, OutputSource};
use tracing::{Dispatch, Level};
use tracing_subscriber::fmt::MakeWriter;

/// The output of the components, by id. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct ComponentLogs(Arc<Mutex<BTreeMap<String, String>>>);

impl ComponentLogs {
    /// Returns what a component has written.
    pub(crate) fn of(&self, component: &str) -> String {
        self.0.lock().get(component).cloned().unwrap_or_default()
    }
}

impl OutputSink for ComponentLogs {
    fn write(&self, component: &str, _: OutputSource, lines: &[u8]) {
        let lines = String::from_utf8_lossy(lines);
        let mut logs = self.0.lock();
        logs.entry(component.to_owned())
            .or_default()
            .push_str(&lines);
    }
}

/// The warnings and errors of the host. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Warnings(Arc<Mutex<Vec<u8>>>);

impl Warnings {
    /// Returns a subscriber that records them.
    pub(crate) fn subscriber(&self) -> Dispatch {
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::WARN)
            .with_ansi(false)
            .with_target(false)
            .without_time()
            .with_writer(self.clone())
            .finish();
        Dispatch::new(subscriber)
    }

    /// Returns the lines.
    pub(crate) fn lines(&self) -> Vec<String> {
        let text = self.0.lock();
        let text = String::from_utf8_lossy(&text);
        text.lines().map(|line| line.trim().to_owned()).collect()
    }
}

impl MakeWriter<'_> for Warnings {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl io::Write for Warnings {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
