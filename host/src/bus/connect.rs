//! Opens the connections of the bus.

use std::time::Duration;

use futures_util::FutureExt as _;
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, ErrorKind, ProtocolVersion, RedisResult,
    aio::{ConnectionManager, ConnectionManagerConfig},
    cluster::ClusterClientBuilder,
};

use super::{
    connection::Connection,
    redis::{Redis, TIMEOUT, in_time},
    servers::Servers,
    subscriber::{Connection as SubscriberConnection, Subscriber, event_queue},
    writer::Writer,
};

/// The connections to one master, or to a cluster.
#[derive(Default)]
pub(super) struct Connections {
    /// The master; `None` if it is not known yet, and in a cluster.
    pub(super) master: Option<Client>,
    pub(super) commands: Connection,
    /// The connection for publishing, if replicas must have what is published.
    pub(super) writer: Option<Writer>,
}

impl Redis {
    /// Replaces the connections, which may be dead without being closed, by those to the current
    /// master.
    pub(super) async fn renew(&self) -> RedisResult<()> {
        let (commands, master) = match &self.0.servers {
            Servers::Single(master) => (Connection::Single(open(master)?), Some(master.clone())),
            Servers::Sentinel(sentinels) => {
                let master = sentinels.master().await?;
                (Connection::Single(open(&master)?), Some(master))
            }
            Servers::Cluster(nodes) => {
                let client = cluster_client(nodes).build()?;
                let connection = in_time(client.get_async_connection()).await?;
                (Connection::Cluster(connection), None)
            }
        };
        *self.0.connections.lock() = Connections {
            master,
            commands,
            writer: None,
        };
        // What was shown by the previous connections.
        let _ = self.0.demoted.notified().now_or_never();
        Ok(())
    }

    /// Returns the master, which [`Self::renew`] has found.
    pub(super) fn master(&self) -> RedisResult<Client> {
        let master = self.0.connections.lock().master.clone();
        master.ok_or_else(|| (ErrorKind::Io, "not connected").into())
    }

    /// Returns the connection for publishing, if replicas must have what is published.
    pub(super) async fn writer(&self) -> RedisResult<Option<Writer>> {
        let replicas = self.0.replicas;
        if replicas == 0 {
            return Ok(None);
        }
        let writer = self.0.connections.lock().writer.clone();
        if let Some(writer) = writer
            && !writer.is_broken()
        {
            return Ok(Some(writer));
        }
        let config = connection_config();
        let master = self.master()?;
        let connection = master.get_multiplexed_async_connection_with_config(&config);
        let writer = Writer::new(in_time(connection).await?, replicas);
        self.0.connections.lock().writer = Some(writer.clone());
        Ok(Some(writer))
    }

    /// Opens a connection for subscriptions.
    pub(super) async fn subscriber(&self) -> RedisResult<Subscriber> {
        let (sender, events) = event_queue();
        // Messages are pushed besides responses.
        let protocol = ProtocolVersion::RESP3;
        if let Servers::Cluster(nodes) = &self.0.servers {
            let client = cluster_client(nodes)
                .use_protocol(protocol)
                .push_sender(sender);
            let client = client.build()?;
            let connection = in_time(client.get_async_connection()).await?;
            return Ok(Subscriber::new(
                SubscriberConnection::Cluster(connection),
                events,
            ));
        }
        let info = self.master()?.get_connection_info().clone();
        let settings = info.redis_settings().clone().set_protocol(protocol);
        let client = Client::open(info.set_redis_settings(settings))?;
        let config = connection_config().set_push_sender(sender);
        let connection = client.get_multiplexed_async_connection_with_config(&config);
        let connection = SubscriberConnection::Single(in_time(connection).await?);
        Ok(Subscriber::new(connection, events))
    }
}

fn open(client: &Client) -> RedisResult<ConnectionManager> {
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(TIMEOUT))
        .set_response_timeout(Some(TIMEOUT))
        // A publisher tries again.
        .set_number_of_retries(1)
        .set_max_delay(Duration::from_secs(1));
    ConnectionManager::new_lazy_with_config(client.clone(), config)
}

fn cluster_client(nodes: &[ConnectionInfo]) -> ClusterClientBuilder {
    ClusterClientBuilder::new(nodes.iter().cloned())
        .connection_timeout(TIMEOUT)
        .response_timeout(TIMEOUT)
}

fn connection_config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(TIMEOUT))
        .set_response_timeout(Some(TIMEOUT))
}
