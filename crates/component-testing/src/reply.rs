//! What a fake server replies.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use spin_runtime::{
    backend::{Body, full},
    simulation::ServerError,
};

/// The reply of a fake server to a request of a component.
#[derive(Clone, Debug)]
pub struct Reply {
    result: Result<Response<Bytes>, ServerError>,
    delay: Duration,
}

impl Reply {
    /// Creates a response with status 200.
    pub fn ok(body: impl Into<Bytes>) -> Self {
        Response::new(body.into()).into()
    }

    /// Creates a response with a status and no body.
    ///
    /// # Panics
    /// Panics if `status` is not a status code.
    pub fn status(status: u16) -> Self {
        let status = StatusCode::from_u16(status);
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = status.unwrap_or_else(|error| panic!("{error}"));
        response.into()
    }

    /// Refuses the connection.
    pub fn refuse() -> Self {
        Self::fail(ServerError::ConnectionRefused)
    }

    /// Fails with an error that the component gets as an internal error of its HTTP client.
    pub fn error(text: impl Into<String>) -> Self {
        Self::fail(ServerError::Other(text.into()))
    }

    fn fail(error: ServerError) -> Self {
        Self {
            result: Err(error),
            delay: Duration::ZERO,
        }
    }

    /// Adds a header, if this is a response.
    ///
    /// # Panics
    /// Panics if the name or the value is not that of a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Ok(response) = &mut self.result {
            let name: HeaderName = name.parse().expect("a valid name of a header");
            let value = HeaderValue::from_str(value).expect("a valid value of a header");
            response.headers_mut().append(name, value);
        }
        self
    }

    /// Sends the reply later.
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Waits until the reply is due.
    pub(crate) async fn send(self) -> Result<Response<Body>, ServerError> {
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        self.result.map(|response| response.map(full))
    }
}

impl<B: Into<Bytes>> From<Response<B>> for Reply {
    fn from(response: Response<B>) -> Self {
        Self {
            result: Ok(response.map(Into::into)),
            delay: Duration::ZERO,
        }
    }
}
