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
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIFETIME: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn key(text: &str) -> Key {
        Key::parse(text).unwrap()
    }

    /// A token with any header and claims, signed with `key`.
    fn token(key: &Key, header: &str, claims: &str) -> String {
        let signed = format!(
            "{}.{}",
            BASE64_URL_SAFE_NO_PAD.encode(header),
            BASE64_URL_SAFE_NO_PAD.encode(claims)
        );
        let signature = key.mac(&signed).finalize().into_bytes();
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }

    const HS256: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

    #[test]
    fn agrees_with_others() {
        // The example of RFC 7515, appendix A.1, whose claims are valid until 2011.
        let key = key(
            "base64:AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ+EstJQLr/T+1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow==",
        );
        let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9\
            .eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ\
            .dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        let claims = verify(&key, token, at(1300819379)).unwrap();
        assert_eq!(
            claims,
            Claims {
                issuer: Some("joe".into()),
                expires: at(1300819380)
            }
        );
        assert_eq!(
            verify(&key, token, at(1300819380)),
            Err(SignatureError::Expired)
        );
    }

    #[test]
    fn keys() {
        assert_eq!(Key::parse("").unwrap_err(), KeyError::Empty);
        assert_eq!(Key::parse("base64:").unwrap_err(), KeyError::Empty);
        assert!(matches!(
            Key::parse("base64:!").unwrap_err(),
            KeyError::Base64(_)
        ));
        let token = sign(&key("key"), "me", at(0), LIFETIME);
        assert!(verify(&key("base64:a2V5"), &token, at(0)).is_ok());
        assert_eq!(format!("{:?}", key("secret")), "Key(…)");
    }

    #[test]
    fn only_hs256_and_only_this_key() {
        let key = key("key");
        let claims = r#"{"exp":60}"#;
        assert!(verify(&key, &token(&key, HS256, claims), at(0)).is_ok());
        let other = Key::parse("other").unwrap();
        assert_eq!(
            verify(&key, &token(&other, HS256, claims), at(0)),
            Err(SignatureError::Signature)
        );
        for header in [
            r#"{"alg":"none"}"#,
            r#"{"alg":"HS512"}"#,
            r#"{"alg":"RS256"}"#,
            r#"{"alg":"hs256"}"#,
            r#"{"alg":"HS256","crit":["b64"]}"#,
        ] {
            assert_eq!(
                verify(&key, &token(&key, header, claims), at(0)),
                Err(SignatureError::Algorithm),
                "{header}"
            );
        }
        let unsigned = token(&key, HS256, claims);
        let (unsigned, signature) = unsigned.rsplit_once('.').unwrap();
        for cut in 0..signature.len() {
            let result = verify(&key, &format!("{unsigned}.{}", &signature[..cut]), at(0));
            assert!(
                matches!(
                    result,
                    Err(SignatureError::Signature | SignatureError::Malformed)
                ),
                "{cut}"
            );
        }
    }

    #[test]
    fn only_within_its_time() {
        let key = key("key");
        let check =
            |claims: &str, now| verify(&key, &token(&key, HS256, claims), at(now)).map(drop);
        assert_eq!(check(r#"{"exp":60}"#, 59), Ok(()));
        assert_eq!(check(r#"{"exp":60}"#, 60), Err(SignatureError::Expired));
        assert_eq!(check(r#"{"exp":60.5}"#, 60), Ok(()));
        assert_eq!(check(r#"{"exp":60,"nbf":30}"#, 30), Ok(()));
        assert_eq!(
            check(r#"{"exp":60,"nbf":30}"#, 29),
            Err(SignatureError::NotYet)
        );
        for claims in [
            r#"{}"#,
            r#"{"exp":null}"#,
            r#"{"exp":-1}"#,
            r#"{"exp":1e300}"#,
        ] {
            assert_eq!(check(claims, 0), Err(SignatureError::NoExpiry), "{claims}");
        }
        for claims in ["", "[]", r#"{"exp":"60"}"#, "\u{1}"] {
            assert_eq!(check(claims, 0), Err(SignatureError::Malformed), "{claims}");
        }
        for token in [
            "",
            ".",
            "..",
            "...",
            "a.b",
            "a.b.c.d",
            &"x".repeat(MAX_TOKEN + 1),
        ] {
            assert_eq!(
                verify(&key, token, at(0)),
                Err(SignatureError::Malformed),
                "{token}"
            );
        }
    }

    #[test]
    fn a_verifier_remembers_but_not_beyond_expiry() {
        let key = key("key");
        let mut verifier = Verifier::new(key.clone());
        let first = sign(&key, "a", at(0), LIFETIME);
        let second = sign(&key, "b", at(30), LIFETIME);
        for _ in 0..2 {
            assert_eq!(
                verifier.verify(&first, at(1)).unwrap().issuer.as_deref(),
                Some("a")
            );
            assert_eq!(
                verifier.verify(&first, at(2)).unwrap().issuer.as_deref(),
                Some("a")
            );
            assert_eq!(
                verifier.verify(&second, at(31)).unwrap().issuer.as_deref(),
                Some("b")
            );
        }
        assert_eq!(
            verifier.verify("no", at(31)),
            Err(SignatureError::Malformed)
        );
        // What was refused neither counts next time nor displaces what counted.
        assert_eq!(
            verifier.verify("no", at(31)),
            Err(SignatureError::Malformed)
        );
        assert!(verifier.verify(&second, at(89)).is_ok());
        assert_eq!(
            verifier.verify(&second, at(90)),
            Err(SignatureError::Expired)
        );
        assert_eq!(
            verifier.verify(&second, at(90)),
            Err(SignatureError::Expired)
        );
    }

    proptest! {
        #[test]
        fn what_is_signed_is_valid_until_it_expires(
            secret in prop::collection::vec(any::<u8>(), 1..200),
            issuer in any::<String>(),
            now in 0u64..1 << 40,
            lifetime in 1u64..1 << 20,
            passed in 0u64..1 << 21,
        ) {
            let key = Key::new(&secret).unwrap();
            let token = sign(&key, &issuer, at(now), Duration::from_secs(lifetime));
            prop_assume!(token.len() <= MAX_TOKEN);
            let result = verify(&key, &token, at(now + passed));
            if passed < lifetime {
                prop_assert_eq!(result.unwrap(), Claims { issuer: Some(issuer), expires: at(now + lifetime) });
            } else {
                prop_assert_eq!(result, Err(SignatureError::Expired));
            }
        }

        #[test]
        fn no_token_panics(token in "[A-Za-z0-9_.=-]{0,80}|.{0,40}") {
            prop_assert!(verify(&key("key"), &token, at(0)).is_err());
        }

        #[test]
        fn no_changed_token_counts(position in any::<prop::sample::Index>(), byte in 0x21u8..0x7f) {
            let key = key("key");
            let token = sign(&key, "me", at(0), LIFETIME);
            let mut changed = token.clone().into_bytes();
            changed[position.index(token.len())] = byte;
            let changed = String::from_utf8(changed).unwrap();
            prop_assert_eq!(verify(&key, &changed, at(0)).is_ok(), changed == token);
        }
    }
}
