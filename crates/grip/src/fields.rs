//! The fields of a JSON object from outside, taken one by one, and exact errors about them.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::message;

/// What is wrong, and where: `items[0].formats.ws-message.content`.
pub(crate) struct Invalid {
    pub(crate) path: String,
    pub(crate) problem: String,
}

/// The fields of one object, and where it stands. `null` is as good as absent.
pub(crate) struct Fields {
    pub(crate) path: String,
    pub(crate) object: Map<String, Value>,
}

impl Fields {
    pub(crate) fn new(value: Value, path: String) -> Result<Fields, Invalid> {
        match value {
            Value::Object(object) => Ok(Fields { path, object }),
            _ => Err(Invalid {
                path,
                problem: "must be an object".into(),
            }),
        }
    }

    pub(crate) fn error(&self, key: &str, problem: impl Into<String>) -> Invalid {
        Invalid {
            path: format!("{}.{key}", self.path),
            problem: problem.into(),
        }
    }

    pub(crate) fn no_content(&self) -> Invalid {
        self.error("content", "this or content-bin must be there")
    }

    pub(crate) fn take(&mut self, key: &str) -> Option<Value> {
        self.object.remove(key).filter(|value| !value.is_null())
    }

    /// The object under `key`.
    pub(crate) fn object(&mut self, key: &str) -> Result<Option<Fields>, Invalid> {
        let path = format!("{}.{key}", self.path);
        self.take(key)
            .map(|value| Fields::new(value, path))
            .transpose()
    }

    pub(crate) fn string(&mut self, key: &str) -> Result<Option<String>, Invalid> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.error(key, "must be a string")),
        }
    }

    pub(crate) fn action(&mut self) -> Result<Option<String>, Invalid> {
        self.string("action")
    }

    pub(crate) fn flag(&mut self, key: &str) -> Result<bool, Invalid> {
        match self.take(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err(self.error(key, "must be true or false")),
        }
    }

    pub(crate) fn size(&mut self) -> Result<Option<u64>, Invalid> {
        match self.take("size") {
            None => Ok(None),
            Some(value) => match whole_number(&value) {
                Some(size) => Ok(Some(size)),
                None => Err(self.error("size", "must be a whole number, 0 or more")),
            },
        }
    }

    pub(crate) fn code(
        &mut self,
        range: std::ops::RangeInclusive<u16>,
    ) -> Result<Option<u16>, Invalid> {
        let Some(value) = self.take("code") else {
            return Ok(None);
        };
        match whole_number(&value).and_then(|code| u16::try_from(code).ok()) {
            Some(code) if range.contains(&code) => Ok(Some(code)),
            _ => {
                let (low, high) = range.into_inner();
                Err(self.error("code", format!("must be a whole number, {low} to {high}")))
            }
        }
    }

    pub(crate) fn data(
        &mut self,
        text: &'static str,
        binary: &'static str,
    ) -> Result<Option<Bytes>, Invalid> {
        match message::read_text_or_base64(&mut self.object, text, binary) {
            Ok(found) => Ok(found.map(|(_, content)| content.into_bytes())),
            Err((key, problem)) => Err(self.error(key, problem)),
        }
    }

    pub(crate) fn strings(&mut self, key: &str) -> Result<Vec<String>, Invalid> {
        match self.take(key).map(serde_json::from_value) {
            None => Ok(Vec::new()),
            Some(Ok(strings)) => Ok(strings),
            Some(Err(_)) => Err(self.error(key, "must be a list of strings")),
        }
    }

    /// Whole seconds.
    pub(crate) fn seconds(&mut self, key: &str) -> Result<Option<u32>, Invalid> {
        match self.take(key) {
            None => Ok(None),
            Some(value) => match seconds(&value) {
                Some(seconds) => Ok(Some(seconds)),
                None => Err(self.error(key, "must be whole seconds, 0 to 4294967295")),
            },
        }
    }

    pub(crate) fn meta(&mut self) -> Result<BTreeMap<String, String>, Invalid> {
        match self.take("meta").map(serde_json::from_value) {
            None => Ok(BTreeMap::new()),
            Some(Ok(meta)) => Ok(meta),
            Some(Err(_)) => Err(self.error("meta", "must be an object of strings")),
        }
    }

    pub(crate) fn headers(&mut self) -> Result<Vec<(String, String)>, Invalid> {
        let headers = match self.take("headers") {
            None => return Ok(Vec::new()),
            Some(Value::Object(object)) => object
                .into_iter()
                .map(|(name, value)| match value {
                    Value::String(value) => Some((name, value)),
                    _ => None,
                })
                .collect::<Option<Vec<_>>>(),
            Some(list) => serde_json::from_value(list).ok(),
        };
        headers.ok_or_else(|| {
            self.error(
                "headers",
                "must be an object of strings, or a list of pairs of strings",
            )
        })
    }
}

/// Whole seconds.
pub(crate) fn seconds(value: &Value) -> Option<u32> {
    whole_number(value)?.try_into().ok()
}

/// A whole number, also as text: so is the code in `HttpResponseFormat` of the library
/// `@fanoutio/grip`.
fn whole_number(value: &Value) -> Option<u64> {
    match value {
        Value::String(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().ok()
        }
        value => value.as_u64(),
    }
}
