//! Authentication of the GRIP host by its `Grip-Sig` tokens.

use std::{cell::RefCell, time::SystemTime};

use grip::{Key, Verifier};
use spin_sdk::http::HeaderMap;

/// Verifies the `Grip-Sig` of requests that only the GRIP host may send.
#[derive(Debug)]
pub(crate) enum Authenticator {
    /// Rejects every request for the given reason, as there is no usable key.
    NoKey(String),
    /// Accepts requests signed with the key.
    Key(RefCell<Verifier>),
}

impl Authenticator {
    /// Creates an authenticator from the variable `grip_key`.
    pub(crate) fn new(grip_key: &str) -> Authenticator {
        if grip_key.is_empty() {
            return Authenticator::NoKey(
                "variable grip_key is empty: set it to the key of the GRIP host".into(),
            );
        }
        match Key::parse(grip_key) {
            Ok(key) => Authenticator::Key(RefCell::new(Verifier::new(key))),
            Err(error) => Authenticator::NoKey(format!("variable grip_key is invalid: {error}")),
        }
    }

    /// Checks that the GRIP host sent a request with these headers.
    pub(crate) fn authenticate(&self, headers: &HeaderMap, now: SystemTime) -> Result<(), String> {
        let verifier = match self {
            Authenticator::NoKey(reason) => return Err(reason.clone()),
            Authenticator::Key(verifier) => verifier,
        };
        let token = headers
            .get(grip::header::GRIP_SIG)
            .ok_or("Grip-Sig is missing: only the GRIP host may send this request")?;
        let token = token.to_str().map_err(|_| "Grip-Sig: invalid characters")?;
        match verifier.borrow_mut().verify(token, now) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("Grip-Sig: {error}")),
        }
    }

    /// Returns the key, which also signs requests to the host.
    pub(crate) fn key(&self) -> Option<Key> {
        match self {
            Authenticator::NoKey(_) => None,
            Authenticator::Key(verifier) => Some(verifier.borrow().key().clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use grip::signature::sign;
    use spin_sdk::http::HeaderValue;

    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn headers(token: &str) -> HeaderMap {
        HeaderMap::from_iter([(
            grip::header::GRIP_SIG.parse().unwrap(),
            HeaderValue::from_bytes(token.as_bytes()).unwrap(),
        )])
    }

    #[test]
    fn a_missing_or_invalid_key_rejects_every_request() {
        let reason = |key: &str| {
            let authenticator = Authenticator::new(key);
            authenticator.authenticate(&headers(""), NOW).unwrap_err()
        };
        assert!(
            reason("").contains("variable grip_key is empty"),
            "{}",
            reason("")
        );
        assert!(
            reason("base64:!").contains("grip_key"),
            "{}",
            reason("base64:!")
        );
        assert!(Authenticator::new("").key().is_none());
        assert!(Authenticator::new("key").key().is_some());
    }

    #[test]
    fn only_the_host_is_authenticated() {
        let authenticator = Authenticator::new("key");
        let authenticate = |token: &str| authenticator.authenticate(&headers(token), NOW);
        let token = |key: &str| {
            sign(
                &Key::parse(key).unwrap(),
                "host",
                NOW,
                Duration::from_secs(1),
            )
        };
        assert_eq!(authenticate(&token("key")), Ok(()));
        assert_eq!(authenticate(&token("key")), Ok(()));
        assert!(authenticate(&token("other")).is_err());
        assert!(authenticate("").is_err());
        assert!(authenticate("é").is_err());
        assert!(authenticator.authenticate(&HeaderMap::new(), NOW).is_err());
        assert!(
            authenticator
                .authenticate(&headers(&token("key")), NOW + Duration::from_secs(1))
                .is_err()
        );
    }
}
