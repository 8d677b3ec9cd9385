//! Reads a runtime configuration.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::{KeyValueStore, RuntimeConfig, SqliteDatabase, VariableProvider};
use crate::manifest::{
    USE_SPIN, read_document,
    reader::{Table, Value},
    suggest,
};

/// The prefix of environment variables unless a provider sets another one.
const DEFAULT_PREFIX: &str = "SPIN_VARIABLE";

/// The folders that relative paths start in.
struct Folders {
    current: PathBuf,
    /// The folder of the file.
    config: PathBuf,
}

pub(super) fn parse(text: &str, path: &Path) -> anyhow::Result<RuntimeConfig> {
    let current = std::env::current_dir().context("cannot determine the current folder")?;
    let file = current.join(path);
    let folders = Folders {
        config: file.parent().unwrap_or(&current).to_owned(),
        current,
    };
    let (mut config, warnings) =
        read_document(text, path, |table| Some(read_root(table, &folders)))?;
    config.warnings.extend(warnings);
    Ok(config)
}

fn read_root(mut table: Table<'_>, folders: &Folders) -> RuntimeConfig {
    let mut config = RuntimeConfig {
        state_dir: read_folder(&mut table, "state_dir", folders),
        log_dir: read_log_dir(&mut table, folders),
        max_instance_memory: table
            .get("max_instance_memory")
            .and_then(|value| read_size(&value)),
        ..RuntimeConfig::default()
    };
    for (label, value) in labeled(&mut table, "key_value_store") {
        if let Some(store) = read_store(&value, folders) {
            config.key_value_stores.insert(label.to_owned(), store);
        }
    }
    for (label, value) in labeled(&mut table, "sqlite_database") {
        if let Some(database) = read_database(&value, folders) {
            config.sqlite_databases.insert(label.to_owned(), database);
        }
    }
    // The second name is the older one. Spin ignores it if both are there.
    let old_providers = table.get("config_provider");
    if let Some(providers) = table.get("variables_provider").or(old_providers) {
        let providers = providers.array();
        let providers = providers
            .iter()
            .filter_map(|value| read_provider(value, folders));
        config.variable_providers = providers.collect();
    }
    if let Some(value) = table.get("outbound_redis") {
        config.redis_connections = read_outbound_redis(&value);
    }
    if let Some(value) = table.get("outbound_networking") {
        read_outbound_networking(&value, &mut config.warnings);
    }
    if let Some(value) = table.get("client_tls") {
        value.error(format!(
            "certificates for outgoing requests are not supported; {USE_SPIN}"
        ));
    }
    // Without them, requests are sent all the same.
    if let Some(value) = table.get("outbound_http") {
        read_outbound_http(&value, &mut config.warnings);
    }
    // Calls of these interfaces fail in any case.
    for name in [
        "llm_compute",
        "outbound_pg",
        "outbound_mysql",
        "outbound_mqtt",
    ] {
        if let Some(value) = table.get(name) {
            config.warnings.push(no_effect(&value));
        }
    }
    table.finish();
    config
}

fn no_effect(value: &Value<'_>) -> String {
    format!(
        "line {} of the runtime configuration: {} has no effect in this host",
        value.line(),
        value.key()
    )
}

fn read_outbound_http(value: &Value<'_>, warnings: &mut Vec<String>) {
    let Some(table) = value.table() else { return };
    for (_, value) in table.entries() {
        read_ignored_limit(&value, warnings);
    }
}

/// Warns about a limit that has no effect, and reports one of 0. Spin then opens no connections.
fn read_ignored_limit(value: &Value<'_>, warnings: &mut Vec<String>) {
    if value.is_integer() && value.integer() == Some(0) {
        value.error(format!(
            "0, with which Spin opens no connections, is not supported: allow no hosts in \
             allowed_outbound_hosts; {USE_SPIN}"
        ));
    } else {
        warnings.push(no_effect(value));
    }
}

/// Reads the folder of the logs. An empty path means that there are no log files.
fn read_log_dir(table: &mut Table<'_>, folders: &Folders) -> Option<PathBuf> {
    let value = table.get("log_dir")?;
    let path = value.string()?;
    if path.is_empty() {
        return Some(PathBuf::new());
    }
    Some(folders.current.join(path))
}

/// Reads the path of a folder. In Spin, an empty path means that nothing is kept.
fn read_folder(table: &mut Table<'_>, name: &'static str, folders: &Folders) -> Option<PathBuf> {
    let value = table.get(name)?;
    let path = value.string()?;
    if path.is_empty() {
        value.error(format!(
            "an empty path, with which Spin keeps nothing on disk, is not supported: use the path \
             of a folder; {USE_SPIN}"
        ));
        return None;
    }
    Some(folders.current.join(path))
}

fn read_size(value: &Value<'_>) -> Option<usize> {
    let number = value.integer()?;
    let size = usize::try_from(number).ok().filter(|size| *size > 0);
    if size.is_none() {
        value.error(format!("expected a number of bytes, found {number}"));
    }
    size
}

fn read_count(value: &Value<'_>) -> Option<usize> {
    let number = value.integer()?;
    let count = usize::try_from(number).ok();
    if count.is_none() {
        value.error(format!("expected a number of at least 0, found {number}"));
    }
    count
}

/// Returns the tables of a table of tables.
fn labeled<'a>(table: &mut Table<'a>, name: &'static str) -> Vec<(&'a str, Value<'a>)> {
    let tables = table.get(name).and_then(|value| value.table());
    tables.map_or_else(Vec::new, |tables| tables.entries().collect())
}

/// Returns the `type` of a table, and its value for errors.
fn read_type<'a>(table: &mut Table<'a>, purpose: &str) -> Option<(&'a str, Value<'a>)> {
    let value = table.require("type", purpose)?;
    Some((value.string()?, value))
}

/// Reports a type that this host does not know, or that only Spin supports.
fn unsupported_type(value: &Value<'_>, kind: &str, supported: &[&str], spin_only: &[&str]) {
    if spin_only.contains(&kind) {
        value.error(format!(
            "type {kind:?} is not supported, only {}; {USE_SPIN}",
            supported.join(" and ")
        ));
    } else {
        let suggestion = suggest(kind, supported.iter().chain(spin_only).copied());
        value.error(format!(
            "unknown type {kind:?}{suggestion}; expected {}",
            supported.join(" or ")
        ));
    }
}

fn read_store(value: &Value<'_>, folders: &Folders) -> Option<KeyValueStore> {
    let mut table = value.table()?;
    let (kind, kind_value) = read_type(&mut table, "\"spin\" for a SQLite file, or \"redis\"")?;
    let store = match kind {
        "spin" => KeyValueStore::Sqlite {
            path: read_path(&mut table, "path", &folders.config),
        },
        "redis" => {
            let url = table.require("url", "the server, such as \"redis://localhost:6379\"");
            let url = url.and_then(|value| value.string());
            table.finish();
            return Some(KeyValueStore::Redis {
                url: url?.to_owned(),
            });
        }
        _ => {
            let spin_only = ["azure_cosmos", "aws_dynamo"];
            unsupported_type(&kind_value, kind, &["spin", "redis"], &spin_only);
            return None;
        }
    };
    table.finish();
    Some(store)
}

fn read_database(value: &Value<'_>, folders: &Folders) -> Option<SqliteDatabase> {
    let mut table = value.table()?;
    let (kind, kind_value) = read_type(&mut table, "\"spin\" for a SQLite file")?;
    if kind != "spin" {
        unsupported_type(&kind_value, kind, &["spin"], &["libsql"]);
        return None;
    }
    let database = SqliteDatabase {
        path: read_path(&mut table, "path", &folders.current),
        allow_attach_file: table
            .get("allow_attach_file")
            .and_then(|value| value.boolean())
            .unwrap_or(false),
    };
    table.finish();
    Some(database)
}

fn read_path(table: &mut Table<'_>, name: &'static str, folder: &Path) -> Option<PathBuf> {
    let value = table.get(name)?;
    let path = value.string()?;
    if path.is_empty() {
        value.error("expected the path of a file, found an empty string");
        return None;
    }
    Some(folder.join(path))
}

fn read_provider(value: &Value<'_>, folders: &Folders) -> Option<VariableProvider> {
    let mut table = value.table()?;
    let (kind, kind_value) = read_type(&mut table, "\"static\" or \"env\"")?;
    let provider = match kind {
        "static" => {
            let values = table.require("values", "a table with the values of variables");
            values.map(|values| VariableProvider::Static(values.string_map()))
        }
        "env" => {
            let prefix = table.get("prefix").and_then(|value| value.string());
            Some(VariableProvider::Environment {
                prefix: prefix.unwrap_or(DEFAULT_PREFIX).to_owned(),
                dot_env: read_path(&mut table, "dotenv_path", &folders.current),
            })
        }
        _ => {
            let spin_only = ["vault", "azure_key_vault"];
            unsupported_type(&kind_value, kind, &["static", "env"], &spin_only);
            return None;
        }
    };
    table.finish();
    provider
}

fn read_outbound_redis(value: &Value<'_>) -> Option<usize> {
    let mut table = value.table()?;
    let connections = table
        .get("max_connections")
        .and_then(|value| read_count(&value));
    table.finish();
    connections
}

fn read_outbound_networking(value: &Value<'_>, warnings: &mut Vec<String>) {
    let Some(mut table) = value.table() else {
        return;
    };
    if let Some(networks) = table.get("block_networks")
        && !networks.array().is_empty()
    {
        networks.error(format!(
            "blocked networks are not supported: list the allowed hosts in \
             allowed_outbound_hosts; {USE_SPIN}"
        ));
    }
    for name in ["max_socket_connections", "max_total_connections"] {
        if let Some(value) = table.get(name) {
            read_ignored_limit(&value, warnings);
        }
    }
    table.finish();
}
