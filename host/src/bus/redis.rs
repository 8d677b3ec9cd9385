//! The commands of the bus to Redis: publishing items, and reading those of a channel.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use grip::Item;
use parking_lot::Mutex;
use redis::{
    Client, ConnectionAddr, ErrorKind, RedisResult, Script, ScriptInvocation,
    aio::{ConnectionManager, ConnectionManagerConfig, PubSub},
};
use tokio::time::timeout;
use uuid::Uuid;

use super::keys::{Keys, alive, lease, member_field, runs, versions};
use crate::config::{HistoryLimits, Limits};

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
static RENEW: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("renew.lua")));
static RUN: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("run.lua")));
static RELEASE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("release.lua")));

/// A connection to Redis, which is opened again when it breaks. Clones share it.
#[derive(Clone)]
pub(super) struct Redis {
    client: Client,
    commands: Arc<Mutex<ConnectionManager>>,
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

/// A connection of a member to a host.
pub(super) struct MemberAt<'a> {
    pub(super) host: &'a str,
    pub(super) channel: &'a str,
    pub(super) id: &'a str,
}

/// What a channel had when it was read.
#[derive(Debug)]
pub(super) struct ChannelItems {
    /// The epoch of the offsets.
    pub(super) epoch: String,
    /// The offset of the last item, or 0 if there was none.
    pub(super) last: u64,
    /// Items with their offsets, oldest first.
    pub(super) items: Vec<(u64, String)>,
}

/// Which items of a channel are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Range {
    /// Those from this offset on, which is at least 1.
    From(u64),
    /// So many of the newest.
    Newest(usize),
}

impl Redis {
    /// Creates a connection to a server, which the first command opens.
    pub(super) fn new(client: Client) -> RedisResult<Self> {
        let commands = Arc::new(Mutex::new(open(&client)?));
        Ok(Self { client, commands })
    }

    /// Replaces the connection, which may be dead without being closed.
    pub(super) fn renew(&self) -> RedisResult<()> {
        *self.commands.lock() = open(&self.client)?;
        Ok(())
    }

    fn commands(&self) -> ConnectionManager {
        self.commands.lock().clone()
    }

    /// Returns the address of the server, without its password.
    pub(super) fn address(&self) -> String {
        match self.client.get_connection_info().addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                format!("{host}:{port}")
            }
            address => address.to_string(),
        }
    }

    /// Returns whether a URL is that of the same database.
    pub(super) fn is_database(&self, url: &str) -> bool {
        let database = |client: &Client| {
            let info = client.get_connection_info();
            let settings = info.redis_settings();
            (info.addr().to_string(), settings.db())
        };
        Client::open(url).is_ok_and(|other| database(&other) == database(&self.client))
    }

    /// Opens a connection for subscriptions.
    pub(super) async fn subscriber(&self) -> RedisResult<PubSub> {
        in_time(self.client.get_async_pubsub()).await
    }

    /// Publishes an item to a channel whose last items are kept within `limits`. Has no effect if an
    /// item with its id was published before.
    pub(super) async fn publish(
        &self,
        item: &Item,
        json: &str,
        limits: HistoryLimits,
    ) -> RedisResult<()> {
        let keys = Keys::new(&item.channel);
        let mut call = PUBLISH.prepare_invoke();
        prepare_publish(&mut call, &keys, item.id.as_deref(), json, limits);
        call.invoke_async(&mut self.commands()).await
    }

    /// Adds a member with a `value` to a host, or removes it without one. Publishes the item if none of
    /// the `others`, which are hosts, has the member.
    pub(super) async fn announce(
        &self,
        member: MemberAt<'_>,
        value: Option<&str>,
        others: impl Iterator<Item = &str>,
        item: Option<&Item>,
        limits: HistoryLimits,
    ) -> RedisResult<()> {
        let MemberAt { host, channel, id } = member;
        let keys = Keys::new(channel);
        let json = item.map(|item| serde_json::json!(item).to_string());
        // A key is required where the script expects the members.
        let item_id = item.and_then(|item| item.id.as_deref()).unwrap_or_default();
        let mut call = PRESENCE.prepare_invoke();
        let json = json.unwrap_or_default();
        prepare_publish(&mut call, &keys, Some(item_id), &json, limits);
        call.key(keys.members())
            .arg(member_field(host, id))
            .arg(value.unwrap_or_default())
            .arg(millis(MEMBERS_LIFETIME));
        for other in others {
            call.arg(member_field(other, id));
        }
        call.invoke_async(&mut self.commands()).await
    }

    /// Returns the fields and values of the members of a channel.
    pub(super) async fn members(&self, channel: &str) -> RedisResult<Vec<(String, String)>> {
        let mut command = redis::cmd("HGETALL");
        command.arg(Keys::new(channel).members());
        command.query_async(&mut self.commands()).await
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
        let values: Vec<redis::Value> = call.invoke_async(&mut self.commands()).await?;
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
        let (from, count) = match range {
            Range::From(offset) => (offset, 0),
            Range::Newest(count) => (0, count),
        };
        let mut call = READ.prepare_invoke();
        call.key(keys.position())
            .key(keys.items())
            .arg(new_epoch())
            .arg(millis(position_lifetime(limits)))
            .arg(from)
            .arg(count);
        let (epoch, last, items): (String, u64, Vec<String>) =
            call.invoke_async(&mut self.commands()).await?;
        let mut pairs = items.into_iter();
        let mut items = Vec::with_capacity(pairs.len() / 2);
        while let (Some(offset), Some(item)) = (pairs.next(), pairs.next()) {
            let offset = offset.parse();
            let offset = offset.map_err(|_| (ErrorKind::UnexpectedReturnType, "invalid offset"))?;
            items.push((offset, item));
        }
        Ok(ChannelItems { epoch, last, items })
    }

    /// Takes or renews the lease for the timers, and returns whether this host holds it.
    pub(super) async fn renew_lease(&self, host: &str, time: Duration) -> RedisResult<bool> {
        let mut call = RENEW.key(lease());
        call.arg(host).arg(millis(time));
        call.invoke_async(&mut self.commands()).await
    }

    /// Begins a run of a timer, and returns its number, if this host holds the lease.
    pub(super) async fn begin_run(&self, host: &str, timer: &str) -> RedisResult<Option<u64>> {
        let mut call = RUN.key(lease());
        call.key(runs(timer)).arg(host);
        let number: u64 = call.invoke_async(&mut self.commands()).await?;
        Ok((number > 0).then_some(number))
    }

    /// Gives the lease for the timers up.
    pub(super) async fn release_lease(&self, host: &str) -> RedisResult<()> {
        let mut call = RELEASE.key(lease());
        call.arg(host);
        call.invoke_async(&mut self.commands()).await
    }

    /// Publishes a message on a pub/sub channel, and returns how many connections receive it.
    pub(super) async fn send(&self, channel: &str, message: &str) -> RedisResult<usize> {
        let mut command = redis::cmd("PUBLISH");
        command.arg(channel).arg(message);
        command.query_async(&mut self.commands()).await
    }
}

/// Adds the keys and arguments of publish.lua.
fn prepare_publish(
    call: &mut ScriptInvocation<'_>,
    keys: &Keys<'_>,
    id: Option<&str>,
    json: &str,
    limits: HistoryLimits,
) {
    call.key(keys.position()).key(keys.items());
    if let Some(id) = id {
        call.key(keys.id(id));
    }
    call.arg(new_epoch())
        .arg(json)
        .arg(limits.items)
        .arg(millis(limits.age))
        .arg(millis(position_lifetime(limits)))
        .arg(millis(ID_LIFETIME))
        .arg(keys.messages());
}

/// Waits for Redis, at most for [`TIMEOUT`].
pub(super) async fn in_time<T>(operation: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    timeout(TIMEOUT, operation)
        .await
        .unwrap_or_else(|_| Err((ErrorKind::Io, "no response in time").into()))
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

/// The position must outlive the items, whose offsets would otherwise be given out again.
fn position_lifetime(limits: HistoryLimits) -> Duration {
    POSITION_LIFETIME.max(limits.age * 2)
}

fn new_epoch() -> String {
    Uuid::new_v4().simple().to_string()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
