//! The HTTP client for requests to other servers. All components share its connections.

use std::{
    pin::Pin,
    sync::{Arc, LazyLock},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::Either;
use http::{Request, Response, Uri, header};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use rustls::{ClientConfig, RootCertStore};
use rustls_native_certs::{CertificateResult, load_native_certs};
use tokio::{
    net::TcpStream,
    sync::OnceCell,
    task::spawn_blocking,
    time::{Sleep, timeout},
};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use super::simulation::World;
use crate::limits::Limits;

tokio::task_local! {
    /// The connect timeout of the current request. The connection pool has no way to pass it on.
    static CONNECT_TIMEOUT: Duration;
}

/// Sends requests over HTTP/1.1, or over HTTP/2 if TLS negotiates it. Clones share connections.
#[derive(Clone)]
pub(crate) struct Client {
    pool: Arc<OnceCell<Pool>>,
    limits: Limits,
    /// The servers, if they are simulated.
    world: Option<Arc<World>>,
}

type Pool = legacy::Client<HttpsConnector<Connector>, WasiBody>;

impl Client {
    /// Creates a client that trusts the root certificates of the system and Mozilla's.
    pub(crate) fn new(limits: &Limits, world: Option<Arc<World>>) -> Self {
        Self {
            pool: Arc::default(),
            limits: *limits,
            world,
        }
    }

    /// Returns the connection pool, which the first request creates.
    async fn pool(&self) -> Result<&Pool, Error> {
        let create = || async {
            // Reads the certificates of the system.
            let config = spawn_blocking(tls_config).await;
            config.map(|config| create_pool(config, &self.limits))
        };
        let pool = self.pool.get_or_try_init(create).await;
        pool.map_err(|error| Error::InternalError(Some(format!("cannot set up TLS: {error}"))))
    }

    /// Sends a request with an absolute URI. Its sender is the component with the id `component`.
    pub(crate) async fn send(
        &self,
        component: &str,
        mut request: Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<Response<WasiBody>, Error> {
        let limits = &self.limits;
        let connect_timeout = options.connect_timeout.unwrap_or(limits.connect_timeout);
        let first_byte_timeout = options
            .first_byte_timeout
            .unwrap_or(limits.first_byte_timeout);
        let between_bytes_timeout = options
            .between_bytes_timeout
            .unwrap_or(limits.between_bytes_timeout);
        // The client derives it from the URI.
        request.headers_mut().remove(header::HOST);
        let response = match &self.world {
            Some(world) => Either::Left(world.send(component, request)),
            None => Either::Right(send_over(self.pool().await?, request, connect_timeout)),
        };
        let response = timeout(first_byte_timeout, response)
            .await
            .map_err(|_| Error::ConnectionReadTimeout)??;
        Ok(response.map(|body| {
            TimeoutBody {
                body,
                sleep: Box::pin(tokio::time::sleep(between_bytes_timeout)),
                timeout: between_bytes_timeout,
            }
            .boxed_unsync()
        }))
    }
}

/// Sends a request over a connection of a pool.
async fn send_over(
    pool: &Pool,
    request: Request<WasiBody>,
    connect_timeout: Duration,
) -> Result<Response<WasiBody>, Error> {
    let response = CONNECT_TIMEOUT.scope(connect_timeout, pool.request(request));
    let response = response.await.map_err(|error| to_wasi_error(&error))?;
    Ok(response.map(|body| body.map_err(Error::from).boxed_unsync()))
}

fn create_pool(config: ClientConfig, limits: &Limits) -> Pool {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_or_http()
        .enable_all_versions()
        .wrap_connector(Connector {
            inner: tcp,
            default_timeout: limits.connect_timeout,
        });
    let mut builder = legacy::Client::builder(TokioExecutor::new());
    builder
        .pool_idle_timeout(limits.idle_connection_timeout)
        // Without a timer, idle connections are only closed by the next request.
        .pool_timer(TokioTimer::new());
    builder.build(connector)
}

/// Returns a configuration that trusts the root certificates of the system and Mozilla's, as Spin
/// does. The first call blocks on files.
pub(crate) fn tls_config() -> ClientConfig {
    static ROOTS: LazyLock<Arc<RootCertStore>> =
        LazyLock::new(|| Arc::new(root_certificates(load_native_certs())));
    ClientConfig::builder()
        .with_root_certificates(ROOTS.clone())
        .with_no_client_auth()
}

fn root_certificates(system: CertificateResult) -> RootCertStore {
    for error in &system.errors {
        tracing::debug!(%error, "cannot load root certificates of the system");
    }
    let mut roots = RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    for certificate in system.certs {
        if let Err(error) = roots.add(certificate) {
            tracing::debug!(%error, "invalid root certificate of the system");
        }
    }
    roots
}

/// A TCP connector with the connect timeout of the current request.
#[derive(Clone)]
struct Connector {
    inner: HttpConnector,
    default_timeout: Duration,
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let limit = CONNECT_TIMEOUT.try_with(|limit| *limit);
        let limit = limit.unwrap_or(self.default_timeout);
        let connection = self.inner.call(uri);
        Box::pin(async move {
            match timeout(limit, connection).await {
                Ok(connection) => Ok(connection?),
                Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
            }
        })
    }
}

/// Converts an error by its root cause.
fn to_wasi_error(error: &legacy::Error) -> Error {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |cause| {
        cause.source()
    });
    let text = causes
        .clone()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ");
    tracing::debug!(error = text, "outgoing request failed");
    if !error.is_connect() {
        return Error::InternalError(Some(text));
    }
    if text.contains("dns error") {
        return Error::DnsError {
            rcode: Some(text),
            info_code: None,
        };
    }
    use std::io::ErrorKind;
    match causes
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .last()
    {
        Some(io) => match io.kind() {
            ErrorKind::TimedOut => Error::ConnectionTimeout,
            ErrorKind::ConnectionRefused => Error::ConnectionRefused,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
                Error::DestinationIpUnroutable
            }
            // Errors of rustls have this kind.
            ErrorKind::InvalidData => Error::TlsProtocolError,
            _ => Error::ConnectionRefused,
        },
        None => Error::InternalError(Some(text)),
    }
}

/// A body that fails if its next frame takes longer than the timeout.
struct TimeoutBody {
    body: WasiBody,
    sleep: Pin<Box<Sleep>>,
    timeout: Duration,
}

impl http_body::Body for TimeoutBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                let deadline = tokio::time::Instant::now() + self.timeout;
                self.sleep.as_mut().reset(deadline);
                Poll::Ready(frame)
            }
            Poll::Pending => {
                std::task::ready!(self.sleep.as_mut().poll(cx));
                Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Empty;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        time::Instant,
    };

    use super::*;

    #[test]
    fn invalid_certificates_of_the_system_are_skipped() {
        let mut system = CertificateResult::default();
        system.certs.push(b"junk".to_vec().into());
        let mozilla = webpki_roots::TLS_SERVER_ROOTS;
        assert_eq!(root_certificates(system).len(), mozilla.len());
        // Any certificate serves as a root.
        let mut system = load_native_certs();
        system.certs.truncate(1);
        let count = system.certs.len();
        assert_eq!(root_certificates(system).len(), mozilla.len() + count);
    }

    #[tokio::test]
    async fn idle_connections_are_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/", listener.local_addr().unwrap());
        let limits = Limits::DEFAULT;
        let client = Client::new(&limits, None);
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let request = Request::get(uri).body(body).unwrap();
        let send = async {
            let response = client
                .send("test", request, RequestOptions::default())
                .await;
            response.unwrap().collect().await.unwrap();
        };
        let serve = async {
            let (mut server, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                server.read_buf(&mut head).await.unwrap();
            }
            let response = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            server.write_all(response).await.unwrap();
            server
        };
        let ((), mut server) = tokio::join!(send, serve);
        // Paused time advances whenever all tasks are idle.
        tokio::time::pause();
        let since = Instant::now();
        let idle_timeout = limits.idle_connection_timeout;
        let end = timeout(idle_timeout * 10, server.read(&mut [0])).await;
        assert_eq!(end.expect("the connection stays open").unwrap(), 0);
        assert!(since.elapsed() <= idle_timeout * 2, "{:?}", since.elapsed());
    }
}
