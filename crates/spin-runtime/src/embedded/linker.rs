//! The interfaces that components may import.

use semver::Version;
use wasmtime::{
    Engine,
    component::{Component, Linker},
};
use wasmtime_wasi_http::{WasiHttp, WasiHttpView as _, p2, p3};

#[cfg(feature = "redis")]
use super::outbound_redis;
use super::{cron_call, guest::Guest, key_value, sqlite, variables, wasi_http, websocket};

/// The interfaces that the linker provides, in the version that it defines. Interfaces with types
/// alone need not be provided.
pub(super) const INTERFACES: &[&str] = &[
    // In `wit/host.wit`, and in `wit/` at the root of the repository.
    "fermyon:spin/inbound-websocket-send",
    "fermyon:spin/websocket-types",
    "fermyon:spin-cron/cron-types@2.0.0",
    "fermyon:spin/key-value@2.0.0",
    #[cfg(feature = "redis")]
    "fermyon:spin/redis@2.0.0",
    "fermyon:spin/sqlite@2.0.0",
    "fermyon:spin/variables@2.0.0",
    "socket-host:websocket/channels@0.1.0",
    "spin:key-value/key-value@3.0.0",
    #[cfg(feature = "redis")]
    "spin:redis/redis@3.0.0",
    "spin:sqlite/sqlite@3.1.0",
    "spin:variables/variables@3.0.0",
    "wasi:config/store@0.2.0-draft-2024-09-27",
    "wasi:keyvalue/atomics@0.2.0-draft2",
    "wasi:keyvalue/batch@0.2.0-draft2",
    "wasi:keyvalue/store@0.2.0-draft2",
    // In Wasmtime.
    "wasi:cli/environment@0.2.12",
    "wasi:cli/exit@0.2.12",
    "wasi:cli/stderr@0.2.12",
    "wasi:cli/stdin@0.2.12",
    "wasi:cli/stdout@0.2.12",
    "wasi:cli/terminal-input@0.2.12",
    "wasi:cli/terminal-output@0.2.12",
    "wasi:cli/terminal-stderr@0.2.12",
    "wasi:cli/terminal-stdin@0.2.12",
    "wasi:cli/terminal-stdout@0.2.12",
    "wasi:clocks/monotonic-clock@0.2.12",
    "wasi:clocks/wall-clock@0.2.12",
    "wasi:filesystem/preopens@0.2.12",
    "wasi:filesystem/types@0.2.12",
    "wasi:http/outgoing-handler@0.2.12",
    "wasi:http/types@0.2.12",
    "wasi:io/error@0.2.12",
    "wasi:io/poll@0.2.12",
    "wasi:io/streams@0.2.12",
    "wasi:random/insecure@0.2.12",
    "wasi:random/insecure-seed@0.2.12",
    "wasi:random/random@0.2.12",
    "wasi:sockets/instance-network@0.2.12",
    "wasi:sockets/ip-name-lookup@0.2.12",
    "wasi:sockets/network@0.2.12",
    "wasi:sockets/tcp@0.2.12",
    "wasi:sockets/tcp-create-socket@0.2.12",
    "wasi:sockets/udp@0.2.12",
    "wasi:sockets/udp-create-socket@0.2.12",
    "wasi:cli/environment@0.3.0",
    "wasi:cli/exit@0.3.0",
    "wasi:cli/stderr@0.3.0",
    "wasi:cli/stdin@0.3.0",
    "wasi:cli/stdout@0.3.0",
    "wasi:cli/terminal-input@0.3.0",
    "wasi:cli/terminal-output@0.3.0",
    "wasi:cli/terminal-stderr@0.3.0",
    "wasi:cli/terminal-stdin@0.3.0",
    "wasi:cli/terminal-stdout@0.3.0",
    "wasi:clocks/monotonic-clock@0.3.0",
    "wasi:clocks/system-clock@0.3.0",
    "wasi:filesystem/preopens@0.3.0",
    "wasi:filesystem/types@0.3.0",
    "wasi:http/client@0.3.0",
    "wasi:http/types@0.3.0",
    "wasi:random/insecure@0.3.0",
    "wasi:random/insecure-seed@0.3.0",
    "wasi:random/random@0.3.0",
    "wasi:sockets/ip-name-lookup@0.3.0",
    "wasi:sockets/types@0.3.0",
];

/// Creates a linker with every provided interface.
pub(crate) fn create(engine: &Engine) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi::p3::add_to_linker(&mut linker)?;
    let options = p2::bindings::LinkOptions::default();
    let add_types = p2::bindings::http::types::add_to_linker::<_, WasiHttp>;
    add_types(&mut linker, &options.into(), Guest::http)?;
    p3::bindings::http::types::add_to_linker::<_, WasiHttp>(&mut linker, Guest::http)?;
    wasi_http::add_to_linker(&mut linker)?;
    key_value::add_to_linker(&mut linker)?;
    sqlite::add_to_linker(&mut linker)?;
    #[cfg(feature = "redis")]
    outbound_redis::add_to_linker(&mut linker)?;
    variables::add_to_linker(&mut linker)?;
    cron_call::add_to_linker(&mut linker)?;
    websocket::add_to_linker(&mut linker)?;
    Ok(linker)
}

/// Returns the names of the imports of a component.
pub(crate) fn imports(component: &Component) -> Vec<String> {
    let component_type = component.component_type();
    let imports = component_type.imports(component.engine());
    imports.map(|(name, _)| name.to_owned()).collect()
}

/// Returns whether the linker provides an import, possibly in another compatible version.
pub(crate) fn is_provided(import: &str) -> bool {
    let Some((name, version)) = split_version(import) else {
        return INTERFACES.contains(&import);
    };
    let mut provided = INTERFACES.iter().filter_map(|known| split_version(known));
    provided.any(|(known, provided)| known == name && are_compatible(&version, &provided))
}

fn split_version(interface: &str) -> Option<(&str, Version)> {
    let (name, version) = interface.split_once('@')?;
    Some((name, version.parse().ok()?))
}

/// Returns whether Wasmtime links an import to a definition in another version.
fn are_compatible(import: &Version, definition: &Version) -> bool {
    let compatible_part = |version: &Version| {
        let is_zero = |part: u64| part == 0;
        let minor = is_zero(version.major).then_some(version.minor);
        let patch = (is_zero(version.major) && is_zero(version.minor)).then_some(version.patch);
        (version.major, minor, patch)
    };
    if import.pre.is_empty() && definition.pre.is_empty() {
        compatible_part(import) == compatible_part(definition)
    } else {
        import == definition
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    #[test]
    fn compatible_versions_are_provided() {
        for provided in [
            "wasi:http/client@0.3.0",
            "wasi:http/client@0.3.0+rc-2026-03-15",
            "wasi:io/streams@0.2.0",
            "wasi:io/streams@0.2.6",
            "wasi:keyvalue/atomics@0.2.0-draft2",
            "spin:key-value/key-value@3.0.1",
            "spin:sqlite/sqlite@3.0.0",
            "fermyon:spin/variables@2.0.0",
            "wasi:config/store@0.2.0-draft-2024-09-27",
            "fermyon:spin/inbound-websocket-send",
        ] {
            assert!(is_provided(provided), "{provided}");
        }
        for missing in [
            "fermyon:spin/sqlite",
            "fermyon:spin/key-value",
            "fermyon:spin/mysql@2.0.0",
            "spin:postgres/postgres@4.2.0",
            "spin:key-value/key-value@4.0.0",
            "wasi:http/types@0.2.0-rc-2023-11-10",
            "wasi:http/types@0.4.0",
            "wasi:clocks/timezone@0.2.6",
            "wasi:keyvalue/atomics@0.2.0-draft3",
            "wasi:otel/tracing@0.2.0-rc.2",
            "my:own/thing",
            "my:own/thing@newest",
        ] {
            assert!(!is_provided(missing), "{missing}");
        }
    }

    /// Returns the names of the interfaces that a WIT file of a package defines.
    fn interfaces(wit: &str) -> Vec<String> {
        let lines = || wit.lines().map(str::trim);
        let package = lines().find_map(|line| line.strip_prefix("package ")?.strip_suffix(';'));
        let package = package.unwrap();
        let names = lines().filter_map(|line| line.strip_prefix("interface ")?.strip_suffix(" {"));
        let names = names.map(|name| match package.split_once('@') {
            Some((package, version)) => format!("{package}/{name}@{version}"),
            None => format!("{package}/{name}"),
        });
        names.collect()
    }

    #[test]
    fn the_list_of_interfaces_is_that_of_the_wit_files() {
        let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("wit");
        let world = fs::read_to_string(wit.join("host.wit")).unwrap();
        let imports = world
            .lines()
            .filter_map(|line| line.trim().strip_prefix("import ")?.strip_suffix(';'));
        let mut imports: BTreeSet<String> = imports.map(str::to_owned).collect();
        let mut defined = BTreeSet::new();
        for file in fs::read_dir(wit.join("deps")).unwrap() {
            let text = fs::read_to_string(file.unwrap().path()).unwrap();
            defined.extend(interfaces(&text));
        }
        assert_eq!(imports, defined, "host.wit imports every interface");
        let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
        for file in ["websocket.wit", "deps/fermyon-spin.wit"] {
            let text = fs::read_to_string(shared.join(file)).unwrap();
            imports.extend(interfaces(&text));
        }
        let exported = "fermyon:spin/inbound-websocket-receive";
        assert!(imports.remove(exported), "components export it");
        let is_built = |import: &&String| cfg!(feature = "redis") || !import.contains("/redis@");
        for import in imports.iter().filter(is_built) {
            assert!(
                INTERFACES.contains(&import.as_str()),
                "{import} is missing in INTERFACES"
            );
        }
    }
}
