//! Applications that measurements bring along, instead of the one of `--from`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// An application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum App {
    /// A static response, without a component.
    Static,
    /// A component of WASI 0.3 that returns a string.
    Hello,
    /// The same in WASI 0.2.
    Hello02,
    /// A component that echoes typed frames, with an instance for each call.
    Typed,
    /// The same, and its instances are reused.
    TypedReuse,
    /// A component that echoes the messages of WebSockets over HTTP.
    Echo,
    /// Socket Burger's order service, without the limit of messages for each client.
    Orders,
}

/// What each manifest starts with.
const HEAD: &str = r#"
spin_manifest_version = 2
[application]
name = "load"
[[trigger.http]]
route = "/..."
"#;

/// The rest of that of `Static`.
const STATIC: &str = r#"
static_response = { body = "hello\n" }
"#;

/// What the component of `Orders` needs.
const ORDERS: &str = r#"
key_value_stores = ["default"]
allowed_outbound_hosts = ["{{ grip_url }}"]
variables = { grip_url = "{{ grip_url }}", grip_key = "{{ grip_key }}" }
[variables]
grip_url = { required = true }
grip_key = { required = true, secret = true }
"#;

/// What the component of `Typed` needs.
const TYPED: &str = r#"
key_value_stores = ["default"]
"#;

/// The settings of WebSockets. A few sockets send as much as they can.
const WEBSOCKET: &str = r#"
[application.tool.socket-host.websocket]
max-messages-per-second = "off"
"#;

/// What `TypedReuse` adds to them.
const REUSE: &str = r#"
instance-reuse = ["typed"]
"#;

impl App {
    /// Returns the name of its component, if it has one.
    fn name(self) -> Option<&'static str> {
        match self {
            Self::Static => None,
            Self::Hello => Some("hello"),
            Self::Hello02 => Some("hello02"),
            Self::Typed | Self::TypedReuse => Some("typed"),
            Self::Echo => Some("echo"),
            Self::Orders => Some("orders"),
        }
    }

    /// Returns whether WASI alone has all interfaces of its component.
    pub fn needs_only_wasi(self) -> bool {
        matches!(self, Self::Hello | Self::Hello02)
    }

    /// Returns the path for `get`, which returns 200.
    pub fn get_path(self) -> &'static str {
        match self {
            Self::Orders => "/api/orders?limit=1",
            _ => "/",
        }
    }

    /// Returns whether it subscribes sockets to a channel.
    pub fn has_channel(self) -> bool {
        self == Self::Orders
    }

    /// Returns the path of its component.
    pub fn component(self) -> Result<PathBuf> {
        let name = self.name().context("the application has no component")?;
        let folder = ::tests::workspace().join("target/wasm32-wasip2/component");
        let path = folder.join(format!("{name}.wasm"));
        ensure!(
            path.is_file(),
            "{} is missing: build it with `components/build {name}`",
            path.display()
        );
        Ok(path)
    }

    /// Writes its manifest to `folder`, and returns the path.
    pub fn write_manifest(self, folder: &Path) -> Result<PathBuf> {
        let mut manifest = HEAD.to_owned();
        match self.name() {
            None => manifest += STATIC,
            Some(name) => {
                let source = self.component()?;
                manifest +=
                    &format!("component = {name:?}\n[component.{name}]\nsource = {source:?}\n");
            }
        }
        let settings: &[&str] = match self {
            Self::Static | Self::Hello | Self::Hello02 => &[],
            Self::Typed => &[TYPED, WEBSOCKET],
            Self::TypedReuse => &[TYPED, WEBSOCKET, REUSE],
            Self::Echo => &[WEBSOCKET],
            Self::Orders => &[ORDERS, WEBSOCKET],
        };
        manifest.extend(settings.iter().copied());
        let path = folder.join("load.toml");
        fs::write(&path, manifest).context("writing a manifest")?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use spin_runtime::{Manifest, ManifestUse};

    use super::*;

    #[test]
    fn manifests_are_valid() {
        use App::*;
        for app in [Static, Hello, Hello02, Typed, TypedReuse, Echo, Orders] {
            let folder = tempfile::tempdir().unwrap();
            let path = app.write_manifest(folder.path()).unwrap();
            Manifest::load(&path, ManifestUse::Embedded).unwrap();
        }
    }
}
