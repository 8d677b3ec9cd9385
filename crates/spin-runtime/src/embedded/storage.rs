//! The key-value stores and SQLite databases of the applications, by label.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, anyhow, bail};

use super::{
    key_value::{Store, StoreFile, Stores},
    options::{EmbeddedOptions, FolderError},
    sqlite::{Database, Databases, SqliteStatement, StatementSource},
};
use crate::{
    manifest::{Component, Manifest, suggest},
    runtime_config::{KeyValueStore, SqliteDatabase},
};

/// The label of the store and of the database that every application has.
pub(crate) const DEFAULT_LABEL: &str = "default";

/// The open stores and databases.
#[derive(Clone, Default)]
pub(crate) struct Storage {
    stores: BTreeMap<String, Arc<dyn Store>>,
    /// The open SQLite files of stores. Several stores may share one.
    files: BTreeMap<PathBuf, StoreFile>,
    databases: BTreeMap<String, Arc<Database>>,
}

impl Storage {
    /// Returns these stores and databases together with those that an application needs.
    ///
    /// The file of a store is only created if a component may open it.
    ///
    /// # Errors
    /// Fails if a label is unknown, or if a store cannot be opened.
    pub(crate) fn extended(
        &self,
        manifest: &Manifest,
        options: &EmbeddedOptions,
    ) -> anyhow::Result<Self> {
        let mut storage = self.clone();
        for component in manifest.components.values() {
            let opened = storage.open_for(component, options);
            opened.with_context(|| format!("component {}", component.id))?;
        }
        Ok(storage)
    }

    fn open_for(&mut self, component: &Component, options: &EmbeddedOptions) -> anyhow::Result<()> {
        for label in &component.key_value_stores {
            if !self.stores.contains_key(label) {
                let store = self.open_store(label, options)?;
                self.stores.insert(label.clone(), store);
            }
        }
        let configured = &options.runtime_config.sqlite_databases;
        for label in &component.sqlite_databases {
            let database = self
                .database(label, options)
                .ok_or_else(|| unknown_label(&SQLITE, label, SQLITE.key, configured.keys()))?;
            if !configured.contains_key(label) {
                // The file itself is only created by the first statement.
                create_folder(&options.state_dir).context(FolderError::State)?;
            }
            self.databases.insert(label.clone(), database);
        }
        Ok(())
    }

    fn open_store(
        &mut self,
        label: &str,
        options: &EmbeddedOptions,
    ) -> anyhow::Result<Arc<dyn Store>> {
        if let Some(simulation) = &options.simulation {
            let store = simulation.stores.get(label).cloned();
            return store.with_context(|| format!("key-value store {label:?} is not simulated"));
        }
        let configured = options.runtime_config.key_value_stores.get(label);
        match configured {
            Some(KeyValueStore::Redis { url }) => {
                open_redis(label, url, options).with_context(|| format!("key-value store {label}"))
            }
            Some(KeyValueStore::Sqlite { path: None }) => {
                let file = StoreFile::open(None, &options.limits)?;
                Ok(Arc::new(file.store(label)))
            }
            Some(KeyValueStore::Sqlite { path: Some(path) }) => {
                Ok(Arc::new(self.open_file(path, options)?.store(label)))
            }
            None if label == DEFAULT_LABEL => {
                let path = options.state_dir.join("sqlite_key_value.db");
                let file = self.open_file(&path, options).context(FolderError::State)?;
                Ok(Arc::new(file.store(label)))
            }
            None => {
                let known = options.runtime_config.key_value_stores.keys();
                Err(unknown_label(&KEY_VALUE, label, KEY_VALUE.key, known))
            }
        }
    }

    fn open_file(&mut self, path: &Path, options: &EmbeddedOptions) -> anyhow::Result<StoreFile> {
        if let Some(open) = self.files.get(path) {
            return Ok(open.clone());
        }
        let file = StoreFile::open(Some(path), &options.limits)?;
        self.files.insert(path.to_owned(), file.clone());
        Ok(file)
    }

    /// Returns the database with a label, if there is one.
    fn database(&self, label: &str, options: &EmbeddedOptions) -> Option<Arc<Database>> {
        if let Some(open) = self.databases.get(label) {
            return Some(open.clone());
        }
        let configured = options.runtime_config.sqlite_databases.get(label).cloned();
        let default = || {
            (label == DEFAULT_LABEL).then(|| SqliteDatabase {
                path: Some(options.state_dir.join("sqlite_db.db")),
                allow_attach_file: false,
            })
        };
        let config = configured.or_else(default)?;
        Some(Arc::new(Database::new(config, &options.limits)))
    }

    /// Returns the default store, if a component may open it.
    pub(crate) fn default_store(&self) -> Option<Arc<dyn Store>> {
        self.stores.get(DEFAULT_LABEL).cloned()
    }

    /// Returns the stores that a component may open.
    pub(crate) fn component_stores(&self, component: &Component) -> Stores {
        let labels = component.key_value_stores.iter();
        let stores =
            labels.filter_map(|label| Some((label.clone(), self.stores.get(label)?.clone())));
        stores.collect()
    }

    /// Returns the databases that a component may open.
    pub(crate) fn component_databases(
        &self,
        component: &Component,
        options: &EmbeddedOptions,
    ) -> Databases {
        let labels = component.sqlite_databases.iter();
        let databases =
            labels.filter_map(|label| Some((label.clone(), self.databases.get(label)?.clone())));
        Databases::new(databases.collect(), &options.limits)
    }

    /// Runs the statements of the options.
    ///
    /// # Errors
    /// Fails at the first statement that fails. The previous ones remain in effect.
    pub(crate) fn run_statements(&self, options: &EmbeddedOptions) -> anyhow::Result<()> {
        for statement in &options.sqlite_statements {
            self.run_statement(statement, options)?;
        }
        Ok(())
    }

    fn run_statement(
        &self,
        statement: &SqliteStatement,
        options: &EmbeddedOptions,
    ) -> anyhow::Result<()> {
        let label = &statement.label;
        let Some(database) = self.database(label, options) else {
            let known = options.runtime_config.sqlite_databases.keys();
            return Err(unknown_label(&SQLITE, label, "--sqlite", known));
        };
        if database.is_in_memory() {
            bail!(
                "--sqlite: database {label:?} is in memory, so each connection has a database of \
                 its own: set path in [sqlite_database.{label}] of the runtime configuration"
            );
        }
        match &statement.source {
            StatementSource::Text(sql) => database
                .run(sql)
                .with_context(|| format!("--sqlite {sql:?}")),
            StatementSource::File(file) => {
                let sql = std::fs::read_to_string(file)
                    .with_context(|| format!("--sqlite: cannot read {}", file.display()))?;
                database
                    .run(&sql)
                    .with_context(|| format!("--sqlite {}: database {label:?}", file.display()))
            }
        }
    }
}

#[cfg(feature = "redis")]
fn open_redis(label: &str, url: &str, options: &EmbeddedOptions) -> anyhow::Result<Arc<dyn Store>> {
    let store = super::key_value::RedisStore::new(label, url, &options.limits)?;
    Ok(Arc::new(store))
}

#[cfg(not(feature = "redis"))]
fn open_redis(_: &str, _: &str, _: &EmbeddedOptions) -> anyhow::Result<Arc<dyn Store>> {
    Err(anyhow!(
        "this host was built without Redis: build it with the cargo feature `redis`"
    ))
}

fn create_folder(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot create the folder {}", folder.display()))
}

/// The names of a kind of storage.
struct Kind {
    name: &'static str,
    /// The key in the manifest.
    key: &'static str,
    /// The table in the runtime configuration.
    table: &'static str,
}

const KEY_VALUE: Kind = Kind {
    name: "key-value store",
    key: "key_value_stores",
    table: "key_value_store",
};

const SQLITE: Kind = Kind {
    name: "SQLite database",
    key: "sqlite_databases",
    table: "sqlite_database",
};

/// Returns the error for a label in `place`: a key in the manifest, or an option.
fn unknown_label<'a>(
    kind: &Kind,
    label: &str,
    place: &str,
    configured: impl Iterator<Item = &'a String>,
) -> anyhow::Error {
    let mut known: Vec<&str> = configured.map(String::as_str).collect();
    if !known.contains(&DEFAULT_LABEL) {
        known.insert(0, DEFAULT_LABEL);
    }
    let Kind { name, table, .. } = kind;
    anyhow!(
        "unknown {name} {label:?} in {place}{}; known: {}; define [{table}.{label}] in a runtime \
         configuration, and pass it with --runtime-config-file",
        suggest(label, known.iter().copied()),
        known.join(", ")
    )
}
