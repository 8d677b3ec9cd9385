//! Instructions as `Grip-*` headers.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;

use super::{
    Channel, Headers, HoldMode, Instruct, InstructError, KeepAlive, NextLink, STATUS_CODES, Status,
    cstring,
};
use crate::{
    control::KeepAliveMode,
    parameters::{is_closed, split, split_links, unquote, write_quoted},
};

const HOLD: &str = "Grip-Hold";
const CHANNEL: &str = "Grip-Channel";
const TIMEOUT: &str = "Grip-Timeout";
const KEEP_ALIVE: &str = "Grip-Keep-Alive";
const SET_META: &str = "Grip-Set-Meta";
const STATUS: &str = "Grip-Status";
const EXPOSE_HEADERS: &str = "Grip-Expose-Headers";
const LINK: &str = "Grip-Link";
const LAST: &str = "Grip-Last";

impl Instruct {
    /// Reads the headers of a response, whose names may be in any case.
    ///
    /// `None` when none of them says anything of GRIP. Where a header that has one value
    /// is there more than once, the first counts.
    pub fn from_headers<'a>(
        headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Option<Instruct>, InstructError> {
        let mut read = Instruct::default();
        let mut found = false;
        for (name, value) in headers {
            let known = [
                HOLD,
                CHANNEL,
                TIMEOUT,
                KEEP_ALIVE,
                SET_META,
                STATUS,
                EXPOSE_HEADERS,
                LINK,
            ];
            let is = |known: &&&str| known.eq_ignore_ascii_case(name);
            let Some(&name) = known.iter().find(is) else {
                continue;
            };
            found = true;
            let value = std::str::from_utf8(value);
            let value = value.map_err(|_| InstructError::new(name, "must be UTF-8"))?;
            read.read_header(name, value.trim())
                .map_err(|problem| InstructError::new(name, problem))?;
        }
        Ok(found.then_some(read))
    }

    fn read_header(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            HOLD if self.hold.is_none() => self.hold = Some(read_hold(value)?),
            TIMEOUT if self.timeout.is_none() => self.timeout = Some(read_seconds(value)?),
            KEEP_ALIVE if self.keep_alive.is_none() => {
                self.keep_alive = Some(read_keep_alive(value)?);
            }
            STATUS if self.status.is_none() => self.status = Some(read_status(value)?),
            CHANNEL => {
                for value in list(value)? {
                    self.channels.push(read_channel(value, "prev-id")?);
                }
            }
            SET_META => {
                for value in list(value)? {
                    let (name, value) = read_parameter(value);
                    if name.is_empty() {
                        return Err("must be NAME=\"VALUE\", and the name not empty".into());
                    }
                    self.meta.insert(name.into(), value);
                }
            }
            EXPOSE_HEADERS => self.expose_headers.extend(list(value)?.map(str::to_owned)),
            LINK => {
                let values = split_links(value).map(str::trim);
                for value in values.filter(|value| !value.is_empty()) {
                    self.read_link(value)?;
                }
            }
            // One that has been read.
            _ => {}
        }
        Ok(())
    }

    fn read_link(&mut self, value: &str) -> Result<(), String> {
        const EXPECTED: &str = "must be <URI>; rel=next; timeout=SECONDS";
        let linked = value.strip_prefix('<');
        let linked = linked.and_then(|value| value.split_once('>'));
        let other = value.split_once(';').unwrap_or((value, ""));
        let (uri, parameters) = linked.unwrap_or(other);
        let (mut rel, mut timeout) = (None, None);
        for parameter in self::parameters(parameters)? {
            match parameter {
                (name, value) if name.eq_ignore_ascii_case("rel") => rel = rel.or(Some(value)),
                (name, value) if name.eq_ignore_ascii_case("timeout") => timeout = Some(value),
                _ => {}
            }
        }
        let rel = rel.unwrap_or_default();
        if rel != "next" && rel != "gone" {
            // A link to something else than this is about.
            return Ok(());
        }
        if linked.is_none() {
            return Err(EXPECTED.into());
        }
        check_uri(uri)?;
        if rel == "gone" {
            self.gone = Some(uri.into());
            return Ok(());
        }
        let timeout = match timeout {
            Some(value) => Some(read_seconds(&value).map_err(|e| format!("timeout {e}"))?),
            None => None,
        };
        self.next = Some(NextLink {
            uri: uri.into(),
            timeout,
        });
        Ok(())
    }

    /// Writes all but [`response`](Instruct::response), for which there is only JSON.
    ///
    /// An error where a value cannot stand in a header, such as a channel with a comma
    /// in its name.
    pub fn to_headers(&self) -> Result<Headers, InstructError> {
        let mut headers = Vec::new();
        if let Some(mode) = self.hold {
            let mode = match mode {
                HoldMode::Stream => "stream",
                HoldMode::Response => "response",
            };
            headers.push((HOLD, mode.into()));
        }
        if let Some(timeout) = self.timeout {
            headers.push((TIMEOUT, timeout.to_string()));
        }
        let error = |name: &'static str| move |problem| InstructError::new(name, problem);
        for channel in &self.channels {
            let value = write_channel(channel, "prev-id").map_err(error(CHANNEL))?;
            headers.push((CHANNEL, value));
        }
        if let Some(keep_alive) = &self.keep_alive {
            let value = write_keep_alive(keep_alive).map_err(error(KEEP_ALIVE))?;
            headers.push((KEEP_ALIVE, value));
        }
        for (name, value) in &self.meta {
            let mut header = plain(name, "=,;\"").map_err(error(SET_META))?.to_owned();
            write_parameter_value(value, &mut header).map_err(error(SET_META))?;
            headers.push((SET_META, header));
        }
        self.write_beside_hold(&mut headers)?;
        Ok(headers)
    }

    /// What stands in headers also where the rest is JSON.
    pub(super) fn write_beside_hold(&self, headers: &mut Headers) -> Result<(), InstructError> {
        let error = |name: &'static str| move |problem| InstructError::new(name, problem);
        if let Some(Status { code, reason }) = &self.status {
            check_code(*code).map_err(error(STATUS))?;
            let mut value = code.to_string();
            if let Some(reason) = reason {
                value.push(' ');
                value.push_str(plain(reason, "").map_err(error(STATUS))?);
            }
            headers.push((STATUS, value));
        }
        for name in &self.expose_headers {
            let name = plain(name, ",;\"").map_err(error(EXPOSE_HEADERS))?;
            headers.push((EXPOSE_HEADERS, name.into()));
        }
        let uri = |uri: &str| match uri.contains([',', ';']) {
            // They could stand here, but not every host reads them.
            true => Err("in a URI, a comma or semicolon must be percent-encoded".into()),
            false => check_uri(uri),
        };
        if let Some(next) = &self.next {
            uri(&next.uri).map_err(error(LINK))?;
            let mut value = format!("<{}>; rel=next", next.uri);
            if let Some(timeout) = next.timeout {
                value.push_str(&format!("; timeout={timeout}"));
            }
            headers.push((LINK, value));
        }
        if let Some(gone) = &self.gone {
            uri(gone).map_err(error(LINK))?;
            headers.push((LINK, format!("<{gone}>; rel=gone")));
        }
        Ok(())
    }
}

impl Channel {
    /// Reads the values of a request's `Grip-Last` headers, `NAME; last-id=ID, …`: what a
    /// host that fetches the next part of a stream has sent of each channel.
    pub fn from_grip_last<'a>(
        values: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Vec<Channel>, InstructError> {
        let error = |problem: String| InstructError::new(LAST, problem);
        let mut channels = Vec::new();
        for value in values {
            let value = std::str::from_utf8(value).map_err(|_| error("must be UTF-8".into()))?;
            for value in list(value).map_err(error)? {
                channels.push(read_channel(value, "last-id").map_err(error)?);
            }
        }
        Ok(channels)
    }

    /// Writes a value of `Grip-Last`; `None` when no id is known.
    pub fn to_grip_last(&self) -> Result<Option<String>, InstructError> {
        let channel = Channel {
            filters: Vec::new(),
            ..self.clone()
        };
        match channel.prev_id {
            None => Ok(None),
            Some(_) => write_channel(&channel, "last-id")
                .map(Some)
                .map_err(|problem| InstructError::new(LAST, problem)),
        }
    }
}

pub(super) fn read_hold(value: &str) -> Result<HoldMode, String> {
    match value {
        "stream" => Ok(HoldMode::Stream),
        "response" => Ok(HoldMode::Response),
        _ => Err("must be \"stream\" or \"response\"".into()),
    }
}

pub(super) fn read_mode(value: Option<&str>) -> Option<KeepAliveMode> {
    match value {
        None | Some("" | "idle") => Some(KeepAliveMode::Idle),
        Some("interval") => Some(KeepAliveMode::Interval),
        Some(_) => None,
    }
}

fn read_seconds(value: &str) -> Result<u32, String> {
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    match value.parse() {
        Ok(seconds) if digits => Ok(seconds),
        _ => Err("must be whole seconds, 0 to 4294967295".into()),
    }
}

fn read_status(value: &str) -> Result<Status, String> {
    let (code, reason) = match value.split_once(' ') {
        Some((code, reason)) => (code, Some(reason.trim())),
        None => (value, None),
    };
    let digits = code.bytes().all(|byte| byte.is_ascii_digit());
    let code = code.parse().ok().filter(|_| digits).unwrap_or_default();
    check_code(code)?;
    Ok(Status {
        code,
        reason: reason.filter(|reason| !reason.is_empty()).map(Into::into),
    })
}

fn check_code(code: u16) -> Result<(), String> {
    match STATUS_CODES.contains(&code) {
        true => Ok(()),
        false => Err("the code must be a whole number, 200 to 999".into()),
    }
}

/// A channel's name is read as it stands: quotes around it would be a part of it.
fn read_channel(value: &str, id: &str) -> Result<Channel, String> {
    let (name, parameters) = value.split_once(';').unwrap_or((value, ""));
    let mut channel = Channel::new(name.trim());
    if channel.name.is_empty() {
        return Err("must have the channel's name".into());
    }
    for (name, value) in self::parameters(parameters)? {
        if name.eq_ignore_ascii_case(id) {
            channel.prev_id.get_or_insert(value);
        } else if name.eq_ignore_ascii_case("filter") {
            channel.filters.push(value);
        }
    }
    Ok(channel)
}

fn write_channel(channel: &Channel, id_name: &str) -> Result<String, String> {
    let mut value = plain(&channel.name, ",;\"")?.to_owned();
    if let Some(id) = &channel.prev_id {
        value.push_str("; ");
        value.push_str(id_name);
        write_parameter_value(id, &mut value)?;
    }
    for filter in &channel.filters {
        value.push_str("; filter");
        write_parameter_value(filter, &mut value)?;
    }
    Ok(value)
}

fn read_keep_alive(value: &str) -> Result<KeepAlive, String> {
    let (data, parameters) = value.split_once(';').unwrap_or((value, ""));
    let (mut format, mut timeout, mut mode) = (None, None, None);
    for (name, value) in self::parameters(parameters)? {
        let slot = match name.to_ascii_lowercase().as_str() {
            "format" => &mut format,
            "timeout" => &mut timeout,
            "mode" => &mut mode,
            _ => continue,
        };
        slot.get_or_insert(value);
    }
    let data = data.trim();
    let content = match format.as_deref() {
        None | Some("" | "raw") => Bytes::copy_from_slice(data.as_bytes()),
        Some("cstring") => cstring::read(data)?,
        Some("base64") => match BASE64_STANDARD.decode(data) {
            Ok(content) => content.into(),
            Err(error) => return Err(format!("is not base64: {error}")),
        },
        Some(_) => return Err("format must be \"raw\", \"cstring\" or \"base64\"".into()),
    };
    if content.is_empty() {
        return Err("must have the data to send".into());
    }
    Ok(KeepAlive {
        content,
        timeout: match timeout {
            Some(value) => Some(read_seconds(&value).map_err(|e| format!("timeout {e}"))?),
            None => None,
        },
        mode: read_mode(mode.as_deref()).ok_or("mode must be \"idle\" or \"interval\"")?,
    })
}

fn write_keep_alive(keep_alive: &KeepAlive) -> Result<String, String> {
    if keep_alive.content.is_empty() {
        return Err("must have the data to send".into());
    }
    let mut value = cstring::write(&keep_alive.content);
    if value.as_bytes() != keep_alive.content {
        value.push_str("; format=cstring");
    }
    if let Some(timeout) = keep_alive.timeout {
        value.push_str(&format!("; timeout={timeout}"));
    }
    if keep_alive.mode == KeepAliveMode::Interval {
        value.push_str("; mode=interval");
    }
    Ok(value)
}

/// The values between commas.
fn list(value: &str) -> Result<impl Iterator<Item = &str>, String> {
    check_closed(value)?;
    let values = split(value, ',').map(str::trim);
    Ok(values.filter(|value| !value.is_empty()))
}

/// The parameters between semicolons: names and unquoted values.
fn parameters(text: &str) -> Result<impl Iterator<Item = (&str, String)>, String> {
    check_closed(text)?;
    Ok(split(text, ';').map(read_parameter))
}

fn read_parameter(parameter: &str) -> (&str, String) {
    let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
    (name.trim(), unquote(value.trim()))
}

fn check_closed(text: &str) -> Result<(), String> {
    match is_closed(text) {
        true => Ok(()),
        false => Err("a quoted string has no end".into()),
    }
}

fn write_parameter_value(value: &str, out: &mut String) -> Result<(), String> {
    check_printable(value)?;
    out.push('=');
    write_quoted(value, out);
    Ok(())
}

/// A value that is written as it is, without any of `separators` and blanks at its ends.
fn plain<'a>(value: &'a str, separators: &str) -> Result<&'a str, String> {
    check_printable(value)?;
    match value.is_empty() || value.trim() != value || value.contains(|c| separators.contains(c)) {
        false => Ok(value),
        true => Err(format!("{value:?} cannot stand in a header: use JSON")),
    }
}

fn check_printable(value: &str) -> Result<(), String> {
    // Of what is ASCII, all that HTTP allows in the value of a header; tabs do not pay.
    match value.contains(|c: char| c.is_ascii_control()) {
        false => Ok(()),
        true => Err(format!("{value:?} cannot stand in a header: use JSON")),
    }
}

fn check_uri(uri: &str) -> Result<(), String> {
    let bad = |c: char| c.is_ascii_control() || c.is_whitespace() || "<>\"".contains(c);
    match uri.is_empty() || uri.contains(bad) {
        false => Ok(()),
        true => Err(format!("{uri:?} is not a URI")),
    }
}
