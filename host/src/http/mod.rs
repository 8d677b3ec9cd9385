//! What is the same for all HTTP: headers, forwarding, error responses, signatures.

pub(crate) mod error_response;
pub(crate) mod forwarded;
pub(crate) mod headers;
pub(crate) mod signer;
