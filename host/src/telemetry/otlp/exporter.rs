//! The task that sends spans and metrics to a collector.
//!
//! A collector that is slow or does not run delays nothing: spans wait in a bounded queue, and are
//! dropped and counted when it is full or sending them fails.

use std::{
    mem,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use opentelemetry_proto::tonic::resource::v1::Resource;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{error, info, warn};

use super::{
    client::{Client, SendError},
    message, metrics,
    options::{MetricOptions, OtlpOptions, TraceOptions},
    spans,
};
use crate::{
    backoff,
    config::Limits,
    metrics::registry::{Dropped, Metrics},
    state::Services,
    telemetry::{
        panics,
        tracer::{SpanRecord, Tracer},
    },
};

/// How long the last spans and metrics may take at exit.
const FLUSH_TIMEOUT: Duration = Limits::DEFAULT.otlp_flush_timeout;

/// How often a batch of spans is sent again.
const RETRIES: u32 = Limits::DEFAULT.otlp_retries;

/// What will be exported, before there is anything to export.
pub(crate) struct Exporter {
    resource: Resource,
    traces: Option<TraceExporter>,
    metrics: Option<MetricExporter>,
    /// Everything is flushed.
    stop: CancellationToken,
}

struct TraceExporter {
    link: Link,
    options: TraceOptions,
    spans: mpsc::Receiver<SpanRecord>,
}

struct MetricExporter {
    link: Link,
    options: MetricOptions,
}

/// A running exporter. Dropping it aborts the export.
pub(crate) struct RunningExporter {
    task: AbortOnDropHandle<()>,
    stop: CancellationToken,
}

impl Exporter {
    /// Creates an exporter and a tracer whose spans it exports. The tracer is disabled if spans are
    /// not exported. Returns no exporter if nothing is.
    ///
    /// # Errors
    /// Fails if a file with certificates cannot be used.
    pub(crate) fn new(
        options: &OtlpOptions,
        counters: &Arc<Metrics>,
    ) -> Result<(Tracer, Option<Self>)> {
        let mut tracer = Tracer::default();
        let mut exporter = Self {
            resource: message::resource(&options.resource),
            traces: None,
            metrics: None,
            stop: CancellationToken::new(),
        };
        if let Some(options) = &options.traces {
            let (sender, spans) = mpsc::channel(options.queue);
            tracer = Tracer::new(options.sampler, sender, counters.dropped(Dropped::Span));
            exporter.traces = Some(TraceExporter {
                link: Link::new("traces", options.endpoint.clone(), counters)?,
                options: options.clone(),
                spans,
            });
        }
        if let Some(options) = &options.metrics {
            exporter.metrics = Some(MetricExporter {
                link: Link::new("metrics", options.endpoint.clone(), counters)?,
                options: options.clone(),
            });
        }
        let exports = exporter.traces.is_some() || exporter.metrics.is_some();
        Ok((tracer, exports.then_some(exporter)))
    }

    /// Starts to export.
    pub(crate) fn start(self, services: Arc<Services>) -> RunningExporter {
        let Self {
            resource,
            traces,
            metrics,
            stop,
        } = self;
        let stopped = stop.clone();
        let run = async move {
            let traces = async {
                if let Some(traces) = traces {
                    traces.run(&resource, &stopped).await;
                }
            };
            let metrics = async {
                if let Some(metrics) = metrics {
                    metrics.run(&resource, &services, &stopped).await;
                }
            };
            tokio::join!(traces, metrics);
        };
        // The host can do without it: what is not received is dropped and counted.
        let task = tokio::spawn(async {
            if panics::catch(run).await.is_err() {
                error!("OTLP export stopped");
            }
        });
        RunningExporter {
            task: AbortOnDropHandle::new(task),
            stop,
        }
    }
}

impl RunningExporter {
    /// Exports what there is, within a time limit, and stops.
    pub(crate) async fn flush(self) {
        self.stop.cancel();
        if timeout(FLUSH_TIMEOUT, self.task).await.is_err() {
            warn!(timeout = ?FLUSH_TIMEOUT, "OTLP export not complete at exit");
        }
    }
}

impl TraceExporter {
    async fn run(mut self, resource: &Resource, stop: &CancellationToken) {
        let mut batch = Vec::with_capacity(self.options.batch);
        loop {
            // The queue stays open: the services have its other end.
            let received =
                stop.run_until_cancelled(self.spans.recv_many(&mut batch, self.options.batch));
            if received.await.is_none() {
                break;
            }
            let full = async {
                while batch.len() < self.options.batch {
                    let room = self.options.batch - batch.len();
                    self.spans.recv_many(&mut batch, room).await;
                }
            };
            let full = timeout(self.options.delay, full);
            let _ = stop.run_until_cancelled(full).await;
            self.send(resource, &mut batch, stop).await;
        }
        // What has ended until now, without waiting for more.
        loop {
            while batch.len() < self.options.batch
                && let Ok(span) = self.spans.try_recv()
            {
                batch.push(span);
            }
            if batch.is_empty() {
                return;
            }
            self.send(resource, &mut batch, stop).await;
        }
    }

    async fn send(
        &mut self,
        resource: &Resource,
        batch: &mut Vec<SpanRecord>,
        stop: &CancellationToken,
    ) {
        let count = batch.len();
        let message = spans::encode(resource, mem::take(batch));
        if !self.link.send_with_retries(message, stop).await {
            let dropped = self.link.counters.dropped(Dropped::Span);
            dropped.inc_by(count as u64);
        }
    }
}

impl MetricExporter {
    async fn run(mut self, resource: &Resource, services: &Services, stop: &CancellationToken) {
        let start = SystemTime::now();
        let interval = self.options.interval;
        let mut ticks = interval_at(Instant::now() + interval, interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_last = stop.run_until_cancelled(ticks.tick()).await.is_none();
            let text = services.metrics.text(&services.snapshot());
            let message = metrics::encode(resource, &text, start);
            // Not repeated: the next message has the same metrics.
            let result = self.link.client.send(message).await;
            self.link.record(&result);
            if is_last {
                return;
            }
        }
    }
}

/// The connection to a collector for one signal.
struct Link {
    signal: &'static str,
    client: Client,
    counters: Arc<Metrics>,
    /// Whether the last message was accepted.
    works: bool,
}

impl Link {
    fn new(
        signal: &'static str,
        endpoint: super::options::Endpoint,
        counters: &Arc<Metrics>,
    ) -> Result<Self> {
        counters.register_export(signal);
        let client =
            Client::new(endpoint).with_context(|| format!("cannot export {signal} over OTLP"))?;
        Ok(Self {
            signal,
            client,
            counters: counters.clone(),
            works: true,
        })
    }

    /// Sends a message, and returns whether it was accepted. Once the host stops, it is sent once.
    async fn send_with_retries(&mut self, message: Vec<u8>, stop: &CancellationToken) -> bool {
        let mut retry = 0;
        loop {
            let result = self.client.send(message.clone()).await;
            self.record(&result);
            match result {
                Ok(()) => return true,
                Err(SendError::Temporary(_)) if retry < RETRIES && !stop.is_cancelled() => {
                    let delay = sleep(backoff::delay(retry, self.signal));
                    let _ = stop.run_until_cancelled(delay).await;
                    retry += 1;
                }
                Err(_) => return false,
            }
        }
    }

    /// Counts the result of an attempt, and logs it if it differs from the previous one.
    fn record(&mut self, result: &Result<(), SendError>) {
        self.counters.export(self.signal, result.is_ok());
        let signal = self.signal;
        match result {
            Ok(()) if !self.works => info!(signal, "OTLP export works again"),
            Err(error) if self.works => warn!(signal, %error, "OTLP export failed"),
            _ => {}
        }
        self.works = result.is_ok();
    }
}
