//! Every limit of the host, in one place.

use std::time::Duration;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Every limit of the host, with its default.
///
/// Those that name a key are configured by `[application.tool.socket-host.websocket]` and
/// `[application.tool.socket-host.http]`; the others are fixed and read from [`Limits::DEFAULT`]. The limits of components are
/// [`spin_runtime::Limits`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    // Configurable: `[application.tool.socket-host.websocket]`.
    /// The largest message that a client may send (key `max-message-size`). Default: 64 KiB.
    pub max_message_bytes: usize,
    /// The data that may wait for a client before it is closed with 1013 (key
    /// `max-outgoing-buffer`). Default: 1 MiB.
    pub max_outgoing_buffer_bytes: usize,
    /// The data of a client that may wait for the backend before its socket is no longer read (key
    /// `max-incoming-buffer`). Default: 200,000 bytes, as in Pushpin.
    pub max_incoming_buffer_bytes: usize,
    /// The open sockets, at least 1. Further handshakes get 503. Held HTTP requests and tunnels
    /// each have a limit of the same size (key `max-connections`). Default: 100,000.
    pub max_connections: usize,
    /// The body of a backend's response with events. A larger one closes the socket with 1011 (key
    /// `max-response-events`). Default: 1,000,000 bytes, as in Pushpin, or what a message of
    /// [`Self::max_message_bytes`] needs if that is more.
    pub max_response_events_bytes: usize,
    /// How long a client may be silent before it gets a ping, and then before it is dropped. `None`
    /// disables pings (key `ping-interval`, `"off"` for `None`). Default: 30 s.
    pub ping_interval: Option<Duration>,
    /// Whether messages are compressed for clients that support it (key `compression`). Default:
    /// true.
    pub compression: bool,
    /// The WebSockets and the held HTTP requests of one address. Further ones get 429 (key
    /// `max-connections-per-address`). Default: 10,000.
    pub max_holds_per_address: usize,
    /// The handshakes of one address in a second, averaged over 10 s. Further ones get 429. `None`
    /// disables the limit (key `max-handshakes-per-address`, `"off"` for `None`). Default: 1,000.
    pub max_handshakes_per_address: Option<u32>,
    /// The messages of one WebSocket client in a second, averaged over 10 s, with its pings and
    /// pongs. The client is then closed with 1008. `None` disables the limit (key
    /// `max-messages-per-second`, `"off"` for `None`). Default: 1,000.
    pub max_messages_per_second: Option<u32>,
    // Configurable: `[application.tool.socket-host.http]`.
    /// The connections of one address to the public port. Some of the further ones get 429, the
    /// others are closed (key `max-connections-per-address`). Default: 20,000.
    pub max_connections_per_address: usize,
    /// The body of a request. A larger one gets 413 (key `max-request-body`). Default: 1 GiB.
    pub max_request_body_bytes: usize,
    // Connections of clients.
    /// The time for the head of a request, from the start of the connection or the end of the
    /// previous response. The connection is then closed. Default: 60 s.
    pub request_head_timeout: Duration,
    /// The time for a TLS handshake. The connection is then closed. Default: 10 s.
    pub tls_handshake_timeout: Duration,
    /// The target and the headers of a request. The request then gets 431. Default: 32 KiB.
    pub max_request_head_bytes: usize,
    /// The header fields of a request. The request then gets 431. Default: 100.
    pub max_request_header_fields: usize,
    /// How long a client may leave a response unread. The connection is then closed, or the stream
    /// reset if it is HTTP/2. Default: 60 s.
    pub unread_response_timeout: Duration,
    /// How long nothing of a request's body may arrive while it is awaited. The request then gets
    /// 408. Default: 30 s.
    pub request_body_idle_timeout: Duration,
    /// The part of a request's body that must arrive in each minute in which it is awaited. The
    /// request then gets 408. Default: 6,000 bytes.
    pub min_request_body_bytes: usize,
    /// The part of a request's body that is received before the request is sent to the backend.
    /// Default: 64 KiB.
    pub request_body_prefetch_bytes: usize,
    /// How long a TCP connection is idle before the system probes it. Default: 60 s.
    pub tcp_keepalive: Duration,
    /// How long an HTTP/2 connection is silent before it gets a ping. It is closed if the client
    /// does not answer. Default: 60 s.
    pub h2_ping_interval: Duration,
    /// The part of a response that waits for the window of an HTTP/2 stream. The backend then waits.
    /// Default: 64 KiB.
    pub h2_send_buffer_bytes: usize,
    /// The concurrent requests and WebSockets on an HTTP/2 connection. The client then waits.
    /// Default: 200.
    pub max_h2_streams: u32,
    /// The data of a client that an HTTP/2 stream may send before it is read. The client then waits.
    /// Default: 256 KiB.
    pub h2_stream_window_bytes: u32,
    /// The data of a client that all streams of an HTTP/2 connection may send before it is read. The
    /// client then waits. Default: 2 MiB.
    pub h2_connection_window_bytes: u32,
    /// The time for a client to answer a close frame, or to read what was sent before it. The
    /// connection is then dropped. Default: 5 s.
    pub close_timeout: Duration,
    /// The time for requests and sockets to finish when the host stops. What is left is aborted.
    /// Default: 30 s.
    pub drain_timeout: Duration,
    /// The time for the first request of a connection that was accepted before the host stops. The
    /// connection is then closed. Default: 2 s.
    pub drain_request_timeout: Duration,
    /// The time at exit to write what components have printed. The rest is dropped. Default: 500
    /// ms.
    pub exit_flush_timeout: Duration,
    // Telemetry.
    /// The lines of the access log that wait to be written. Further ones are dropped and counted.
    /// Default: 4 MiB.
    pub access_log_queue_bytes: usize,
    /// The last lines of the log that the control port shows, without the access log. The oldest are
    /// then forgotten. Default: 256 KiB.
    pub recent_log_bytes: usize,
    /// How often a batch of spans that a collector does not accept is sent again. The spans are then
    /// dropped and counted. Default: 4.
    pub otlp_retries: u32,
    /// The time to export the last spans and metrics at exit. The rest is dropped. Default: 5 s.
    pub otlp_flush_timeout: Duration,
    // WebSocket-over-HTTP.
    /// The messages of a WebSocket that the host answers without a request to the backend. Default: 16.
    pub max_auto_responses: usize,
    /// The length of such a message, and of its answer. Default: 2 KiB.
    pub max_auto_response_bytes: usize,
    /// The events in one request to the backend. Further events wait for the next request. Default:
    /// 10,000.
    pub max_events_per_request: usize,
    /// The time from the head of a response to its end, for responses that are read whole: those
    /// with events or instructions, and those to timers. Default: 60 s.
    pub response_body_timeout: Duration,
    /// The shortest `Keep-Alive-Interval`. A shorter one is raised to it. Default: 20 s, as in
    /// Pushpin.
    pub min_keep_alive_interval: Duration,
    /// How often a request that did not reach the backend is sent again. The session then fails.
    /// Default: 5, as in Pushpin.
    pub backend_retries: u32,
    /// The channels of a session or of a held request. Further subscriptions are ignored and
    /// logged. Default: 1,000.
    pub max_subscriptions: usize,
    /// The metadata entries for filters, and the `Set-Meta-*` headers, of a session or of a held
    /// request. Further ones of a session are ignored and logged. A held request gets 502. Default:
    /// 100.
    pub max_metadata_entries: usize,
    // Held HTTP requests.
    /// The body of a response that is held as a response, or that contains instructions. A larger
    /// one gets 502. Default: 1,000,000 bytes.
    pub max_held_response_bytes: usize,
    /// The body of a request that is kept in order to send the request again. A larger request is
    /// not sent again. Default: 100,000 bytes, as in Pushpin.
    pub max_replay_body_bytes: usize,
    /// How often in a row a held request is sent again. The response of the backend is then used as
    /// it is. Default: 5.
    pub max_replays: usize,
    /// The attempts to fetch the next part of a stream, over about 31 s. The stream then ends.
    /// Default: 6.
    pub next_part_attempts: u32,
    // Publishing.
    /// The body of a publish request. A larger one gets 413. Default: 10 MiB.
    pub max_publish_bytes: usize,
    /// The publications that wait in a shard, which has up to 128 subscribers of a channel.
    /// Publishers wait while it is full. Default: 1 MiB.
    pub max_shard_queue_bytes: usize,
    /// How long an item waits for the item that its `prev-id` names. It is then delivered without
    /// it. Default: 5 s.
    pub reorder_timeout: Duration,
    /// The items of a channel that wait for their predecessors. The oldest are then delivered.
    /// Default: 100.
    pub max_reordered_items: usize,
    /// The size of the items of a channel that wait for their predecessors. The oldest are then
    /// delivered. Default: 4 MiB.
    pub max_reordered_bytes: usize,
    /// The published ids that a channel remembers to drop duplicates. The oldest are then
    /// forgotten. Default: 1,000.
    pub known_ids_per_channel: usize,
    /// How long a channel remembers a published id. Default: 60 s.
    pub known_id_lifetime: Duration,
    /// The length of an id that is remembered. Longer ids are not. Default: 1 KiB.
    pub max_id_bytes: usize,
    /// The channels without subscribers whose last id is remembered. The oldest are then forgotten.
    /// Default: 100,000.
    pub max_idle_channels: usize,
    /// How long a channel without subscribers is remembered. Default: 60 s.
    pub idle_channel_lifetime: Duration,
    /// The memory that the histories of all channels may take. The oldest items of the channel that
    /// is published to are then forgotten. Default: 256 MiB.
    pub max_history_bytes: usize,
    /// The items that wait for a client of the control port that observes a channel. Further ones are
    /// dropped, and the client is notified. Default: 1,000.
    pub max_observed_items: usize,
    /// The clients of the control port that observe channels at the same time. Further ones get 503.
    /// Default: 100.
    pub max_observers: usize,
    // The bus.
    /// The time for Redis to accept a connection, to answer, or to deliver what the host publishes to
    /// itself. The host then connects again. Default: 5 s.
    pub bus_timeout: Duration,
    /// How often the host publishes to itself. Default: 2 s.
    pub bus_probe_interval: Duration,
    /// The messages that wait to be delivered to subscribers. The host then drops them, connects again
    /// and reads them. Default: 64 MiB.
    pub bus_queue_bytes: usize,
    /// The time for replicas to acknowledge what is published, with `--bus-wait`. The request then gets
    /// 503. Default: 1 s.
    pub bus_wait_timeout: Duration,
    /// How long a host may be silent. It then counts as dead: another one calls the timers, and its
    /// members leave. Default: 10 s.
    pub bus_lease: Duration,
    /// The time for the other hosts to answer a query of the control port, such as how many
    /// subscribers a channel has. Those that have not are counted as missing. Default: 1 s.
    pub bus_answer_timeout: Duration,
    // Presence and users.
    /// How long a member of a channel stays after its last connection was closed. Default: 5 s.
    pub presence_leave_delay: Duration,
    /// The `info` of a member, as JSON. A larger one is ignored and logged. Default: 4 KiB.
    pub max_presence_info_bytes: usize,
    // The cache.
    /// How long a request waits for the response to another request of the same URL. It is then sent to
    /// the backend too, and later ones do not wait. Default: 5 s.
    pub cache_wait_timeout: Duration,
    /// The time for the body of a response that is to be stored. It is then passed on without being
    /// stored. Default: 60 s.
    pub cache_fill_timeout: Duration,
    /// The stored responses of one URL, such as in several encodings. The oldest is then dropped.
    /// Default: 32.
    pub max_cache_variants: usize,
    // Signatures.
    /// The lifetime of a `Grip-Sig` token. New requests carry a new one. Default: 60 min.
    pub token_lifetime: Duration,
    // Upstreams.
    /// The time to connect to an upstream. The request then gets 502. Default: 5 s.
    pub upstream_connect_timeout: Duration,
    /// How long an HTTP/1.1 connection to an upstream stays open without a request. Default: 4 s.
    pub upstream_idle_timeout: Duration,
    /// How long an HTTP/2 connection to an upstream stays open without a request. Default: 60 s.
    pub upstream_h2_idle_timeout: Duration,
    /// The idle HTTP/1.1 connections to an upstream that are kept. Further ones are closed.
    /// Default: 1,024.
    pub upstream_idle_connections: usize,
    /// The requests to an upstream whose response has not ended. Further ones of clients get 503, and
    /// those with the events of WebSockets wait. Default: 10,000.
    pub upstream_requests: usize,
    /// The connections to an upstream that are being opened at once. Further requests wait.
    /// Default: 128.
    pub upstream_connecting: usize,
    /// The concurrent requests on an HTTP/2 connection to an upstream. Further requests use another
    /// one. Default: 128.
    pub upstream_h2_requests: usize,
    /// The unread data of a response on an HTTP/2 connection to an upstream. The upstream then
    /// waits. Default: 256 KiB.
    pub upstream_h2_window_bytes: u32,
    /// How long an HTTP/2 connection with open requests to an upstream is silent before it gets a
    /// ping. It is closed if the upstream does not answer. Default: 20 s.
    pub upstream_ping_interval: Duration,
    /// The attempts to send a request on connections that turn out to be closed. The request then
    /// gets 502. Default: 4.
    pub upstream_attempts: usize,
    /// How often a request may pass through this host, which detects loops. It then gets 502.
    /// Default: 8.
    pub max_passes: usize,
    /// The time for Spin to end after SIGTERM. It is then killed. Default: 5 s.
    pub spin_stop_timeout: Duration,
    /// How long one side of a tunnel may continue after the other side has ended. Default: 60 s.
    pub tunnel_half_closed_timeout: Duration,
    // Watching.
    /// The pages that listen for changes with `--watch`. Further ones get 503. Default: 256.
    pub max_watching_pages: usize,
    /// The output of a build command that is shown in pages. The beginning is dropped. Default: 64
    /// KiB.
    pub build_output_bytes: usize,
    /// The time for a build command to end after SIGTERM. It is then killed. Default: 2 s.
    pub build_stop_timeout: Duration,
    // Configuration.
    /// The shortest duration that can be configured, so that a wrong unit does not cause a busy
    /// loop. Default: 10 ms.
    pub min_duration: Duration,
    /// The longest duration that can be configured, so that deadlines cannot overflow. Default:
    /// 366 days.
    pub max_duration: Duration,
    /// The largest size that can be configured. Default: 1 GiB.
    pub max_size_bytes: u64,
}

impl Limits {
    /// The default limits.
    pub const DEFAULT: Self = Self {
        // Configurable: `[application.tool.socket-host.websocket]`.
        max_message_bytes: 64 * KIB,
        max_outgoing_buffer_bytes: MIB,
        max_incoming_buffer_bytes: 200_000,
        max_connections: 100_000,
        max_response_events_bytes: 1_000_000,
        ping_interval: Some(secs(30)),
        compression: true,
        max_holds_per_address: 10_000,
        max_handshakes_per_address: Some(1000),
        max_messages_per_second: Some(1000),
        // Configurable: `[application.tool.socket-host.http]`.
        max_connections_per_address: 20_000,
        max_request_body_bytes: 1024 * MIB,
        // Connections of clients.
        request_head_timeout: secs(60),
        tls_handshake_timeout: secs(10),
        max_request_head_bytes: 32 * KIB,
        max_request_header_fields: 100,
        unread_response_timeout: secs(60),
        request_body_idle_timeout: secs(30),
        min_request_body_bytes: 6000,
        request_body_prefetch_bytes: 64 * KIB,
        tcp_keepalive: secs(60),
        h2_ping_interval: secs(60),
        h2_send_buffer_bytes: 64 * KIB,
        max_h2_streams: 200,
        h2_stream_window_bytes: 256 * 1024,
        h2_connection_window_bytes: 2 * 1024 * 1024,
        close_timeout: secs(5),
        drain_timeout: secs(30),
        drain_request_timeout: secs(2),
        exit_flush_timeout: Duration::from_millis(500),
        // Telemetry.
        access_log_queue_bytes: 4 * MIB,
        recent_log_bytes: 256 * KIB,
        otlp_retries: 4,
        otlp_flush_timeout: secs(5),
        // WebSocket-over-HTTP.
        max_auto_responses: 16,
        max_auto_response_bytes: 2048,
        max_events_per_request: 10_000,
        response_body_timeout: secs(60),
        min_keep_alive_interval: secs(20),
        backend_retries: 5,
        max_subscriptions: 1000,
        max_metadata_entries: 100,
        // Held HTTP requests.
        max_held_response_bytes: 1_000_000,
        max_replay_body_bytes: 100_000,
        max_replays: 5,
        next_part_attempts: 6,
        // Publishing.
        max_publish_bytes: 10 * MIB,
        max_shard_queue_bytes: MIB,
        reorder_timeout: secs(5),
        max_reordered_items: 100,
        max_reordered_bytes: 4 * MIB,
        known_ids_per_channel: 1000,
        known_id_lifetime: secs(60),
        max_id_bytes: 1024,
        max_idle_channels: 100_000,
        idle_channel_lifetime: secs(60),
        max_history_bytes: 256 * MIB,
        max_observed_items: 1000,
        max_observers: 100,
        // The bus.
        bus_timeout: secs(5),
        bus_probe_interval: secs(2),
        bus_queue_bytes: 64 * MIB,
        bus_wait_timeout: secs(1),
        bus_lease: secs(10),
        bus_answer_timeout: secs(1),
        // Presence and users.
        presence_leave_delay: secs(5),
        max_presence_info_bytes: 4 * KIB,
        // The cache.
        cache_wait_timeout: secs(5),
        cache_fill_timeout: secs(60),
        max_cache_variants: 32,
        // Signatures.
        token_lifetime: secs(60 * 60),
        // Upstreams.
        upstream_connect_timeout: secs(5),
        upstream_idle_timeout: secs(4),
        upstream_h2_idle_timeout: secs(60),
        upstream_idle_connections: 1024,
        upstream_requests: 10_000,
        upstream_connecting: 128,
        upstream_h2_requests: 128,
        upstream_h2_window_bytes: 256 * 1024,
        upstream_ping_interval: secs(20),
        upstream_attempts: 4,
        max_passes: 8,
        spin_stop_timeout: secs(5),
        tunnel_half_closed_timeout: secs(60),
        // Watching.
        max_watching_pages: 256,
        build_output_bytes: 64 * KIB,
        build_stop_timeout: secs(2),
        // Configuration.
        min_duration: Duration::from_millis(10),
        max_duration: secs(366 * 24 * 60 * 60),
        max_size_bytes: 1024 * 1024 * 1024,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod documentation;
