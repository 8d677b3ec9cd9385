//! Removes permissions of a dependency by renaming its imports.
//!
//! A dependency runs inside the component that it is composed into. Without this, the host could
//! not tell their calls apart. An import that the dependency must not use gets a name under which
//! [`denied`](crate::embedded::denied) links an implementation that refuses every call.

use std::{borrow::Cow, collections::BTreeSet};

use anyhow::ensure;
use wasm_encoder::Encode as _;
use wasmparser::{BinaryReader, ComponentImport, ComponentTypeRef};

use crate::{embedded::denied, manifest::Inherit};

/// The interfaces of each permission, without their versions.
const PERMISSIONS: [(&str, &[&str]); 7] = [
    ("ai_models", &["fermyon:spin/llm"]),
    (
        "allowed_outbound_hosts",
        &[
            "fermyon:spin/http",
            "fermyon:spin/mqtt",
            "fermyon:spin/mysql",
            "fermyon:spin/postgres",
            "fermyon:spin/redis",
            "spin:mqtt/mqtt",
            "spin:mysql/mysql",
            "spin:postgres/postgres",
            "spin:redis/redis",
            "wasi:http/client",
            "wasi:http/outgoing-handler",
            "wasi:sockets/ip-name-lookup",
            "wasi:sockets/tcp",
            "wasi:sockets/tcp-create-socket",
            // The sockets of WASI 0.3.
            "wasi:sockets/types",
            "wasi:sockets/udp",
            "wasi:sockets/udp-create-socket",
        ],
    ),
    ("environment", &["wasi:cli/environment"]),
    ("files", &["wasi:filesystem/preopens"]),
    (
        "key_value_stores",
        &[
            "fermyon:spin/key-value",
            "spin:key-value/key-value",
            "wasi:keyvalue/atomics",
            "wasi:keyvalue/batch",
            "wasi:keyvalue/store",
        ],
    ),
    (
        "sqlite_databases",
        &["fermyon:spin/sqlite", "spin:sqlite/sqlite"],
    ),
    (
        "variables",
        &[
            "fermyon:spin/config",
            "fermyon:spin/variables",
            "spin:variables/variables",
            "wasi:config/store",
        ],
    ),
];

/// The interfaces that need no permission, without their versions.
///
/// They only have types, only work with handles of other interfaces, or affect the instance alone.
const HARMLESS: [&str; 27] = [
    "fermyon:spin-cron/cron-types",
    "fermyon:spin/websocket-types",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:cli/types",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/system-clock",
    "wasi:clocks/types",
    "wasi:clocks/wall-clock",
    // A descriptor is opened from one of `wasi:filesystem/preopens`.
    "wasi:filesystem/types",
    // Of the next middleware or the component. The host does not provide it.
    "wasi:http/handler",
    "wasi:http/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    // A network is only of use to the interfaces of sockets.
    "wasi:sockets/instance-network",
    "wasi:sockets/network",
];

/// The magic number, the version and the layer, with which a component begins.
const HEADER_BYTES: usize = 8;

/// The leading bytes of import names without attributes.
const PLAIN_NAMES: [u8; 2] = [0, 1];

/// Returns a component that cannot use the permissions that it does not inherit.
///
/// # Errors
/// Fails if the bytes are not a component, or if an import cannot be renamed.
pub(super) fn isolate(wasm: &[u8], inherit: &Inherit) -> anyhow::Result<Vec<u8>> {
    let keys = match inherit {
        Inherit::All => return Ok(wasm.to_vec()),
        Inherit::Only(keys) => keys,
    };
    let mut reader = BinaryReader::new(wasm, 0);
    let mut output = reader.read_bytes(HEADER_BYTES)?.to_vec();
    while !reader.eof() {
        let id = reader.read_u8()?;
        let length = usize::try_from(reader.read_var_u32()?)?;
        let contents = reader.read_bytes(length)?;
        let contents = if id == u8::from(wasm_encoder::ComponentSectionId::Import) {
            Cow::Owned(rename_imports(contents, keys)?)
        } else {
            Cow::Borrowed(contents)
        };
        output.push(id);
        contents.encode(&mut output);
    }
    Ok(output)
}

/// Renames the imports of an import section.
fn rename_imports(section: &[u8], keys: &BTreeSet<String>) -> anyhow::Result<Vec<u8>> {
    let mut reader = BinaryReader::new(section, 0);
    let mut output = Vec::with_capacity(section.len());
    let count = reader.read_var_u32()?;
    count.encode(&mut output);
    for _ in 0..count {
        let mut name_reader = reader.clone();
        let kind = name_reader.read_u8()?;
        // An attribute may name the interface that the import stands for.
        ensure!(
            PLAIN_NAMES.contains(&kind),
            "imports with attributes are not supported"
        );
        let name = name_reader.read_string()?;
        let name_end = section.len() - name_reader.bytes_remaining();
        let import: ComponentImport<'_> = reader.read()?;
        let end = section.len() - reader.bytes_remaining();
        output.push(kind);
        // A type by itself permits nothing.
        let is_type = matches!(import.ty, ComponentTypeRef::Type(_));
        if is_type || is_permitted(name, keys) {
            name.encode(&mut output);
        } else {
            denied::denied_name(name).encode(&mut output);
        }
        output.extend_from_slice(section.get(name_end..end).unwrap_or_default());
    }
    Ok(output)
}

/// Returns whether an import needs no permission, or one that is inherited. Unknown interfaces are
/// not permitted.
fn is_permitted(import: &str, keys: &BTreeSet<String>) -> bool {
    let interface = without_version(import);
    if HARMLESS.contains(&interface) {
        return true;
    }
    let needed = PERMISSIONS
        .iter()
        .find(|(_, interfaces)| interfaces.contains(&interface));
    needed.is_some_and(|(key, _)| keys.contains(*key))
}

fn without_version(interface: &str) -> &str {
    interface
        .split_once('@')
        .map_or(interface, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use wasmparser::Validator;

    use super::*;
    use crate::embedded::linker;

    fn imports(wasm: &[u8]) -> Vec<String> {
        let mut names = Vec::new();
        for payload in wasmparser::Parser::new(0).parse_all(wasm) {
            if let wasmparser::Payload::ComponentImportSection(section) = payload.unwrap() {
                names.extend(
                    section
                        .into_iter()
                        .map(|import| import.unwrap().name.name.to_owned()),
                );
            }
        }
        names
    }

    fn component() -> Vec<u8> {
        let text = r#"(component
            (import "spin:key-value/key-value@3.0.0" (instance (export "store" (type (sub resource)))))
            (import "wasi:cli/environment@0.2.6" (instance))
            (import "wasi:clocks/monotonic-clock@0.2.6" (instance))
            (type $t (instance (export "f" (func))))
            (type $s string)
            (import "wasi:sockets/types@0.3.0" (instance (type $t)))
            (import "wasi:later/interface@0.3.0" (instance))
            (import "text" (type (eq $s)))
            (component (import "wasi:cli/environment@0.2.6" (instance)))
        )"#;
        wat::parse_str(text).unwrap()
    }

    #[test]
    fn imports_that_are_not_inherited_are_renamed() {
        for (inherit, expected) in [
            (
                Inherit::NONE,
                [
                    "denied-spin:key-value/key-value@3.0.0",
                    "denied-wasi:cli/environment@0.2.6",
                    "wasi:clocks/monotonic-clock@0.2.6",
                    "denied-wasi:sockets/types@0.3.0",
                    "denied-wasi:later/interface@0.3.0",
                    "text",
                    // Inside a nested component, the name means an argument.
                    "wasi:cli/environment@0.2.6",
                ],
            ),
            (
                Inherit::Only(["environment".to_owned(), "key_value_stores".to_owned()].into()),
                [
                    "spin:key-value/key-value@3.0.0",
                    "wasi:cli/environment@0.2.6",
                    "wasi:clocks/monotonic-clock@0.2.6",
                    "denied-wasi:sockets/types@0.3.0",
                    "denied-wasi:later/interface@0.3.0",
                    "text",
                    "wasi:cli/environment@0.2.6",
                ],
            ),
        ] {
            let isolated = isolate(&component(), &inherit).unwrap();
            assert_eq!(imports(&isolated), expected);
            Validator::new().validate_all(&isolated).unwrap();
        }
        let all = isolate(&component(), &Inherit::All).unwrap();
        assert_eq!(imports(&all), imports(&component()));
    }

    #[test]
    fn every_key_is_known() {
        assert_eq!(PERMISSIONS.map(|(key, _)| key), Inherit::KEYS);
    }

    /// The interfaces of the host that no key of a permission grants.
    const WITHOUT_KEY: [&str; 2] = [
        "fermyon:spin/inbound-websocket-send",
        "socket-host:websocket/channels",
    ];

    #[test]
    fn every_interface_of_the_host_is_harmless_or_needs_one_permission() {
        for interface in linker::INTERFACES {
            let interface = without_version(interface);
            let permissions = PERMISSIONS.iter().flat_map(|(_, interfaces)| *interfaces);
            let listed = permissions.chain(&HARMLESS).chain(&WITHOUT_KEY);
            let count = listed.filter(|listed| **listed == interface).count();
            assert_eq!(count, 1, "{interface}");
        }
    }

    #[test]
    fn imports_with_attributes_are_errors() {
        let mut wasm = component()[..HEADER_BYTES].to_vec();
        // A section with one import, the name of which has attributes.
        let id = u8::from(wasm_encoder::ComponentSectionId::Import);
        wasm.extend_from_slice(&[id, 2, 1, 2]);
        let error = isolate(&wasm, &Inherit::NONE).unwrap_err().to_string();
        assert!(error.contains("imports with attributes"), "{error}");
        assert_eq!(isolate(&wasm, &Inherit::All).unwrap(), wasm);
    }

    #[test]
    fn truncated_components_are_errors_or_end_after_a_section() {
        let wasm = component();
        let whole = isolate(&wasm, &Inherit::NONE).unwrap();
        for length in 0..wasm.len() {
            if let Ok(isolated) = isolate(&wasm[..length], &Inherit::NONE) {
                assert!(whole.starts_with(&isolated), "{length}");
            }
        }
        assert!(isolate(b"", &Inherit::NONE).is_err());
        assert!(isolate(&wasm[..wasm.len() - 1], &Inherit::NONE).is_err());
    }
}
