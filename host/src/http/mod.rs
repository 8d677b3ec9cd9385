//! HTTP building blocks that the gateway, held requests, WebSockets and upstreams share.
//!
//! - [`framing`] finds requests that servers read differently.
//! - [`validate`] refuses malformed and forged requests.
//! - [`target`] normalizes request targets.
//! - [`extended_connect`] recognizes WebSockets over HTTP/2.
//! - [`headers`] removes hop-by-hop and private headers and parses comma-separated lists.
//! - [`trailers`] removes trailers that pose as headers.
//! - [`forwarded`] sets `Forwarded` and `X-Forwarded-*` for upstreams.
//! - [`origin`] decides which pages may use what the host holds open.
//! - [`error_response`] builds the responses that the host sends by itself.
//! - [`body`] reads whole bodies within limits.
//! - [`signer`] creates and verifies `Grip-Sig` tokens.

pub(crate) mod body;
pub(crate) mod error_response;
pub(crate) mod extended_connect;
pub(crate) mod forwarded;
pub(crate) mod framing;
pub(crate) mod headers;
pub(crate) mod origin;
pub(crate) mod signer;
pub(crate) mod target;
pub(crate) mod trailers;
pub(crate) mod validate;
