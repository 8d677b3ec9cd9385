//! The fields of a published item, taken one by one, and exact errors about them.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::{Format, PublishError};
use crate::message;

/// The fields of one object, and where it stands in the body. `null` is as good as absent.
pub(super) struct Fields {
    pub(super) path: String,
    pub(super) object: Map<String, Value>,
}

impl Fields {
    pub(super) fn new(value: Value, path: String) -> Result<Fields, PublishError> {
        match value {
            Value::Object(object) => Ok(Fields { path, object }),
            _ => Err(PublishError {
                path,
                problem: "must be an object".into(),
            }),
        }
    }

    pub(super) fn error(&self, key: &str, problem: impl Into<String>) -> PublishError {
        PublishError {
            path: format!("{}.{key}", self.path),
            problem: problem.into(),
        }
    }

    pub(super) fn no_content(&self) -> PublishError {
        self.error("content", "this or content-bin must be there")
    }

    pub(super) fn take(&mut self, key: &str) -> Option<Value> {
        self.object.remove(key).filter(|value| !value.is_null())
    }

    pub(super) fn string(&mut self, key: &str) -> Result<Option<String>, PublishError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.error(key, "must be a string")),
        }
    }

    pub(super) fn action(&mut self) -> Result<Option<String>, PublishError> {
        self.string("action")
    }

    pub(super) fn flag(&mut self, key: &str) -> Result<bool, PublishError> {
        match self.take(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err(self.error(key, "must be true or false")),
        }
    }

    pub(super) fn size(&mut self) -> Result<Option<u64>, PublishError> {
        match self.take("size") {
            None => Ok(None),
            Some(value) => match value.as_u64() {
                Some(size) => Ok(Some(size)),
                None => Err(self.error("size", "must be a whole number, 0 or more")),
            },
        }
    }

    pub(super) fn code(
        &mut self,
        range: std::ops::RangeInclusive<u16>,
    ) -> Result<Option<u16>, PublishError> {
        let Some(value) = self.take("code") else {
            return Ok(None);
        };
        match value.as_u64().and_then(|code| u16::try_from(code).ok()) {
            Some(code) if range.contains(&code) => Ok(Some(code)),
            _ => {
                let (low, high) = range.into_inner();
                Err(self.error("code", format!("must be a whole number, {low} to {high}")))
            }
        }
    }

    pub(super) fn data(
        &mut self,
        text: &'static str,
        binary: &'static str,
    ) -> Result<Option<Bytes>, PublishError> {
        match message::read_text_or_base64(&mut self.object, text, binary) {
            Ok(found) => Ok(found.map(|(_, content)| content.into_bytes())),
            Err((key, problem)) => Err(self.error(key, problem)),
        }
    }

    pub(super) fn strings(&mut self, key: &str) -> Result<Vec<String>, PublishError> {
        match self.take(key).map(serde_json::from_value) {
            None => Ok(Vec::new()),
            Some(Ok(strings)) => Ok(strings),
            Some(Err(_)) => Err(self.error(key, "must be a list of strings")),
        }
    }

    pub(super) fn meta(&mut self) -> Result<BTreeMap<String, String>, PublishError> {
        match self.take("meta").map(serde_json::from_value) {
            None => Ok(BTreeMap::new()),
            Some(Ok(meta)) => Ok(meta),
            Some(Err(_)) => Err(self.error("meta", "must be an object of strings")),
        }
    }

    pub(super) fn headers(&mut self) -> Result<Vec<(String, String)>, PublishError> {
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

    pub(super) fn format<A>(
        &mut self,
        key: &str,
        read: impl Fn(&mut Fields) -> Result<A, PublishError>,
    ) -> Result<Option<Format<A>>, PublishError> {
        let Some(value) = self.take(key) else {
            return Ok(None);
        };
        let mut format = Fields::new(value, format!("{}.{key}", self.path))?;
        Ok(Some(Format {
            action: read(&mut format)?,
            filters: format.strings("content-filters")?,
        }))
    }
}
