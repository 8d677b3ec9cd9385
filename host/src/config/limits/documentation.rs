//! Compares the tables of limits in `docs/configuration.md` with the code.

use std::{collections::BTreeMap, time::Duration};

use super::Limits;

const PAGE: &str = include_str!("../../../../docs/configuration.md");

/// A documented limit: its description and its default.
type Row = (&'static str, String);

/// Returns the rows of a table below a heading, up to the next heading, by their first cell.
fn table(heading: &str) -> BTreeMap<&'static str, &'static str> {
    let (_, section) = PAGE
        .split_once(&format!("\n{heading}\n"))
        .unwrap_or_else(|| panic!("no heading {heading:?}"));
    let section = section.split("\n#").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        Some((cells.next()?, cells.next()?))
    });
    // The heading of the table.
    rows.skip(1).collect()
}

fn count(number: impl TryInto<u64>) -> String {
    let Ok(number) = number.try_into() else {
        panic!("not a count");
    };
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn size(bytes: impl TryInto<u64>) -> String {
    let Ok(bytes) = bytes.try_into() else {
        panic!("not a size");
    };
    for (unit, name) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes % unit == 0 {
            return format!("{} {name}", bytes / unit);
        }
    }
    format!("{} bytes", count(bytes))
}

fn time(duration: Duration) -> String {
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    match seconds {
        0 => format!("{millis} ms"),
        seconds if seconds >= 86_400 => format!("{} days", seconds / 86_400),
        seconds if seconds >= 600 => format!("{} min", seconds / 60),
        seconds => format!("{seconds} s"),
    }
}

/// Returns the limits of the host that are not configurable. A new field does not compile until it
/// is listed here or in the test of the configurable ones.
fn fixed_limits_of_the_host() -> Vec<Row> {
    let Limits {
        max_message_bytes: _,
        max_outgoing_buffer_bytes: _,
        max_incoming_buffer_bytes: _,
        max_connections: _,
        ping_interval: _,
        request_head_timeout,
        unread_response_timeout,
        tcp_keepalive,
        h2_ping_interval,
        close_timeout,
        drain_timeout,
        exit_flush_timeout,
        max_events_per_request,
        max_response_events_bytes,
        response_body_timeout,
        min_keep_alive_interval,
        backend_retries,
        max_subscriptions,
        max_metadata_entries,
        min_hold_timeout,
        max_held_response_bytes,
        max_replay_body_bytes,
        max_replays,
        next_part_attempts,
        max_publish_bytes,
        max_shard_queue_bytes,
        reorder_timeout,
        max_reordered_items,
        max_reordered_bytes,
        known_ids_per_channel,
        known_id_lifetime,
        max_id_bytes,
        max_idle_channels,
        idle_channel_lifetime,
        token_lifetime,
        upstream_connect_timeout,
        upstream_idle_timeout,
        upstream_h2_idle_timeout,
        upstream_idle_connections,
        upstream_connecting,
        upstream_h2_requests,
        upstream_h2_window_bytes,
        upstream_ping_interval,
        upstream_attempts,
        max_passes,
        tunnel_half_closed_timeout,
        max_watching_pages,
        build_output_bytes,
        build_stop_timeout,
        min_duration,
        max_duration,
        max_size_bytes,
    } = Limits::DEFAULT;
    vec![
        (
            "time for the head of a request, from the start of the connection or the end of the previous response",
            time(request_head_timeout),
        ),
        (
            "time that a client may leave a response unread",
            time(unread_response_timeout),
        ),
        (
            "idle time of a client's TCP connection before the system probes it",
            time(tcp_keepalive),
        ),
        (
            "silence of a client's HTTP/2 connection before it gets a ping",
            time(h2_ping_interval),
        ),
        ("time for a client to answer a close", time(close_timeout)),
        (
            "time for WebSockets and requests to end at shutdown",
            time(drain_timeout),
        ),
        (
            "time to write the components' last output at exit",
            time(exit_flush_timeout),
        ),
        (
            "events in one request to a component",
            count(max_events_per_request as u64),
        ),
        (
            "events in one response of a component",
            size(max_response_events_bytes as u64),
        ),
        (
            "time for the body of a response with events or instructions, of a held response, or of a timer's response",
            time(response_body_timeout),
        ),
        (
            "shortest `Keep-Alive-Interval` of a WebSocket",
            time(min_keep_alive_interval),
        ),
        (
            "retries of a request with events that did not reach the component",
            count(backend_retries),
        ),
        (
            "channels of a WebSocket or of a held request",
            count(max_subscriptions as u64),
        ),
        (
            "metadata names of a WebSocket or of a held request",
            count(max_metadata_entries as u64),
        ),
        (
            "shortest `Grip-Timeout` of a held response",
            time(min_hold_timeout),
        ),
        (
            "body of a held response, or of a response with instructions",
            size(max_held_response_bytes as u64),
        ),
        (
            "request body that is kept to send a held request again",
            size(max_replay_body_bytes as u64),
        ),
        (
            "times in a row that a held request is sent again",
            count(max_replays as u64),
        ),
        (
            "attempts to fetch the next part of a stream, over about 31 s",
            count(next_part_attempts),
        ),
        ("body of a publish request", size(max_publish_bytes as u64)),
        (
            "publications that wait for 128 subscribers of a channel",
            size(max_shard_queue_bytes as u64),
        ),
        (
            "time that a publication waits for its `prev-id`",
            time(reorder_timeout),
        ),
        (
            "publications of a channel that wait for their `prev-id`",
            count(max_reordered_items as u64),
        ),
        (
            "size of a channel's publications that wait for their `prev-id`",
            size(max_reordered_bytes as u64),
        ),
        (
            "published ids that a channel remembers, to drop duplicates",
            count(known_ids_per_channel as u64),
        ),
        (
            "time that a channel remembers a published id",
            time(known_id_lifetime),
        ),
        ("length of an `id` or `prev-id`", size(max_id_bytes as u64)),
        (
            "channels without subscribers that are remembered",
            count(max_idle_channels as u64),
        ),
        (
            "time that a channel without subscribers is remembered",
            time(idle_channel_lifetime),
        ),
        ("lifetime of a `Grip-Sig` token", time(token_lifetime)),
        (
            "time to connect to an upstream, with DNS and TLS",
            time(upstream_connect_timeout),
        ),
        (
            "idle time of an HTTP/1.1 connection to an upstream",
            time(upstream_idle_timeout),
        ),
        (
            "idle time of an HTTP/2 connection to an upstream",
            time(upstream_h2_idle_timeout),
        ),
        (
            "idle HTTP/1.1 connections to an upstream",
            count(upstream_idle_connections as u64),
        ),
        (
            "connections to an upstream that are opened at the same time",
            count(upstream_connecting as u64),
        ),
        (
            "requests at the same time on one HTTP/2 connection to an upstream",
            count(upstream_h2_requests as u64),
        ),
        (
            "unread data of a response on an HTTP/2 connection to an upstream",
            size(upstream_h2_window_bytes),
        ),
        (
            "silence of an HTTP/2 connection with open requests to an upstream, before a ping",
            time(upstream_ping_interval),
        ),
        (
            "attempts to send a request to an upstream on connections that turn out to be closed",
            count(upstream_attempts as u64),
        ),
        (
            "times that a request passes through this host",
            count(max_passes as u64),
        ),
        (
            "time for one side of a tunnel after the other side has closed",
            time(tunnel_half_closed_timeout),
        ),
        (
            "pages that listen for reloads",
            count(max_watching_pages as u64),
        ),
        (
            "output of a build command that pages show",
            size(build_output_bytes as u64),
        ),
        (
            "time for a build command to end after SIGTERM",
            time(build_stop_timeout),
        ),
        (
            "shortest duration that can be configured",
            time(min_duration),
        ),
        (
            "longest duration that can be configured",
            time(max_duration),
        ),
        ("largest size that can be configured", size(max_size_bytes)),
    ]
}

/// Returns the limits of components.
fn limits_of_components() -> Vec<Row> {
    let spin_runtime::Limits {
        // An option of the command line.
        request_timeout: _,
        instance_memory_bytes,
        instances_per_component,
        requests_per_instance,
        concurrent_requests_per_instance,
        idle_instance_timeout,
        call_depth,
        connect_timeout,
        first_byte_timeout,
        between_bytes_timeout,
        idle_connection_timeout,
        pending_output_bytes,
        output_line_bytes,
        pending_store_operations,
        store_lock_timeout,
        path_decode_passes,
    } = spin_runtime::Limits::DEFAULT;
    vec![
        (
            "memory of a component instance",
            size(instance_memory_bytes as u64),
        ),
        (
            "instances of a component",
            count(instances_per_component as u64),
        ),
        (
            "requests that a WASI 0.3 instance serves",
            count(requests_per_instance as u64),
        ),
        (
            "requests that a WASI 0.3 instance serves at the same time",
            count(concurrent_requests_per_instance as u64),
        ),
        ("idle time of an instance", time(idle_instance_timeout)),
        (
            "components that call each other in a chain",
            count(call_depth),
        ),
        (
            "time to connect for a component's outgoing request, unless the component sets it",
            time(connect_timeout),
        ),
        (
            "time to the head of the response to a component's outgoing request, unless the component sets it",
            time(first_byte_timeout),
        ),
        (
            "time between two parts of the response to a component's outgoing request, unless the component sets it",
            time(between_bytes_timeout),
        ),
        (
            "idle time of a component's outgoing connection",
            time(idle_connection_timeout),
        ),
        (
            "output of components that waits to be written",
            size(pending_output_bytes as u64),
        ),
        (
            "line of a component's output",
            size(output_line_bytes as u64),
        ),
        (
            "operations that wait for a key-value store",
            count(pending_store_operations as u64),
        ),
        (
            "time that another process may lock a key-value store",
            time(store_lock_timeout),
        ),
        (
            "times that a request's path may be percent-encoded",
            count(path_decode_passes as u64),
        ),
    ]
}

#[test]
fn fixed_limits_are_documented() {
    let documented = table("## Bounds that are not configured");
    let mut limits = fixed_limits_of_the_host();
    limits.extend(limits_of_components());
    let limits: BTreeMap<_, _> = limits.into_iter().collect();
    for (limit, default) in &limits {
        let documented = documented.get(limit).copied();
        assert_eq!(documented, Some(default.as_str()), "{limit}");
    }
    for limit in documented.keys() {
        assert!(limits.contains_key(limit), "no such limit: {limit}");
    }
}

#[test]
fn configurable_limits_are_documented() {
    let documented = table("### WebSockets");
    let limits = Limits::DEFAULT;
    let quoted = |text: String| format!("`\"{}\"`", text.replace(' ', ""));
    for (key, default) in [
        (
            "max-message-size",
            quoted(size(limits.max_message_bytes as u64)),
        ),
        (
            "max-outgoing-buffer",
            quoted(size(limits.max_outgoing_buffer_bytes as u64)),
        ),
        (
            "max-incoming-buffer",
            format!("`{}`", limits.max_incoming_buffer_bytes),
        ),
        ("max-connections", format!("`{}`", limits.max_connections)),
        (
            "ping-interval",
            quoted(limits.ping_interval.map(time).unwrap_or_default()),
        ),
    ] {
        let row = PAGE
            .lines()
            .find(|line| line.starts_with(&format!("| `{key}` |")))
            .unwrap_or_else(|| panic!("no row for {key}"));
        assert!(row.ends_with(&format!("| {default} |")), "{row}");
        assert!(
            documented.contains_key(format!("`{key}`").as_str()),
            "{key}"
        );
    }
}
