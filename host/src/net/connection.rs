//! One accepted connection: serves HTTP on it, closes it, and counts it for as long as it is open,
//! even after it was upgraded to another protocol.

use std::{
    convert::Infallible,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::{
    body::Incoming,
    rt::{Read, Write},
    service::service_fn,
};
use hyper_util::{rt::TokioTimer, server::conn::auto};
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use spin_runtime::backend::Body;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Limits,
    http::error_response::Refused,
    metrics::gauge_guard::GaugeGuard,
    net::{
        date,
        draining::Draining,
        io::{Io, IoState},
        response_body::{ResponseBody, StreamExecutor, StreamHandle, Streams},
    },
};

const HEAD_TIMEOUT: Duration = Limits::DEFAULT.request_head_timeout;
const UNREAD_TIMEOUT: Duration = Limits::DEFAULT.unread_response_timeout;
const CLOSE_TIMEOUT: Duration = Limits::DEFAULT.close_timeout;

/// hyper's limits on the head of a request. They exceed the host's own, whose refusal has a text.
const HYPER_HEAD_BYTES: usize = Limits::DEFAULT.max_request_head_bytes * 2;
const HYPER_HEADER_FIELDS: usize = Limits::DEFAULT.max_request_header_fields * 2;

/// The connection of a request, as an extension of the request. The connection counts as open as
/// long as a handle exists.
#[derive(Clone)]
pub(crate) struct ConnectionHandle(Arc<Connection>);

struct Connection {
    /// Closes this connection.
    close: Notify,
    /// Closes all connections.
    abort: CancellationToken,
    /// [`ConnectionHandle::close`] was called.
    is_closed: AtomicBool,
    /// Notified of the first request.
    first_request: Notify,
    /// Responses of HTTP/1.1 ask the client to leave.
    is_leaving: AtomicBool,
    /// The connection is HTTP/2, with concurrent requests.
    is_h2: AtomicBool,
    /// The responses in progress, if it is HTTP/2.
    streams: Streams,
    /// The requests in progress.
    requests: AtomicUsize,
    /// Notified when no request is in progress.
    idle: Notify,
    /// When the last request ended, or the connection was opened.
    idle_since: Mutex<Instant>,
    io: Arc<IoState>,
    _gauge: GaugeGuard,
}

/// Keeps a connection from counting as idle.
pub(crate) struct BusyGuard(ConnectionHandle);

impl ConnectionHandle {
    /// Creates the handle of a connection that is counted by `connections` and closed by `abort`.
    pub(crate) fn new(connections: &Gauge, abort: CancellationToken) -> Self {
        Self(Arc::new(Connection {
            close: Notify::new(),
            abort,
            is_closed: AtomicBool::new(false),
            first_request: Notify::new(),
            is_leaving: AtomicBool::new(false),
            is_h2: AtomicBool::new(false),
            streams: Streams::default(),
            requests: AtomicUsize::new(0),
            idle: Notify::new(),
            idle_since: Mutex::new(Instant::now()),
            io: Arc::default(),
            _gauge: GaugeGuard::new(connections),
        }))
    }

    /// Closes the connection and drops everything in progress on it.
    pub(crate) fn close(&self) {
        self.0.is_closed.store(true, Relaxed);
        self.0.close.notify_one();
    }

    /// Waits until this connection is closed or all are aborted.
    pub(super) async fn closed(&self) {
        tokio::select! {
            () = self.0.close.notified() => {}
            () = self.0.abort.cancelled() => {}
        }
    }

    /// Asks the client to use another connection for its next request, if this is HTTP/1.1.
    pub(super) fn leave(&self) {
        self.0.is_leaving.store(true, Relaxed);
    }

    /// Returns whether a request was received.
    pub(super) fn has_request(&self) -> bool {
        self.0.io.requests.load(Relaxed) > 0
    }

    /// Waits for the first request. Only one task may wait.
    pub(super) async fn first_request(&self) {
        self.0.first_request.notified().await;
    }

    /// Waits until no request is in progress. Only one task may wait.
    pub(super) async fn idle(&self) {
        while self.0.requests.load(Relaxed) > 0 {
            self.0.idle.notified().await;
        }
    }

    /// Returns whether the connection is HTTP/2. Not known before the first request.
    pub(super) fn is_h2(&self) -> bool {
        self.0.is_h2.load(Relaxed)
    }

    #[cfg(test)]
    pub(crate) fn is_closed(&self) -> bool {
        self.0.is_closed.load(Relaxed)
    }

    /// Counts a request as in progress until the guard is dropped.
    pub(crate) fn busy(&self) -> BusyGuard {
        self.0.requests.fetch_add(1, Relaxed);
        self.0.io.is_responding.store(true, Relaxed);
        BusyGuard(self.clone())
    }

    /// Returns since when no request has been in progress. `None` if there is one, or if the
    /// connection is being closed.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        let connection = &*self.0;
        let is_idle = connection.requests.load(Relaxed) == 0 && !connection.is_closed.load(Relaxed);
        is_idle.then(|| *connection.idle_since.lock())
    }

    /// Records whether the body of an HTTP/1 request is still being received.
    pub(crate) fn set_receiving(&self, is_receiving: bool) {
        self.0.io.is_receiving.store(is_receiving, Relaxed);
    }

    /// Returns the connection of a request.
    pub(crate) fn of<B>(request: &Request<B>) -> Option<Self> {
        request.extensions().get().cloned()
    }

    /// Runs the protocol that a connection, or the HTTP/2 stream of the current task, was upgraded
    /// to, until all connections are aborted.
    pub(crate) fn run_upgraded<F>(connection: Option<Self>, future: F) -> impl Future<Output = ()>
    where
        F: Future<Output = ()>,
    {
        // Boxed, since otherwise each future that it is moved to would reserve space for it.
        let future = Box::pin(future);
        // An HTTP/2 connection is busy while any of its streams is in use.
        let is_h2 = |connection: &&Self| connection.0.is_h2.load(Relaxed);
        let busy = connection.as_ref().filter(is_h2).map(Self::busy);
        let stream = StreamHandle::current();
        async move {
            let _busy = busy;
            match connection {
                Some(connection) => {
                    connection.0.abort.run_until_cancelled(future).await;
                }
                None => future.await,
            }
            if let Some(stream) = stream {
                // The client may not read what was sent last.
                tokio::spawn(stream.reset_upgraded_after(CLOSE_TIMEOUT));
            }
        }
    }
}

impl Drop for BusyGuard {
    fn drop(&mut self) {
        let connection = &*self.0.0;
        if connection.requests.fetch_sub(1, Relaxed) == 1 {
            connection.io.is_responding.store(false, Relaxed);
            *connection.idle_since.lock() = Instant::now();
            connection.idle.notify_one();
        }
    }
}

/// Returns the settings of HTTP/1.1 and HTTP/2.
pub(crate) fn builder() -> auto::Builder<StreamExecutor> {
    let mut builder = auto::Builder::new(StreamExecutor);
    builder
        .http1()
        .timer(TokioTimer::new())
        .max_buf_size(HYPER_HEAD_BYTES)
        .max_headers(HYPER_HEADER_FIELDS)
        .header_read_timeout(HEAD_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HYPER_HEAD_BYTES as u32)
        .max_send_buf_size(Limits::DEFAULT.h2_send_buffer_bytes)
        .max_concurrent_streams(Limits::DEFAULT.max_h2_streams)
        .initial_stream_window_size(Limits::DEFAULT.h2_stream_window_bytes)
        .initial_connection_window_size(Limits::DEFAULT.h2_connection_window_bytes)
        .enable_connect_protocol()
        .keep_alive_interval(Limits::DEFAULT.h2_ping_interval);
    builder
}

/// Why a connection has ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    #[error("closed")]
    Closed,
    #[error("closed by the host")]
    ClosedByHost,
    #[error("the host is shutting down")]
    Aborted,
    #[error("no request in time")]
    NoRequest,
    #[error("the response was not read for {UNREAD_TIMEOUT:?}")]
    Unread,
    #[error(transparent)]
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

/// Serves HTTP on a connection until it ends, is upgraded to another protocol, or has finished because
/// of `draining`. An upgraded connection can be downcast to [`Io`].
pub(crate) async fn serve<S, H, F>(
    stream: S,
    builder: &auto::Builder<StreamExecutor>,
    draining: &Draining,
    handle: ConnectionHandle,
    handler: H,
) -> Ended
where
    S: Read + Write + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let connection = &*handle.0;
    let io = Io::new(stream, connection.io.clone());
    let service = service_fn(|mut request: Request<Incoming>| {
        let is_h2 = request.version() == Version::HTTP_2;
        let is_first = !handle.has_request();
        if let Some(problem) = connection.io.receive_request() {
            request.extensions_mut().insert(problem);
        }
        if is_first {
            connection.first_request.notify_one();
        }
        connection.is_h2.store(is_h2, Relaxed);
        request.extensions_mut().insert(handle.clone());
        let busy = handle.busy();
        // Boxed, since otherwise the connection would reserve space for it between two requests,
        // and while a response is held.
        let response = Box::pin(handler(request));
        let handle = handle.clone();
        async move {
            let mut response = response.await;
            let is_refused = response.extensions().get::<Refused>().is_some();
            let status = response.status();
            if status == StatusCode::SWITCHING_PROTOCOLS {
                handle.0.io.is_upgraded.store(true, Relaxed);
            }
            let headers = response.headers_mut();
            if is_refused && !is_h2 {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
                handle.0.io.is_refused.store(true, Relaxed);
            }
            headers.entry(header::DATE).or_insert_with(date::now);
            if !is_h2
                && handle.0.is_leaving.load(Relaxed)
                && status != StatusCode::SWITCHING_PROTOCOLS
            {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            let streams = is_h2.then_some(&handle.0.streams);
            Ok::<_, Infallible>(response.map(|body| ResponseBody::new(body, streams, busy)))
        }
    });
    let served = builder.serve_connection_with_upgrades(io, service);
    let mut served = std::pin::pin!(served);
    let mut ends = std::pin::pin!(draining.connection_ends(&handle));
    let mut is_ending = false;
    // hyper's own timeout starts once the protocol version is known, with the first bytes.
    let mut check = std::pin::pin!(sleep_until(Instant::now() + HEAD_TIMEOUT));
    loop {
        tokio::select! {
            served = &mut served => return match served {
                Ok(()) => Ended::Closed,
                Err(error) => Ended::Failed(error),
            },
            () = connection.close.notified() => return Ended::ClosedByHost,
            () = connection.abort.cancelled() => return Ended::Aborted,
            () = &mut ends, if !is_ending => {
                if !handle.has_request() {
                    return Ended::NoRequest;
                }
                is_ending = true;
                served.as_mut().graceful_shutdown();
                continue;
            }
            () = &mut check => {}
        }
        if !handle.has_request() {
            return Ended::NoRequest;
        }
        let next_check = if connection.is_h2.load(Relaxed) {
            // Only the streams that are not read are reset.
            connection.streams.reset_unread(UNREAD_TIMEOUT)
        } else {
            let now = Instant::now();
            let blocked_since = *connection.io.blocked_since.lock();
            let deadline = blocked_since.unwrap_or(now) + UNREAD_TIMEOUT;
            if deadline <= now {
                return Ended::Unread;
            }
            deadline
        };
        check.as_mut().reset(next_check);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::stream::repeat_with;
    use http_body_util::{BodyExt as _, Empty, StreamBody};
    use hyper::{body::Frame, client::conn::http2};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use spin_runtime::backend::{BodyError, full};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;
    use crate::shutdown::Shutdown;

    const DRAIN_TIMEOUT: Duration = Limits::DEFAULT.drain_request_timeout;

    /// More bytes than all buffers hold.
    const LARGE: usize = 100_000;

    const GET: &[u8] = b"GET /hello HTTP/1.1\r\nhost: a\r\n\r\n";

    /// Returns a client of a server that responds with a short body to `/hello`, with a large one to
    /// `/large`, and otherwise with an endless one that is counted by `endless`.
    fn connect(endless: &Gauge) -> DuplexStream {
        connect_until(endless, CancellationToken::new())
    }

    /// Returns a client of such a server, which drains at once.
    fn connect_until(endless: &Gauge, drain: CancellationToken) -> DuplexStream {
        connect_draining(endless, Draining::at_once(drain))
    }

    /// Returns a client of such a server, which drains.
    fn connect_draining(endless: &Gauge, draining: Draining) -> DuplexStream {
        let (client, server) = duplex(1024);
        let endless = endless.clone();
        tokio::spawn(async move {
            let handler = |request: Request<Incoming>| {
                let guard = GaugeGuard::new(&endless);
                async move {
                    match request.uri().path() {
                        "/hello" => return Response::new(full("hello")),
                        "/large" => return Response::new(full(vec![b'x'; LARGE])),
                        _ => {}
                    }
                    let frames = repeat_with(move || {
                        let _guard = &guard;
                        Ok::<_, BodyError>(Frame::data(Bytes::from_static(&[b'x'; 1000])))
                    });
                    Response::new(StreamBody::new(frames).boxed_unsync())
                }
            };
            let handle = ConnectionHandle::new(&Gauge::default(), CancellationToken::new());
            serve(TokioIo::new(server), &builder(), &draining, handle, handler).await
        });
        client
    }

    /// Reads until the server closes the connection, and returns how long that took.
    async fn read_to_end(client: &mut DuplexStream) -> Duration {
        let (start, mut rest) = (Instant::now(), Vec::new());
        client.read_to_end(&mut rest).await.expect("end of stream");
        start.elapsed()
    }

    fn is_head_timeout(time: Duration) -> bool {
        (HEAD_TIMEOUT..HEAD_TIMEOUT + Duration::from_secs(1)).contains(&time)
    }

    #[tokio::test(start_paused = true)]
    async fn connections_without_a_request_are_closed() {
        for sent in [
            "",
            "P",
            "PRI * HT",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "GET / HT",
            "GET / HTTP/1.1\r\nhost: a\r\n",
        ] {
            let mut client = connect(&Gauge::default());
            client.write_all(sent.as_bytes()).await.expect("write");
            let time = read_to_end(&mut client).await;
            assert!(is_head_timeout(time), "{sent:?}: {time:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_request_is_served_after_the_drain_has_begun() {
        let drain = CancellationToken::new();
        let mut client = connect_until(&Gauge::default(), drain.clone());
        tokio::time::sleep(Duration::from_secs(1)).await;
        drain.cancel();
        tokio::time::sleep(DRAIN_TIMEOUT / 2).await;
        client.write_all(GET).await.expect("write");
        let mut response = String::new();
        client.read_to_string(&mut response).await.expect("end");
        assert!(response.ends_with("hello"), "{response}");
        assert!(response.contains("connection: close"), "{response}");
    }

    #[tokio::test(start_paused = true)]
    async fn clients_of_a_host_that_stops_gradually_are_asked_to_leave() {
        let shutdown = Shutdown::default();
        let connect = || connect_draining(&Gauge::default(), Draining::gradual(&shutdown));
        let mut http1 = connect();
        let (mut http2, connection) = http2::Builder::new(TokioExecutor::new())
            .handshake::<_, Empty<Bytes>>(TokioIo::new(connect()))
            .await
            .expect("HTTP/2");
        tokio::spawn(connection);
        let get = || Request::get("http://a/hello").body(Empty::new());
        let response = http2.send_request(get().expect("valid request")).await;
        response.expect("response");
        shutdown.stop.cancel();
        tokio::time::sleep(Duration::from_secs(1)).await;
        // It has got a GOAWAY.
        assert!(http2.ready().await.is_err());
        http1.write_all(GET).await.expect("write");
        let mut response = String::new();
        http1.read_to_string(&mut response).await.expect("end");
        assert_eq!(
            response.matches("connection: close").count(),
            1,
            "{response}"
        );

        // A new connection of HTTP/2 serves its requests.
        let (mut http2, connection) = http2::Builder::new(TokioExecutor::new())
            .handshake::<_, Empty<Bytes>>(TokioIo::new(connect()))
            .await
            .expect("HTTP/2");
        tokio::spawn(connection);
        for _ in 0..3 {
            let response = http2.send_request(get().expect("valid request")).await;
            response.expect("response");
        }
        shutdown.drain.cancel();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(http2.ready().await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn connections_without_a_request_are_closed_by_a_drain() {
        for sent in ["", "GE", "GET / HTTP/1.1\r\nhost: a\r\n"] {
            let drain = CancellationToken::new();
            let mut client = connect_until(&Gauge::default(), drain.clone());
            client.write_all(sent.as_bytes()).await.expect("write");
            tokio::time::sleep(Duration::from_secs(1)).await;
            drain.cancel();
            let time = read_to_end(&mut client).await;
            assert_eq!(time, DRAIN_TIMEOUT, "{sent:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn idle_connections_are_closed_between_requests() {
        let mut client = connect(&Gauge::default());
        for _ in 0..3 {
            tokio::time::sleep(HEAD_TIMEOUT / 2).await;
            client.write_all(GET).await.expect("write");
            let mut response = Vec::new();
            while !response.ends_with(b"hello") {
                client.read_buf(&mut response).await.expect("response");
            }
        }
        let time = read_to_end(&mut client).await;
        assert!(is_head_timeout(time), "{time:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn connections_with_unread_responses_are_closed() {
        let endless = Gauge::default();
        let mut client = connect(&endless);
        let get = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        client.write_all(get).await.expect("write");
        // A slow reader is not cut off.
        for _ in 0..100 {
            let mut buffer = [0; 1000];
            client.read_exact(&mut buffer).await.expect("more");
            tokio::time::sleep(UNREAD_TIMEOUT / 2).await;
        }
        assert_eq!(endless.get(), 1);
        tokio::time::sleep(UNREAD_TIMEOUT * 2).await;
        assert_eq!(endless.get(), 0);
        read_to_end(&mut client).await;
    }

    #[tokio::test(start_paused = true)]
    async fn connections_with_a_partially_read_response_are_closed() {
        let mut client = connect(&Gauge::default());
        client
            .write_all(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .expect("write");
        for _ in 0..10 {
            let mut buffer = [0; 1000];
            client.read_exact(&mut buffer).await.expect("more");
            tokio::time::sleep(UNREAD_TIMEOUT / 2).await;
        }
        tokio::time::sleep(UNREAD_TIMEOUT * 2).await;
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.expect("end of stream");
        assert!(rest.len() < LARGE / 2, "{} bytes", rest.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_without_a_window_is_reset() {
        let endless = Gauge::default();
        let client = TokioIo::new(connect(&endless));
        let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(0)
            .handshake::<_, Empty<Bytes>>(client)
            .await
            .expect("HTTP/2");
        tokio::spawn(connection);
        let request = Request::get("http://a/").body(Empty::new());
        let response = sender.send_request(request.expect("valid request")).await;
        let body = response.expect("response").into_body();
        assert_eq!(endless.get(), 1);
        tokio::time::sleep(UNREAD_TIMEOUT * 2).await;
        assert_eq!(endless.get(), 0);
        assert!(body.collect().await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn only_unread_streams_of_http2_are_reset() {
        let endless = Gauge::default();
        let client = TokioIo::new(connect(&endless));
        let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(1000)
            .handshake::<_, Empty<Bytes>>(client)
            .await
            .expect("HTTP/2");
        tokio::spawn(connection);
        let mut get = async |path: &str| {
            let request = Request::get(format!("http://a{path}")).body(Empty::new());
            let response = sender.send_request(request.expect("valid request")).await;
            response.expect("response").into_body()
        };
        let unread = get("/").await;
        let mut read = get("/").await;
        for _ in 0..8 {
            assert_eq!(endless.get(), 2);
            tokio::time::sleep(UNREAD_TIMEOUT / 10).await;
            let frame = read.frame().await.expect("more");
            frame.expect("valid frame");
        }
        for _ in 0..8 {
            tokio::time::sleep(UNREAD_TIMEOUT / 10).await;
            let frame = read.frame().await.expect("more");
            frame.expect("valid frame");
        }
        assert_eq!(endless.get(), 1);
        let hello = get("/hello").await.collect().await.expect("whole body");
        assert_eq!(hello.to_bytes(), "hello");
        // The body ends with an error, not as if it were complete.
        assert!(unread.collect().await.is_err());
    }
}
