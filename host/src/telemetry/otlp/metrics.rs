//! Encodes the metrics of the control port.
//!
//! The registry only writes text, so its text is read again. All exports then have the same metrics,
//! and everything is counted once.

use std::{collections::BTreeMap, time::SystemTime};

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::KeyValue,
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
        ResourceMetrics, ScopeMetrics, Sum, metric::Data, number_data_point,
    },
    resource::v1::Resource,
};
use prost::Message as _;

use super::message::{nanos, scope, text};

/// Encodes a message with the metrics of a text in the OpenMetrics format. Counters start at `start`.
pub(super) fn encode(resource: &Resource, openmetrics: &str, start: SystemTime) -> Vec<u8> {
    let request = ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(resource.clone()),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(scope()),
                metrics: parse(openmetrics, nanos(start), nanos(SystemTime::now())),
                ..ScopeMetrics::default()
            }],
            ..ResourceMetrics::default()
        }],
    };
    request.encode_to_vec()
}

/// A metric while its lines are read.
#[derive(Default)]
struct Family<'a> {
    name: &'a str,
    help: &'a str,
    kind: &'a str,
    samples: Vec<Sample<'a>>,
}

/// A line with a value.
struct Sample<'a> {
    /// The name, with the suffix that its kind demands.
    name: &'a str,
    labels: Vec<(&'a str, String)>,
    value: &'a str,
}

/// Parses a text. Lines that the registry does not write are ignored.
fn parse(openmetrics: &str, start: u64, now: u64) -> Vec<Metric> {
    let mut metrics = Vec::new();
    let mut family = Family::default();
    for line in openmetrics.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (keyword, name, rest) = (words.next(), words.next(), words.next());
            let name = name.unwrap_or_default();
            if name != family.name {
                metrics.extend(std::mem::take(&mut family).into_metric(start, now));
                family.name = name;
            }
            match keyword {
                Some("HELP") => family.help = rest.unwrap_or_default(),
                Some("TYPE") => family.kind = rest.unwrap_or_default(),
                _ => {}
            }
        } else if let Some(sample) = Sample::parse(line) {
            family.samples.push(sample);
        }
    }
    metrics.extend(family.into_metric(start, now));
    metrics
}

impl Family<'_> {
    /// Returns `None` if the family has no samples.
    fn into_metric(self, start: u64, now: u64) -> Option<Metric> {
        if self.samples.is_empty() {
            return None;
        }
        let temporality = AggregationTemporality::Cumulative.into();
        let data = match self.kind {
            "counter" => Data::Sum(Sum {
                data_points: self.numbers(start, now),
                aggregation_temporality: temporality,
                is_monotonic: true,
            }),
            "histogram" => Data::Histogram(Histogram {
                data_points: self.histograms(start, now),
                aggregation_temporality: temporality,
            }),
            _ => Data::Gauge(Gauge {
                data_points: self.numbers(0, now),
            }),
        };
        Some(Metric {
            name: self.name.to_owned(),
            description: self.help.to_owned(),
            data: Some(data),
            ..Metric::default()
        })
    }

    fn numbers(&self, start: u64, now: u64) -> Vec<NumberDataPoint> {
        let points = self.samples.iter().map(|sample| NumberDataPoint {
            attributes: attributes(&sample.labels),
            start_time_unix_nano: start,
            time_unix_nano: now,
            value: Some(match sample.value.parse() {
                Ok(integer) => number_data_point::Value::AsInt(integer),
                Err(_) => number_data_point::Value::AsDouble(sample.number()),
            }),
            ..NumberDataPoint::default()
        });
        points.collect()
    }

    fn histograms(&self, start: u64, now: u64) -> Vec<HistogramDataPoint> {
        let mut points = BTreeMap::<_, HistogramDataPoint>::new();
        for sample in &self.samples {
            let mut labels = sample.labels.clone();
            let bound = labels.iter().position(|(name, _)| *name == "le");
            let bound = bound.map(|index| labels.remove(index).1);
            let point = points.entry(labels).or_default();
            let count = sample.number() as u64;
            if sample.name.ends_with("_sum") {
                point.sum = Some(sample.number());
            } else if sample.name.ends_with("_count") {
                point.count = count;
            } else if let Some(bound) = bound {
                // Those of the text include the previous buckets.
                let previous: u64 = point.bucket_counts.iter().sum();
                point.bucket_counts.push(count.saturating_sub(previous));
                if bound != "+Inf" {
                    point
                        .explicit_bounds
                        .push(bound.parse().unwrap_or_default());
                }
            }
        }
        let points = points
            .into_iter()
            .map(|(labels, point)| HistogramDataPoint {
                attributes: attributes(&labels),
                start_time_unix_nano: start,
                time_unix_nano: now,
                ..point
            });
        points.collect()
    }
}

impl<'a> Sample<'a> {
    /// Parses `name{label="value",label="value"} number`.
    fn parse(line: &'a str) -> Option<Self> {
        let end = line.find(['{', ' '])?;
        let (name, mut rest) = line.split_at(end);
        let mut labels = Vec::new();
        if let Some(inner) = rest.strip_prefix('{') {
            rest = inner;
            while !rest.starts_with('}') {
                let (label, value) = rest.split_once("=\"")?;
                let (value, after) = unquote(value)?;
                labels.push((label, value));
                rest = after.strip_prefix(',').unwrap_or(after);
            }
            rest = &rest[1..];
        }
        let value = rest.split_ascii_whitespace().next()?;
        Some(Self {
            name,
            labels,
            value,
        })
    }

    fn number(&self) -> f64 {
        self.value.parse().unwrap_or_default()
    }
}

/// Returns the text before the closing quote, without escapes, and what follows the quote.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((index, char)) = chars.next() {
        match char {
            '"' => return Some((value, &text[index + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                escaped => escaped,
            }),
            char => value.push(char),
        }
    }
    None
}

fn attributes(labels: &[(&str, String)]) -> Vec<KeyValue> {
    let labels = labels.iter();
    labels.map(|(name, value)| text(name, value)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::registry::{Metrics, Snapshot};

    fn snapshot() -> Snapshot {
        Snapshot {
            cache: (0, 0),
            sessions: [("open", 3), ("opening", 0), ("closing", 0)],
            holds: [("stream", 0), ("response", 0)],
            channels: 2,
            subscriptions: 0,
            bus_is_up: None,
            memory: 0,
            tasks: 4,
            instances: Vec::new(),
            failures: Vec::new(),
        }
    }

    fn find<'a>(metrics: &'a [Metric], name: &str) -> &'a Metric {
        let mut metrics = metrics.iter();
        let metric = metrics.find(|metric| metric.name == name);
        metric.unwrap_or_else(|| panic!("no {name}"))
    }

    #[test]
    fn every_sample_of_the_text_is_exported() {
        let metrics = Metrics::default();
        metrics.response("orders".into(), Ok(200), Duration::from_millis(3));
        metrics.response("orders".into(), Ok(200), Duration::from_secs(60));
        metrics.publish(200, 7);
        let text = metrics.text(&snapshot());
        let parsed = parse(&text, 1, 2);

        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let (histograms, numbers): (Vec<_>, Vec<_>) = samples.partition(|line| {
            line.starts_with("socket_host_backend_seconds")
                || line.starts_with("socket_host_delivery_seconds")
        });
        // A sum, a count, and a line for each bucket.
        assert!(histograms.len() > 10, "{text}");
        let points = parsed.iter().map(|metric| match &metric.data {
            Some(Data::Gauge(gauge)) => gauge.data_points.len(),
            Some(Data::Sum(sum)) => sum.data_points.len(),
            _ => 0,
        });
        assert_eq!(points.sum::<usize>(), numbers.len());

        let Some(Data::Histogram(latencies)) = &find(&parsed, "socket_host_backend_seconds").data
        else {
            panic!("no histogram");
        };
        let point = &latencies.data_points[0];
        assert_eq!((point.count, point.sum), (2, Some(60.003)));
        assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
        assert_eq!(point.bucket_counts.iter().sum::<u64>(), 2);
        // The third bucket ends at 2.5 ms, the fourth at 5 ms.
        assert_eq!(
            (point.bucket_counts[3], point.bucket_counts.last()),
            (1, Some(&1))
        );
        assert_eq!(point.attributes, [super::text("component", "orders")]);
        assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (1, 2));

        let Some(Data::Sum(items)) = &find(&parsed, "socket_host_items").data else {
            panic!("no counter");
        };
        assert!(items.is_monotonic);
        let value = items.data_points[0].value;
        assert_eq!(value, Some(number_data_point::Value::AsInt(7)));
        assert!(!find(&parsed, "socket_host_items").description.is_empty());
    }

    #[test]
    fn labels_are_unescaped() {
        let line = r#"name_total{a="x\"\\,}y",b="1\n2"} 5"#;
        let sample = Sample::parse(line).unwrap();
        let labels = vec![("a", "x\"\\,}y".to_owned()), ("b", "1\n2".to_owned())];
        assert_eq!((sample.name, sample.labels), ("name_total", labels));
        assert_eq!(sample.value, "5");
        for invalid in ["", "name", "name{a=\"", "name{a", "name{a=\"b\"}"] {
            assert!(Sample::parse(invalid).is_none(), "{invalid}");
        }
    }
}
