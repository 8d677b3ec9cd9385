//! Lets in requests of the GRIP host, known by its signature, and no others.

use std::{cell::RefCell, time::SystemTime};

use grip::{Key, Verifier};
use spin_sdk::http::HeaderMap;

/// Checks the `Grip-Sig` of requests that only the host may make.
#[derive(Debug)]
pub enum Gate {
    /// Nobody is let in, for this reason.
    Shut(String),
    /// Whoever signs with the key is let in.
    Guarded(RefCell<Verifier>),
}

impl Gate {
    /// The gate for the value of the variable `grip_key`.
    pub fn new(grip_key: &str) -> Gate {
        if grip_key.is_empty() {
            return Gate::Shut(
                "the variable grip_key is needed: the key that the GRIP host signs its requests with".into(),
            );
        }
        match Key::parse(grip_key) {
            Ok(key) => Gate::Guarded(RefCell::new(Verifier::new(key))),
            Err(error) => Gate::Shut(format!("the variable grip_key is of no use: {error}")),
        }
    }

    /// Lets a request in, or says why not.
    pub fn admit(&self, headers: &HeaderMap, now: SystemTime) -> Result<(), String> {
        let verifier = match self {
            Gate::Shut(reason) => return Err(reason.clone()),
            Gate::Guarded(verifier) => verifier,
        };
        let token = headers.get(grip::header::GRIP_SIG);
        let token = token.ok_or("only the GRIP host may ask for this: Grip-Sig is missing")?;
        let token = token.to_str().map_err(|_| "Grip-Sig: not a token")?;
        match verifier.borrow_mut().verify(token, now) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("Grip-Sig: {error}")),
        }
    }

    /// The key, for signing what goes to the host.
    pub fn key(&self) -> Option<Key> {
        match self {
            Gate::Shut(_) => None,
            Gate::Guarded(verifier) => Some(verifier.borrow().key().clone()),
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
    fn only_with_a_key() {
        let reason = |key: &str| Gate::new(key).admit(&headers(""), NOW).unwrap_err();
        assert!(
            reason("").contains("the variable grip_key is needed"),
            "{}",
            reason("")
        );
        assert!(
            reason("base64:!").contains("grip_key"),
            "{}",
            reason("base64:!")
        );
        assert!(Gate::new("").key().is_none());
        assert!(Gate::new("key").key().is_some());
    }

    #[test]
    fn only_the_host() {
        let gate = Gate::new("key");
        let admit = |token: &str| gate.admit(&headers(token), NOW);
        let token = |key: &str| {
            sign(
                &Key::parse(key).unwrap(),
                "host",
                NOW,
                Duration::from_secs(1),
            )
        };
        assert_eq!(admit(&token("key")), Ok(()));
        assert_eq!(admit(&token("key")), Ok(()));
        assert!(admit(&token("other")).is_err());
        assert!(admit("").is_err());
        assert!(admit("é").is_err());
        assert!(gate.admit(&HeaderMap::new(), NOW).is_err());
        assert!(
            gate.admit(&headers(&token("key")), NOW + Duration::from_secs(1))
                .is_err()
        );
    }
}
