//! Tests of keys and tokens.

use proptest::prelude::*;

use super::*;

const LIFETIME: Duration = Duration::from_secs(60);

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

/// Signs a token with any header and claims.
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
fn example_of_rfc_7515_is_valid() {
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
fn keys_are_text_or_base64() {
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
fn other_algorithms_and_keys_are_rejected() {
    let key = key("key");
    let claims = r#"{"exp":60}"#;
    assert!(verify(&key, &token(&key, HS256, claims), at(0)).is_ok());
    let other = Key::parse("other").unwrap();
    assert_eq!(
        verify(&key, &token(&other, HS256, claims), at(0)),
        Err(SignatureError::InvalidSignature)
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
            Err(SignatureError::UnsupportedAlgorithm),
            "{header}"
        );
    }
    let unsigned = token(&key, HS256, claims);
    let (unsigned, signature) = unsigned.rsplit_once('.').unwrap();
    for end in 0..signature.len() {
        let result = verify(&key, &format!("{unsigned}.{}", &signature[..end]), at(0));
        assert!(
            matches!(
                result,
                Err(SignatureError::InvalidSignature | SignatureError::Malformed)
            ),
            "{end}"
        );
    }
}

#[test]
fn token_is_valid_from_nbf_until_exp() {
    let key = key("key");
    let check = |claims: &str, now| verify(&key, &token(&key, HS256, claims), at(now)).map(drop);
    assert_eq!(check(r#"{"exp":60}"#, 59), Ok(()));
    assert_eq!(check(r#"{"exp":60}"#, 60), Err(SignatureError::Expired));
    assert_eq!(check(r#"{"exp":60.5}"#, 60), Ok(()));
    assert_eq!(check(r#"{"exp":60,"nbf":30}"#, 30), Ok(()));
    assert_eq!(
        check(r#"{"exp":60,"nbf":30}"#, 29),
        Err(SignatureError::NotYetValid)
    );
    for claims in [
        r#"{}"#,
        r#"{"exp":null}"#,
        r#"{"exp":-1}"#,
        r#"{"exp":1e300}"#,
    ] {
        assert_eq!(
            check(claims, 0),
            Err(SignatureError::MissingExpiry),
            "{claims}"
        );
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
        &"x".repeat(MAX_TOKEN_LEN + 1),
    ] {
        assert_eq!(
            verify(&key, token, at(0)),
            Err(SignatureError::Malformed),
            "{token}"
        );
    }
}

#[test]
fn verifier_caches_tokens_until_they_expire() {
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
    // An invalid token is neither cached nor does it evict the cached one.
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
    fn signed_token_is_valid_until_it_expires(
        secret in prop::collection::vec(any::<u8>(), 1..200),
        issuer in any::<String>(),
        now in 0u64..1 << 40,
        lifetime in 1u64..1 << 20,
        elapsed in 0u64..1 << 21,
    ) {
        let key = Key::new(&secret).unwrap();
        let token = sign(&key, &issuer, at(now), Duration::from_secs(lifetime));
        prop_assume!(token.len() <= MAX_TOKEN_LEN);
        let result = verify(&key, &token, at(now + elapsed));
        if elapsed < lifetime {
            prop_assert_eq!(result.unwrap(), Claims { issuer: Some(issuer), expires: at(now + lifetime) });
        } else {
            prop_assert_eq!(result, Err(SignatureError::Expired));
        }
    }

    #[test]
    fn verify_never_panics(token in "[A-Za-z0-9_.=-]{0,80}|.{0,40}") {
        prop_assert!(verify(&key("key"), &token, at(0)).is_err());
    }

    #[test]
    fn changed_token_is_invalid(position in any::<prop::sample::Index>(), byte in 0x21u8..0x7f) {
        let key = key("key");
        let token = sign(&key, "me", at(0), LIFETIME);
        let mut changed = token.clone().into_bytes();
        changed[position.index(token.len())] = byte;
        let changed = String::from_utf8(changed).unwrap();
        prop_assert_eq!(verify(&key, &changed, at(0)).is_ok(), changed == token);
    }
}

#[test]
fn key_matches_its_own_text() {
    let key = Key::parse("base64:c2VjcmV0").unwrap();
    assert!(key.matches("base64:c2VjcmV0") && key.matches("secret"));
    assert!(!key.matches("Secret") && !key.matches("") && !key.matches("base64:-"));
}
