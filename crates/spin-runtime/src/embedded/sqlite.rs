//! The interfaces for SQLite databases: `spin:sqlite@3` and `fermyon:spin/sqlite@2`.

mod connection;
mod database;
mod query;
mod spin2;
mod spin3;
mod statement;

use std::sync::Arc;

use wasmtime::{
    Result,
    component::{HasData, Linker, Resource, ResourceTable},
};

use super::{
    bindings::{fermyon::spin::sqlite as v2, spin::sqlite::sqlite as v3},
    component_log::ComponentLog,
    guest::Guest,
};

pub use connection::Connection;
pub(crate) use database::{Database, Databases};
pub use statement::SqliteStatement;
pub(crate) use statement::StatementSource;

/// Adds the interfaces to a linker.
pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> Result<()> {
    v3::add_to_linker::<_, Sqlite>(linker, view)?;
    v2::add_to_linker::<_, Sqlite>(linker, view)
}

fn view(guest: &mut Guest) -> View<'_> {
    View {
        table: &mut guest.table,
        databases: &guest.component.databases,
        is_simulated: guest.component.world.is_some(),
        log: &guest.component.log,
    }
}

/// The part of a [`Guest`] that the interfaces access.
pub(crate) struct View<'a> {
    table: &'a mut ResourceTable,
    databases: &'a Databases,
    is_simulated: bool,
    log: &'a ComponentLog,
}

/// Tells Wasmtime the type of the [`View`].
pub(crate) struct Sqlite;

impl HasData for Sqlite {
    type Data<'a> = View<'a>;
}

/// A connection that a guest has opened, through any of the interfaces.
///
/// The rows of a statement are still read after the guest has closed its connection, so they share
/// it.
pub struct OpenConnection(Arc<Connection>);

/// Why a database cannot be opened.
enum OpenError {
    AccessDenied,
    TooManyConnections,
    /// The thread of the connection cannot be started.
    Failed(String),
}

impl OpenError {
    /// Returns the text of the errors that have no variant of their own.
    fn into_message(self) -> Option<String> {
        match self {
            Self::AccessDenied => None,
            Self::TooManyConnections => Some("too many connections opened".to_owned()),
            Self::Failed(message) => Some(message),
        }
    }
}

impl View<'_> {
    fn open(&mut self, label: &str) -> Result<Result<Resource<OpenConnection>, OpenError>> {
        let Some(database) = self.databases.get(label) else {
            self.log.database_denied(label);
            return Ok(Err(OpenError::AccessDenied));
        };
        let Some(permit) = self.databases.acquire() else {
            return Ok(Err(OpenError::TooManyConnections));
        };
        match Connection::start(database.clone(), permit, self.is_simulated) {
            Ok(connection) => Ok(Ok(self.table.push(OpenConnection(Arc::new(connection)))?)),
            Err(error) => Ok(Err(OpenError::Failed(error.to_string()))),
        }
    }

    fn connection(&self, resource: &Resource<OpenConnection>) -> Result<Arc<Connection>> {
        Ok(self.table.get(resource)?.0.clone())
    }

    fn close(&mut self, resource: Resource<OpenConnection>) -> Result<()> {
        self.table.delete(resource)?;
        Ok(())
    }
}
