//! Signs what the host sends, so that a component knows whom it hears.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use grip::signature::{self, Key};
use http::HeaderValue;

/// The `iss` claim of every token.
const ISSUER: &str = "socket-host";
/// How long a token is good for.
const LIFETIME: Duration = Duration::from_secs(3600);
/// How long a token is sent before the next is made. Backends that remember the
/// last token they verified do so once in this time.
const REUSE: Duration = Duration::from_secs(60);

/// Makes `Grip-Sig` tokens with the host's key.
pub struct Signer {
    key: Key,
    last: Mutex<Option<(HeaderValue, Instant)>>,
}

impl Signer {
    /// A signer with this key.
    pub fn new(key: Key) -> Self {
        Self {
            key,
            last: Mutex::new(None),
        }
    }

    /// A token that is good for a while.
    pub fn token(&self) -> HeaderValue {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((token, made)) = &*last
            && made.elapsed() < REUSE
        {
            return token.clone();
        }
        let token = signature::sign(&self.key, ISSUER, SystemTime::now(), LIFETIME);
        // Base64url and dots.
        let mut token = HeaderValue::from_str(&token).unwrap_or(HeaderValue::from_static(""));
        token.set_sensitive(true);
        *last = Some((token.clone(), Instant::now()));
        token
    }

    /// Whether a token was made with this key and is still good, or is the key itself, which
    /// libraries send when they are told no issuer.
    pub fn verifies(&self, token: &str) -> bool {
        signature::verify(&self.key, token, SystemTime::now()).is_ok() || self.key.is(token)
    }
}
