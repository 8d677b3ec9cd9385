//! The trait that authors implement.

use std::path::Path;

use bytes::Bytes;
use grip::CloseFrame;
use http::{Request, Response, StatusCode};

use crate::{Connection, Result, files, platform, serve::text_response};

/// The close code for a kind of message that a handler does not accept (RFC 6455).
const UNSUPPORTED: u16 = 1003;

/// Handles connections. All methods have a default.
///
/// The methods of one connection are called one after the other. Each call may be in another
/// instance of the component, and several connections are handled at the same time, so a handler
/// has no state of its own. [`export!`](crate::export) makes it the handler of the component.
///
/// If a method returns an error, the error is logged. The handshake then fails with status 500, and
/// an open connection is closed with 1011.
///
/// ```
/// use sockets::{Connection, Handler, Result};
///
/// struct Echo;
///
/// impl Handler for Echo {
///     async fn text(&self, connection: &mut Connection, text: &str) -> Result {
///         connection.send(text)
///     }
/// }
///
/// let mut client = sockets::testing::connect(&Echo, "/");
/// client.send("hello");
/// assert_eq!(client.texts(), ["hello"]);
/// ```
#[allow(async_fn_in_trait, reason = "components have one thread")]
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler of connections",
    label = "the trait `sockets::Handler` is not implemented for this type",
    note = "write `impl sockets::Handler for {Self} {{}}`, with the methods `open`, `text`, `binary`, `close` or `request`"
)]
pub trait Handler {
    /// Handles a new connection, before it is open. Accepts it by default.
    ///
    /// Subscriptions are in effect when the connection opens. [`Connection::reject`] refuses it.
    async fn open(&self, connection: &mut Connection) -> Result {
        let _ = connection;
        Ok(())
    }

    /// Handles a text message. Closes the connection with 1003 by default.
    async fn text(&self, connection: &mut Connection, text: &str) -> Result {
        let _ = text;
        connection.close(UNSUPPORTED, "text messages are not supported");
        Ok(())
    }

    /// Handles a binary message. Closes the connection with 1003 by default.
    async fn binary(&self, connection: &mut Connection, data: &[u8]) -> Result {
        let _ = data;
        connection.close(UNSUPPORTED, "binary messages are not supported");
        Ok(())
    }

    /// Handles the end of a connection, which has left its rooms. Does nothing by default.
    ///
    /// `close` is the frame with which the client has closed it, if it has sent one.
    async fn close(&self, connection: &mut Connection, close: Option<&CloseFrame>) -> Result {
        let _ = (connection, close);
        Ok(())
    }

    /// Handles a loss: the host cannot deliver all messages after the one that
    /// [`Connection::subscribe_after`] named. Does nothing by default.
    ///
    /// The client is subscribed to what is published from now on. Rooms fill their gaps themselves.
    async fn missed(&self, connection: &mut Connection, channel: &str) -> Result {
        let _ = (connection, channel);
        Ok(())
    }

    /// Handles any other HTTP request.
    ///
    /// By default, serves those of the component's `files` that pages consist of, such as `index.html`
    /// for a path that ends with a slash. Other requests get 426.
    async fn request(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
        let root = Path::new(platform::FILES);
        if let Some(file) = files::respond(root, request.method(), request.uri()) {
            return Ok(file);
        }
        let status = StatusCode::UPGRADE_REQUIRED;
        Ok(text_response(status, "open a WebSocket or an EventSource"))
    }
}
