//! The interfaces that components may import.

use wasmtime::{
    Engine,
    component::{Component, Linker},
};
use wasmtime_wasi_http::{WasiHttp, WasiHttpView as _, p2, p3};

use super::{cron_call, guest::Guest, key_value, variables, wasi_http};

/// The packages of WASI that Wasmtime provides. It checks their versions itself.
const WASI_PACKAGES: [&str; 7] = [
    "wasi:cli",
    "wasi:clocks",
    "wasi:filesystem",
    "wasi:http",
    "wasi:io",
    "wasi:random",
    "wasi:sockets",
];

/// The interfaces in `wit/host.wit`, up to the part of their version that must match.
const INTERFACES: [&str; 9] = [
    "fermyon:spin-cron/cron-types@2",
    "fermyon:spin/key-value@2",
    "fermyon:spin/variables@2",
    "spin:key-value/key-value@3",
    "spin:variables/variables@3",
    "wasi:config/store@",
    "wasi:keyvalue/atomics@",
    "wasi:keyvalue/batch@",
    "wasi:keyvalue/store@",
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
    variables::add_to_linker(&mut linker)?;
    cron_call::add_to_linker(&mut linker)?;
    Ok(linker)
}

/// Returns the imports of a component.
pub(crate) fn imports(component: &Component, engine: &Engine) -> Vec<String> {
    let component_type = component.component_type();
    let imports = component_type.imports(engine);
    imports.map(|(name, _)| name.to_owned()).collect()
}

/// Returns whether the linker provides an import.
pub(crate) fn is_provided(import: &str) -> bool {
    let package = import.split_once('/').map(|(package, _)| package);
    package.is_some_and(|package| WASI_PACKAGES.contains(&package))
        || INTERFACES
            .iter()
            .any(|interface| import.starts_with(interface))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    #[test]
    fn imports_are_known_by_name() {
        for provided in [
            "wasi:http/client@0.3.0",
            "wasi:io/streams@0.2.6",
            "wasi:keyvalue/atomics@0.2.0-draft2",
            "spin:key-value/key-value@3.0.0",
            "fermyon:spin/variables@2.0.0",
            "wasi:config/store@0.2.0-draft-2024-09-27",
        ] {
            assert!(is_provided(provided), "{provided}");
        }
        for missing in [
            "spin:sqlite/sqlite@3.1.0",
            "fermyon:spin/redis@2.0.0",
            "fermyon:spin/key-value",
            "wasi:otel/tracing@0.2.0-rc.2",
            "my:own/thing",
        ] {
            assert!(!is_provided(missing), "{missing}");
        }
    }

    /// Returns the names of the interfaces that a WIT file of a package defines.
    fn interfaces(wit: &str) -> Vec<String> {
        let lines = || wit.lines().map(str::trim);
        let package = lines().find_map(|line| line.strip_prefix("package ")?.strip_suffix(';'));
        let (package, version) = package.unwrap().split_once('@').unwrap();
        let names = lines().filter_map(|line| line.strip_prefix("interface ")?.strip_suffix(" {"));
        names
            .map(|name| format!("{package}/{name}@{version}"))
            .collect()
    }

    #[test]
    fn the_list_of_interfaces_is_that_of_the_wit_files() {
        let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("wit");
        let world = fs::read_to_string(wit.join("host.wit")).unwrap();
        let imports = world
            .lines()
            .filter_map(|line| line.trim().strip_prefix("import ")?.strip_suffix(';'));
        let imports: BTreeSet<String> = imports.map(str::to_owned).collect();
        let mut defined = BTreeSet::new();
        for file in fs::read_dir(wit.join("deps")).unwrap() {
            let text = fs::read_to_string(file.unwrap().path()).unwrap();
            defined.extend(interfaces(&text));
        }
        assert_eq!(imports, defined, "host.wit imports every interface");
        for import in &imports {
            assert!(
                INTERFACES.iter().any(|prefix| import.starts_with(prefix)),
                "{import} is missing in INTERFACES"
            );
        }
        for interface in INTERFACES {
            assert!(
                imports.iter().any(|import| import.starts_with(interface)),
                "{interface} is not in host.wit"
            );
        }
    }
}
