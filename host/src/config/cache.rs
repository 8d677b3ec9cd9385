//! Reads `[application.tool.socket-host.cache]`: how much memory responses that never change may
//! take.

use spin_runtime::manifest::reader::Value;

use super::websocket::read_size;

const MIB: usize = 1024 * 1024;

/// The bounds of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLimits {
    /// The memory of all stored responses (key `max-size`). Default: 64 MiB.
    pub max_bytes: usize,
    /// The body of a response that is stored (key `max-response-size`). Default: 8 MiB, or
    /// [`Self::max_bytes`] if that is less.
    pub max_response_bytes: usize,
}

impl CacheLimits {
    /// The bounds of a table without keys.
    pub const DEFAULT: Self = Self {
        max_bytes: 64 * MIB,
        max_response_bytes: 8 * MIB,
    };

    /// Reads the table.
    pub(super) fn read(value: &Value<'_>) -> Option<Self> {
        let mut table = value.table()?;
        let max_size = table.get("max-size");
        let max_response_size = table.get("max-response-size");
        table.finish();
        let max_bytes = match max_size {
            Some(value) => read_size(&value)?,
            None => Self::DEFAULT.max_bytes,
        };
        let max_response_bytes = match max_response_size {
            Some(value) => {
                let bytes = read_size(&value)?;
                if bytes > max_bytes {
                    value.error("expected at most the size of the cache, which is `max-size`");
                    return None;
                }
                bytes
            }
            None => Self::DEFAULT.max_response_bytes.min(max_bytes),
        };
        Some(Self {
            max_bytes,
            max_response_bytes,
        })
    }
}
