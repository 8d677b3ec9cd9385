//! The Redis servers of a bus, as the URL of `--bus` names them.

use std::fmt;

use anyhow::{Context as _, Result, bail, ensure};
use redis::{
    Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisConnectionInfo,
    RedisResult, TlsMode,
    sentinel::{Sentinel, SentinelNodeConnectionInfo},
};
use tokio::sync::Mutex;
use url::form_urlencoded;

use super::redis::in_time;

/// The port of a sentinel whose URL contains none.
const SENTINEL_PORT: u16 = 26379;

/// The servers of a bus.
pub(super) enum Servers {
    /// One server: `redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]`.
    Single(Client),
    /// The master that sentinels name.
    Sentinel(Sentinels),
    /// The nodes of a cluster: `redis-cluster://[USER:PASSWORD@]HOST[:PORT],…`.
    Cluster(Vec<ConnectionInfo>),
}

/// Sentinels: `redis-sentinel://[USER:PASSWORD@]HOST[:PORT],…/MASTER[/DATABASE]`. The user and the
/// password are those of the servers.
pub(super) struct Sentinels {
    sentinel: Mutex<Sentinel>,
    addresses: Vec<ConnectionAddr>,
    master: String,
    /// How to connect to the master.
    settings: SentinelNodeConnectionInfo,
    database: i64,
}

/// The parts of a URL with several hosts.
struct Parts<'a> {
    /// The user and the password with the `@` behind them, or empty.
    credentials: &'a str,
    hosts: Vec<&'a str>,
    path: Vec<&'a str>,
    query: &'a str,
}

impl Servers {
    /// Parses a URL.
    ///
    /// # Errors
    /// Fails if it is invalid.
    pub(super) fn parse(url: &str) -> Result<Self> {
        let (scheme, rest) = url.split_once("://").context("missing scheme")?;
        match scheme {
            "redis-sentinel" => Sentinels::parse("redis", &Parts::split(rest)),
            "rediss-sentinel" => Sentinels::parse("rediss", &Parts::split(rest)),
            "redis-cluster" => parse_cluster("redis", &Parts::split(rest)),
            "rediss-cluster" => parse_cluster("rediss", &Parts::split(rest)),
            _ => Ok(Self::Single(Client::open(url)?)),
        }
    }

    /// Returns the number of the database.
    pub(super) fn database(&self) -> i64 {
        match self {
            Self::Single(client) => client.get_connection_info().redis_settings().db(),
            Self::Sentinel(sentinels) => sentinels.database,
            Self::Cluster(_) => 0,
        }
    }

    /// Returns whether these are a cluster.
    pub(super) fn are_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }
}

impl fmt::Display for Servers {
    /// Formats the addresses, without a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Single(client) => write_addresses(f, [client.get_connection_info().addr()]),
            Self::Sentinel(sentinels) => {
                write!(f, "{} of ", sentinels.master)?;
                write_addresses(f, &sentinels.addresses)
            }
            Self::Cluster(nodes) => write_addresses(f, nodes.iter().map(ConnectionInfo::addr)),
        }
    }
}

fn write_addresses<'a>(
    f: &mut fmt::Formatter<'_>,
    addresses: impl IntoIterator<Item = &'a ConnectionAddr>,
) -> fmt::Result {
    for (index, address) in addresses.into_iter().enumerate() {
        if index > 0 {
            f.write_str(",")?;
        }
        match address {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                write!(f, "{host}:{port}")?;
            }
            address => write!(f, "{address}")?,
        }
    }
    Ok(())
}

impl Sentinels {
    fn parse(scheme: &str, parts: &Parts<'_>) -> Result<Servers> {
        let (master, database) = match *parts.path {
            [master] => (master, "0"),
            [master, database] => (master, database),
            _ => ("", ""),
        };
        ensure!(
            !master.is_empty(),
            "expected the name of the master and the database after the sentinels: /MASTER/DATABASE"
        );
        let credentials = parts.credentials;
        let server = format!("{scheme}://{credentials}master/{database}");
        let server = server.into_connection_info()?.redis_settings().clone();
        let database = server.db();
        let mut settings = SentinelNodeConnectionInfo::default().set_redis_connection_info(server);
        if scheme == "rediss" {
            settings = settings.set_tls_mode(TlsMode::Secure);
        }
        let sentinels = parts.hosts.iter().map(|host| {
            let host = with_port(host, SENTINEL_PORT);
            let info = format!("{scheme}://{host}").into_connection_info()?;
            Ok(info.set_redis_settings(sentinel_settings(parts.query)?))
        });
        let sentinels: Vec<ConnectionInfo> = sentinels.collect::<Result<_>>()?;
        let addresses = sentinels.iter().map(|info| info.addr().clone()).collect();
        Ok(Servers::Sentinel(Self {
            sentinel: Mutex::new(Sentinel::build(sentinels)?),
            addresses,
            master: master.to_owned(),
            settings,
            database,
        }))
    }

    /// Asks the sentinels for the master, and the master whether it is one.
    pub(super) async fn master(&self) -> RedisResult<Client> {
        let lookup = async {
            let mut sentinel = self.sentinel.lock().await;
            sentinel
                .async_master_for(&self.master, Some(&self.settings))
                .await
        };
        in_time(lookup).await
    }
}

fn parse_cluster(scheme: &str, parts: &Parts<'_>) -> Result<Servers> {
    ensure!(
        matches!(*parts.path, [""] | ["0"]),
        "a cluster has only the database 0: leave out what follows the nodes"
    );
    ensure!(parts.query.is_empty(), "a cluster has no parameters");
    let credentials = parts.credentials;
    let nodes = parts.hosts.iter().map(|host| {
        ensure!(!host.is_empty(), "the address of a node is empty");
        Ok(format!("{scheme}://{credentials}{host}").into_connection_info()?)
    });
    Ok(Servers::Cluster(nodes.collect::<Result<_>>()?))
}

/// Returns how to log in to sentinels, which have no databases.
fn sentinel_settings(query: &str) -> Result<RedisConnectionInfo> {
    let mut settings = RedisConnectionInfo::default();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        settings = match &*name {
            "sentinel_username" => settings.set_username(value),
            "sentinel_password" => settings.set_password(value),
            name => bail!("unknown parameter {name:?}"),
        };
    }
    Ok(settings)
}

/// Returns a host with its port, or with `default` if it has none.
fn with_port(host: &str, default: u16) -> String {
    // The colons of an IPv6 address are in brackets.
    let name_end = host.rfind(']').unwrap_or(0);
    if host[name_end..].contains(':') {
        host.to_owned()
    } else {
        format!("{host}:{default}")
    }
}

impl<'a> Parts<'a> {
    /// Splits what follows the scheme.
    fn split(rest: &'a str) -> Self {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let hosts_start = authority.rfind('@').map_or(0, |at| at + 1);
        let (credentials, hosts) = authority.split_at(hosts_start);
        Self {
            credentials,
            hosts: hosts.split(',').collect(),
            path: path.trim_end_matches('/').split('/').collect(),
            query,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentinels(url: &str) -> Sentinels {
        match Servers::parse(url).unwrap() {
            Servers::Sentinel(sentinels) => sentinels,
            servers => panic!("{url} is parsed as {servers}"),
        }
    }

    #[test]
    fn urls_of_sentinels_are_parsed() {
        let url = "redis-sentinel://user:p%40ss@a:1,b,[::1],[::1]:2/mymaster/3";
        let sentinels = sentinels(url);
        let settings = format!("{:?}", sentinels.settings);
        assert_eq!(sentinels.database, 3);
        assert!(settings.contains("user"), "{settings}");
        let servers = Servers::Sentinel(sentinels);
        assert_eq!(
            servers.to_string(),
            "mymaster of a:1,b:26379,::1:26379,::1:2"
        );
    }

    #[test]
    fn urls_of_clusters_are_parsed() {
        for (url, expected) in [
            ("redis-cluster://a:7000,b", "a:7000,b:6379"),
            ("rediss-cluster://user:secret@a:7000/0", "a:7000"),
        ] {
            let servers = Servers::parse(url).unwrap();
            assert!(servers.are_cluster());
            assert_eq!(servers.to_string(), expected);
        }
    }

    #[test]
    fn the_database_is_optional() {
        for url in ["redis-sentinel://a/m", "redis-sentinel://a/m/"] {
            assert_eq!(sentinels(url).database, 0, "{url}");
        }
    }

    #[test]
    fn addresses_are_shown_without_passwords() {
        let servers = Servers::parse("rediss://user:secret@10.0.0.9:6379/1").unwrap();
        assert_eq!(servers.to_string(), "10.0.0.9:6379");
    }

    #[test]
    fn invalid_urls_are_rejected() {
        for url in [
            "",
            "127.0.0.1:6379",
            "http://127.0.0.1:6379",
            "redis-sentinel://",
            "redis-sentinel://a",
            "redis-sentinel://a/",
            "redis-sentinel:///m",
            "redis-sentinel://a,/m",
            "redis-sentinel://a:x/m",
            "redis-sentinel://a/m/x",
            "redis-sentinel://a/m/0/1",
            "redis-sentinel://a/m?password=x",
            "redis-cluster://",
            "redis-cluster://a,",
            "redis-cluster://a/1",
            "redis-cluster://a/0?x=y",
        ] {
            assert!(Servers::parse(url).is_err(), "{url}");
        }
    }
}
