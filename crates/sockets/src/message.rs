//! What is sent to clients.

use bytes::Bytes;
use serde::Serialize;

use crate::Result;

/// A text or binary message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub(crate) content: grip::Message,
    /// The content type for clients that get the message in an HTTP response.
    pub(crate) content_type: &'static str,
}

/// Data that is sent as JSON, in a text message.
///
/// ```
/// use sockets::Json;
///
/// # async fn publish() -> sockets::Result {
/// #[derive(serde::Serialize)]
/// struct Score {
///     home: u32,
///     away: u32,
/// }
///
/// sockets::channel("scores").publish(Json(Score { home: 3, away: 2 })).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Json<T>(pub T);

/// What can be sent: texts, bytes, and [`Json`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be sent as a message",
    note = "send a `&str`, a `String`, bytes, or `Json(…)` with a serializable value"
)]
pub trait IntoMessage {
    /// Converts to a message. Fails if a value cannot be serialized.
    fn into_message(self) -> Result<Message>;
}

impl Message {
    fn text(text: impl Into<grip::ByteString>, content_type: &'static str) -> Message {
        let content = grip::Message::Text(text.into());
        Message {
            content,
            content_type,
        }
    }
}

impl IntoMessage for Message {
    fn into_message(self) -> Result<Message> {
        Ok(self)
    }
}

impl IntoMessage for String {
    fn into_message(self) -> Result<Message> {
        Ok(Message::text(self, "text/plain; charset=utf-8"))
    }
}

impl IntoMessage for &str {
    fn into_message(self) -> Result<Message> {
        self.to_owned().into_message()
    }
}

impl IntoMessage for &String {
    fn into_message(self) -> Result<Message> {
        self.as_str().into_message()
    }
}

impl<T: Serialize> IntoMessage for Json<T> {
    fn into_message(self) -> Result<Message> {
        let json = serde_json::to_string(&self.0)?;
        Ok(Message::text(json, "application/json"))
    }
}

impl IntoMessage for Bytes {
    fn into_message(self) -> Result<Message> {
        Ok(Message {
            content: grip::Message::Binary(self),
            content_type: "application/octet-stream",
        })
    }
}

impl IntoMessage for Vec<u8> {
    fn into_message(self) -> Result<Message> {
        Bytes::from(self).into_message()
    }
}

impl IntoMessage for &[u8] {
    fn into_message(self) -> Result<Message> {
        self.to_vec().into_message()
    }
}

impl<const N: usize> IntoMessage for [u8; N] {
    fn into_message(self) -> Result<Message> {
        self.to_vec().into_message()
    }
}
