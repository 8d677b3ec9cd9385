//! The commands of the bus to Redis: publishing items, and reading those of a channel.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use grip::Item;
use parking_lot::Mutex;
use redis::{
    Client, ConnectionInfo, ErrorKind, FromRedisValue, RedisError, RedisResult, Script,
    ScriptInvocation, ServerErrorKind,
};
use tokio::{sync::Notify, time::timeout};
use uuid::Uuid;

use super::{
    connect::Connections,
    connection::Connection,
    keys::{Keys, alive, lease, member_field, runs, versions},
    position::{ChannelItems, Entry, parse_offset},
    servers::Servers,
    writer::Writer,
};
use crate::{
    config::{HistoryLimits, Limits},
    state::members::Member,
};

/// The time for Redis to accept a connection, or to answer a command.
pub(super) const TIMEOUT: Duration = Limits::DEFAULT.bus_timeout;

/// How long an id is known, to drop duplicates.
const ID_LIFETIME: Duration = Limits::DEFAULT.known_id_lifetime;

/// The minimum time for which the position of a channel is kept after its last use. Without the
/// position, all clients of the channel count as having missed items.
const POSITION_LIFETIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How long the members of a channel are kept after a host has announced one.
const MEMBERS_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

static PUBLISH: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        include_str!("epoch.lua"),
        include_str!("publish.lua")
    ))
});
static READ: LazyLock<Script> =
    LazyLock::new(|| Script::new(concat!(include_str!("epoch.lua"), include_str!("read.lua"))));
static PRESENCE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        include_str!("presence.lua"),
        include_str!("epoch.lua"),
        include_str!("publish.lua")
    ))
});
static HEARTBEAT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("heartbeat.lua")));
static PROBE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("probe.lua")));
static RENEW: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("renew.lua")));
static RUN: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("run.lua")));
static RELEASE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("release.lua")));

/// The connections to Redis, which are opened again when they break. Clones share them.
#[derive(Clone)]
pub(super) struct Redis(pub(super) Arc<Inner>);

/// What the clones share.
pub(super) struct Inner {
    pub(super) servers: Servers,
    /// The number of replicas that must have what is published.
    pub(super) replicas: u32,
    pub(super) connections: Mutex<Connections>,
    /// Notified when a command shows that the server is not the master any more.
    pub(super) demoted: Notify,
}

/// The result of a heartbeat.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heartbeat {
    /// The host is in the list.
    Alive {
        /// It was not in the list before.
        is_new: bool,
        /// All hosts that are alive.
        hosts: Vec<String>,
    },
    /// A host with this version is alive, with which this one cannot share the bus.
    Incompatible(String),
}

/// Which items of a channel are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Range {
    /// Those from this offset on, which is at least 1.
    From(u64),
    /// The newest.
    Newest {
        /// How many.
        count: usize,
        /// The epoch that has lost items. A new one begins, unless that has happened.
        lost_epoch: Option<String>,
    },
}

impl Redis {
    /// Creates connections to servers, which [`Self::renew`] opens. With `replicas` above 0, as many
    /// must have what is published.
    pub(super) fn new(servers: Servers, replicas: u32) -> Self {
        Self(Arc::new(Inner {
            servers,
            replicas,
            connections: Mutex::default(),
            demoted: Notify::new(),
        }))
    }

    fn commands(&self) -> Connection {
        self.0.connections.lock().commands.clone()
    }

    /// Returns whether the servers are a cluster, whose nodes may fail one by one.
    pub(super) fn is_cluster(&self) -> bool {
        self.0.servers.are_cluster()
    }

    /// Returns the number of the database.
    pub(super) fn database(&self) -> i64 {
        self.0.servers.database()
    }

    /// Returns the command with which scripts publish. A cluster forwards messages within a shard only,
    /// not to all nodes.
    fn publish_command(&self) -> &'static str {
        if self.is_cluster() {
            "SPUBLISH"
        } else {
            "PUBLISH"
        }
    }

    /// Waits until a command shows that the server is not the master any more.
    pub(super) async fn demoted(&self) {
        self.0.demoted.notified().await;
    }

    async fn call<T: FromRedisValue>(&self, call: &ScriptInvocation<'_>) -> RedisResult<T> {
        self.checked(call.invoke_async(&mut self.commands()).await)
    }

    fn checked<T>(&self, result: RedisResult<T>) -> RedisResult<T> {
        result.inspect_err(|error| {
            if shows_replica(error) {
                self.0.demoted.notify_one();
            }
        })
    }

    /// Returns the addresses of the servers, without a password.
    pub(super) fn address(&self) -> String {
        self.0.servers.to_string()
    }

    /// Returns whether a URL is that of the same database, once the master is known.
    pub(super) fn is_database(&self, url: &str) -> bool {
        let database =
            |info: &ConnectionInfo| (info.addr().to_string(), info.redis_settings().db());
        let Ok(other) = Client::open(url) else {
            return false;
        };
        let other = database(other.get_connection_info());
        match &self.0.servers {
            Servers::Cluster(nodes) => nodes.iter().any(|node| database(node) == other),
            Servers::Single(_) | Servers::Sentinel(_) => self
                .master()
                .is_ok_and(|master| database(master.get_connection_info()) == other),
        }
    }

    /// Publishes an item to a channel whose last items are kept within `limits`, with the connection
    /// that [`Self::writer`] has returned. Has no effect if an item with its id was published before.
    pub(super) async fn publish(
        &self,
        item: &Item,
        json: &str,
        limits: HistoryLimits,
        writer: Option<&Writer>,
    ) -> RedisResult<()> {
        let keys = Keys::new(&item.channel);
        let tag = new_tag();
        let mut call = PUBLISH.prepare_invoke();
        let id = match &item.id {
            Some(id) => Some(id.as_str()),
            // A command is sent again when the connection to a node breaks.
            None => self.is_cluster().then_some(tag.as_str()),
        };
        self.prepare_publish(&mut call, &keys, id, json, &tag, limits);
        match writer {
            Some(writer) => self.checked(writer.call(&call).await),
            None => self.call(&call).await,
        }
    }

    /// Adds the keys and arguments of publish.lua.
    fn prepare_publish(
        &self,
        call: &mut ScriptInvocation<'_>,
        keys: &Keys<'_>,
        id: Option<&str>,
        json: &str,
        tag: &str,
        limits: HistoryLimits,
    ) {
        call.key(keys.position()).key(keys.items());
        if let Some(id) = id {
            call.key(keys.id(id));
        }
        call.arg(new_epoch())
            .arg(json)
            .arg(tag)
            .arg(limits.items)
            .arg(millis(limits.age))
            .arg(millis(position_lifetime(limits)))
            .arg(millis(ID_LIFETIME))
            .arg(self.publish_command())
            .arg(keys.messages(self.database()));
    }

    /// Adds a member with a `value` to a host, or removes it without one. Publishes the item if none of
    /// the `others`, which are hosts, has the member.
    pub(super) async fn announce(
        &self,
        host: &str,
        member: &Member,
        value: Option<&str>,
        others: impl Iterator<Item = &str>,
        item: Option<&Item>,
        limits: HistoryLimits,
    ) -> RedisResult<()> {
        let keys = Keys::new(&member.channel);
        let json = item.map(|item| serde_json::json!(item).to_string());
        // A key is required where the script expects the members.
        let item_id = item.and_then(|item| item.id.as_deref()).unwrap_or_default();
        let mut call = PRESENCE.prepare_invoke();
        let json = json.unwrap_or_default();
        let tag = new_tag();
        self.prepare_publish(&mut call, &keys, Some(item_id), &json, &tag, limits);
        call.key(keys.members())
            .arg(member_field(host, &member.id))
            .arg(value.unwrap_or_default())
            .arg(millis(MEMBERS_LIFETIME));
        for other in others {
            call.arg(member_field(other, &member.id));
        }
        self.call(&call).await
    }

    /// Returns the fields and values of the members of a channel.
    pub(super) async fn members(&self, channel: &str) -> RedisResult<Vec<(String, String)>> {
        let mut command = redis::cmd("HGETALL");
        command.arg(Keys::new(channel).members());
        self.checked(command.query_async(&mut self.commands()).await)
    }

    /// Keeps a host in the list of hosts for a `time`.
    pub(super) async fn heartbeat(
        &self,
        host: &str,
        version: u32,
        time: Duration,
    ) -> RedisResult<Heartbeat> {
        let mut call = HEARTBEAT.key(alive());
        call.key(versions())
            .arg(host)
            .arg(millis(time))
            .arg(version);
        let values: Vec<redis::Value> = self.call(&call).await?;
        let mut values = values.into_iter();
        let first: i64 = values.next().map_or(Ok(0), redis::from_redis_value)?;
        let hosts: Vec<String> = values
            .map(redis::from_redis_value)
            .collect::<Result<_, _>>()?;
        Ok(match first {
            -1 => Heartbeat::Incompatible(hosts.into_iter().next().unwrap_or_default()),
            first => Heartbeat::Alive {
                is_new: first == 1,
                hosts,
            },
        })
    }

    /// Reads items of a channel.
    pub(super) async fn read(
        &self,
        channel: &str,
        limits: HistoryLimits,
        range: Range,
    ) -> RedisResult<ChannelItems> {
        let keys = Keys::new(channel);
        let (from, count, lost_epoch) = match range {
            Range::From(offset) => (offset, 0, None),
            Range::Newest { count, lost_epoch } => (0, count, lost_epoch),
        };
        let mut call = READ.prepare_invoke();
        call.key(keys.position())
            .key(keys.items())
            .arg(new_epoch())
            .arg(millis(position_lifetime(limits)))
            .arg(from)
            .arg(count)
            .arg(lost_epoch.unwrap_or_default())
            .arg(self.publish_command())
            .arg(keys.messages(self.database()));
        let (epoch, last, tag, fields): (String, String, String, Vec<String>) =
            self.call(&call).await?;
        let invalid = (ErrorKind::UnexpectedReturnType, "invalid offset");
        let last = parse_offset(&last).ok_or(invalid)?;
        let mut items = Vec::with_capacity(fields.len() / 4);
        let mut fields = fields.into_iter();
        while let (Some(offset), Some(tag), Some(previous), Some(item)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        {
            items.push(Entry {
                offset: parse_offset(&offset).ok_or(invalid)?,
                tag,
                previous,
                item,
            });
        }
        Ok(ChannelItems {
            epoch,
            last,
            tag,
            items,
        })
    }

    /// Takes or renews the lease for the timers, and returns whether this host holds it.
    pub(super) async fn renew_lease(&self, host: &str, time: Duration) -> RedisResult<bool> {
        let mut call = RENEW.key(lease());
        call.arg(host).arg(millis(time));
        self.call(&call).await
    }

    /// Begins a run of a timer, and returns its number, if this host holds the lease.
    pub(super) async fn begin_run(&self, host: &str, timer: &str) -> RedisResult<Option<u64>> {
        let mut call = RUN.key(lease());
        call.key(runs(timer)).arg(host);
        let number: u64 = self.call(&call).await?;
        Ok((number > 0).then_some(number))
    }

    /// Releases the lease for the timers.
    pub(super) async fn release_lease(&self, host: &str) -> RedisResult<()> {
        let mut call = RELEASE.key(lease());
        call.arg(host);
        self.call(&call).await
    }

    /// Publishes a message on a pub/sub channel, and returns how many connections receive it.
    pub(super) async fn send(&self, channel: &str, message: &str) -> RedisResult<usize> {
        let mut command = redis::cmd(self.publish_command());
        command.arg(channel).arg(message);
        self.checked(command.query_async(&mut self.commands()).await)
    }

    /// Publishes an empty message on the channel of a probe, if the server is the master.
    pub(super) async fn probe(&self, channel: &str) -> RedisResult<()> {
        let mut call = PROBE.key(channel);
        call.arg(self.publish_command());
        self.call(&call).await
    }
}

/// Waits for Redis, at most for [`TIMEOUT`].
pub(super) async fn in_time<T>(operation: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    timeout(TIMEOUT, operation)
        .await
        .unwrap_or_else(|_| Err((ErrorKind::Io, "no response in time").into()))
}

/// The position must outlive the items, whose offsets would otherwise be given out again.
fn position_lifetime(limits: HistoryLimits) -> Duration {
    POSITION_LIFETIME.max(limits.age * 2)
}

/// Returns whether Redis works but refuses a command, which it may do again.
pub(super) fn is_refused(error: &RedisError) -> bool {
    matches!(
        error.code(),
        Some("OOM" | "NOPERM" | "NOAUTH" | "WRONGTYPE" | "MISCONF" | "ERR")
    )
}

/// Returns whether an error shows that the server is a replica, or has been one and lost its master.
fn shows_replica(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown)
    )
}

fn new_tag() -> String {
    format!("{:016x}", rand::random::<u64>())
}

fn new_epoch() -> String {
    Uuid::new_v4().simple().to_string()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
