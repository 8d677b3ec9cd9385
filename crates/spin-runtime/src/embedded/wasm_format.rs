//! Converts what toolchains produce to components that Wasmtime runs: core modules, and components
//! for the release candidate of WASI 0.3.

use std::borrow::Cow;

use anyhow::{Context as _, bail};
use wasmparser::{Encoding, Parser, Payload};

use crate::manifest::Source;

/// The release candidate of WASI 0.3 that spin-sdk 6 uses. Its interfaces have the same types as
/// those of the release.
const CANDIDATE: &str = "@0.3.0-rc-2026-03-15";

/// The same version as build metadata, with which Wasmtime links it as it does 0.3.0. It is as long
/// as [`CANDIDATE`], so that nothing else in a file has to change.
const RELEASE: &str = "@0.3.0+rc-2026-03-15";

/// Converts the contents of a wasm file to a component.
///
/// # Errors
/// Fails if the file is neither a component nor a core module that can become one. Only the
/// compiler checks the rest of a component.
pub(crate) fn to_component<'a>(wasm: &'a [u8], source: &Source) -> anyhow::Result<Cow<'a, [u8]>> {
    if !wasm.starts_with(b"\0asm") {
        bail!("{} is not WebAssembly", source.display());
    }
    let invalid = || format!("{} is not valid WebAssembly", source.display());
    let component = match encoding(wasm).with_context(invalid)? {
        Encoding::Component => Cow::Borrowed(wasm),
        Encoding::Module => {
            let component = componentize(wasm).with_context(|| {
                format!(
                    "{} is a core module that cannot become a component: build it for \
                     wasm32-wasip2, or for wasm32-wasip1 with a Spin SDK of version 2 or later",
                    source.display()
                )
            })?;
            Cow::Owned(component)
        }
    };
    Ok(rename_release_candidate(component))
}

fn encoding(wasm: &[u8]) -> anyhow::Result<Encoding> {
    match Parser::new(0).parse_all(wasm).next() {
        Some(Ok(Payload::Version { encoding, .. })) => Ok(encoding),
        Some(Err(error)) => Err(error.into()),
        _ => bail!("it has no version"),
    }
}

/// Turns a module for WASI 0.1, such as those of the target `wasm32-wasip1`, into a component. The
/// module describes its component interfaces in a custom section.
#[cfg(feature = "core-modules")]
fn componentize(module: &[u8]) -> anyhow::Result<Vec<u8>> {
    use wasi_preview1_component_adapter_provider as adapter;

    wit_component::ComponentEncoder::default()
        .module(module)?
        .adapter(
            adapter::WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME,
            adapter::WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
        )?
        .encode()
}

#[cfg(not(feature = "core-modules"))]
fn componentize(_: &[u8]) -> anyhow::Result<Vec<u8>> {
    bail!("this host was built without the feature `core-modules`")
}

/// Replaces [`CANDIDATE`] in the names of a component's imports and exports.
///
/// Names inside the component, which only refer to each other, stay the same.
fn rename_release_candidate(component: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    let offsets = candidate_offsets(&component);
    if offsets.is_empty() {
        return component;
    }
    let mut component = component.into_owned();
    for offset in offsets {
        component[offset..offset + RELEASE.len()].copy_from_slice(RELEASE.as_bytes());
    }
    component.into()
}

/// Returns the positions of [`CANDIDATE`] at the ends of the names of imports and exports. Stops at
/// an invalid part, which the compiler reports.
fn candidate_offsets(component: &[u8]) -> Vec<usize> {
    let mut offsets = Vec::new();
    let mut add = |name: &str| {
        if name.ends_with(CANDIDATE) {
            // The name is a part of the component.
            let start = name.as_ptr().addr() - component.as_ptr().addr();
            offsets.push(start + name.len() - CANDIDATE.len());
        }
    };
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(component).map_while(Result::ok) {
        match payload {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(imports) if depth == 0 => {
                for import in imports.into_iter().map_while(Result::ok) {
                    add(import.name.name);
                }
            }
            Payload::ComponentExportSection(exports) if depth == 0 => {
                for export in exports.into_iter().map_while(Result::ok) {
                    add(export.name.name);
                }
            }
            _ => {}
        }
    }
    offsets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn convert(bytes: &[u8]) -> Result<Vec<u8>, String> {
        to_component(bytes, &Source::File("a.wasm".into()))
            .map(Cow::into_owned)
            .map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn other_formats_are_errors() {
        for text in ["", "(component)", "\0as"] {
            let error = convert(text.as_bytes()).unwrap_err();
            assert_eq!(error, "a.wasm is not WebAssembly", "{text:?}");
        }
        for bytes in [b"\0asm".as_slice(), b"\0asm\x07\0\x02\0"] {
            let error = convert(bytes).unwrap_err();
            assert!(error.contains("a.wasm is not valid"), "{error}");
        }
        // The compiler checks the rest.
        let component = b"\0asm\x0d\0\x01\0...";
        assert_eq!(convert(component).unwrap(), component);
    }
}
