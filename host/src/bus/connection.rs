//! A connection for commands, whichever kind of servers the bus has.

use redis::{
    Cmd, ErrorKind, Pipeline, RedisFuture, Value,
    aio::{ConnectionLike, ConnectionManager},
    cluster_async::ClusterConnection,
};

/// A connection for commands. Clones share it.
#[derive(Clone, Default)]
pub(super) enum Connection {
    /// The master is not known yet.
    #[default]
    Closed,
    /// A connection to one server, which is opened again when it breaks.
    Single(ConnectionManager),
    /// Connections to the nodes of a cluster.
    Cluster(ClusterConnection),
}

impl Connection {
    fn inner(&mut self) -> Result<&mut (dyn ConnectionLike + Send), redis::RedisError> {
        match self {
            Self::Closed => Err((ErrorKind::Io, "not connected").into()),
            Self::Single(manager) => Ok(manager),
            Self::Cluster(cluster) => Ok(cluster),
        }
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self.inner() {
            Ok(connection) => connection.req_packed_command(command),
            Err(error) => Box::pin(async { Err(error) }),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self.inner() {
            Ok(connection) => connection.req_packed_commands(pipeline, offset, count),
            Err(error) => Box::pin(async { Err(error) }),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Closed => 0,
            Self::Single(manager) => manager.get_db(),
            Self::Cluster(cluster) => cluster.get_db(),
        }
    }
}
