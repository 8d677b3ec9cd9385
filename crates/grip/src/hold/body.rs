//! Instructions as JSON, in a body of type `application/grip-instruct`.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, Error},
};
use serde_json::Value;

use super::{Channel, Headers, HoldMode, Instruct, InstructError, KeepAlive, STATUS_CODES, Status};
use crate::{
    control::KeepAliveMode,
    header::GRIP_INSTRUCT,
    json::{self, is_default},
    message::{BodyFields, ContentFields},
    publish::HttpResponse,
};

/// The body, with its response as read (`Response`) or as written (`&HttpResponse`).
#[derive(Serialize, Deserialize)]
#[serde(bound(deserialize = "R: DeserializeOwned"))]
struct Body<R> {
    #[serde(
        default,
        deserialize_with = "hold",
        skip_serializing_if = "Option::is_none"
    )]
    hold: Option<Hold>,
    #[serde(
        default,
        deserialize_with = "response",
        skip_serializing_if = "Option::is_none"
    )]
    response: Option<R>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Hold {
    #[serde(default = "default_mode", deserialize_with = "mode")]
    mode: HoldMode,
    #[serde(deserialize_with = "channels")]
    channels: Vec<Channel>,
    #[serde(
        default,
        deserialize_with = "timeout",
        skip_serializing_if = "is_default"
    )]
    timeout: Option<u32>,
    #[serde(
        default,
        deserialize_with = "keep_alive",
        skip_serializing_if = "is_default"
    )]
    keep_alive: Option<KeepAlive>,
    #[serde(default, deserialize_with = "meta", skip_serializing_if = "is_default")]
    meta: BTreeMap<String, String>,
}

/// A response whose code and body may be absent.
#[derive(Default, Deserialize)]
struct Response {
    #[serde(default, deserialize_with = "code")]
    code: Option<u16>,
    #[serde(default, deserialize_with = "reason")]
    reason: Option<String>,
    #[serde(default, deserialize_with = "headers")]
    headers: Vec<(String, String)>,
    #[serde(flatten, deserialize_with = "body")]
    body: Bytes,
}

json::field_readers! {
    optional hold: Option<Hold> = json::object;
    required channels: Vec<Channel> = json::objects;
    optional timeout: Option<u32> = json::seconds;
    optional keep_alive: Option<KeepAlive> = json::object;
    or_default meta: BTreeMap<String, String> = json::string_map;
    optional code: Option<u16> = json::code(STATUS_CODES);
    optional reason: Option<String> = json::string;
    or_default headers: Vec<(String, String)> = json::headers;
}

fn mode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<HoldMode, D::Error> {
    let mode: Option<HoldMode> = json::optional(deserializer, "mode", json::variant)?;
    Ok(mode.unwrap_or_else(default_mode))
}

fn default_mode() -> HoldMode {
    HoldMode::Response
}

fn response<'de, D: Deserializer<'de>, R: DeserializeOwned>(
    deserializer: D,
) -> Result<Option<R>, D::Error> {
    json::optional(deserializer, "response", json::object)
}

fn body<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    let body = BodyFields::deserialize(deserializer)?.decode_bytes();
    Ok(body.map_err(D::Error::custom)?.unwrap_or_default())
}

/// Reads the mode of a keep-alive, for which libraries also write an empty string.
pub(super) fn keep_alive_mode(value: Value) -> Result<KeepAliveMode, String> {
    if value == "" {
        return Ok(KeepAliveMode::Idle);
    }
    json::variant(value)
}

/// Reads and writes the content of a keep-alive, which is not empty.
pub(super) mod keep_alive_content {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(
        content: &Bytes,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        ContentFields::text_or_base64(content).serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Bytes, D::Error> {
        let content = ContentFields::deserialize(deserializer)?.decode_bytes();
        let content = content.map_err(D::Error::custom)?;
        let content = content.filter(|content| !content.is_empty());
        content.ok_or_else(|| D::Error::custom("missing content or content-bin, not empty"))
    }
}

impl Instruct {
    /// Adds the instructions of a response's body to those of its headers.
    ///
    /// Values of the body take precedence; channels and metadata are added. Afterwards
    /// there always is a [`response`](Instruct::response), which is empty when the body has
    /// none, and which includes the status.
    pub fn with_json(mut self, body: &[u8]) -> Result<Instruct, InstructError> {
        let body = serde_json::from_slice(body)
            .map_err(|error| InstructError::new("body", format!("invalid JSON: {error}")))?;
        let body: Body<Response> = json::object(body).map_err(|error| {
            let error = json::at(".instruct", error);
            let (path, problem) = json::split_path(&error);
            InstructError::new(path.unwrap_or("instruct"), problem)
        })?;
        if let Some(hold) = body.hold {
            self.add_hold(hold);
        }
        let status = self.status.take();
        self.response = Some(build_response(body.response, status));
        Ok(self)
    }

    fn add_hold(&mut self, mut hold: Hold) {
        self.hold = Some(hold.mode);
        self.channels.append(&mut hold.channels);
        self.timeout = hold.timeout.or(self.timeout);
        self.keep_alive = hold.keep_alive.or(self.keep_alive.take());
        self.meta.append(&mut hold.meta);
    }

    /// Writes the body, and the headers that go with it: its `Content-Type`, and what the
    /// JSON cannot express.
    ///
    /// The host uses the [`status`](Instruct::status) only if the body has no response.
    pub fn to_json(&self) -> Result<(Headers, String), InstructError> {
        let mut headers = vec![("Content-Type", GRIP_INSTRUCT.to_owned())];
        self.write_non_hold_headers(&mut headers)?;
        if let Some(response) = &self.response
            && !STATUS_CODES.contains(&response.code)
        {
            let problem = "expected a whole number, 200 to 999";
            return Err(InstructError::new("instruct.response.code", problem));
        }
        let body = Body {
            hold: self.hold.map(|mode| Hold {
                mode,
                channels: self.channels.clone(),
                timeout: self.timeout,
                keep_alive: self.keep_alive.clone(),
                meta: self.meta.clone(),
            }),
            response: self.response.as_ref(),
        };
        Ok((headers, serde_json::json!(body).to_string()))
    }
}

fn build_response(response: Option<Response>, status: Option<Status>) -> HttpResponse {
    let status = status.unwrap_or(Status {
        code: 200,
        reason: None,
    });
    let response = response.unwrap_or_default();
    // The reason of the status does not fit another code.
    let (code, reason) = match response.code {
        Some(code) => (code, None),
        None => (status.code, status.reason),
    };
    HttpResponse {
        code,
        reason: response.reason.or(reason),
        headers: response.headers,
        body: response.body,
    }
}
