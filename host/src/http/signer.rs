//! Signs what the host sends, so that a component knows whom it hears.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;

use grip::signature::{self, Key};
use http::HeaderValue;

/// The `iss` claim of every token.
const ISSUER: &str = "socket-host";
/// How long a token is good for.
const LIFETIME: Duration = Duration::from_secs(3600);
/// How long a token is sent before the next is made. Backends that remember the
/// last token they verified do so once in this time.
const REUSE: Duration = Duration::from_secs(60);

/// Makes `Grip-Sig` tokens with the host's key. Clones share the tokens.
#[derive(Clone)]
pub(crate) struct Signer {
    key: Key,
    /// By the clock that the token itself tells: others stand still while the machine sleeps.
    last: Arc<Mutex<Option<(HeaderValue, SystemTime)>>>,
}

impl Signer {
    /// A signer with this key.
    pub(crate) fn new(key: Key) -> Self {
        Self {
            key,
            last: Arc::default(),
        }
    }

    /// A token that is good for a while.
    pub(crate) fn token(&self) -> HeaderValue {
        self.token_at(SystemTime::now())
    }

    fn token_at(&self, now: SystemTime) -> HeaderValue {
        let mut last = self.last.lock();
        if let Some((token, made)) = &*last
            && now.duration_since(*made).is_ok_and(|age| age < REUSE)
        {
            return token.clone();
        }
        let token = signature::sign(&self.key, ISSUER, now, LIFETIME);
        // Base64url and dots.
        let mut token = HeaderValue::from_str(&token).unwrap_or(HeaderValue::from_static(""));
        token.set_sensitive(true);
        *last = Some((token.clone(), now));
        token
    }

    /// Whether a token was made with this key and is still good, or is the key itself, which
    /// libraries send when they are told no issuer.
    pub(crate) fn verifies(&self, token: &str) -> bool {
        signature::verify(&self.key, token, SystemTime::now()).is_ok() || self.key.matches(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_sent_for_a_while_and_never_when_its_time_is_over() {
        let signer = Signer::new(Key::parse("a key").expect("a key"));
        let start = SystemTime::now();
        let first = signer.token_at(start);
        assert_eq!(signer.token_at(start + REUSE / 2), first);
        // The machine slept, or its clock was set: forward, then back.
        for now in [start + LIFETIME * 2, start] {
            let token = signer.token_at(now);
            let text = token.to_str().expect("text");
            signature::verify(&signer.key, text, now).expect("it is good");
            assert_ne!(signer.token_at(now + REUSE), token);
        }
    }
}
