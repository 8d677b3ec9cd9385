//! The limits of the runtime.

use std::time::Duration;

use rand::Rng;
use tokio::sync::Semaphore;

use crate::limit_range::InstanceRanges;

/// The handles that an instance has at least: its files, and those of a request.
const MIN_HANDLES: usize = 100;

/// The limits of components, and of what they use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The time from a request, or from the last part of its body, to the head of its response,
    /// including the wait for an instance. The body of the response may take as long as it is being
    /// read. Default: 30 s.
    pub request_timeout: Duration,
    /// The linear memory of an instance. Growing beyond it fails in the guest, which usually
    /// traps. Default: 512 MiB.
    pub instance_memory_bytes: usize,
    /// The instances of each component, at least 1. Further requests wait. Each component has its
    /// own limit, so that a component that calls another does not wait for itself. Default: 500.
    pub instances_per_component: usize,
    /// The requests of each component that wait for an instance. Further ones fail at once. Default:
    /// 2,000.
    pub waiting_requests: usize,
    /// The instances of each component that compute for longer than 10 ms and wait for their turn,
    /// for each processor. Further requests fail at once. Default: 50.
    pub computing_instances_per_processor: usize,
    /// The handles of the host that an instance has open, such as streams, files and sockets, at
    /// least 100. Opening a further one traps. Default: 4,096.
    pub handles_per_instance: usize,
    /// The outgoing HTTP requests of each component whose response has not ended, at least 1.
    /// Further ones wait in the component. Default: 4,096.
    pub outgoing_requests: usize,
    /// The requests that an instance of a WASI 0.3 component serves, at least 1. Default: 128.
    pub requests_per_instance: usize,
    /// The requests that an instance of a WASI 0.3 component serves at the same time, at least 1.
    /// Default: 16.
    pub concurrent_requests_per_instance: usize,
    /// The share, in percent, of a component's capacity for requests whose body is still arriving.
    /// Further ones wait. Default: 50.
    pub upload_percent: usize,
    /// The share of the clients of one address, in percent of a component's capacity.
    /// Default: 10.
    pub upload_percent_per_client: usize,
    /// How long an instance waits for its next request. Default: 1 s.
    pub idle_instance_timeout: Duration,
    /// Ranges from which each instance picks limits of its own. Default: none.
    pub instance_ranges: InstanceRanges,
    /// The number of components that may call each other in a chain. Default: 16.
    pub call_depth: u8,
    /// The time to connect for a component's outgoing request, unless the component sets it.
    /// Default: 10 s.
    pub connect_timeout: Duration,
    /// The time from a component's outgoing request to the head of the response, unless the
    /// component sets it. Default: 10 min.
    pub first_byte_timeout: Duration,
    /// The time between two parts of the response to a component's outgoing request, unless the
    /// component sets it. Default: 10 min.
    pub between_bytes_timeout: Duration,
    /// How long a connection for outgoing requests stays open without a request. Default: 90 s.
    pub idle_connection_timeout: Duration,
    /// The largest file that is downloaded as a component. Default: 256 MiB.
    pub download_bytes: usize,
    /// How long the download of a component may take. Default: 300 s.
    pub download_timeout: Duration,
    /// The output of all components that is waiting to be written to the terminal and to the log
    /// files. Further output is dropped and counted. Default: 4 MiB.
    pub pending_output_bytes: usize,
    /// The longest line of output that is written as a whole. Default: 64 KiB.
    pub output_line_bytes: usize,
    /// The pause between two attempts to write to a log file that failed. Default: 250 ms.
    pub log_file_retry_interval: Duration,
    /// The operations that are waiting for a key-value store. Further operations wait in the
    /// component. Default: 1,024.
    pub pending_store_operations: usize,
    /// How long another process may lock the file of a key-value store or of a SQLite database
    /// before an operation fails. Default: 5 s.
    pub store_lock_timeout: Duration,
    /// How long another process may lock the file of a key-value store before a warning is logged.
    /// Default: 1 s.
    pub store_lock_warning: Duration,
    /// The connections to Redis that a component has open. Opening a further one fails. Default:
    /// 1,024.
    pub redis_connections: usize,
    /// How long a Redis server may take to accept a connection, or to answer an operation of a
    /// key-value store. Default: 5 s.
    pub redis_timeout: Duration,
    /// The connections to SQLite databases that a component has open, each of which has a thread.
    /// Opening a further one fails. Default: 128.
    pub database_connections: usize,
    /// The result of an operation of a key-value store or of a statement, and a single row of a
    /// result that is streamed. A larger result is an error, and so is a larger value in a SQLite
    /// database. Default: 128 MiB.
    pub query_result_bytes: usize,
    /// The name of a channel that a component subscribes a WebSocket to or publishes on, at least one
    /// byte. Default: 1 KiB.
    pub channel_name_bytes: usize,
    /// The message that a component publishes on a channel. Default: 10 MiB.
    pub channel_message_bytes: usize,
    /// The body of a response with which a component refuses a WebSocket, if it handles typed frames.
    /// With a larger one, the component has failed. Default: 1 MiB.
    pub refusal_bytes: usize,
    /// The labels of key-value stores, and of SQLite databases, for which the log says that a
    /// component was denied them, for each component. Default: 100.
    pub denied_store_labels: usize,
    /// The log lines for each kind of failure of a component in a second. Further ones are counted.
    /// Default: 10.
    pub log_lines_per_second: usize,
    /// How often the path of a request may be percent-encoded. A path that needs more passes to
    /// decode escapes the root, and is private if any route is. Default: 8.
    pub path_decode_passes: usize,
}

impl Limits {
    /// The default limits.
    pub const DEFAULT: Self = Self {
        request_timeout: Duration::from_secs(30),
        instance_memory_bytes: 512 * 1024 * 1024,
        instances_per_component: 500,
        waiting_requests: 2000,
        computing_instances_per_processor: 50,
        handles_per_instance: 4096,
        outgoing_requests: 4096,
        requests_per_instance: 128,
        concurrent_requests_per_instance: 16,
        upload_percent: 50,
        upload_percent_per_client: 10,
        idle_instance_timeout: Duration::from_secs(1),
        instance_ranges: InstanceRanges {
            request_timeout: None,
            requests: None,
            concurrent_requests: None,
            idle_timeout: None,
        },
        call_depth: 16,
        connect_timeout: Duration::from_secs(10),
        first_byte_timeout: Duration::from_secs(10 * 60),
        between_bytes_timeout: Duration::from_secs(10 * 60),
        idle_connection_timeout: Duration::from_secs(90),
        download_bytes: 256 * 1024 * 1024,
        download_timeout: Duration::from_secs(5 * 60),
        pending_output_bytes: 4 * 1024 * 1024,
        output_line_bytes: 64 * 1024,
        log_file_retry_interval: Duration::from_millis(250),
        pending_store_operations: 1024,
        store_lock_timeout: Duration::from_secs(5),
        store_lock_warning: Duration::from_secs(1),
        redis_connections: 1024,
        redis_timeout: Duration::from_secs(5),
        database_connections: 128,
        query_result_bytes: 128 * 1024 * 1024,
        channel_name_bytes: 1024,
        channel_message_bytes: 10 * 1024 * 1024,
        refusal_bytes: 1024 * 1024,
        denied_store_labels: 100,
        log_lines_per_second: 10,
        path_decode_passes: 8,
    };

    /// Returns the limits of a new instance.
    pub(crate) fn pick(mut self, rng: &mut impl Rng) -> Self {
        let ranges = &self.instance_ranges;
        if let Some(range) = ranges.request_timeout {
            self.request_timeout = range.pick(rng);
        }
        if let Some(range) = ranges.requests {
            self.requests_per_instance = range.pick(rng);
        }
        if let Some(range) = ranges.concurrent_requests {
            self.concurrent_requests_per_instance = range.pick(rng);
        }
        if let Some(range) = ranges.idle_timeout {
            self.idle_instance_timeout = range.pick(rng);
        }
        self
    }

    /// Raises the limits that must be at least 1, and lowers those that count the permits of a
    /// semaphore to the most that it can have.
    pub(crate) fn normalized(mut self) -> Self {
        for limit in [
            &mut self.instances_per_component,
            &mut self.requests_per_instance,
            &mut self.concurrent_requests_per_instance,
            &mut self.outgoing_requests,
            &mut self.pending_store_operations,
        ] {
            *limit = (*limit).max(1);
        }
        self.handles_per_instance = self.handles_per_instance.max(MIN_HANDLES);
        for limit in [
            &mut self.instances_per_component,
            &mut self.outgoing_requests,
            &mut self.pending_store_operations,
            &mut self.redis_connections,
            &mut self.database_connections,
        ] {
            *limit = (*limit).min(Semaphore::MAX_PERMITS);
        }
        self
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semaphores_can_have_the_permits_of_the_largest_limits() {
        let limits = Limits {
            instances_per_component: usize::MAX,
            pending_store_operations: usize::MAX,
            redis_connections: usize::MAX,
            database_connections: usize::MAX,
            ..Limits::DEFAULT
        }
        .normalized();
        for permits in [
            limits.instances_per_component,
            limits.redis_connections,
            limits.database_connections,
        ] {
            // Panics above the maximum.
            Semaphore::new(permits);
        }
        tokio::sync::mpsc::channel::<()>(limits.pending_store_operations);
    }

    #[test]
    fn limits_without_which_nothing_runs_are_at_least_one() {
        let limits = Limits {
            instances_per_component: 0,
            requests_per_instance: 0,
            concurrent_requests_per_instance: 0,
            pending_store_operations: 0,
            redis_connections: 0,
            database_connections: 0,
            ..Limits::DEFAULT
        }
        .normalized();
        assert_eq!(limits.instances_per_component, 1);
        assert_eq!(limits.requests_per_instance, 1);
        assert_eq!(limits.concurrent_requests_per_instance, 1);
        assert_eq!(limits.pending_store_operations, 1);
        // Without connections, opening one fails.
        assert_eq!(limits.redis_connections, 0);
        assert_eq!(limits.database_connections, 0);
    }
}
