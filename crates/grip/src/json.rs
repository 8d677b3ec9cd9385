//! Reading JSON with serde so that every error names the field at fault.
//!
//! Serde buffers the fields of tagged enums and flattened structs, so its errors cannot
//! say where a value came from. Here each field has a reader, declared with
//! [`field_readers!`], that puts the field's name before the error. By convention, an error
//! that starts with `.` or `[` starts with a path: `.hold.channels[0].name: expected …`.
//!
//! Unknown fields are ignored, and `null` counts as absent.

use std::{collections::BTreeMap, fmt::Display, ops::RangeInclusive};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _, IntoDeserializer, value},
};
use serde_json::{Map, Value};

/// Defines functions for `deserialize_with`, each named after the field that it reads.
///
/// A `required` field rejects `null`. An `optional` one reads it as `None`, and `or_default`
/// as the default. All but `required` ones also need `#[serde(default)]`.
macro_rules! field_readers {
    ($($presence:ident $name:ident: $type:ty = $read:expr;)*) => {$(
        fn $name<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
            $crate::json::$presence(deserializer, stringify!($name), $read)
        }
    )*};
}
pub(crate) use field_readers;

/// Reads a field that must have a value, for [`field_readers!`].
pub(crate) fn required<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    field: &str,
    read: impl FnOnce(Value) -> Result<T, String>,
) -> Result<T, D::Error> {
    let value = Value::deserialize(deserializer)?;
    read(value).map_err(|problem| D::Error::custom(at_field(field, problem)))
}

/// Reads a field that may be `null`, for [`field_readers!`].
pub(crate) fn optional<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    field: &str,
    read: impl FnOnce(Value) -> Result<T, String>,
) -> Result<Option<T>, D::Error> {
    let value = Option::<Value>::deserialize(deserializer)?;
    let value = value.map(read).transpose();
    value.map_err(|problem| D::Error::custom(at_field(field, problem)))
}

/// Reads a field for which `null` means the default, for [`field_readers!`].
pub(crate) fn or_default<'de, D: Deserializer<'de>, T: Default>(
    deserializer: D,
    field: &str,
    read: impl FnOnce(Value) -> Result<T, String>,
) -> Result<T, D::Error> {
    Ok(optional(deserializer, field, read)?.unwrap_or_default())
}

fn at_field(field: &str, problem: String) -> String {
    at(&format!(".{}", field.replace('_', "-")), problem)
}

/// Puts a path before an error, which may already start with the rest of the path.
pub(crate) fn at(path: &str, error: impl Display) -> String {
    let error = error.to_string();
    if error.starts_with(['.', '[']) {
        format!("{path}{error}")
    } else {
        format!("{path}: {error}")
    }
}

/// Splits an error into its path, if it has one, and the problem.
pub(crate) fn split_path(error: &str) -> (Option<&str>, &str) {
    let path_and_problem = error
        .strip_prefix('.')
        .and_then(|error| error.split_once(": "));
    match path_and_problem {
        Some((path, problem)) => (Some(path), problem),
        None => (None, error),
    }
}

/// Whether serde found no variant for the tag of an enum. Errors in fields start with a path.
pub(crate) fn is_unknown_variant(error: &str) -> bool {
    error.starts_with("unknown variant")
}

/// Whether a value can be left out when it is written.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

pub(crate) fn string(value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err("expected a string".into()),
    }
}

pub(crate) fn non_empty_string(value: Value) -> Result<String, String> {
    match value {
        Value::String(text) if !text.is_empty() => Ok(text),
        _ => Err("expected a non-empty string".into()),
    }
}

pub(crate) fn strings(value: Value) -> Result<Vec<String>, String> {
    serde_json::from_value(value).map_err(|_| "expected a list of strings".into())
}

pub(crate) fn string_map(value: Value) -> Result<BTreeMap<String, String>, String> {
    serde_json::from_value(value).map_err(|_| "expected an object of strings".into())
}

pub(crate) fn map(value: Value) -> Result<Map<String, Value>, String> {
    match value {
        Value::Object(map) => Ok(map),
        _ => Err("expected an object".into()),
    }
}

pub(crate) fn boolean(value: Value) -> Result<bool, String> {
    value.as_bool().ok_or("expected true or false".into())
}

/// Reads an enum without data, such as `"idle"`.
pub(crate) fn variant<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    T::deserialize(string(value)?.into_deserializer())
        .map_err(|error: value::Error| error.to_string())
}

pub(crate) fn object<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    if value.is_object() {
        T::deserialize(value).map_err(|error| error.to_string())
    } else {
        Err("expected an object".into())
    }
}

pub(crate) fn objects<T: DeserializeOwned>(value: Value) -> Result<Vec<T>, String> {
    let Value::Array(values) = value else {
        return Err("expected a list".into());
    };
    let read = |(index, value)| object(value).map_err(|error| at(&format!("[{index}]"), error));
    values.into_iter().enumerate().map(read).collect()
}

pub(crate) fn seconds(value: Value) -> Result<u32, String> {
    let seconds = whole_number(&value).and_then(|seconds| seconds.try_into().ok());
    seconds.ok_or_else(|| format!("expected whole seconds, 0 to {}", u32::MAX))
}

pub(crate) fn count(value: Value) -> Result<u32, String> {
    let count = whole_number(&value).and_then(|count| count.try_into().ok());
    count.ok_or_else(|| format!("expected a whole number, 0 to {}", u32::MAX))
}

pub(crate) fn size(value: Value) -> Result<u64, String> {
    whole_number(&value).ok_or("expected a whole number, 0 or more".into())
}

/// Returns a reader of numbers within `range`.
pub(crate) fn code(range: RangeInclusive<u16>) -> impl FnOnce(Value) -> Result<u16, String> {
    move |value| {
        let code = whole_number(&value).and_then(|code| code.try_into().ok());
        code.filter(|code| range.contains(code)).ok_or_else(|| {
            let (low, high) = (range.start(), range.end());
            format!("expected a whole number, {low} to {high}")
        })
    }
}

/// Reads a whole number. It may be written as a string, because the library
/// `@fanoutio/grip` writes the code of a response that way.
fn whole_number(value: &Value) -> Option<u64> {
    match value {
        Value::String(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().ok()
        }
        value => value.as_u64(),
    }
}

/// Reads HTTP headers: an object, or a list of pairs where order or repetition matters.
pub(crate) fn headers(value: Value) -> Result<Vec<(String, String)>, String> {
    let headers = if value.is_object() {
        serde_json::from_value(value).map(|map: BTreeMap<_, _>| map.into_iter().collect())
    } else {
        serde_json::from_value(value)
    };
    headers.map_err(|_| "expected an object of strings or a list of pairs of strings".into())
}
