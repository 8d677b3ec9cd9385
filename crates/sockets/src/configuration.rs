//! Settings from the component's variables, and errors that tell how to set them.

use std::{
    cell::{Cell, RefCell},
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use grip::{Key, Verifier, header, signature};
use http::HeaderMap;

/// The length of the fingerprint of a key.
const FINGERPRINT_LEN: usize = 16;

/// A placeholder for the name of the component, if it is not known.
const UNKNOWN_NAME: &str = "NAME";

thread_local! {
    /// The name of the package, which usually is that of the component.
    static COMPONENT: Cell<&'static str> = const { Cell::new(UNKNOWN_NAME) };
}

/// Sets the name of the component, for messages.
#[cfg(target_family = "wasm")]
pub(crate) fn set_component(name: &'static str) {
    COMPONENT.set(name);
}

/// A variable that the component needs is missing or invalid. The message lists the lines that belong
/// into the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigurationError {
    problem: String,
}

impl ConfigurationError {
    fn new(problem: impl Into<String>) -> ConfigurationError {
        ConfigurationError {
            problem: problem.into(),
        }
    }
}

impl fmt::Display for ConfigurationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (problem, lines) = (&self.problem, manifest_lines());
        write!(f, "{problem}\nspin.toml needs these lines:\n\n{lines}")
    }
}

impl std::error::Error for ConfigurationError {}

/// Returns the lines of a manifest that the crate needs.
pub(crate) fn manifest_lines() -> String {
    let name = COMPONENT.get();
    format!(
        r#"[variables]
grip_url = {{ default = "http://127.0.0.1:5561" }}
grip_key = {{ default = "", secret = true }}

[component.{name}]
key_value_stores = ["default"]
allowed_outbound_hosts = ["{{{{ grip_url }}}}"]

[component.{name}.variables]
grip_url = "{{{{ grip_url }}}}"
grip_key = "{{{{ grip_key }}}}"
"#
    )
}

/// A request that only the GRIP host may send comes from somebody else, or that cannot be verified.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unauthorized {
    /// Its token is missing or invalid.
    #[error("{0}")]
    Token(String),
    /// The key is not known.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
}

impl Unauthorized {
    /// Returns the reason in one line.
    pub fn reason(&self) -> &str {
        match self {
            Unauthorized::Token(reason) => reason,
            Unauthorized::Configuration(error) => &error.problem,
        }
    }
}

/// The settings of an instance.
#[derive(Debug)]
pub(crate) struct Settings {
    verifier: Result<RefCell<Verifier>, ConfigurationError>,
    url: Result<String, ConfigurationError>,
}

impl Settings {
    /// Reads the values of the variables `grip_url` and `grip_key`, or the reasons why there are none.
    pub(crate) fn new(url: Result<String, String>, key: Result<String, String>) -> Settings {
        let problem = |name: &str, problem: String| {
            ConfigurationError::new(format!("variable {name} cannot be read: {problem}"))
        };
        let url = url.map_err(|error| problem("grip_url", error));
        let key = key.map_err(|error| problem("grip_key", error));
        Settings {
            verifier: key.and_then(|key| verifier(&key)),
            url: url.and_then(|url| {
                if url.is_empty() {
                    let problem = "variable grip_url is empty: expected the URL of the GRIP host's \
                                   control port";
                    return Err(ConfigurationError::new(problem));
                }
                Ok(url.trim_end_matches('/').to_owned())
            }),
        }
    }

    /// Checks that the GRIP host sent a request with these headers.
    pub(crate) fn authenticate(
        &self,
        headers: &HeaderMap,
        now: SystemTime,
    ) -> Result<(), Unauthorized> {
        let verifier = match &self.verifier {
            Ok(verifier) => verifier,
            Err(error) => return Err(Unauthorized::Configuration(error.clone())),
        };
        let invalid = |reason: &str| Unauthorized::Token(format!("Grip-Sig: {reason}"));
        let token = headers
            .get(header::GRIP_SIG)
            .ok_or_else(|| invalid("missing: only the GRIP host may send this request"))?;
        let token = token.to_str().map_err(|_| invalid("invalid characters"))?;
        match verifier.borrow_mut().verify(token, now) {
            Ok(_) => Ok(()),
            Err(error) => Err(invalid(&error.to_string())),
        }
    }

    /// Returns the URL of the control port, without a slash at its end.
    #[cfg_attr(not(any(target_family = "wasm", test)), expect(dead_code))]
    pub(crate) fn url(&self) -> Result<&str, ConfigurationError> {
        match &self.url {
            Ok(url) => Ok(url),
            Err(error) => Err(error.clone()),
        }
    }

    /// Returns the key, which also signs requests to the host.
    #[cfg_attr(not(any(target_family = "wasm", test)), expect(dead_code))]
    pub(crate) fn key(&self) -> Option<Key> {
        let verifier = self.verifier.as_ref().ok()?;
        Some(verifier.borrow().key().clone())
    }
}

fn verifier(key: &str) -> Result<RefCell<Verifier>, ConfigurationError> {
    if key.is_empty() {
        return Err(ConfigurationError::new(
            "variable grip_key is empty: start the application with `socket-host up`, or set the \
             variable to the key of the GRIP host",
        ));
    }
    match Key::parse(key) {
        Ok(key) => Ok(RefCell::new(Verifier::new(key))),
        Err(error) => {
            let problem = format!("variable grip_key is invalid: {error}");
            Err(ConfigurationError::new(problem))
        }
    }
}

/// Returns text that identifies a key and does not reveal it.
#[cfg_attr(not(any(target_family = "wasm", test)), expect(dead_code))]
pub(crate) fn fingerprint(key: &Key) -> String {
    let token = signature::sign(key, "fingerprint", UNIX_EPOCH, Duration::ZERO);
    let signature = token.rsplit('.').next().unwrap_or_default();
    signature.chars().take(FINGERPRINT_LEN).collect()
}

#[cfg(test)]
mod tests {
    use grip::signature::sign;
    use http::HeaderValue;

    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn settings(key: &str) -> Settings {
        Settings::new(Ok("http://127.0.0.1:5561/".into()), Ok(key.into()))
    }

    fn authenticate(settings: &Settings, token: &str, now: SystemTime) -> Result<(), Unauthorized> {
        let token = HeaderValue::from_bytes(token.as_bytes()).unwrap();
        let headers = HeaderMap::from_iter([(header::GRIP_SIG.parse().unwrap(), token)]);
        settings.authenticate(&headers, now)
    }

    fn token(key: &str) -> String {
        let key = Key::parse(key).unwrap();
        sign(&key, "host", NOW, Duration::from_secs(1))
    }

    #[test]
    fn a_missing_or_invalid_key_rejects_every_request() {
        let undeclared = Settings::new(Ok(String::new()), Err("undefined".into()));
        for (settings, expected) in [
            (settings(""), "variable grip_key is empty"),
            (settings("base64:!"), "variable grip_key is invalid"),
            (undeclared, "variable grip_key cannot be read: undefined"),
        ] {
            let Err(Unauthorized::Configuration(error)) =
                authenticate(&settings, &token("key"), NOW)
            else {
                panic!("{expected}");
            };
            let error = error.to_string();
            assert!(error.starts_with(expected), "{error}");
            assert!(
                error.contains("\ngrip_key = \"{{ grip_key }}\"\n"),
                "{error}"
            );
            assert!(settings.key().is_none());
        }
        assert!(settings("key").key().is_some());
    }

    #[test]
    fn only_the_host_is_authenticated() {
        let settings = settings("key");
        assert_eq!(authenticate(&settings, &token("key"), NOW), Ok(()));
        for (token, now) in [
            (token("other"), NOW),
            (String::new(), NOW),
            ("\u{e9}".into(), NOW),
            (token("key"), NOW + Duration::from_secs(1)),
        ] {
            let result = authenticate(&settings, &token, now);
            assert!(matches!(result, Err(Unauthorized::Token(_))), "{result:?}");
        }
        let missing = settings.authenticate(&HeaderMap::new(), NOW);
        assert!(matches!(missing, Err(Unauthorized::Token(_))));
    }

    #[test]
    fn keys_have_fingerprints() {
        let fingerprint = |key: &str| fingerprint(&Key::parse(key).unwrap());
        assert_eq!(fingerprint("a").len(), FINGERPRINT_LEN);
        assert_eq!(fingerprint("a"), fingerprint("a"));
        assert_ne!(fingerprint("a"), fingerprint("b"));
    }

    #[test]
    fn the_url_may_end_with_a_slash() {
        assert_eq!(settings("key").url(), Ok("http://127.0.0.1:5561"));
        let error = Settings::new(Ok(String::new()), Ok("key".into()));
        let error = error.url().unwrap_err().to_string();
        assert!(error.contains("allowed_outbound_hosts"), "{error}");
    }
}
