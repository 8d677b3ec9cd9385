//! Instructions as the JSON of `application/grip-instruct`.

use serde_json::{Map, Value};

use super::{
    Channel, Headers, HoldMode, Instruct, InstructError, KeepAlive, STATUS_CODES, Status,
    headers::{read_hold, read_mode},
};
use crate::{
    control::KeepAliveMode,
    fields::{Fields, Invalid},
    message::write_text_or_base64,
    publish::HttpResponse,
};

impl Instruct {
    /// Reads the body of a response whose headers said `self`: what the body says comes
    /// on top, channels and metadata are added.
    ///
    /// There is a [`response`](Instruct::response) then in any case, an empty one when
    /// the body has none, and the status is in it.
    pub fn with_json(mut self, body: &[u8]) -> Result<Instruct, InstructError> {
        let value = serde_json::from_slice(body).map_err(|error| {
            InstructError::new("body", format!("is not JSON, as its type says: {error}"))
        })?;
        let mut instruct = Fields::new(value, "instruct".into())?;
        if let Some(hold) = instruct.object("hold")? {
            self.read_hold(hold)?;
        }
        let status = self.status.take();
        let response = instruct.object("response")?;
        self.response = Some(read_response(response, status)?);
        Ok(self)
    }

    fn read_hold(&mut self, mut hold: Fields) -> Result<(), Invalid> {
        let mode = hold.string("mode")?;
        let mode = mode.as_deref().map_or(Ok(HoldMode::Response), read_hold);
        self.hold = Some(mode.map_err(|problem| hold.error("mode", problem))?);
        let channels = match hold.take("channels") {
            Some(Value::Array(channels)) => channels,
            _ => return Err(hold.error("channels", "must be a list")),
        };
        for (index, channel) in channels.into_iter().enumerate() {
            let path = format!("{}.channels[{index}]", hold.path);
            let mut channel = Fields::new(channel, path)?;
            let name = channel.string("name")?.unwrap_or_default();
            if name.is_empty() {
                return Err(channel.error("name", "must be there, and not empty"));
            }
            self.channels.push(Channel {
                name,
                prev_id: channel.string("prev-id")?,
                filters: channel.strings("filters")?,
            });
        }
        if let Some(timeout) = hold.seconds("timeout")? {
            self.timeout = Some(timeout);
        }
        if let Some(mut keep_alive) = hold.object("keep-alive")? {
            let content = keep_alive.data("content", "content-bin")?;
            let Some(content) = content.filter(|content| !content.is_empty()) else {
                let problem = "this or content-bin must be there, and not empty";
                return Err(keep_alive.error("content", problem));
            };
            let mode = keep_alive.string("mode")?;
            self.keep_alive = Some(KeepAlive {
                content,
                timeout: keep_alive.seconds("timeout")?,
                mode: read_mode(mode.as_deref())
                    .ok_or_else(|| keep_alive.error("mode", "must be \"idle\" or \"interval\""))?,
            });
        }
        self.meta.append(&mut hold.meta()?);
        Ok(())
    }

    /// Writes the body, and the headers that belong to it: its `Content-Type`, and those
    /// for what the JSON has no word for.
    ///
    /// The [`status`](Instruct::status) is only for a host that finds no response in the
    /// body: one that is there has its own.
    pub fn to_json(&self) -> Result<(Headers, String), InstructError> {
        let mut headers = vec![("Content-Type", crate::header::GRIP_INSTRUCT.to_owned())];
        self.write_beside_hold(&mut headers)?;
        let mut instruct = Map::new();
        if let Some(mode) = self.hold {
            instruct.insert("hold".into(), self.write_hold(mode).into());
        }
        if let Some(response) = &self.response {
            if !STATUS_CODES.contains(&response.code) {
                let problem = "must be a whole number, 200 to 999";
                return Err(InstructError::new("instruct.response.code", problem));
            }
            let mut object = Map::new();
            response.write(&mut object);
            instruct.insert("response".into(), object.into());
        }
        Ok((headers, Value::Object(instruct).to_string()))
    }

    fn write_hold(&self, mode: HoldMode) -> Map<String, Value> {
        let mut hold = Map::new();
        let mode = match mode {
            HoldMode::Stream => "stream",
            HoldMode::Response => "response",
        };
        hold.insert("mode".into(), mode.into());
        let channels = self.channels.iter().map(|channel| {
            let mut object = Map::new();
            object.insert("name".into(), channel.name.as_str().into());
            if let Some(id) = &channel.prev_id {
                object.insert("prev-id".into(), id.as_str().into());
            }
            if !channel.filters.is_empty() {
                object.insert("filters".into(), channel.filters.clone().into());
            }
            Value::Object(object)
        });
        hold.insert("channels".into(), channels.collect());
        if let Some(timeout) = self.timeout {
            hold.insert("timeout".into(), timeout.into());
        }
        if let Some(keep_alive) = &self.keep_alive {
            let mut object = Map::new();
            write_text_or_base64(&mut object, "content", "content-bin", &keep_alive.content);
            if let Some(timeout) = keep_alive.timeout {
                object.insert("timeout".into(), timeout.into());
            }
            if keep_alive.mode == KeepAliveMode::Interval {
                object.insert("mode".into(), "interval".into());
            }
            hold.insert("keep-alive".into(), object.into());
        }
        if !self.meta.is_empty() {
            let meta = self.meta.iter();
            let meta = meta.map(|(name, value)| (name.clone(), value.as_str().into()));
            hold.insert("meta".into(), Value::Object(meta.collect()));
        }
        hold
    }
}

fn read_response(
    response: Option<Fields>,
    status: Option<Status>,
) -> Result<HttpResponse, Invalid> {
    let status = status.unwrap_or(Status {
        code: 200,
        reason: None,
    });
    let mut read = HttpResponse {
        code: status.code,
        reason: status.reason,
        headers: Vec::new(),
        body: Default::default(),
    };
    let Some(mut response) = response else {
        return Ok(read);
    };
    if let Some(code) = response.code(STATUS_CODES)? {
        // The reason was for the other code.
        (read.code, read.reason) = (code, None);
    }
    if let Some(reason) = response.string("reason")? {
        read.reason = Some(reason);
    }
    read.headers = response.headers()?;
    read.body = response.data("body", "body-bin")?.unwrap_or_default();
    Ok(read)
}
