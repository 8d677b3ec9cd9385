//! Tokens that prove who sent a request: JWTs with the claims `iss` and `exp`.
//!
//! Tokens are signed with a shared key and HS256, the only algorithm supported. The current
//! time is a parameter, so this module does not need a clock.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::mime_base64;

/// The maximum length of a token in bytes.
pub const MAX_TOKEN_LEN: usize = 4096;

/// A shared key, which is never empty.
#[derive(Clone)]
pub struct Key {
    mac: Hmac<Sha256>,
}

/// The reason why a key cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The key is empty, so anyone could sign with it.
    #[error("empty key")]
    Empty,
    /// The text after `base64:` is not base64.
    #[error("invalid key after \"base64:\": {0}")]
    Base64(String),
}

/// The claims of a valid token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The issuer of the token.
    pub issuer: Option<String>,
    /// The time at which the token expires.
    pub expires: SystemTime,
}

/// The reason why a token is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The token is not a JWT, or longer than [`MAX_TOKEN_LEN`].
    #[error("malformed token: expected a JWT of at most {MAX_TOKEN_LEN} bytes")]
    Malformed,
    /// The token is not signed with HS256, or has critical extensions.
    #[error("unsupported token: expected HS256 without critical extensions")]
    UnsupportedAlgorithm,
    /// The token is not signed with this key.
    #[error("invalid token signature")]
    InvalidSignature,
    /// The token has no expiration time, or an invalid one.
    #[error("missing or invalid expiration time (exp)")]
    MissingExpiry,
    /// The token has expired.
    #[error("token expired")]
    Expired,
    /// The token is not valid yet.
    #[error("token not valid yet (nbf)")]
    NotYetValid,
}

impl Key {
    /// Parses a key: plain text, or `base64:` followed by bytes in base64.
    pub fn parse(text: &str) -> Result<Key, KeyError> {
        match text.strip_prefix("base64:") {
            None => Key::new(text.as_bytes()),
            Some(encoded) => {
                let decoded = mime_base64::decode(encoded);
                Key::new(&decoded.map_err(|error| KeyError::Base64(error.to_string()))?)
            }
        }
    }

    /// Creates a key from bytes.
    pub fn new(bytes: &[u8]) -> Result<Key, KeyError> {
        if bytes.is_empty() {
            return Err(KeyError::Empty);
        }
        // This cannot fail: HMAC accepts keys of any length.
        let mac = Hmac::new_from_slice(bytes).map_err(|_| KeyError::Empty)?;
        Ok(Key { mac })
    }

    /// Whether this is the key that [`Key::parse`] returns for `text`. Takes constant time.
    pub fn matches(&self, text: &str) -> bool {
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
    /// Hides the key, so that it cannot end up in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Claims {
    /// Whether the token has expired.
    pub fn is_expired(&self, now: SystemTime) -> bool {
        now >= self.expires
    }
}

/// Signs a token that is valid from `now` for `lifetime`, in whole seconds.
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

/// Verifies the signature of a token and that it is valid now, without leeway.
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

    /// Converts seconds since the epoch. RFC 7519 allows fractions.
    fn time(seconds: f64) -> Option<SystemTime> {
        UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
    }

    if token.len() > MAX_TOKEN_LEN {
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
        return Err(SignatureError::UnsupportedAlgorithm);
    }
    key.mac(signed)
        .verify_slice(&signature)
        .map_err(|_| SignatureError::InvalidSignature)?;
    let payload: Payload =
        serde_json::from_slice(&payload).map_err(|_| SignatureError::Malformed)?;
    let claims = Claims {
        issuer: payload.iss,
        expires: payload
            .exp
            .and_then(time)
            .ok_or(SignatureError::MissingExpiry)?,
    };
    if claims.is_expired(now) {
        return Err(SignatureError::Expired);
    }
    match payload.nbf.map(time) {
        Some(Some(from)) if from <= now => Ok(claims),
        Some(_) => Err(SignatureError::NotYetValid),
        None => Ok(claims),
    }
}

/// Verifies tokens, and caches the last valid one.
///
/// Senders use a token many times, and a repeated token costs a comparison instead of an
/// HMAC. Expiry is checked each time.
#[derive(Clone, Debug)]
pub struct Verifier {
    key: Key,
    last: Option<(String, Claims)>,
}

impl Verifier {
    /// Creates a verifier of tokens that are signed with `key`.
    pub fn new(key: Key) -> Verifier {
        Verifier { key, last: None }
    }

    /// Verifies a token, as [`verify`] does.
    pub fn verify(&mut self, token: &str, now: SystemTime) -> Result<&Claims, SignatureError> {
        let cached = match &self.last {
            // In constant time, so that the duration does not reveal how much of a valid
            // token was guessed.
            Some((last, claims)) if last.as_bytes().ct_eq(token.as_bytes()).into() => {
                if claims.is_expired(now) {
                    return Err(SignatureError::Expired);
                }
                self.last.take()
            }
            _ => None,
        };
        let verified = match cached {
            Some(verified) => verified,
            None => (token.to_owned(), verify(&self.key, token, now)?),
        };
        Ok(&self.last.insert(verified).1)
    }

    /// Returns the key.
    pub fn key(&self) -> &Key {
        &self.key
    }
}

#[cfg(test)]
mod tests;
