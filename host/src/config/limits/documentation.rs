//! Compares the limits with `docs/configuration.md`, with their doc comments, and with the code that
//! uses them.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use super::Limits;
use crate::config::CacheLimits;

const PAGE: &str = include_str!("../../../../docs/configuration.md");
const HOST_SOURCE: &str = include_str!("../limits.rs");
const RUNTIME_SOURCE: &str = include_str!("../../../../crates/spin-runtime/src/limits.rs");

/// A limit as it is documented.
struct Row {
    field: &'static str,
    description: &'static str,
    default: String,
}

/// Makes a [`Row`] for each field of a struct of limits. A field that is missing does not compile.
macro_rules! rows {
    (
        $limits:path, other_tables: [$($other:ident),*],
        $($field:ident: $format:ident($description:literal),)*
    ) => {{
        let $limits { $($field,)* $($other: _,)* } = <$limits>::DEFAULT;
        vec![$(Row {
            field: stringify!($field),
            description: $description,
            default: $format($field),
        },)*]
    }};
}

fn limits_of_the_host() -> Vec<Row> {
    rows! {
        Limits,
        // In the tables of `[application.tool.socket-host.websocket]` and `.http`.
        other_tables: [
            max_message_bytes, max_outgoing_buffer_bytes, max_incoming_buffer_bytes,
            max_connections, max_response_events_bytes, ping_interval, compression,
            max_holds_per_address, max_handshakes_per_address, max_messages_per_second,
            max_connections_per_address, max_request_body_bytes
        ],
        request_head_timeout: time("time for the head of a request, from the start of the connection or the end of the previous response"),
        tls_handshake_timeout: time("time for a TLS handshake"),
        max_request_head_bytes: size("target and headers of a request"),
        max_request_header_fields: count("header fields of a request"),
        unread_response_timeout: time("time that a client may leave a response unread"),
        request_body_idle_timeout: time("time in which nothing of a request's body arrives"),
        min_request_body_bytes: size("part of a request's body that must arrive in each minute of waiting for it"),
        request_body_prefetch_bytes: size("part of a request's body that is received before the component is called"),
        tcp_keepalive: time("idle time of a client's TCP connection before the system probes it"),
        h2_ping_interval: time("silence of a client's HTTP/2 connection before it gets a ping"),
        h2_send_buffer_bytes: size("part of a response that waits for a client on an HTTP/2 stream"),
        max_h2_streams: count("requests and WebSockets at the same time on one HTTP/2 connection"),
        h2_stream_window_bytes: size("unread data of a client on an HTTP/2 stream"),
        h2_connection_window_bytes: size("unread data of a client on all streams of an HTTP/2 connection"),
        close_timeout: time("time for a client to answer a close"),
        drain_timeout: time("time for WebSockets and requests to end at shutdown"),
        drain_request_timeout: time("time at shutdown for the first request of a connection"),
        exit_flush_timeout: time("time to write the components' last output at exit"),
        access_log_queue_bytes: size("lines of the access log that wait to be written"),
        recent_log_bytes: size("last lines of the log that the control port shows"),
        otlp_retries: count("retries of a batch of spans that a collector does not accept"),
        otlp_flush_timeout: time("time to export the last spans and metrics at exit"),
        max_auto_responses: count("messages of a WebSocket that the host answers by itself"),
        max_auto_response_bytes: size("length of such a message, and of its answer"),
        max_events_per_request: count("events in one request to a component"),
        response_body_timeout: time("time for the body of a response with events or instructions, of a held response, or of a timer's response"),
        min_keep_alive_interval: time("shortest `Keep-Alive-Interval` of a WebSocket"),
        backend_retries: count("retries of a request with events that did not reach the component"),
        max_subscriptions: count("channels of a WebSocket or of a held request"),
        max_metadata_entries: count("metadata names of a WebSocket or of a held request"),
        max_held_response_bytes: size("body of a held response, or of a response with instructions"),
        max_replay_body_bytes: size("request body that is kept to send a held request again"),
        max_replays: count("times in a row that a held request is sent again"),
        next_part_attempts: count("attempts to fetch the next part of a stream, over about 31 s"),
        max_publish_bytes: size("body of a publish request"),
        max_shard_queue_bytes: size("publications that wait for 128 subscribers of a channel"),
        reorder_timeout: time("time that a publication waits for its `prev-id`"),
        max_reordered_items: count("publications of a channel that wait for their `prev-id`"),
        max_reordered_bytes: size("size of a channel's publications that wait for their `prev-id`"),
        known_ids_per_channel: count("published ids that a channel remembers, to drop duplicates"),
        known_id_lifetime: time("time that a channel remembers a published id"),
        max_id_bytes: size("length of an `id` or `prev-id`"),
        max_idle_channels: count("channels without subscribers that are remembered"),
        idle_channel_lifetime: time("time that a channel without subscribers is remembered"),
        max_history_bytes: size("histories of all channels in memory"),
        max_observed_items: count("items that wait for a client of the control port that follows a channel"),
        max_observers: count("clients of the control port that follow channels at the same time"),
        bus_timeout: time("time for the bus to accept a connection, to answer, or to deliver what the host publishes to itself"),
        bus_probe_interval: time("interval at which the host publishes to itself on the bus"),
        bus_queue_bytes: size("messages of the bus that wait to be delivered"),
        bus_wait_timeout: time("time for replicas to acknowledge what is published, with `--bus-wait`"),
        bus_lease: time("time without a heartbeat of a host on the bus"),
        bus_answer_timeout: time("time for other hosts to answer a query of the control port"),
        presence_leave_delay: time("time that a member of a channel stays without connections"),
        max_presence_info_bytes: size("`info` of a member"),
        cache_wait_timeout: time("time that a request waits for the response to another request of the same URL, to be answered from the cache"),
        cache_fill_timeout: time("time for the body of a response that is to be stored in the cache"),
        max_cache_variants: count("stored responses of one URL, such as in several encodings"),
        token_lifetime: time("lifetime of a `Grip-Sig` token"),
        upstream_connect_timeout: time("time to connect to an upstream, with DNS and TLS"),
        upstream_idle_timeout: time("idle time of an HTTP/1.1 connection to an upstream"),
        upstream_h2_idle_timeout: time("idle time of an HTTP/2 connection to an upstream"),
        upstream_idle_connections: count("idle HTTP/1.1 connections to an upstream"),
        upstream_requests: count("requests at the same time to an upstream"),
        upstream_connecting: count("connections to an upstream that are opened at the same time"),
        upstream_h2_requests: count("requests at the same time on one HTTP/2 connection to an upstream"),
        upstream_h2_window_bytes: size("unread data of a response on an HTTP/2 connection to an upstream"),
        upstream_ping_interval: time("silence of an HTTP/2 connection with open requests to an upstream, before a ping"),
        upstream_attempts: count("attempts to send a request to an upstream on connections that turn out to be closed"),
        max_passes: count("times that a request passes through this host"),
        spin_stop_timeout: time("time for Spin to end after SIGTERM, with `--spin`"),
        tunnel_half_closed_timeout: time("time for one side of a tunnel after the other side has closed"),
        max_watching_pages: count("pages that listen for reloads"),
        build_output_bytes: size("output of a build command that pages show"),
        build_stop_timeout: time("time for a build command to end after SIGTERM"),
        min_duration: time("shortest duration that can be configured"),
        max_duration: time("longest duration that can be configured"),
        max_size_bytes: size("largest size that can be configured"),
    }
}

fn limits_of_components() -> Vec<Row> {
    rows! {
        spin_runtime::Limits,
        // Options of the command line, and a key of the runtime configuration.
        other_tables: [
            redis_connections,
            request_timeout,
            instance_memory_bytes,
            requests_per_instance,
            waiting_requests,
            concurrent_requests_per_instance,
            idle_instance_timeout,
            instance_ranges
        ],
        instances_per_component: count("instances of a component"),
        computing_instances_per_processor: count("instances of a component that compute for longer than 10 ms and wait for their turn, for each processor"),
        handles_per_instance: count("handles of an instance, such as streams, files and sockets"),
        outgoing_requests: count("outgoing HTTP requests of a component at the same time"),
        upload_percent: count("percent of a component's capacity for requests whose body is still arriving"),
        upload_percent_per_client: count("percent of a component's capacity for such requests of one client"),
        call_depth: count("components that call each other in a chain"),
        connect_timeout: time("time to connect for a component's outgoing request, unless the component sets it"),
        first_byte_timeout: time("time to the head of the response to a component's outgoing request, unless the component sets it"),
        between_bytes_timeout: time("time between two parts of the response to a component's outgoing request, unless the component sets it"),
        idle_connection_timeout: time("idle time of a component's outgoing connection"),
        download_bytes: size("file that is downloaded as a component"),
        download_timeout: time("time to download a component"),
        pending_output_bytes: size("output of components that waits to be written"),
        output_line_bytes: size("line of a component's output"),
        pending_store_operations: count("operations that wait for a key-value store"),
        store_lock_timeout: time("time that another process may lock a key-value store or a SQLite database"),
        log_lines_per_second: count("log lines for each kind of failure of a component, in a second"),
        log_file_retry_interval: time("pause between two attempts to write to a log file that failed"),
        store_lock_warning: time("time that another process may lock a key-value store without a warning"),
        redis_timeout: time("time for a Redis server to accept a connection, or to answer an operation of a key-value store"),
        database_connections: count("connections to SQLite databases that a component has open"),
        query_result_bytes: size("result of an operation of a key-value store or of a statement, or a row that is streamed"),
        channel_name_bytes: size("name of a channel in a call of a component"),
        channel_message_bytes: size("message that a component publishes by a call"),
        refusal_bytes: size("body of a response with which a component that handles typed frames refuses a WebSocket"),
        denied_store_labels: count("denied labels of stores and databases that are logged for each component"),
        path_decode_passes: count("times that a request's path may be percent-encoded"),
    }
}

/// Returns the text below a heading.
fn section(heading: &str) -> &'static str {
    let (_, section) = PAGE
        .split_once(&format!("\n{heading}\n"))
        .unwrap_or_else(|| panic!("no heading {heading:?}"));
    section.split("\n#").next().unwrap_or_default()
}

/// Asserts that the table below a heading has this default for a key.
fn assert_default(heading: &str, key: &str, default: &str) {
    let mut lines = section(heading).lines();
    let row = lines
        .find(|line| line.starts_with(&format!("| `{key}` |")))
        .unwrap_or_else(|| panic!("no row for {key}"));
    assert!(row.ends_with(&format!("| {default} |")), "{row}");
}

/// Returns the rows of the table below a heading by their first cell.
fn table(heading: &str) -> BTreeMap<&'static str, &'static str> {
    let rows = section(heading).lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        Some((cells.next()?, cells.next()?))
    });
    // The first row is the head of the table.
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
    match duration.as_secs() {
        0 => format!("{} ms", duration.as_millis()),
        seconds if seconds >= 86_400 => format!("{} days", seconds / 86_400),
        seconds if seconds >= 600 => format!("{} min", seconds / 60),
        seconds => format!("{seconds} s"),
    }
}

/// Returns the doc comments of the fields in the source of a struct, each on one line.
fn doc_comments(source: &str) -> BTreeMap<&str, String> {
    let mut docs = BTreeMap::new();
    let mut doc = String::new();
    for line in source.lines() {
        if let Some(text) = line.strip_prefix("    /// ") {
            doc = format!("{doc} {text}");
        } else if let Some(field) = line.strip_prefix("    pub ")
            && let Some((field, _)) = field.split_once(':')
            && !field.starts_with("const ")
        {
            docs.insert(field, std::mem::take(&mut doc));
        } else {
            doc.clear();
        }
    }
    docs
}

/// Returns the text of all source files in a folder, except for those of the limits themselves.
fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).expect("readable folder") {
        let path = entry.expect("readable entry").path();
        if path.is_dir() && !path.ends_with("limits") {
            text += &sources(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !path.ends_with("limits.rs")
        {
            text += &fs::read_to_string(&path).expect("readable file");
        }
    }
    text
}

#[test]
fn fixed_limits_are_in_the_documentation() {
    let documented = table("## Bounds that are not configured");
    let mut rows = limits_of_the_host();
    rows.extend(limits_of_components());
    rows.push(Row {
        field: "MIN_TIMEOUT",
        description: "shortest `Grip-Timeout` of a held response",
        default: time(grip::hold::MIN_TIMEOUT),
    });
    for row in &rows {
        let documented = documented.get(row.description).copied();
        assert_eq!(
            documented,
            Some(row.default.as_str()),
            "{}",
            row.description
        );
    }
    for description in documented.keys() {
        assert!(
            rows.iter().any(|row| row.description == *description),
            "no such limit: {description}"
        );
    }
}

#[test]
fn configurable_limits_are_in_the_documentation() {
    let limits = Limits::DEFAULT;
    let quoted = |text: String| format!("`\"{}\"`", text.replace(' ', ""));
    for (key, default) in [
        ("max-message-size", quoted(size(limits.max_message_bytes))),
        (
            "max-outgoing-buffer",
            quoted(size(limits.max_outgoing_buffer_bytes)),
        ),
        (
            "max-incoming-buffer",
            format!("`{}`", limits.max_incoming_buffer_bytes),
        ),
        ("max-connections", format!("`{}`", limits.max_connections)),
        (
            "max-response-events",
            format!("`{}`", limits.max_response_events_bytes),
        ),
        (
            "ping-interval",
            quoted(limits.ping_interval.map(time).unwrap_or_default()),
        ),
        ("compression", format!("`{}`", limits.compression)),
        (
            "max-connections-per-address",
            format!("`{}`", limits.max_holds_per_address),
        ),
        (
            "max-handshakes-per-address",
            format!(
                "`{}`",
                limits.max_handshakes_per_address.unwrap_or_default()
            ),
        ),
        (
            "max-messages-per-second",
            format!("`{}`", limits.max_messages_per_second.unwrap_or_default()),
        ),
    ] {
        assert_default("### WebSockets", key, &default);
    }
    for (key, default) in [
        (
            "max-connections-per-address",
            format!("`{}`", limits.max_connections_per_address),
        ),
        (
            "max-request-body",
            quoted(size(limits.max_request_body_bytes)),
        ),
    ] {
        assert_default("### Requests", key, &default);
    }
    let cache = CacheLimits::DEFAULT;
    for (key, default) in [
        ("max-size", cache.max_bytes),
        ("max-response-size", cache.max_response_bytes),
    ] {
        assert_default("### Cache", key, &quoted(size(default)));
    }
    let row = table("### The runtime configuration")["`[outbound_redis]`"];
    let default = count(spin_runtime::Limits::DEFAULT.redis_connections);
    assert!(row.contains(&format!("Default: {default} |")), "{row}");
}

#[test]
fn doc_comments_state_the_default() {
    for (rows, source) in [
        (limits_of_the_host(), HOST_SOURCE),
        (limits_of_components(), RUNTIME_SOURCE),
    ] {
        let docs = doc_comments(source);
        for row in rows {
            let doc = docs.get(row.field).cloned().unwrap_or_default();
            let default = format!("Default: {}", row.default);
            assert!(doc.contains(&default), "{}: {doc}", row.field);
        }
    }
}

#[test]
fn limits_are_used() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let host = sources(&root.join("src"));
    let runtime = sources(&root.join("../crates/spin-runtime/src"));
    for (source, text) in [(HOST_SOURCE, host), (RUNTIME_SOURCE, runtime)] {
        for field in doc_comments(source).keys() {
            assert!(text.contains(&format!(".{field}")), "{field} is not used");
        }
    }
}
