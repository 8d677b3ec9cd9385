//! Reads `[application.tool.socket-host]`, the part of the manifest that is ours.

use std::{collections::BTreeMap, time::Duration};

use http::{Method, uri::PathAndQuery};

use super::{
    AllowedOrigins, HostTable, Passthrough, Timer, WebSocketLimits, pattern::Pattern, reader::Value,
};

/// No pause is shorter, so that a slip of a unit does not become a busy loop.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
/// No duration is longer, so that adding one to the clock cannot overflow: 366 days.
pub const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// No buffer of one socket is larger.
const LARGEST_BUFFER_BYTES: u64 = 1 << 30;

/// Reads the table; `embedded` says whether this host runs the components.
pub(super) fn read(value: &Value<'_>, embedded: bool) -> HostTable {
    let mut host = HostTable::default();
    let Some(mut table) = value.table() else {
        return host;
    };
    if let Some(value) = table.get("private") {
        host.private = value.array().iter().filter_map(private).collect();
    }
    if let Some(value) = table.get("timer") {
        host.timers = value.array().iter().filter_map(timer).collect();
    }
    if let Some(value) = table.get("passthrough") {
        host.passthrough = passthroughs(&value, embedded);
    }
    if let Some(value) = table.get("websocket") {
        websocket(&value, &mut host.websocket);
    }
    table.finish();
    host
}

fn private(value: &Value<'_>) -> Option<String> {
    route(value, "/internal/...").map(|(route, _)| route)
}

/// A route as it is written, and read.
fn route(value: &Value<'_>, example: &str) -> Option<(String, Pattern)> {
    let route = value.string()?;
    if !route.starts_with('/') {
        value.wrong(format!(
            "expected a route that starts with `/`, like {example:?}, found {route:?}"
        ));
        return None;
    }
    match Pattern::parse(route) {
        Ok(pattern) => Some((route.to_owned(), pattern)),
        Err(reason) => {
            value.wrong(format!("{route:?} is no route: {reason}"));
            None
        }
    }
}

fn passthroughs(value: &Value<'_>, embedded: bool) -> Vec<Passthrough> {
    let mut shapes = BTreeMap::new();
    let mut all = Vec::new();
    for entry in value.array() {
        let Some((passthrough, shape)) = passthrough(&entry, embedded) else {
            continue;
        };
        match shapes.insert(shape, entry.line()) {
            Some(line) => entry.wrong(format!(
                "{:?} matches the same paths as the route on line {line}",
                passthrough.route
            )),
            None => all.push(passthrough),
        }
    }
    all
}

/// A passthrough and the shape of its route.
fn passthrough(value: &Value<'_>, embedded: bool) -> Option<(Passthrough, String)> {
    let mut table = value.table()?;
    let written = table.require("route", "what is tunnelled, like \"/_next/webpack-hmr\"");
    let upstream = table.get("upstream");
    if upstream.is_none() && embedded {
        table.wrong(
            "`upstream` is missing: this host runs the components itself, so there is no server \
             to tunnel to; name one like \"http://127.0.0.1:3001\", or start with `--upstream`",
        );
    }
    table.finish();
    let found = written.and_then(|value| route(&value, "/_next/webpack-hmr"));
    let upstream = match upstream {
        None => None,
        Some(value) => {
            let parsed = value.string()?.parse();
            Some(parsed.map_err(|reason: String| value.wrong(reason)).ok()?)
        }
    };
    let (route, pattern) = found?;
    Some((Passthrough { route, upstream }, pattern.shape()))
}

fn timer(value: &Value<'_>) -> Option<Timer> {
    let mut table = value.table()?;
    let request = table.require("request", "what is sent, like \"POST /internal/orders\"");
    let every = table.require("every", "the pause, like \"5s\" or \"2s..6s\"");
    table.finish();
    let request = request.and_then(|value| {
        let parsed = parse_request(value.string()?);
        parsed.map_err(|reason| value.wrong(reason)).ok()
    });
    let every = every.and_then(|value| {
        let parsed = parse_pause(value.string()?);
        parsed.map_err(|reason| value.wrong(reason)).ok()
    });
    let ((method, path), (least, most)) = (request?, every?);
    Some(Timer {
        method,
        path,
        least,
        most,
    })
}

fn parse_request(text: &str) -> Result<(Method, String), String> {
    let wanted = "expected a method and a path, like \"POST /internal/orders\"";
    let (method, path) = text
        .trim()
        .split_once(char::is_whitespace)
        .ok_or(format!("{wanted}, found {text:?}"))?;
    let path = path.trim_start();
    let known = |method: &Method| {
        use Method as M;
        [
            M::GET,
            M::HEAD,
            M::POST,
            M::PUT,
            M::PATCH,
            M::DELETE,
            M::OPTIONS,
        ]
        .contains(method)
    };
    let method = Method::from_bytes(method.as_bytes())
        .ok()
        .filter(known)
        .ok_or(format!(
            "{wanted}: {method:?} is no method (GET, POST, …, in capitals)"
        ))?;
    if !path.starts_with('/') {
        return Err(format!(
            "{wanted}: the path starts with `/`, unlike {path:?}"
        ));
    }
    let sound = !path.contains('#') && path.parse::<PathAndQuery>().is_ok();
    match sound {
        true => Ok((method, path.to_owned())),
        false => Err(format!(
            "{wanted}: {path:?} holds characters that must be percent-encoded"
        )),
    }
}

/// A pause, `"5s"`, or a range of pauses, `"2s..6s"`.
fn parse_pause(text: &str) -> Result<(Duration, Duration), String> {
    let (least, most) = match text.split_once("..") {
        Some((least, most)) => (parse_duration(least)?, parse_duration(most)?),
        None => (parse_duration(text)?, parse_duration(text)?),
    };
    match least <= most {
        true => Ok((least, most)),
        false => Err(format!("the range {text:?} ends before it starts")),
    }
}

/// A duration like `"500ms"` or `"1m 30s"`, from 10 ms to [`LONGEST`].
///
/// # Errors
/// Says what is wrong with it.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text.trim()).map_err(|error| {
        format!("{text:?} is no duration ({error}); write it like \"500ms\", \"5s\" or \"1m 30s\"")
    })?;
    if duration < SHORTEST_PAUSE || duration > LONGEST {
        return Err(format!(
            "{text:?} is out of range: at least 10ms, at most 366days"
        ));
    }
    Ok(duration)
}

fn websocket(value: &Value<'_>, limits: &mut WebSocketLimits) {
    let Some(mut table) = value.table() else {
        return;
    };
    if let Some(value) = table.get("allowed-origins") {
        limits.allowed_origins = origins(&value);
    }
    for (name, limit) in [
        ("max-message-size", &mut limits.max_message_size),
        ("max-outgoing-buffer", &mut limits.max_outgoing_buffer),
        ("max-incoming-buffer", &mut limits.max_incoming_buffer),
    ] {
        if let Some(bytes) = table.get(name).and_then(|value| size(&value)) {
            *limit = bytes;
        }
    }
    if let Some(value) = table.get("max-connections") {
        match value.integer().map(usize::try_from) {
            Some(Ok(number)) if number > 0 => limits.max_connections = number,
            Some(_) => value.wrong("expected a number of sockets, at least 1"),
            None => {}
        }
    }
    if let Some(value) = table.get("ping-interval") {
        match value.string() {
            Some("off") => limits.ping_interval = None,
            Some(text) => match parse_duration(text) {
                Ok(interval) => limits.ping_interval = Some(interval),
                Err(reason) => value.wrong(format!("{reason}, or \"off\"")),
            },
            None => {}
        }
    }
    table.finish();
}

fn size(value: &Value<'_>) -> Option<usize> {
    let bytes = match value.is_integer() {
        true => value
            .integer()
            .and_then(|number| u64::try_from(number).ok()),
        false => parse_size(value.string()?),
    };
    let sound = bytes.filter(|bytes| (1..=LARGEST_BUFFER_BYTES).contains(bytes));
    if sound.is_none() {
        value.wrong(
            "expected a size from 1 byte to 1GiB, like \"64KiB\", \"1MiB\", or a number of bytes",
        );
    }
    usize::try_from(sound?).ok()
}

/// Bytes of `"64KiB"`, `"1 MiB"`, `"100kB"`, `"512"`.
fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim_start() {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1000 * 1000,
        "GB" => 1000 * 1000 * 1000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

fn origins(value: &Value<'_>) -> AllowedOrigins {
    let mut allowed = AllowedOrigins {
        any: false,
        same_origin: false,
        exact: Vec::new(),
    };
    for entry in value.array() {
        let Some(text) = entry.string() else { continue };
        match text {
            "*" => allowed.any = true,
            "same-origin" => allowed.same_origin = true,
            _ => match parse_origin(text) {
                Some(origin) => allowed.exact.push(origin),
                None => entry.wrong(format!(
                    "expected \"same-origin\", \"*\", or an exact origin like \"https://example.com\" \
                     without a path, found {text:?}"
                )),
            },
        }
    }
    allowed
}

/// An origin as a browser writes it: lower case, without the default port, nothing after it.
fn parse_origin(text: &str) -> Option<String> {
    let url = url::Url::parse(text).ok()?;
    let bare = matches!(url.path(), "" | "/")
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none()
        && text.contains("://");
    let host = url
        .host_str()
        .filter(|host| bare && !host.is_empty() && !host.contains('*'))?;
    let port = url
        .port()
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    Some(format!(
        "{}://{}{port}",
        url.scheme(),
        host.to_ascii_lowercase()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pauses_are_durations_or_ranges() {
        let second = Duration::from_secs;
        assert_eq!(parse_pause("5s"), Ok((second(5), second(5))));
        assert_eq!(parse_pause("2s..6s"), Ok((second(2), second(6))));
        assert_eq!(parse_pause("2s .. 1m 30s"), Ok((second(2), second(90))));
        assert_eq!(parse_pause("10ms"), Ok((SHORTEST_PAUSE, SHORTEST_PAUSE)));
        for bad in [
            "",
            "..",
            "5",
            "6s..2s",
            "1ms",
            "0s",
            "2s..",
            "2s...6s",
            "9999y",
            "-1s",
            "2s..6s..8s",
        ] {
            assert!(parse_pause(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn requests_are_a_method_and_a_path() {
        assert_eq!(
            parse_request("POST /internal/orders"),
            Ok((Method::POST, "/internal/orders".to_owned()))
        );
        assert_eq!(
            parse_request(" GET  /a?b=c "),
            Ok((Method::GET, "/a?b=c".to_owned()))
        );
        for bad in [
            "",
            "POST",
            "/x",
            "post /x",
            "CONNECT /x",
            "POST x",
            "POST http://x/",
            "GET /a b",
            "GET /a#b",
        ] {
            assert!(parse_request(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("1", 1),
            ("512B", 512),
            ("64KiB", 65536),
            ("1 MiB", 1 << 20),
            ("2kB", 2000),
            ("1GiB", 1 << 30),
        ] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for bad in [
            "",
            "KiB",
            "-1",
            "1.5MiB",
            "1mib",
            "1 K",
            "99999999999999999999GiB",
            "18446744073709551615KiB",
        ] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn origins_are_written_as_browsers_do() {
        for (text, origin) in [
            ("https://Example.COM", "https://example.com"),
            ("https://example.com:443/", "https://example.com"),
            ("http://example.com:80", "http://example.com"),
            ("http://example.com:8080", "http://example.com:8080"),
            ("http://[::1]:3000", "http://[::1]:3000"),
            ("https://bücher.example", "https://xn--bcher-kva.example"),
            ("tauri://Localhost", "tauri://localhost"),
        ] {
            assert_eq!(parse_origin(text).as_deref(), Some(origin), "{text}");
        }
        for bad in [
            "",
            "example.com",
            "https://",
            "https://a/b",
            "https://a?b",
            "https://u@a",
            "https://*.a",
            "null",
            "mailto:x",
        ] {
            assert_eq!(parse_origin(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in ".{0,40}") {
            let _ = (parse_pause(&text), parse_request(&text), parse_size(&text), parse_origin(&text));
        }

        #[test]
        fn ranges_hold(least in 10u64..100_000, more in 0u64..100_000) {
            let (least, most) = (Duration::from_millis(least), Duration::from_millis(least + more));
            let text = format!("{}..{}", humantime::format_duration(least), humantime::format_duration(most));
            prop_assert_eq!(parse_pause(&text), Ok((least, most)));
        }
    }
}
