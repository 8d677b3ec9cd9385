//! Takes permissions from a dependency by renaming its imports.
//!
//! A dependency runs inside the component that it is composed into. Without this, the host could
//! not tell their calls apart. An import that the dependency must not use gets a name under which
//! [`denied`](crate::embedded::denied) links an implementation that refuses every call.

use std::borrow::Cow;

use wasm_encoder::Encode as _;
use wasmparser::{BinaryReader, ComponentImport};

use crate::{embedded::denied, manifest::Inherit};

/// The interfaces of each permission, without their versions.
const INTERFACES: [(&str, &[&str]); 7] = [
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

/// The magic number, the version and the layer, with which a component begins.
const HEADER_BYTES: usize = 8;

/// The first bytes of a name that is followed by nothing but its text.
const PLAIN_NAMES: [u8; 2] = [0, 1];

/// Returns a component that cannot use the permissions that it does not inherit.
///
/// # Errors
/// Fails if the bytes are not a component.
pub(super) fn isolate(wasm: &[u8], inherit: &Inherit) -> anyhow::Result<Vec<u8>> {
    let mut reader = BinaryReader::new(wasm, 0);
    let mut output = reader.read_bytes(HEADER_BYTES)?.to_vec();
    while !reader.eof() {
        let id = reader.read_u8()?;
        let length = usize::try_from(reader.read_var_u32()?)?;
        let contents = reader.read_bytes(length)?;
        let contents = if id == u8::from(wasm_encoder::ComponentSectionId::Import) {
            Cow::Owned(rename_imports(contents, inherit)?)
        } else {
            Cow::Borrowed(contents)
        };
        output.push(id);
        contents.encode(&mut output);
    }
    Ok(output)
}

/// Renames the imports of an import section.
fn rename_imports(section: &[u8], inherit: &Inherit) -> anyhow::Result<Vec<u8>> {
    let mut reader = BinaryReader::new(section, 0);
    let mut output = Vec::with_capacity(section.len());
    let count = reader.read_var_u32()?;
    count.encode(&mut output);
    for _ in 0..count {
        let start = section.len() - reader.bytes_remaining();
        let mut name_reader = reader.clone();
        let kind = name_reader.read_u8()?;
        let mut name_end = start;
        if PLAIN_NAMES.contains(&kind) {
            let name = name_reader.read_string()?;
            name_end = section.len() - name_reader.bytes_remaining();
            output.push(kind);
            if is_inherited(name, inherit) {
                name.encode(&mut output);
            } else {
                denied::denied_name(name).encode(&mut output);
            }
        }
        // A name with attributes is a label, for which the host provides nothing.
        reader.read::<ComponentImport<'_>>()?;
        let end = section.len() - reader.bytes_remaining();
        output.extend_from_slice(section.get(name_end..end).unwrap_or_default());
    }
    Ok(output)
}

/// Returns whether an import needs no permission, or one that is inherited.
fn is_inherited(import: &str, inherit: &Inherit) -> bool {
    let Inherit::Only(keys) = inherit else {
        return true;
    };
    let interface = import.split_once('@').map_or(import, |(name, _)| name);
    let needed = INTERFACES
        .iter()
        .find(|(_, interfaces)| interfaces.contains(&interface));
    needed.is_none_or(|(key, _)| keys.contains(*key))
}

#[cfg(test)]
mod tests {
    use wasmparser::Validator;

    use super::*;

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
            (import "wasi:sockets/types@0.3.0" (instance (type $t)))
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
        assert_eq!(INTERFACES.map(|(key, _)| key), Inherit::KEYS);
    }

    #[test]
    fn truncated_components_are_errors() {
        let wasm = component();
        for length in 0..wasm.len() {
            // A cut between two sections leaves a valid component.
            let _ = isolate(&wasm[..length], &Inherit::NONE);
        }
        assert!(isolate(b"", &Inherit::NONE).is_err());
        assert!(isolate(&wasm[..wasm.len() - 1], &Inherit::NONE).is_err());
    }
}
