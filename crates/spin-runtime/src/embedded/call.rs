//! Calls between the components of an application.

use http::Request;

use crate::backend::{Body, Caller, ResponseFuture};

/// The context of a request, which the requests that its component sends inherit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    /// The sender of the first request.
    pub(crate) caller: Caller,
    /// The number of components that have called each other before this one.
    pub(crate) depth: u8,
    /// Whether it waits while the component is overloaded, instead of failing at once.
    pub(crate) waits: bool,
}

/// Calls components of the current application.
pub(crate) trait LocalCalls: Send + Sync {
    /// Calls the component that the routes select.
    fn call(&self, request: Request<Body>, call: Call) -> ResponseFuture<'_>;

    /// Calls a component by its id, regardless of its routes.
    fn call_component<'a>(
        &'a self,
        id: &'a str,
        request: Request<Body>,
        call: Call,
    ) -> ResponseFuture<'a>;
}
