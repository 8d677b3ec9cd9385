//! Signs the host's requests, so that backends can verify where they come from.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use grip::signature::{self, Key, SignatureError};
use http::HeaderValue;
use parking_lot::Mutex;

use crate::config::Limits;

/// The `iss` claim of every token.
const ISSUER: &str = "socket-host";
/// How long a token is valid.
const LIFETIME: Duration = Limits::DEFAULT.token_lifetime;
/// How long a token is reused. A backend that caches the last verified token verifies one
/// signature in this time.
const REUSE: Duration = Duration::from_secs(60);

/// Creates and verifies `Grip-Sig` tokens with the host's key. Clones share the current token.
#[derive(Clone)]
pub(crate) struct Signer {
    key: Key,
    /// The current token and when it was created, by the wall clock: the token's expiry is
    /// compared with it, and monotonic clocks may stop while the machine sleeps.
    current: Arc<Mutex<Option<(HeaderValue, SystemTime)>>>,
}

impl Signer {
    pub(crate) fn new(key: Key) -> Self {
        Self {
            key,
            current: Arc::default(),
        }
    }

    /// Returns the current token, or a new one if that is older than [`REUSE`].
    pub(crate) fn token(&self) -> HeaderValue {
        self.token_at(SystemTime::now())
    }

    fn token_at(&self, now: SystemTime) -> HeaderValue {
        let mut current = self.current.lock();
        if let Some((token, created)) = &*current
            && now.duration_since(*created).is_ok_and(|age| age < REUSE)
        {
            return token.clone();
        }
        let token = signature::sign(&self.key, ISSUER, now, LIFETIME);
        // Tokens consist of base64url and dots, so this does not fail.
        let mut token = HeaderValue::from_str(&token).unwrap_or(HeaderValue::from_static(""));
        token.set_sensitive(true);
        *current = Some((token.clone(), now));
        token
    }

    /// Checks that a token was signed with the host's key and is still valid.
    ///
    /// The key itself is accepted too: GRIP libraries send it when no issuer is configured.
    ///
    /// # Errors
    /// Says what is wrong with the token.
    pub(crate) fn verify(&self, token: &str) -> Result<(), SignatureError> {
        match signature::verify(&self.key, token, SystemTime::now()) {
            Ok(_) => Ok(()),
            Err(_) if self.key.matches(token) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_reused_until_it_is_old() {
        let signer = Signer::new(Key::parse("a key").expect("a key"));
        let start = SystemTime::now();
        let first = signer.token_at(start);
        assert_eq!(signer.token_at(start + REUSE / 2), first);
        // The machine slept or its clock was changed, forwards and then backwards.
        for now in [start + LIFETIME * 2, start] {
            let token = signer.token_at(now);
            let text = token.to_str().expect("text");
            signature::verify(&signer.key, text, now).expect("a valid token");
            assert_ne!(signer.token_at(now + REUSE), token);
        }
    }
}
