//! Observes a request of a client, from its head to the end of its response.

use std::{
    net::IpAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use spin_runtime::backend::{Body, BodyError, Client};

use crate::telemetry::{
    Telemetry,
    access_log::{self, AccessLine, MAX_METHOD_BYTES, printable},
    trace_context::{SpanContext, TRACESTATE},
    tracer::{MAX_TEXT_BYTES, Span, SpanKind},
};

/// The longest path and the longest user agent that are recorded, in bytes.
const MAX_PATH_BYTES: usize = 2048;
const MAX_USER_AGENT_BYTES: usize = 256;
/// The longest host that is recorded, in bytes.
const MAX_HOST_BYTES: usize = 256;

/// A request that is observed. When it is dropped, its span ends, and its line is logged.
pub(crate) struct ObservedRequest {
    started: Instant,
    /// The line of the access log, if there is one.
    line: Option<AccessLine>,
    span: Option<Span>,
    status: Option<StatusCode>,
    /// The bytes of the body that were sent.
    bytes: u64,
    /// Whether the response was sent as a whole.
    is_complete: bool,
    is_head: bool,
}

impl Telemetry {
    /// Accepts the trace of a request from outside, and starts to observe the request. Returns `None`
    /// if neither spans nor an access log are recorded.
    ///
    /// With spans, the request continues with the context of its span as an extension.
    pub(crate) fn observe<B>(
        &self,
        request: &mut Request<B>,
        client: Client,
    ) -> Option<Box<ObservedRequest>> {
        let parent = SpanContext::accept(request.headers_mut());
        if !self.access_log && !self.tracer.is_enabled() {
            return None;
        }
        let method = printable(request.method().as_str().as_bytes(), MAX_METHOD_BYTES);
        let method = method.into_owned();
        let mut span = self.tracer.start(SpanKind::Server, method.clone(), parent);
        let context = span.as_ref().map(Span::context);
        let line = self.access_log.then(|| AccessLine {
            client: address_of(client),
            path: printable(request.uri().path().as_bytes(), MAX_PATH_BYTES).into_owned(),
            user_agent: user_agent(request),
            trace_id: context.or(parent).map(|context| context.trace_id),
            method: method.clone(),
        });
        if let Some(span) = &mut span {
            describe(span, request, client, method);
            let context = span.context();
            context.set(request.headers_mut());
            request.extensions_mut().insert(context);
        }
        Some(Box::new(ObservedRequest {
            started: Instant::now(),
            line,
            span,
            status: None,
            bytes: 0,
            is_complete: false,
            is_head: request.method() == Method::HEAD,
        }))
    }
}

/// Records the attributes of a request, with the names of OpenTelemetry's semantic conventions.
fn describe<B>(span: &mut Span, request: &Request<B>, client: Client, method: String) {
    span.record(|record| {
        let state = request.headers().get(TRACESTATE);
        let state = state.and_then(|state| state.to_str().ok());
        let state = state.filter(|state| state.len() <= MAX_TEXT_BYTES);
        record.trace_state = state.unwrap_or_default().to_owned();
        record.text("http.request.method", method);
        let path = printable(request.uri().path().as_bytes(), MAX_PATH_BYTES);
        record.text("url.path", path);
        record.text("url.scheme", client.scheme().as_str());
        record.text("client.address", address_of(client).to_string());
        let host = request.headers().get(header::HOST);
        let host = host.map(|host| host.as_bytes());
        let authority = request.uri().authority();
        let authority = authority.map(|authority| authority.as_str().as_bytes());
        if let Some(host) = host.or(authority) {
            record.text("server.address", printable(host, MAX_HOST_BYTES));
        }
        let version = match request.version() {
            Version::HTTP_10 => "1.0",
            Version::HTTP_2 => "2",
            _ => "1.1",
        };
        record.text("network.protocol.version", version);
        if let Some(agent) = user_agent(request) {
            record.text("user_agent.original", agent);
        }
    });
}

/// Returns the address of a client, which a proxy may have forwarded.
fn address_of(client: Client) -> IpAddr {
    client
        .limited_address
        .unwrap_or(client.address.ip().to_canonical())
}

fn user_agent<B>(request: &Request<B>) -> Option<String> {
    let agent = request.headers().get(header::USER_AGENT)?;
    Some(printable(agent.as_bytes(), MAX_USER_AGENT_BYTES).into_owned())
}

impl ObservedRequest {
    /// Observes the response, whose body ends the observation.
    pub(crate) fn respond(mut self: Box<Self>, response: Response<Body>) -> Response<Body> {
        let status = response.status();
        self.status = Some(status);
        response.map(|body| {
            let observed = ObservedBody {
                body,
                request: self,
            };
            observed.boxed_unsync()
        })
    }
}

impl Drop for ObservedRequest {
    fn drop(&mut self) {
        let is_aborted = !self.is_complete;
        if let Some(span) = &mut self.span {
            let (status, bytes) = (self.status, self.bytes);
            span.record(|record| {
                if let Some(status) = status {
                    record.number("http.response.status_code", status.as_u16());
                    record.number("http.response.body.size", bytes);
                    if status.is_server_error() {
                        record.text("error.type", status.as_str());
                        record.error = Some("the response is an error");
                    }
                }
                if is_aborted {
                    record.error = Some("the client disconnected");
                }
            });
        }
        if let Some(line) = &self.line {
            let status = self.status.map(|status| status.as_u16());
            let duration = self.started.elapsed();
            access_log::request(line, status, self.bytes, duration, is_aborted);
        }
    }
}

/// The body of a response that is observed.
struct ObservedBody {
    body: Body,
    request: Box<ObservedRequest>,
}

impl http_body::Body for ObservedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                self.request.bytes += bytes as u64;
            }
            Poll::Ready(None) => self.request.is_complete = true,
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for ObservedBody {
    fn drop(&mut self) {
        let request = &mut self.request;
        // hyper does not read the body of a response that has none.
        let has_body = !request.is_head
            && request.status.is_none_or(|status| {
                let without = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED];
                !status.is_informational() && !without.contains(&status)
            });
        request.is_complete |= !has_body || self.body.is_end_stream();
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use spin_runtime::backend::{empty, full};

    use super::*;
    use crate::telemetry::{
        trace_context::TRACEPARENT,
        tracer::{SpanRecord, Value, tests::tracer},
    };

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn client() -> Client {
        Client::plain(([192, 0, 2, 7], 4000).into())
    }

    fn request() -> Request<()> {
        let request = Request::get("/a?secret=1").header("host", "example.com");
        let request = request
            .header("traceparent", PARENT)
            .header("tracestate", "a=1")
            .header("user-agent", "test\u{9b}31m".as_bytes());
        request.body(()).unwrap()
    }

    fn attribute<'a>(record: &'a SpanRecord, name: &str) -> Option<&'a Value> {
        let mut attributes = record.attributes.iter();
        attributes
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    }

    #[test]
    fn nothing_is_observed_by_default_and_invalid_traces_are_removed() {
        let telemetry = Telemetry::default();
        let mut request = request();
        assert!(telemetry.observe(&mut request, client()).is_none());
        assert_eq!(request.headers()[TRACEPARENT], PARENT);
        let headers = request.headers_mut();
        headers.insert(TRACEPARENT, HeaderValue::from_static("00-0-0-00"));
        assert!(telemetry.observe(&mut request, client()).is_none());
        assert!(!request.headers().contains_key(TRACEPARENT));
        assert!(!request.headers().contains_key(TRACESTATE));
    }

    #[tokio::test]
    async fn a_span_ends_with_the_body_of_the_response() {
        let (tracer, mut queue, _) = tracer(10);
        let telemetry = Telemetry {
            access_log: false,
            tracer,
        };
        let mut request = request();
        let observed = telemetry.observe(&mut request, client()).unwrap();
        let context: SpanContext = *request.extensions().get().unwrap();
        assert_eq!(SpanContext::of(request.headers()), Some(context));
        assert_eq!(context.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);

        let response = observed.respond(Response::new(full("hello")));
        assert!(queue.try_recv().is_err());
        response.into_body().collect().await.unwrap();
        let record = queue.try_recv().unwrap();
        assert_eq!(record.context, context);
        assert_eq!(record.parent_id, 0xb7ad_6b71_6920_3331);
        assert_eq!(record.trace_state, "a=1");
        assert_eq!(record.error, None);
        let text = |text: &str| Some(Value::Text(text.to_owned()));
        for (name, expected) in [
            ("http.request.method", text("GET")),
            ("url.path", text("/a")),
            ("client.address", text("192.0.2.7")),
            ("server.address", text("example.com")),
            ("user_agent.original", text(r"test\xc2\x9b31m")),
            ("http.response.status_code", Some(Value::Number(200))),
            ("http.response.body.size", Some(Value::Number(5))),
            ("url.query", None),
        ] {
            assert_eq!(attribute(&record, name), expected.as_ref(), "{name}");
        }
    }

    #[test]
    fn a_response_that_is_not_sent_is_an_error() {
        let (tracer, mut queue, _) = tracer(10);
        let telemetry = Telemetry {
            access_log: false,
            tracer,
        };
        // The client disconnects before the response, or before its end.
        drop(telemetry.observe(&mut request(), client()));
        let observed = telemetry.observe(&mut request(), client()).unwrap();
        drop(observed.respond(Response::new(full("hello"))));
        for _ in 0..2 {
            assert!(queue.try_recv().unwrap().error.is_some());
        }
        // Nothing is left to be sent.
        let observed = telemetry.observe(&mut request(), client()).unwrap();
        drop(observed.respond(Response::new(empty())));
        let mut head = request();
        *head.method_mut() = Method::HEAD;
        let observed = telemetry.observe(&mut head, client()).unwrap();
        drop(observed.respond(Response::new(full("hello"))));
        for _ in 0..2 {
            assert_eq!(queue.try_recv().unwrap().error, None);
        }
    }
}
