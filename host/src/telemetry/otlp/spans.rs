//! Encodes spans.

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::any_value,
    resource::v1::Resource,
    trace::v1::{
        ResourceSpans, ScopeSpans, Span, SpanFlags, Status,
        span::{Link, SpanKind as Kind},
        status::StatusCode,
    },
};
use prost::Message as _;

use super::message::{attribute, nanos, scope};
use crate::telemetry::tracer::{SpanKind, SpanRecord, Value};

/// Encodes a message with spans.
pub(super) fn encode(resource: &Resource, spans: Vec<SpanRecord>) -> Vec<u8> {
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource.clone()),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope()),
                spans: spans.into_iter().map(span).collect(),
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    };
    request.encode_to_vec()
}

fn span(record: SpanRecord) -> Span {
    let attributes = record.attributes.into_iter();
    let attributes = attributes.map(|(key, value)| {
        let value = match value {
            Value::Text(text) => any_value::Value::StringValue(text),
            Value::Number(number) => any_value::Value::IntValue(number),
        };
        attribute(key, value)
    });
    let parent_id = if record.parent_id == 0 {
        Vec::new()
    } else {
        record.parent_id.to_be_bytes().to_vec()
    };
    let links = record.link.map(|link| Link {
        trace_id: link.trace_id.to_be_bytes().to_vec(),
        span_id: link.span_id.to_be_bytes().to_vec(),
        flags: flags(link.is_sampled),
        ..Link::default()
    });
    Span {
        trace_id: record.context.trace_id.to_be_bytes().to_vec(),
        span_id: record.context.span_id.to_be_bytes().to_vec(),
        trace_state: record.trace_state,
        parent_span_id: parent_id,
        flags: flags(record.context.is_sampled),
        name: record.name.into_owned(),
        kind: match record.kind {
            SpanKind::Server => Kind::Server,
            SpanKind::Client => Kind::Client,
            SpanKind::Internal => Kind::Internal,
        }
        .into(),
        start_time_unix_nano: nanos(record.start),
        end_time_unix_nano: nanos(record.end),
        attributes: attributes.collect(),
        links: links.into_iter().collect(),
        status: record.error.map(|error| Status {
            message: error.to_owned(),
            code: StatusCode::Error.into(),
        }),
        ..Span::default()
    }
}

fn flags(is_sampled: bool) -> u32 {
    // The other bits of the mask are reserved.
    SpanFlags::TraceFlagsMask as u32 & u32::from(is_sampled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{otlp::message, tracer::tests::tracer};

    #[test]
    fn a_span_is_encoded_as_a_whole() {
        let (tracer, mut queue, _) = tracer(10);
        let root = tracer.start(SpanKind::Server, "root", None).unwrap();
        let parent = root.context();
        let mut span = tracer
            .start(SpanKind::Client, "call", Some(parent))
            .unwrap();
        span.record(|record| {
            record.text("a", "b");
            record.number("n", 7u16);
            record.link = Some(parent);
            record.trace_state = "x=1".to_owned();
            record.error = Some("failed");
        });
        let context = span.context();
        drop(span);
        let record = queue.try_recv().unwrap();
        let resource = message::resource(&[("service.name".to_owned(), "test".to_owned())]);
        let bytes = encode(&resource, vec![record]);
        let request = ExportTraceServiceRequest::decode(&*bytes).unwrap();
        let spans = &request.resource_spans[0];
        assert_eq!(spans.resource, Some(resource));
        let span = &spans.scope_spans[0].spans[0];
        assert_eq!(span.trace_id, parent.trace_id.to_be_bytes());
        assert_eq!(span.span_id, context.span_id.to_be_bytes());
        assert_eq!(span.parent_span_id, parent.span_id.to_be_bytes());
        assert_eq!(span.links[0].span_id, parent.span_id.to_be_bytes());
        assert_eq!((span.kind(), &*span.name), (Kind::Client, "call"));
        assert_eq!((&*span.trace_state, span.flags), ("x=1", 1));
        assert_eq!(span.attributes.len(), 2);
        assert_eq!(span.status.as_ref().unwrap().message, "failed");
        assert!(span.start_time_unix_nano > 0);
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
    }
}
