//! Unit tests of handlers, with a simulated host.
//!
//! A handler is tested natively, with `cargo test`. [`connect`] connects a client in a line:
//!
//! ```
//! use sockets::{Connection, Handler, Result, channel, testing};
//!
//! struct Relay;
//!
//! impl Handler for Relay {
//!     async fn open(&self, connection: &mut Connection) -> Result {
//!         connection.subscribe("all");
//!         Ok(())
//!     }
//!
//!     async fn text(&self, _: &mut Connection, text: &str) -> Result {
//!         channel("all").publish(text).await
//!     }
//! }
//!
//! let mut ada = testing::connect(&Relay, "/");
//! let mut bob = testing::connect(&Relay, "/");
//! ada.send("hello");
//! assert_eq!(ada.texts(), ["hello"]);
//! assert_eq!(bob.texts(), ["hello"]);
//! ```
//!
//! All clients of a thread share one host and its stores, which are empty at first. Rust's test runner
//! gives each test a thread of its own, unless tests run one after the other. [`reset`] empties
//! everything.
//!
//! The crate `component-testing` tests the compiled component, together with others, and with
//! failures at any point.

mod client;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    future::Future,
    pin::pin,
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use grip::{Item, Key, header, publish::WsAction, signature};
use http::{Request, Response};

use self::client::State;
pub use self::client::{Client, Refused};
use crate::{Handler, PublishError, serve, store::Memory};

/// The number of polls after which a future is taken to wait for something that never happens.
const MAX_POLLS: usize = 1_000_000;

/// The URL of the simulated control port.
pub(crate) const URL: &str = "http://127.0.0.1:5561";

/// The key of the simulated host.
pub(crate) const KEY: &str = "testing";

/// The lifetime of the host's tokens.
const TOKEN_LIFETIME: Duration = Duration::from_secs(60);

thread_local! {
    static HOST: RefCell<Host> = RefCell::default();
}

/// The simulated host of a thread.
#[derive(Default)]
struct Host {
    stores: BTreeMap<String, Memory>,
    clients: Vec<Weak<RefCell<State>>>,
    /// All that was published, which is also the history of the channels.
    published: Vec<Item>,
    /// The number of publications that a test has taken.
    taken: usize,
    connections: usize,
    fails: bool,
}

/// Connects a client to a URL such as `/chat?room=tea`.
///
/// # Panics
/// Panics if the handler refuses the connection, or fails.
pub fn connect<'h, H: Handler>(handler: &'h H, url: &str) -> Client<'h, H> {
    let request = Request::get(url).body(());
    let request = request.unwrap_or_else(|error| panic!("invalid URL {url:?}: {error}"));
    match try_connect(handler, request) {
        Ok(client) => client,
        Err(refused) => panic!("{refused}"),
    }
}

/// Connects a client with a request that may have headers.
///
/// A client that offers the subprotocol `rooms.v1` resumes: it has the header
/// `Sec-WebSocket-Protocol`.
pub fn try_connect<H: Handler>(
    handler: &H,
    request: Request<()>,
) -> Result<Client<'_, H>, Refused> {
    Client::open(handler, request)
}

/// Sends a plain HTTP request, or one for a stream of server-sent events. The host signs it.
pub fn request(handler: &impl Handler, request: Request<impl Into<Bytes>>) -> Response<Bytes> {
    let mut request = request.map(Into::into);
    if let Ok(token) = token().parse() {
        request.headers_mut().insert(header::GRIP_SIG, token);
    }
    block_on(serve(handler, request))
}

/// Returns a token of the host, for the header `Grip-Sig`.
pub fn token() -> String {
    let key = Key::parse(KEY).unwrap_or_else(|error| panic!("{error}"));
    signature::sign(&key, "host", SystemTime::now(), TOKEN_LIFETIME)
}

/// Returns the store with this label.
pub fn store(label: &str) -> Memory {
    HOST.with_borrow_mut(|host| host.stores.entry(label.to_owned()).or_default().clone())
}

/// Returns what was published since the last call.
pub fn take_published() -> Vec<Item> {
    HOST.with_borrow_mut(|host| {
        let published = host.published[host.taken..].to_vec();
        host.taken = host.published.len();
        published
    })
}

/// Makes all later publications fail, or none.
pub fn set_publishing_fails(fails: bool) {
    HOST.with_borrow_mut(|host| host.fails = fails);
}

/// Forgets all clients, stores and publications of this thread.
pub fn reset() {
    HOST.take();
}

/// Runs a future of this crate to its end.
///
/// # Panics
/// Panics if the future waits for something else.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..MAX_POLLS {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
    panic!("the future waits for something that does not happen in a test");
}

/// Publishes items to the clients of this thread.
pub(crate) fn publish(items: Vec<Item>) -> Result<(), PublishError> {
    let clients = HOST.with_borrow_mut(|host| {
        if host.fails {
            return Err(PublishError("connection refused".into()));
        }
        host.published.extend(items.iter().cloned());
        host.clients.retain(|client| client.strong_count() > 0);
        Ok(host.clients.clone())
    })?;
    for client in clients.iter().filter_map(Weak::upgrade) {
        let mut client = client.borrow_mut();
        items.iter().for_each(|item| client.deliver(item));
    }
    Ok(())
}

/// Registers a client and returns the id of its connection.
fn register(client: &Rc<RefCell<State>>) -> String {
    HOST.with_borrow_mut(|host| {
        host.clients.push(Rc::downgrade(client));
        host.connections += 1;
        format!("connection-{}", host.connections)
    })
}

/// Returns the messages on a channel after the one with the id `prev_id`, or `None` if they are not
/// known.
fn published_after(channel: &str, prev_id: &str) -> Option<Vec<Item>> {
    HOST.with_borrow(|host| {
        let items = host.published.iter();
        let items = items.filter(|item| {
            let format = item.ws_message.as_ref();
            let is_message = format.is_some_and(|it| matches!(it.action, WsAction::Send(_)));
            item.channel == channel && item.id.is_some() && is_message
        });
        let items: Vec<&Item> = items.collect();
        let mut ids = items.iter().map(|item| item.id.as_deref());
        let start = match ids.position(|id| id == Some(prev_id)) {
            Some(index) => index + 1,
            None => match items.first() {
                Some(first) if first.prev_id.as_deref() != Some(prev_id) => return None,
                _ => 0,
            },
        };
        Some(items[start..].iter().copied().cloned().collect())
    })
}

#[cfg(test)]
mod tests;
