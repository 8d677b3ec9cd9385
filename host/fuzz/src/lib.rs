//! The fuzz targets, with the files of the host that they run.
//!
//! The files are private to the host, and a dependency on it would build Wasmtime with sanitizers.
//! They are therefore compiled here, at the same paths. Only the outbox is another one.

pub use self::ws::targets::{frames, inflate};

#[allow(dead_code, reason = "the targets use part of each file")]
#[path = "../../src/http"]
mod http {
    pub(crate) mod headers;
}

#[allow(dead_code, reason = "the targets use part of each file")]
#[path = "../../src/net"]
mod net {
    pub(crate) mod frame;
}

#[allow(dead_code, reason = "the targets use part of each file")]
#[path = "../../src/ws"]
mod ws {
    mod deflate;
    #[path = "../../fuzz/src/outbox.rs"]
    mod outbox;
    mod reader;
    #[path = "../../fuzz/src/targets.rs"]
    pub(crate) mod targets;
    mod tests {
        pub(super) mod wire;
    }
}
