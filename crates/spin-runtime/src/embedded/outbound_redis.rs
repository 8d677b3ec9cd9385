//! The interfaces for Redis: `spin:redis@3` and `fermyon:spin/redis@2`.

mod bindings;
mod client;
mod spin2;
mod spin3;

use std::sync::Arc;

use url::Url;
use wasmtime::{
    Result,
    component::{HasData, Linker, Resource, ResourceTable},
};

use self::{
    bindings::{fermyon::spin::redis as v2, spin::redis::redis as v3},
    client::Connection,
};
use super::{component::Component, guest::Guest};

/// The port of an address without one.
const DEFAULT_PORT: u16 = 6379;

/// Adds the interfaces to a linker.
pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> Result<()> {
    v3::add_to_linker::<_, Redis>(linker, view)?;
    v2::add_to_linker::<_, Redis>(linker, view)
}

fn view(guest: &mut Guest) -> View<'_> {
    View {
        table: &mut guest.table,
        component: &guest.component,
    }
}

/// The part of a [`Guest`] that the interfaces access.
pub(crate) struct View<'a> {
    table: &'a mut ResourceTable,
    component: &'a Arc<Component>,
}

/// Tells Wasmtime the type of the [`View`].
pub(crate) struct Redis;

impl HasData for Redis {
    type Data<'a> = View<'a>;
}

/// A connection that a guest has opened, through any of the interfaces.
pub struct OpenConnection(Arc<Connection>);

/// A failed operation.
#[derive(Debug, PartialEq, Eq)]
enum RedisError {
    /// The address is invalid, or the component may not connect to it.
    InvalidAddress,
    TooManyConnections,
    Other(String),
}

/// An argument of a command.
enum Argument {
    Integer(i64),
    Bytes(Vec<u8>),
}

/// A part of the reply to a command.
#[derive(Debug, PartialEq)]
enum Reply {
    Nil,
    Status(String),
    Integer(i64),
    Bytes(Vec<u8>),
}

impl View<'_> {
    fn connection(&self, resource: &Resource<OpenConnection>) -> Result<Arc<Connection>> {
        Ok(self.table.get(resource)?.0.clone())
    }

    fn insert(&mut self, connection: Connection) -> Result<Resource<OpenConnection>> {
        Ok(self.table.push(OpenConnection(Arc::new(connection)))?)
    }

    fn close(&mut self, resource: Resource<OpenConnection>) -> Result<()> {
        self.table.delete(resource)?;
        Ok(())
    }
}

/// Connects a component to a server that it may connect to.
async fn open(component: &Component, address: &str) -> Result<Connection, RedisError> {
    check_allowed(component, address)?;
    if component.world.is_some() {
        return Err(RedisError::Other("Redis is not simulated".to_owned()));
    }
    let permits = component.redis_permits.clone();
    let permit = permits
        .try_acquire_owned()
        .map_err(|_| RedisError::TooManyConnections)?;
    Connection::open(address, &component.limits, permit).await
}

fn check_allowed(component: &Component, address: &str) -> Result<(), RedisError> {
    let url = Url::parse(address).map_err(|_| RedisError::InvalidAddress)?;
    // Other schemes include Unix sockets of this machine.
    let host = url
        .host_str()
        .filter(|_| ["redis", "rediss"].contains(&url.scheme()))
        .ok_or(RedisError::InvalidAddress)?;
    let (scheme, port) = (url.scheme(), url.port().unwrap_or(DEFAULT_PORT));
    if component.allowed_hosts.allows(scheme, host, Some(port)) {
        return Ok(());
    }
    component.log.connection_denied.log(|| {
        tracing::error!(
            component = %component.id,
            // The address may contain a password.
            missing_entry = format_args!("{scheme}://{host}:{port}"),
            "connection denied: host not in allowed_outbound_hosts"
        );
    });
    Err(RedisError::InvalidAddress)
}
