//! Hints about permissions that a component imports interfaces for, and that the manifest lacks.

use crate::manifest::Component;

/// The interfaces that open key-value stores, up to their version.
const STORES: [&str; 3] = [
    "fermyon:spin/key-value@",
    "spin:key-value/key-value@",
    "wasi:keyvalue/store@",
];

/// The interfaces that open SQLite databases, up to their version.
const DATABASES: [&str; 2] = ["fermyon:spin/sqlite@", "spin:sqlite/sqlite@"];

/// The interfaces that send requests, up to their version.
const REQUESTS: [&str; 4] = [
    "fermyon:spin/redis@",
    "spin:redis/redis@",
    "wasi:http/client@",
    "wasi:http/outgoing-handler@",
];

/// Logs the permissions that a component may need and does not have.
///
/// Toolchains leave out the interfaces that a component does not call, except for those that
/// import everything. So this is no error.
pub(crate) fn log_missing(component: &Component, imports: &[String]) {
    let id = &component.id;
    if let Some(import) = missing(&component.key_value_stores, imports, &STORES) {
        tracing::warn!(
            component = id,
            import,
            "component may open no key-value store: if it needs one, add its label to key_value_stores"
        );
    }
    if let Some(import) = missing(&component.sqlite_databases, imports, &DATABASES) {
        tracing::warn!(
            component = id,
            import,
            "component may open no SQLite database: if it needs one, add its label to sqlite_databases"
        );
    }
    if let Some(import) = missing(&component.allowed_outbound_hosts, imports, &REQUESTS) {
        tracing::warn!(
            component = id,
            import,
            "component may send no requests: if it needs to, add their hosts to allowed_outbound_hosts"
        );
    }
}

/// Returns the import of one of these interfaces, if nothing is granted.
fn missing<'a>(granted: &[String], imports: &'a [String], interfaces: &[&str]) -> Option<&'a str> {
    let is_needed = |import: &&String| {
        let mut interfaces = interfaces.iter();
        interfaces.any(|interface| import.starts_with(interface))
    };
    let import = imports.iter().find(is_needed)?;
    granted.is_empty().then_some(import)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_without_a_permission_are_found() {
        for (import, interfaces) in [
            ("spin:key-value/key-value@3.0.0", &STORES[..]),
            ("fermyon:spin/key-value@2.0.0", &STORES),
            ("wasi:keyvalue/store@0.2.0-draft2", &STORES),
            ("spin:sqlite/sqlite@3.1.0", &DATABASES),
            ("fermyon:spin/sqlite@2.0.0", &DATABASES),
            ("spin:redis/redis@3.0.0", &REQUESTS),
            ("wasi:http/client@0.3.0", &REQUESTS),
            ("wasi:http/outgoing-handler@0.2.6", &REQUESTS),
        ] {
            let imports = ["wasi:io/poll@0.2.6", import].map(str::to_owned);
            assert_eq!(missing(&[], &imports, interfaces), Some(import));
            let granted = ["default".to_owned()];
            assert_eq!(missing(&granted, &imports, interfaces), None);
        }
    }

    #[test]
    fn other_imports_need_no_permission() {
        let imports = [
            "wasi:http/types@0.3.0",
            "wasi:http/handler@0.3.0",
            "wasi:keyvalue/atomics@0.2.0-draft2",
            "spin:variables/variables@3.0.0",
            "fermyon:spin/variables@2.0.0",
        ]
        .map(str::to_owned);
        assert_eq!(missing(&[], &imports, &STORES), None);
        assert_eq!(missing(&[], &imports, &DATABASES), None);
        assert_eq!(missing(&[], &imports, &REQUESTS), None);
    }
}
