//! A collector that receives OTLP over HTTP and gRPC.

use std::{
    collections::BTreeMap,
    io::Read as _,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, AtomicUsize, Ordering::SeqCst},
    },
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use flate2::read::GzDecoder;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use opentelemetry_proto::tonic::{
    collector::{metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest},
    common::v1::any_value::Value,
    metrics::v1::Metric,
    trace::v1::Span,
};
use prost::Message as _;
use tests::{Server, eventually, host_binary};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

/// A running collector, which runs as long as the test.
pub struct Collector {
    pub address: SocketAddr,
    received: Arc<Received>,
}

/// What a collector has received.
#[derive(Default)]
struct Received {
    spans: Mutex<Vec<Span>>,
    metrics: Mutex<BTreeMap<String, Metric>>,
    /// The attributes of the last resource.
    resource: Mutex<BTreeMap<String, String>>,
    /// The headers of the last request.
    headers: Mutex<HeaderMap>,
    requests: AtomicUsize,
    /// The status of all responses, unless it is 0.
    failure: AtomicU16,
}

impl Collector {
    /// Starts a collector.
    pub async fn start() -> Result<Self> {
        Self::start_with(None).await
    }

    /// Starts a collector, with TLS if there is an acceptor.
    pub async fn start_with(tls: Option<TlsAcceptor>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let received = Arc::new(Received::default());
        let collector = received.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (received, tls) = (collector.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, received).await;
                            }
                        }
                        None => serve(stream, received).await,
                    }
                });
            }
        });
        Ok(Self { address, received })
    }

    /// Starts a host that exports to the collector, with more variables of the environment.
    pub fn host(&self, variables: &[(&str, &str)], options: &[&str]) -> Result<Server> {
        let mut command = std::process::Command::new(host_binary());
        command
            .arg("up")
            .env(
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                format!("http://{}", self.address),
            )
            .env("OTEL_BSP_SCHEDULE_DELAY", "20")
            .env("OTEL_METRIC_EXPORT_INTERVAL", "100")
            .envs(variables.iter().copied());
        Server::run(command, options)
    }

    /// Responds with this status from now on, or normally with 0.
    pub fn fail_with(&self, status: u16) {
        self.received.failure.store(status, SeqCst);
    }

    /// Returns the number of requests.
    pub fn requests(&self) -> usize {
        self.received.requests.load(SeqCst)
    }

    /// Returns the spans received so far.
    pub fn spans(&self) -> Vec<Span> {
        let spans = self.received.spans.lock();
        spans.map(|spans| spans.clone()).unwrap_or_default()
    }

    /// Waits until `find` returns something for the spans received so far.
    pub async fn wait_for_spans<T>(
        &self,
        what: &str,
        find: impl Fn(&[Span]) -> Option<T>,
    ) -> Result<T> {
        let found = eventually(what, async || find(&self.spans())).await;
        found.with_context(|| format!("received {:#?}", self.spans()))
    }

    /// Waits until a metric was received for which `find` returns something.
    pub async fn wait_for_metric<T>(
        &self,
        name: &str,
        find: impl Fn(&Metric) -> Option<T>,
    ) -> Result<T> {
        eventually(name, async || {
            let metrics = self.received.metrics.lock().ok()?;
            find(metrics.get(name)?)
        })
        .await
    }

    /// Returns the attributes of the resource.
    pub fn resource(&self) -> BTreeMap<String, String> {
        let resource = self.received.resource.lock();
        resource
            .map(|resource| resource.clone())
            .unwrap_or_default()
    }

    /// Returns the headers of the last request.
    pub fn headers(&self) -> HeaderMap {
        let headers = self.received.headers.lock();
        headers.map(|headers| headers.clone()).unwrap_or_default()
    }
}

/// Returns a text attribute of a span.
pub fn attribute(span: &Span, name: &str) -> Option<String> {
    let mut attributes = span.attributes.iter();
    let attribute = attributes.find(|attribute| attribute.key == name)?;
    match attribute.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    received: Arc<Received>,
) {
    let service = service_fn(move |request| {
        let received = received.clone();
        async move { anyhow::Ok(received.handle(request).await) }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    // The host may close the connection at any time.
    let _ = builder
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

impl Received {
    async fn handle(
        &self,
        request: Request<Incoming>,
    ) -> Response<UnsyncBoxBody<Bytes, anyhow::Error>> {
        self.requests.fetch_add(1, SeqCst);
        let is_grpc = request
            .headers()
            .get("content-type")
            .is_some_and(|it| it == "application/grpc");
        let failure = self.failure.load(SeqCst);
        let result = if failure == 0 {
            self.receive(request, is_grpc).await
        } else {
            Err(anyhow::anyhow!("set to fail"))
        };
        let status = match (&result, failure) {
            (Ok(()), _) => 200,
            (Err(_), 0) => 400,
            (Err(_), failure) => failure,
        };
        if is_grpc {
            let mut trailers = HeaderMap::new();
            let status = if result.is_ok() { "0" } else { "3" };
            trailers.insert("grpc-status", HeaderValue::from_static(status));
            // An empty message.
            let frames = [
                Frame::data(Bytes::from_static(&[0; 5])),
                Frame::trailers(trailers),
            ];
            let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok)));
            return Response::new(body.boxed_unsync());
        }
        let mut response = Response::new(
            Full::default()
                .map_err(|never| match never {})
                .boxed_unsync(),
        );
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
        response
    }

    async fn receive(&self, request: Request<Incoming>, is_grpc: bool) -> Result<()> {
        let (head, body) = request.into_parts();
        let mut message = body.collect().await?.to_bytes().to_vec();
        let mut is_compressed = head
            .headers
            .get("content-encoding")
            .is_some_and(|it| it == "gzip");
        if is_grpc {
            let prefix: Vec<_> = message.drain(..5).collect();
            is_compressed = prefix[0] == 1;
            let length = u32::from_be_bytes(prefix[1..].try_into()?) as usize;
            ensure!(length == message.len(), "{length}, {}", message.len());
        } else {
            let content_type = head.headers.get("content-type");
            ensure!(content_type.is_some_and(|it| it == "application/x-protobuf"));
        }
        if is_compressed {
            let mut text = Vec::new();
            GzDecoder::new(&*message).read_to_end(&mut text)?;
            message = text;
        }
        *lock(&self.headers)? = head.headers;
        match head.uri.path() {
            "/v1/traces" | "/opentelemetry.proto.collector.trace.v1.TraceService/Export" => {
                let request = ExportTraceServiceRequest::decode(&*message)?;
                for spans in request.resource_spans {
                    self.set_resource(spans.resource.as_ref())?;
                    let spans = spans.scope_spans.into_iter().flat_map(|scope| scope.spans);
                    lock(&self.spans)?.extend(spans);
                }
            }
            "/v1/metrics" | "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export" => {
                let request = ExportMetricsServiceRequest::decode(&*message)?;
                for metrics in request.resource_metrics {
                    self.set_resource(metrics.resource.as_ref())?;
                    let metrics = metrics
                        .scope_metrics
                        .into_iter()
                        .flat_map(|scope| scope.metrics);
                    let metrics = metrics.map(|metric| (metric.name.clone(), metric));
                    lock(&self.metrics)?.extend(metrics);
                }
            }
            path => anyhow::bail!("unexpected path {path}"),
        }
        Ok(())
    }

    fn set_resource(
        &self,
        resource: Option<&opentelemetry_proto::tonic::resource::v1::Resource>,
    ) -> Result<()> {
        let resource = resource.context("no resource")?;
        let attributes = resource.attributes.iter().map(|attribute| {
            let value = attribute
                .value
                .as_ref()
                .and_then(|value| value.value.as_ref());
            match value {
                Some(Value::StringValue(text)) => (attribute.key.clone(), text.clone()),
                other => (attribute.key.clone(), format!("{other:?}")),
            }
        });
        *lock(&self.resource)? = attributes.collect();
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> Result<std::sync::MutexGuard<'_, T>> {
    mutex.lock().map_err(|_| anyhow::anyhow!("poisoned"))
}
