//! Instructions in `Grip-*` headers.

use bytes::Bytes;

use super::{
    Channel, Headers, HoldMode, Instruct, InstructError, KeepAlive, NextLink, STATUS_CODES, Status,
    cstring,
};
use crate::{
    control::KeepAliveMode,
    mime_base64,
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

/// The response headers that carry instructions.
const INSTRUCT_HEADERS: [&str; 8] = [
    HOLD,
    CHANNEL,
    TIMEOUT,
    KEEP_ALIVE,
    SET_META,
    STATUS,
    EXPOSE_HEADERS,
    LINK,
];

impl Instruct {
    /// Parses the headers of a response. The case of their names does not matter.
    ///
    /// Returns `None` when the response has no instructions. When a header with a single
    /// value is repeated, the first one counts.
    pub fn from_headers<'a>(
        headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Option<Instruct>, InstructError> {
        let mut instruct = None;
        for (name, value) in headers {
            let mut names = INSTRUCT_HEADERS.into_iter();
            let Some(name) = names.find(|known| known.eq_ignore_ascii_case(name)) else {
                continue;
            };
            let value = std::str::from_utf8(value)
                .map_err(|_| InstructError::new(name, "expected UTF-8"))?;
            instruct
                .get_or_insert_with(Instruct::default)
                .add_header(name, value.trim())
                .map_err(|problem| InstructError::new(name, problem))?;
        }
        Ok(instruct)
    }

    fn add_header(&mut self, name: &str, value: &str) -> Result<(), String> {
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
                        return Err("expected NAME=\"VALUE\", with a non-empty name".into());
                    }
                    self.meta.insert(name.into(), value);
                }
            }
            EXPOSE_HEADERS => self.expose_headers.extend(list(value)?.map(str::to_owned)),
            LINK => {
                let values = split_links(value).map(str::trim);
                for value in values.filter(|value| !value.is_empty()) {
                    self.add_link(value)?;
                }
            }
            // A repeated header with a single value.
            _ => {}
        }
        Ok(())
    }

    fn add_link(&mut self, value: &str) -> Result<(), String> {
        let bracketed = value.strip_prefix('<');
        let bracketed = bracketed.and_then(|value| value.split_once('>'));
        let bare = value.split_once(';').unwrap_or((value, ""));
        let (uri, parameters) = bracketed.unwrap_or(bare);
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
            // Links with other relations are not for the host.
            return Ok(());
        }
        if bracketed.is_none() {
            return Err("expected <URI>; rel=next; timeout=SECONDS".into());
        }
        check_uri(uri)?;
        if rel == "gone" {
            self.gone = Some(uri.into());
            return Ok(());
        }
        let timeout = match timeout {
            Some(value) => Some(read_seconds(&value).map_err(|e| format!("invalid timeout: {e}"))?),
            None => None,
        };
        self.next = Some(NextLink {
            uri: uri.into(),
            timeout,
        });
        Ok(())
    }

    /// Writes everything except [`response`](Instruct::response), which needs JSON.
    ///
    /// Fails if a value does not fit in a header, such as a channel with a comma in its
    /// name.
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
            let mut header = unquoted(name, "=,;\"").map_err(error(SET_META))?.to_owned();
            write_parameter_value(value, &mut header).map_err(error(SET_META))?;
            headers.push((SET_META, header));
        }
        self.write_non_hold_headers(&mut headers)?;
        Ok(headers)
    }

    /// Writes the headers that the JSON form needs, too.
    pub(super) fn write_non_hold_headers(
        &self,
        headers: &mut Headers,
    ) -> Result<(), InstructError> {
        let error = |name: &'static str| move |problem| InstructError::new(name, problem);
        if let Some(Status { code, reason }) = &self.status {
            check_code(*code).map_err(error(STATUS))?;
            let mut value = code.to_string();
            if let Some(reason) = reason {
                value.push(' ');
                value.push_str(unquoted(reason, "").map_err(error(STATUS))?);
            }
            headers.push((STATUS, value));
        }
        for name in &self.expose_headers {
            let name = unquoted(name, ",;\"").map_err(error(EXPOSE_HEADERS))?;
            headers.push((EXPOSE_HEADERS, name.into()));
        }
        let check_link = |uri: &str| {
            // They are valid between angle brackets, but not every host parses them.
            if uri.contains([',', ';']) {
                Err("invalid URI: percent-encode commas and semicolons".into())
            } else {
                check_uri(uri)
            }
        };
        if let Some(next) = &self.next {
            check_link(&next.uri).map_err(error(LINK))?;
            let mut value = format!("<{}>; rel=next", next.uri);
            if let Some(timeout) = next.timeout {
                value.push_str(&format!("; timeout={timeout}"));
            }
            headers.push((LINK, value));
        }
        if let Some(gone) = &self.gone {
            check_link(gone).map_err(error(LINK))?;
            headers.push((LINK, format!("<{gone}>; rel=gone")));
        }
        Ok(())
    }
}

impl Channel {
    /// Parses the values of `Grip-Last` headers, `NAME; last-id=ID, …`.
    ///
    /// A host that fetches the next part of a stream sends them: the last item of each
    /// channel that the client got.
    pub fn from_grip_last<'a>(
        values: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Vec<Channel>, InstructError> {
        let error = |problem: String| InstructError::new(LAST, problem);
        let mut channels = Vec::new();
        for value in values {
            let value = std::str::from_utf8(value).map_err(|_| error("expected UTF-8".into()))?;
            for value in list(value).map_err(error)? {
                channels.push(read_channel(value, "last-id").map_err(error)?);
            }
        }
        Ok(channels)
    }

    /// Writes a value of `Grip-Last`. Returns `None` when the channel has no id.
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

fn read_hold(value: &str) -> Result<HoldMode, String> {
    match value {
        "stream" => Ok(HoldMode::Stream),
        "response" => Ok(HoldMode::Response),
        _ => Err("expected \"stream\" or \"response\"".into()),
    }
}

fn read_mode(value: Option<&str>) -> Result<KeepAliveMode, String> {
    match value {
        None | Some("" | "idle") => Ok(KeepAliveMode::Idle),
        Some("interval") => Ok(KeepAliveMode::Interval),
        Some(_) => Err("invalid mode: expected \"idle\" or \"interval\"".into()),
    }
}

fn read_seconds(value: &str) -> Result<u32, String> {
    // `parse` would also accept a sign.
    let is_digits = value.bytes().all(|byte| byte.is_ascii_digit());
    match value.parse() {
        Ok(seconds) if is_digits => Ok(seconds),
        _ => Err(format!("expected whole seconds, 0 to {}", u32::MAX)),
    }
}

fn read_status(value: &str) -> Result<Status, String> {
    let (code, reason) = match value.split_once(' ') {
        Some((code, reason)) => (code, Some(reason.trim())),
        None => (value, None),
    };
    let is_digits = code.bytes().all(|byte| byte.is_ascii_digit());
    let code = code.parse().ok().filter(|_| is_digits).unwrap_or_default();
    check_code(code)?;
    Ok(Status {
        code,
        reason: reason.filter(|reason| !reason.is_empty()).map(Into::into),
    })
}

fn check_code(code: u16) -> Result<(), String> {
    if STATUS_CODES.contains(&code) {
        Ok(())
    } else {
        Err("invalid code: expected a whole number, 200 to 999".into())
    }
}

/// Reads a channel. Quotes around its name are a part of the name.
fn read_channel(value: &str, id_name: &str) -> Result<Channel, String> {
    let (name, parameters) = value.split_once(';').unwrap_or((value, ""));
    let mut channel = Channel::new(name.trim());
    if channel.name.is_empty() {
        return Err("missing the name of the channel".into());
    }
    for (name, value) in self::parameters(parameters)? {
        if name.eq_ignore_ascii_case(id_name) {
            channel.prev_id.get_or_insert(value);
        } else if name.eq_ignore_ascii_case("filter") {
            channel.filters.push(value);
        }
    }
    Ok(channel)
}

fn write_channel(channel: &Channel, id_name: &str) -> Result<String, String> {
    let mut value = unquoted(&channel.name, ",;\"")?.to_owned();
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
        Some("cstring") => cstring::decode(data)?,
        Some("base64") => match mime_base64::decode(data) {
            Ok(content) => content.into(),
            Err(error) => return Err(format!("invalid base64: {error}")),
        },
        Some(_) => {
            return Err("invalid format: expected \"raw\", \"cstring\" or \"base64\"".into());
        }
    };
    if content.is_empty() {
        return Err("missing data to send".into());
    }
    Ok(KeepAlive {
        content,
        timeout: match timeout {
            Some(value) => Some(read_seconds(&value).map_err(|e| format!("invalid timeout: {e}"))?),
            None => None,
        },
        mode: read_mode(mode.as_deref())?,
    })
}

fn write_keep_alive(keep_alive: &KeepAlive) -> Result<String, String> {
    if keep_alive.content.is_empty() {
        return Err("missing data to send".into());
    }
    let mut value = cstring::encode(&keep_alive.content);
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

/// Splits a list at commas.
fn list(value: &str) -> Result<impl Iterator<Item = &str>, String> {
    check_closed(value)?;
    let values = split(value, ',').map(str::trim);
    Ok(values.filter(|value| !value.is_empty()))
}

/// Splits parameters at semicolons, into names and unquoted values.
fn parameters(text: &str) -> Result<impl Iterator<Item = (&str, String)>, String> {
    check_closed(text)?;
    Ok(split(text, ';').map(read_parameter))
}

fn read_parameter(parameter: &str) -> (&str, String) {
    let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
    (name.trim(), unquote(value.trim()))
}

fn check_closed(text: &str) -> Result<(), String> {
    if is_closed(text) {
        Ok(())
    } else {
        Err("unterminated quoted string".into())
    }
}

fn write_parameter_value(value: &str, out: &mut String) -> Result<(), String> {
    check_printable(value)?;
    out.push('=');
    write_quoted(value, out);
    Ok(())
}

/// Returns a value that can be written without quotes, or an error.
fn unquoted<'a>(value: &'a str, separators: &str) -> Result<&'a str, String> {
    check_printable(value)?;
    if value.is_empty() || value.trim() != value || value.contains(|c| separators.contains(c)) {
        return Err(not_for_headers(value));
    }
    Ok(value)
}

/// Checks for control characters. HTTP would allow tabs, but nothing here needs them.
fn check_printable(value: &str) -> Result<(), String> {
    if value.contains(|c: char| c.is_ascii_control()) {
        return Err(not_for_headers(value));
    }
    Ok(())
}

fn not_for_headers(value: &str) -> String {
    format!("{value:?} is not allowed in a header: use the JSON form")
}

fn check_uri(uri: &str) -> Result<(), String> {
    let is_invalid = |c: char| c.is_ascii_control() || c.is_whitespace() || "<>\"".contains(c);
    if uri.is_empty() || uri.contains(is_invalid) {
        return Err(format!("invalid URI {uri:?}"));
    }
    Ok(())
}
