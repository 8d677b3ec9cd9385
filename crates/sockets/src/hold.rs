//! Streams and long polls of any content type, which the host holds open.
//!
//! [`Handler::request`](crate::Handler::request) returns these responses. What is published on a
//! channel ends a long poll, and is appended to a stream as a server-sent event. For other formats,
//! publish GRIP items with [`publish`](crate::publish).
//!
//! ```
//! use sockets::{Bytes, Handler, Request, Response, Result, hold};
//!
//! struct News;
//!
//! impl Handler for News {
//!     async fn request(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
//!         hold::long_poll(["news"]).timeout(25).respond("application/json", "[]")
//!     }
//! }
//! ```

use bytes::Bytes;
use grip::{Instruct, hold::Channel};
use http::{HeaderName, HeaderValue, Response};

use crate::Result;

/// The header that makes a host hold a response.
const GRIP_HOLD: &str = "grip-hold";

/// A response that the host holds.
#[derive(Clone, Debug)]
pub struct Hold {
    instruct: Instruct,
}

/// Keeps the response open, and appends what is published on the channels.
pub fn stream(channels: impl IntoIterator<Item = impl Into<String>>) -> Hold {
    let channels = channels.into_iter().map(Channel::new);
    let instruct = Instruct::stream(channels);
    Hold { instruct }
}

/// Delays the response until something is published on one of the channels.
pub fn long_poll(channels: impl IntoIterator<Item = impl Into<String>>) -> Hold {
    let channels = channels.into_iter().map(Channel::new);
    let instruct = Instruct::response(channels);
    Hold { instruct }
}

impl Hold {
    /// Sets the time in seconds after which a long poll ends. The default is 55, and the minimum 5.
    pub fn timeout(mut self, seconds: u32) -> Hold {
        self.instruct.timeout = Some(seconds);
        self
    }

    /// Sends `data` on a stream that was idle for this number of seconds, so that proxies keep it open.
    pub fn keep_alive(self, data: impl Into<Bytes>, seconds: u32) -> Hold {
        let instruct = self.instruct.with_keep_alive(data, seconds);
        Hold { instruct }
    }

    /// Returns the response. `body` is the beginning of a stream, or what a long poll gets after its
    /// timeout.
    pub fn respond(self, content_type: &str, body: impl Into<Bytes>) -> Result<Response<Bytes>> {
        let mut response = Response::new(body.into());
        let content_type = HeaderValue::from_str(content_type)?;
        response.headers_mut().insert("content-type", content_type);
        add_headers(&mut response, &self.instruct)?;
        Ok(response)
    }
}

/// Adds the headers that instruct the host.
pub(crate) fn add_headers(response: &mut Response<Bytes>, instruct: &Instruct) -> Result {
    for (name, value) in instruct.to_headers()? {
        let name = HeaderName::from_bytes(name.as_bytes())?;
        let value = HeaderValue::from_str(&value)?;
        response.headers_mut().append(name, value);
    }
    Ok(())
}

/// Whether a response is to be held.
pub(crate) fn is_hold(response: &Response<Bytes>) -> bool {
    response.headers().contains_key(GRIP_HOLD)
}
