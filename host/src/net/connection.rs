//! An accepted connection: served as HTTP, cut off, and counted, also when it becomes something else.

use std::{
    convert::Infallible,
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use parking_lot::Mutex;

use http::{Request, Response, Version};
use http_body_util::BodyExt as _;
use hyper::{
    body::Incoming,
    rt::{Read, ReadBufCursor, Write},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioTimer},
    server::{conn::auto, graceful::Watcher},
};
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{metrics::gauge_guard::GaugeGuard, net::write_stalls::Deliveries};
use spin_runtime::backend::Body;

/// How long a client may take for the head of a request, also between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a client may leave an answer unread of which there is more.
const UNREAD: Duration = Duration::from_secs(60);

/// The connection that a request came on: an extension of each request. The connection counts as
/// open as long as one of these is there.
#[derive(Clone)]
pub(crate) struct ConnectionHandle(Arc<Connection>);

struct Connection {
    /// Cuts off this one.
    cut: Notify,
    /// Cuts off all.
    cut_all: CancellationToken,
    /// A request has come.
    asked: AtomicBool,
    /// It is HTTP/2, with several requests at once.
    shared: AtomicBool,
    /// The answers under way, when it is.
    deliveries: Deliveries,
    /// Since when the client takes nothing of what is sent.
    blocked: Mutex<Option<Instant>>,
    _counted: GaugeGuard,
}

/// The bytes of a connection, which counts as open as long as this is there.
pub(crate) struct Io<S> {
    stream: S,
    connection: ConnectionHandle,
}

impl ConnectionHandle {
    /// One more of `connections`, which `cut_all` cuts off with all others.
    pub(crate) fn new(connections: &Gauge, cut_all: CancellationToken) -> Self {
        Self(Arc::new(Connection {
            cut: Notify::new(),
            cut_all,
            asked: AtomicBool::new(false),
            shared: AtomicBool::new(false),
            deliveries: Deliveries::default(),
            blocked: Mutex::new(None),
            _counted: GaugeGuard::new(connections),
        }))
    }

    /// Drops the connection with all that is under way on it.
    pub(crate) fn cut(&self) {
        self.0.cut.notify_one();
    }

    /// The connection of a request.
    pub(crate) fn of<B>(request: &Request<B>) -> Option<Self> {
        request.extensions().get().cloned()
    }

    /// Runs what a connection has become, until it is cut off with all others.
    pub(crate) fn carry<F>(connection: Option<Self>, work: F) -> impl Future<Output = ()>
    where
        F: Future<Output = ()>,
    {
        // Boxed, since what is handed from future to future has its place in each of them.
        let work = Box::pin(work);
        async move {
            match connection {
                Some(connection) => {
                    connection.0.cut_all.run_until_cancelled(work).await;
                }
                None => work.await,
            }
        }
    }
}

impl Connection {
    /// Notes whether the client took what was sent.
    fn note<T>(&self, written: Poll<T>) -> Poll<T> {
        let mut blocked = self.blocked.lock();
        match written.is_pending() {
            true => drop(blocked.get_or_insert_with(Instant::now)),
            false => *blocked = None,
        }
        written
    }
}

impl<S> Io<S> {
    /// What HTTP was spoken on.
    pub(crate) fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: Read + Unpin> Read for Io<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: Write + Unpin> Write for Io<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, from);
        self.connection.0.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, from);
        self.connection.0.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// How connections are served.
pub(crate) fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HEAD_TIMEOUT);
    builder
}

/// Serves HTTP on a connection to its end, or until it becomes something else, and says why it
/// is over. On an upgrade, what is taken out is an [`Io`] of `stream`.
pub(crate) async fn serve<S, H, F>(
    stream: S,
    builder: &auto::Builder<TokioExecutor>,
    watcher: Watcher,
    cut: ConnectionHandle,
    handler: H,
) -> String
where
    S: Read + Write + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let connection = &*cut.0;
    let io = Io {
        stream,
        connection: cut.clone(),
    };
    let service = service_fn(|mut request: Request<Incoming>| {
        connection.asked.store(true, Relaxed);
        let is_shared = request.version() == Version::HTTP_2;
        connection.shared.store(is_shared, Relaxed);
        request.extensions_mut().insert(cut.clone());
        // In a box, or the connection would keep the room for it between two requests, and while
        // an answer is held.
        let answer = Box::pin(handler(request));
        let cut = cut.clone();
        async move {
            let answer = answer.await;
            Ok::<_, Infallible>(match is_shared {
                true => answer.map(|body| cut.0.deliveries.begin(body).boxed_unsync()),
                false => answer,
            })
        }
    });
    let mut served =
        std::pin::pin!(watcher.watch(builder.serve_connection_with_upgrades(io, service)));
    // hyper's own clock begins when it knows the version, with the first bytes.
    let mut look = std::pin::pin!(sleep_until(Instant::now() + HEAD_TIMEOUT));
    loop {
        tokio::select! {
            served = &mut served => return match served {
                Ok(()) => "ended".to_owned(),
                Err(error) => error.to_string(),
            },
            () = connection.cut.notified() => return "cut off".to_owned(),
            () = connection.cut_all.cancelled() => return "cut off with all".to_owned(),
            () = &mut look => {}
        }
        if !connection.asked.load(Relaxed) {
            return format!("no request within {HEAD_TIMEOUT:?}");
        }
        let next = match connection.shared.load(Relaxed) {
            // On a shared connection the others go on when one is reset.
            true => connection.deliveries.give_up(UNREAD),
            false => {
                let now = Instant::now();
                let due = connection.blocked.lock().unwrap_or(now) + UNREAD;
                if due <= now {
                    return format!("the answer was left unread for {UNREAD:?}");
                }
                due
            }
        };
        look.as_mut().reset(next);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::stream::repeat_with;
    use http_body_util::{Empty, StreamBody};
    use hyper::{body::Frame, client::conn::http2};
    use hyper_util::{rt::TokioIo, server::graceful::GracefulShutdown};
    use spin_runtime::backend::{BodyError, full};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    /// More than the buffers on the way, in bytes.
    const LARGE: usize = 100_000;

    const GET: &[u8] = b"GET /hello HTTP/1.1\r\nhost: a\r\n\r\n";

    /// A client of a server that says `hello` there, much in one piece at `/large`, and elsewhere
    /// speaks without end while `speaking` counts it.
    fn connect(speaking: &Gauge) -> DuplexStream {
        let (client, server) = duplex(1024);
        let speaking = speaking.clone();
        tokio::spawn(async move {
            let handler = |request: Request<Incoming>| {
                let speaks = GaugeGuard::new(&speaking);
                async move {
                    match request.uri().path() {
                        "/hello" => return Response::new(full("hello")),
                        "/large" => return Response::new(full(vec![b'x'; LARGE])),
                        _ => {}
                    }
                    let pieces = repeat_with(move || {
                        let _until_it_is_dropped = &speaks;
                        Ok::<_, BodyError>(Frame::data(Bytes::from_static(&[b'x'; 1000])))
                    });
                    Response::new(StreamBody::new(pieces).boxed_unsync())
                }
            };
            let cut = ConnectionHandle::new(&Gauge::default(), CancellationToken::new());
            let graceful = GracefulShutdown::new();
            let watcher = graceful.watcher();
            serve(TokioIo::new(server), &builder(), watcher, cut, handler).await
        });
        client
    }

    /// Reads until the server closes, and says how long that took.
    async fn end(client: &mut DuplexStream) -> Duration {
        let (before, mut rest) = (Instant::now(), Vec::new());
        client.read_to_end(&mut rest).await.expect("an end");
        before.elapsed()
    }

    fn is_in_time(time: Duration) -> bool {
        (HEAD_TIMEOUT..HEAD_TIMEOUT + Duration::from_secs(1)).contains(&time)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_asks_for_nothing_is_not_waited_for() {
        for said in [
            "",
            "P",
            "PRI * HT",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "GET / HT",
            "GET / HTTP/1.1\r\nhost: a\r\n",
        ] {
            let mut client = connect(&Gauge::default());
            client.write_all(said.as_bytes()).await.expect("it writes");
            let time = end(&mut client).await;
            assert!(is_in_time(time), "{said:?}: {time:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_is_not_waited_for_between_two_requests() {
        let mut client = connect(&Gauge::default());
        for _ in 0..3 {
            tokio::time::sleep(HEAD_TIMEOUT / 2).await;
            client.write_all(GET).await.expect("it writes");
            let mut answer = Vec::new();
            while !answer.ends_with(b"hello") {
                client.read_buf(&mut answer).await.expect("an answer");
            }
        }
        let time = end(&mut client).await;
        assert!(is_in_time(time), "{time:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_read_is_cut_off() {
        let speaking = Gauge::default();
        let mut client = connect(&speaking);
        let get = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        client.write_all(get).await.expect("it writes");
        // Slow is not stopped.
        for _ in 0..100 {
            let mut piece = [0; 1000];
            client.read_exact(&mut piece).await.expect("more");
            tokio::time::sleep(UNREAD / 2).await;
        }
        assert_eq!(speaking.get(), 1);
        tokio::time::sleep(UNREAD * 2).await;
        assert_eq!(speaking.get(), 0);
        end(&mut client).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_of_an_answer_is_not_waited_for_either() {
        let mut client = connect(&Gauge::default());
        client
            .write_all(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .expect("it writes");
        for _ in 0..10 {
            let mut piece = [0; 1000];
            client.read_exact(&mut piece).await.expect("more");
            tokio::time::sleep(UNREAD / 2).await;
        }
        tokio::time::sleep(UNREAD * 2).await;
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.expect("an end");
        assert!(rest.len() < LARGE / 2, "{} bytes", rest.len());
    }

    #[tokio::test(start_paused = true)]
    async fn on_a_shared_connection_the_others_go_on() {
        let speaking = Gauge::default();
        let client = TokioIo::new(connect(&speaking));
        let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(1000)
            .handshake::<_, Empty<Bytes>>(client)
            .await
            .expect("HTTP/2");
        tokio::spawn(connection);
        let mut ask = async |path: &str| {
            let request = Request::get(format!("http://a{path}")).body(Empty::new());
            let answer = sender.send_request(request.expect("a request")).await;
            answer.expect("an answer").into_body()
        };
        let unread = ask("/").await;
        let mut read = ask("/").await;
        for _ in 0..8 {
            assert_eq!(speaking.get(), 2);
            tokio::time::sleep(UNREAD / 10).await;
            let piece = read.frame().await.expect("more");
            piece.expect("a piece");
        }
        for _ in 0..8 {
            tokio::time::sleep(UNREAD / 10).await;
            let piece = read.frame().await.expect("more");
            piece.expect("a piece");
        }
        assert_eq!(speaking.get(), 1);
        let hello = ask("/hello").await.collect().await.expect("all of it");
        assert_eq!(hello.to_bytes(), "hello");
        // Broken off, and not as if that were all.
        assert!(unread.collect().await.is_err());
    }
}
