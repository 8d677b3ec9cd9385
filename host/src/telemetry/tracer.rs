//! Records spans: what the host did for a request, and how long it took.
//!
//! Without an exporter, a tracer is disabled. Starting a span then costs one comparison.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Instant, SystemTime},
};

use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;

use crate::telemetry::{sampler::Sampler, trace_context::SpanContext};

/// The longest text that is recorded, in bytes. It bounds the memory of the queue.
pub(crate) const MAX_TEXT_BYTES: usize = 2048;

/// Starts spans. Clones share the exporter.
#[derive(Clone, Default)]
pub(crate) struct Tracer(Option<Arc<Export>>);

/// Where the spans of a tracer go.
struct Export {
    sampler: Sampler,
    /// The queue of the exporter.
    spans: mpsc::Sender<SpanRecord>,
    /// Counts the spans for which the queue has no room.
    dropped: Counter,
}

/// What a span is for its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpanKind {
    /// The host serves a request.
    Server,
    /// The host calls a component or an upstream.
    Client,
    /// Anything else.
    Internal,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Text(String),
    Number(i64),
}

/// A span that has ended.
#[cfg_attr(not(feature = "otel"), allow(dead_code, reason = "nothing exports it"))]
#[derive(Clone, Debug)]
pub(crate) struct SpanRecord {
    pub(crate) context: SpanContext,
    /// The id of the calling span, or 0.
    pub(crate) parent_id: u64,
    /// The value of `tracestate` with which the caller has sent the request.
    pub(crate) trace_state: String,
    /// A span of another trace that led to this one.
    pub(crate) link: Option<SpanContext>,
    pub(crate) kind: SpanKind,
    pub(crate) name: Cow<'static, str>,
    pub(crate) start: SystemTime,
    pub(crate) end: SystemTime,
    pub(crate) attributes: Vec<(&'static str, Value)>,
    /// Why it failed, if it did.
    pub(crate) error: Option<&'static str>,
}

/// A span in progress, which ends when it is dropped.
pub(crate) struct Span {
    context: SpanContext,
    /// `None` if the span is not recorded.
    recording: Option<Box<Recording>>,
}

struct Recording {
    record: SpanRecord,
    started: Instant,
    export: Arc<Export>,
}

impl Tracer {
    /// Creates a tracer that puts its spans into a queue.
    #[cfg_attr(
        not(feature = "otel"),
        allow(dead_code, reason = "nothing exports spans")
    )]
    pub(crate) fn new(sampler: Sampler, spans: mpsc::Sender<SpanRecord>, dropped: Counter) -> Self {
        Self(Some(Arc::new(Export {
            sampler,
            spans,
            dropped,
        })))
    }

    /// Returns whether there is an exporter.
    pub(crate) fn is_enabled(&self) -> bool {
        self.0.is_some()
    }

    /// Starts a span, or a trace if there is no parent. Returns `None` if the tracer is disabled.
    pub(crate) fn start(
        &self,
        kind: SpanKind,
        name: impl Into<Cow<'static, str>>,
        parent: Option<SpanContext>,
    ) -> Option<Span> {
        let export = self.0.as_ref()?;
        let trace_id = parent.map_or_else(random_trace_id, |parent| parent.trace_id);
        let context = SpanContext {
            trace_id,
            span_id: random_span_id(),
            is_sampled: export.sampler.samples(parent, trace_id),
        };
        let recording = context.is_sampled.then(|| {
            let now = SystemTime::now();
            Box::new(Recording {
                record: SpanRecord {
                    context,
                    parent_id: parent.map_or(0, |parent| parent.span_id),
                    trace_state: String::new(),
                    link: None,
                    kind,
                    name: name.into(),
                    start: now,
                    end: now,
                    attributes: Vec::new(),
                    error: None,
                },
                started: Instant::now(),
                export: export.clone(),
            })
        });
        Some(Span { context, recording })
    }
}

impl Span {
    /// Returns the ids of the span.
    pub(crate) fn context(&self) -> SpanContext {
        self.context
    }

    /// Changes what is recorded, if the span is recorded.
    pub(crate) fn record(&mut self, change: impl FnOnce(&mut SpanRecord)) {
        if let Some(recording) = &mut self.recording {
            change(&mut recording.record);
        }
    }
}

impl SpanRecord {
    /// Adds an attribute with a text, of which the beginning is kept if it is long.
    pub(crate) fn text(&mut self, name: &'static str, text: impl Into<String>) {
        let mut text = text.into();
        text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
        self.attributes.push((name, Value::Text(text)));
    }

    /// Adds an attribute with a number.
    pub(crate) fn number(&mut self, name: &'static str, number: impl TryInto<i64>) {
        let number = number.try_into().unwrap_or(i64::MAX);
        self.attributes.push((name, Value::Number(number)));
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(recording) = self.recording.take() else {
            return;
        };
        let Recording {
            mut record,
            started,
            export,
        } = *recording;
        // The clock of the machine may have been set meanwhile.
        record.end = record.start + started.elapsed();
        if export.spans.try_send(record).is_err() {
            export.dropped.inc();
        }
    }
}

/// Returns a random id. 0 is not valid.
fn random_trace_id() -> u128 {
    rand::random::<u128>().max(1)
}

fn random_span_id() -> u64 {
    rand::random::<u64>().max(1)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Returns a tracer that records everything, its queue for `capacity` spans, and the counter of
    /// those that are dropped.
    pub(crate) fn tracer(capacity: usize) -> (Tracer, mpsc::Receiver<SpanRecord>, Counter) {
        let (sender, receiver) = mpsc::channel(capacity);
        let dropped = Counter::default();
        let tracer = Tracer::new(Sampler::default(), sender, dropped.clone());
        (tracer, receiver, dropped)
    }

    #[test]
    fn spans_belong_to_the_trace_of_their_parent() {
        let (tracer, mut queue, _) = tracer(10);
        let root = tracer.start(SpanKind::Server, "root", None).unwrap();
        let parent = root.context();
        let child = tracer.start(SpanKind::Client, "child", Some(parent));
        drop(child);
        drop(root);
        let child = queue.try_recv().unwrap();
        let root = queue.try_recv().unwrap();
        assert_eq!((root.context, root.parent_id), (parent, 0));
        assert_eq!(child.context.trace_id, parent.trace_id);
        assert_eq!(child.parent_id, parent.span_id);
        assert_ne!(child.context.span_id, parent.span_id);
        assert!(root.start <= child.start && child.end <= root.end);
    }

    #[test]
    fn spans_beyond_the_queue_are_dropped_and_counted() {
        let (tracer, mut queue, dropped) = tracer(2);
        for _ in 0..5 {
            drop(tracer.start(SpanKind::Internal, "span", None));
        }
        assert_eq!(dropped.get(), 3);
        assert!(queue.try_recv().is_ok());
        drop(tracer.start(SpanKind::Internal, "span", None));
        assert_eq!(dropped.get(), 3);
    }

    #[test]
    fn long_texts_are_cut() {
        let (tracer, mut queue, _) = tracer(10);
        let mut span = tracer.start(SpanKind::Server, "span", None).unwrap();
        span.record(|record| record.text("a", "é".repeat(MAX_TEXT_BYTES)));
        drop(span);
        let record = queue.try_recv().unwrap();
        let expected = Value::Text("é".repeat(MAX_TEXT_BYTES / 2));
        assert_eq!(record.attributes, [("a", expected)]);
    }

    #[test]
    fn traces_that_are_not_sampled_have_ids_and_are_not_recorded() {
        let (tracer, mut queue, dropped) = tracer(10);
        let parent = SpanContext {
            trace_id: 7,
            span_id: 8,
            is_sampled: false,
        };
        let mut span = tracer
            .start(SpanKind::Server, "span", Some(parent))
            .unwrap();
        span.record(|_| panic!("recorded"));
        assert_eq!(span.context().trace_id, 7);
        assert!(!span.context().is_sampled);
        drop(span);
        assert!(queue.try_recv().is_err());
        assert_eq!(dropped.get(), 0);
    }

    #[test]
    fn a_disabled_tracer_starts_nothing() {
        let tracer = Tracer::default();
        assert!(!tracer.is_enabled());
        assert!(tracer.start(SpanKind::Server, "span", None).is_none());
    }
}
