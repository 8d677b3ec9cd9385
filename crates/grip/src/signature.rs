//! The tokens that show who sent a request: JWT, HS256 with a shared key, claims `iss` and `exp`.
//!
//! No clock in here: whoever signs or verifies says what time it is. HS256 is the
//! only algorithm, whatever a token's header asks for.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// The longest token that is looked at, in bytes.
pub const MAX_TOKEN: usize = 4096;

/// A shared key, never empty, prepared for signing.
#[derive(Clone)]
pub struct Key {
    mac: Hmac<Sha256>,
}

/// Why a text is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A key of no bytes would let anyone sign.
    #[error("the key is empty")]
    Empty,
    /// What follows `base64:` is not base64.
    #[error("the key begins with base64: but what follows is not: {0}")]
    Base64(String),
}

/// What a valid token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Who signed it.
    pub issuer: Option<String>,
    /// From when on it is no longer valid.
    pub expires: SystemTime,
}

/// Why a token does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Not three parts of base64 with JSON in the first two, or longer than [`MAX_TOKEN`].
    #[error("not a token: a JWT of at most {MAX_TOKEN} bytes is expected")]
    Malformed,
    /// Signed in another way, or one that needs to be understood and is not.
    #[error("the token's algorithm must be HS256, without extensions")]
    Algorithm,
    /// Not signed with this key.
    #[error("the token is not signed with this key")]
    Signature,
    /// No time of expiry, or one that is not a number of seconds.
    #[error("the token must have a time of expiry (exp)")]
    NoExpiry,
    /// No longer valid.
    #[error("the token has expired")]
    Expired,
    /// Not yet valid.
    #[error("the token is not valid yet (nbf)")]
    NotYet,
}

impl Key {
    /// A key as it is given on a command line or in a variable: its text, or
    /// `base64:` and its bytes in base64.
    pub fn parse(text: &str) -> Result<Key, KeyError> {
        match text.strip_prefix("base64:") {
            None => Key::new(text.as_bytes()),
            Some(encoded) => {
                let decoded = BASE64_STANDARD.decode(encoded.trim());
                Key::new(&decoded.map_err(|error| KeyError::Base64(error.to_string()))?)
            }
        }
    }

    /// A key of these bytes.
    pub fn new(bytes: &[u8]) -> Result<Key, KeyError> {
        if bytes.is_empty() {
            return Err(KeyError::Empty);
        }
        // HMAC takes keys of any length: this cannot fail.
        let mac = Hmac::new_from_slice(bytes).map_err(|_| KeyError::Empty)?;
        Ok(Key { mac })
    }

    /// Whether this is the key that [`Key::parse`] reads from `text`; in constant time.
    pub fn is(&self, text: &str) -> bool {
        let Ok(other) = Key::parse(text) else {
            return false;
        };
        let proof = other.mac("").finalize().into_bytes();
        self.mac("").verify_slice(&proof).is_ok()
    }

    fn mac(&self, signed: &str) -> Hmac<Sha256> {
        self.mac.clone().chain_update(signed)
    }
}

impl fmt::Debug for Key {
    /// Not the key: it would end up in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Claims {
    /// Whether the token is no longer valid.
    pub fn is_expired(&self, now: SystemTime) -> bool {
        now >= self.expires
    }
}

/// A token by `issuer`, valid from `now` for `lifetime` (in whole seconds).
pub fn sign(key: &Key, issuer: &str, now: SystemTime, lifetime: Duration) -> String {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let expires = now.as_secs().saturating_add(lifetime.as_secs());
    let claims = json!({ "iss": issuer, "exp": expires }).to_string();
    let mut token = BASE64_URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"HS256"}"#);
    token.push('.');
    BASE64_URL_SAFE_NO_PAD.encode_string(claims, &mut token);
    let signature = key.mac(&token).finalize().into_bytes();
    token.push('.');
    BASE64_URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    token
}

/// Checks who signed a token and that it is valid now; there is no leeway.
pub fn verify(key: &Key, token: &str, now: SystemTime) -> Result<Claims, SignatureError> {
    #[derive(Deserialize)]
    struct Header {
        alg: String,
        crit: Option<Value>,
    }

    #[derive(Deserialize)]
    struct Payload {
        iss: Option<String>,
        exp: Option<f64>,
        nbf: Option<f64>,
    }

    /// Seconds since the epoch; RFC 7519 allows fractions.
    fn time(seconds: f64) -> Option<SystemTime> {
        UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
    }

    if token.len() > MAX_TOKEN {
        return Err(SignatureError::Malformed);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(SignatureError::Malformed)?;
    let (header, payload) = signed.split_once('.').ok_or(SignatureError::Malformed)?;
    let decode = |part: &str| {
        BASE64_URL_SAFE_NO_PAD
            .decode(part)
            .map_err(|_| SignatureError::Malformed)
    };
    let (header, payload, signature) = (decode(header)?, decode(payload)?, decode(signature)?);
    let header: Header = serde_json::from_slice(&header).map_err(|_| SignatureError::Malformed)?;
    if header.alg != "HS256" || header.crit.is_some() {
        return Err(SignatureError::Algorithm);
    }
    key.mac(signed)
        .verify_slice(&signature)
        .map_err(|_| SignatureError::Signature)?;
    let payload: Payload =
        serde_json::from_slice(&payload).map_err(|_| SignatureError::Malformed)?;
    let claims = Claims {
        issuer: payload.iss,
        expires: payload.exp.and_then(time).ok_or(SignatureError::NoExpiry)?,
    };
    if claims.is_expired(now) {
        return Err(SignatureError::Expired);
    }
    match payload.nbf.map(time) {
        Some(Some(from)) if from <= now => Ok(claims),
        Some(_) => Err(SignatureError::NotYet),
        None => Ok(claims),
    }
}

/// Verifies a stream of tokens of which most are the one before: that one costs a
/// comparison instead of an HMAC. Expiry is checked each time.
#[derive(Clone, Debug)]
pub struct Verifier {
    key: Key,
    last: Option<(String, Claims)>,
}

impl Verifier {
    /// Verifies tokens signed with `key`.
    pub fn new(key: Key) -> Verifier {
        Verifier { key, last: None }
    }

    /// As [`verify`].
    pub fn verify(&mut self, token: &str, now: SystemTime) -> Result<&Claims, SignatureError> {
        let seen = match &self.last {
            // In constant time: how long a comparison takes must not tell a stranger
            // how much of a valid token was guessed.
            Some((last, claims)) if last.as_bytes().ct_eq(token.as_bytes()).into() => {
                if claims.is_expired(now) {
                    return Err(SignatureError::Expired);
                }
                self.last.take()
            }
            _ => None,
        };
        let verified = match seen {
            Some(seen) => seen,
            None => (token.to_owned(), verify(&self.key, token, now)?),
        };
        Ok(&self.last.insert(verified).1)
    }

    /// The key.
    pub fn key(&self) -> &Key {
        &self.key
    }
}

#[cfg(test)]
mod tests;
