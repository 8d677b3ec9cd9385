//! Reads `[application.tool.socket-host.http]`.

use spin_runtime::manifest::reader::Value;

use super::{
    Limits,
    websocket::{read_count, read_size},
};

/// Reads the table. Keys that are missing keep their value.
pub(super) fn read(value: &Value<'_>, limits: &mut Limits) {
    let Some(mut table) = value.table() else {
        return;
    };
    if let Some(value) = table.get("max-connections-per-address")
        && let Some(number) = read_count(&value, "connections")
    {
        limits.max_connections_per_address = number;
    }
    if let Some(bytes) = table
        .get("max-request-body")
        .and_then(|value| read_size(&value))
    {
        limits.max_request_body_bytes = bytes;
    }
    table.finish();
}
