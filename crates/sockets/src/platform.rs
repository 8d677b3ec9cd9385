//! What the component gets from its surroundings: the store, the host, the configuration.
//!
//! In WebAssembly, this is Spin. In native tests, it is simulated.

#[cfg(not(target_family = "wasm"))]
mod simulated;
#[cfg(target_family = "wasm")]
mod spin;

#[cfg(not(target_family = "wasm"))]
pub use self::simulated::Store;
#[cfg(not(target_family = "wasm"))]
pub(crate) use self::simulated::{authenticate, pause, publish, run};
#[cfg(target_family = "wasm")]
pub use self::spin::{Store, handle};
#[cfg(target_family = "wasm")]
pub(crate) use self::spin::{authenticate, pause, publish, run};

/// The folder with the `files` of the component. In native tests, it is that of the package.
pub(crate) const FILES: &str = if cfg!(target_family = "wasm") {
    "/"
} else {
    "."
};
