//! Orders: their schedule, delivery and numbering.

use std::{collections::HashSet, net::TcpListener, ops::Deref};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tests::{Client, Redis, Server, Upstream, burger, eventually};

/// Where the component runs and keeps the orders.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    /// In the host, with a file.
    File,
    /// In the host, with a Redis server.
    Redis,
    /// In a server behind the host, with a file.
    Upstream,
}

/// Socket Burger, and the Redis server that it may need.
struct Burger {
    mode: Mode,
    folder: TempDir,
    _redis: Option<Redis>,
    runtime_config: Option<String>,
}

/// A running host.
struct Host {
    server: Server,
    /// The upstream. Killed on drop.
    _upstream: Option<Upstream>,
}

impl Deref for Host {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl Host {
    async fn wait(self) -> Result<Option<i32>> {
        self.server.wait().await
    }
}

impl Burger {
    /// Creates the application, with an order every `interval`.
    fn new(interval: &str, mode: Mode) -> Result<Self> {
        let folder = burger(interval);
        let redis = (mode == Mode::Redis).then(Redis::start).transpose()?;
        let mut runtime_config = None;
        if let Some(redis) = &redis {
            let file = folder.path().join("runtime-config.toml");
            let url = redis.url();
            let text = format!("[key_value_store.default]\ntype = \"redis\"\nurl = {url:?}\n");
            std::fs::write(&file, text)?;
            runtime_config = Some(file.to_str().context("a path")?.to_owned());
        }
        Ok(Self {
            mode,
            folder,
            _redis: redis,
            runtime_config,
        })
    }

    /// Starts a host. `options` are those of the host that runs the component.
    fn start(&self, options: &[&str]) -> Result<Host> {
        if self.mode == Mode::Upstream {
            return self.start_with_upstream(options);
        }
        let mut options = options.to_vec();
        if let Some(file) = &self.runtime_config {
            options.extend(["--runtime-config-file", file]);
        }
        let server = Server::start(self.folder.path(), &options)?;
        let file = self.folder.path().join(".spin/sqlite_key_value.db");
        ensure!(
            self.runtime_config.is_none() || !file.exists(),
            "orders are not in Redis"
        );
        Ok(Host {
            server,
            _upstream: None,
        })
    }

    fn start_with_upstream(&self, options: &[&str]) -> Result<Host> {
        // The component publishes to the host in front, which is started later.
        let control = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let key = "of the tests";
        let (grip_url, grip_key) = (
            format!("grip_url=http://{control}"),
            format!("grip_key={key}"),
        );
        let variables = ["--variable", &grip_url, "--variable", &grip_key];
        let options = [options, &variables].concat();
        let upstream = Upstream::start(self.folder.path(), &options)?;
        let manifest = self.folder.path().to_str().context("a path")?;
        let server = Server::in_front_of(
            &format!("http://{}", upstream.address),
            &["--from", manifest, "--control", &control, "--grip-key", key],
        )?;
        Ok(Host {
            server,
            _upstream: Some(upstream),
        })
    }
}

/// Runs every test in every mode.
macro_rules! in_every_mode {
    ($($test:ident,)*) => {
        in_every_mode! { file: File, $($test,)* }
        in_every_mode! { redis: Redis, $($test,)* }
        in_every_mode! { upstream: Upstream, $($test,)* }
    };
    ($module:ident: $mode:ident, $($test:ident,)*) => {
        mod $module {
            use super::*;

            $(#[tokio::test]
            async fn $test() -> Result<()> {
                super::$test(Mode::$mode).await
            })*
        }
    };
}

in_every_mode! {
    the_first_order_comes_at_once_and_the_next_after_2_to_6_seconds_on_every_socket,
    ids_rise_by_one_across_restarts_and_kills,
    a_client_that_reconnects_misses_nothing,
    invalid_history_requests_are_errors,
    status_changes_are_sent_to_every_socket,
    a_new_host_continues_from_the_stored_state,
}

/// Parses an order's timestamp into milliseconds since 1970.
fn milliseconds(order: &Value) -> Result<i64> {
    let text = order["timestamp"].as_str().context("no timestamp")?;
    let digits: String = text
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    ensure!(digits == "0000-00-00T00:00:00.000Z", "timestamp {text}");
    let number = |range: std::ops::Range<usize>| text[range].parse::<i64>();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    // Days since 1970 in the civil calendar, with years that start in March.
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    let seconds = (days * 24 + number(11..13)?) * 3600 + number(14..16)? * 60 + number(17..19)?;
    Ok(seconds * 1000 + number(20..23)?)
}

fn id(order: &Value) -> Result<i64> {
    order["id"]
        .as_i64()
        .with_context(|| format!("no id in {order}"))
}

fn check_order(order: &Value) -> Result<()> {
    let text = order.to_string();
    let object = order.as_object().context("an object")?;
    let keys: HashSet<_> = object.keys().map(String::as_str).collect();
    ensure!(
        keys == HashSet::from(["timestamp", "id", "destination", "status", "items", "notes"]),
        "keys of {text}"
    );
    milliseconds(order)?;
    ensure!(id(order)? >= 100, "id of {text}");
    ensure!(
        ["dining room", "takeout", "drive thru"]
            .iter()
            .any(|destination| order["destination"] == *destination),
        "{text}"
    );
    ensure!(
        order["status"] == "received" && order["notes"] == serde_json::json!([]),
        "{text}"
    );
    let items = order["items"].as_array().context("items")?;
    ensure!((1..=8).contains(&items.len()), "items of {text}");
    let burger = [
        "extra sauce",
        "no lettuce",
        "no onion",
        "no tomato",
        "no sauce",
        "no bread",
    ];
    for item in items {
        ensure!(
            item.as_object().is_some_and(|item| item.len() == 2),
            "item {item}"
        );
        let allowed: &[&str] = match item["name"].as_str().context("a name")? {
            "Double Burger" | "Cheeseburger" | "Hamburger" => &burger,
            "French Fries" => &["no salt", "well done", "add sauce"],
            "Vanilla Shake" | "Strawberry Shake" | "Chocolate Shake" => &[],
            other => anyhow::bail!("{other} is not on the menu"),
        };
        let substitutions = item["substitutions"].as_array().context("substitutions")?;
        let distinct: HashSet<_> = substitutions.iter().filter_map(Value::as_str).collect();
        ensure!(
            substitutions.len() <= 2 && distinct.len() == substitutions.len(),
            "item {item}"
        );
        ensure!(
            distinct.iter().all(|one| allowed.contains(one)),
            "item {item}"
        );
    }
    Ok(())
}

async fn the_first_order_comes_at_once_and_the_next_after_2_to_6_seconds_on_every_socket(
    mode: Mode,
) -> Result<()> {
    let app = Burger::new("2s..6s", mode)?;
    let host = app.start(&[])?;
    let first = eventually("the first order", async || {
        host.get_json("/api/orders").await.ok()?["orders"]
            .get(0)
            .cloned()
    })
    .await?;
    ensure!(id(&first)? == 100, "the first id is {first}");
    let mut sockets = Vec::new();
    for _ in 0..3 {
        sockets.push(host.socket("/api/ws").await?);
    }
    let mut last = first;
    for _ in 0..2 {
        let order = order_after(&mut sockets[0], &last).await?;
        for socket in &mut sockets[1..] {
            ensure!(
                order_after(socket, &last).await? == order,
                "the sockets receive different orders"
            );
        }
        check_order(&order)?;
        ensure!(
            id(&order)? == id(&last)? + 1,
            "{} after {}",
            order["id"],
            last["id"]
        );
        let pause = milliseconds(&order)? - milliseconds(&last)?;
        // Orders may be late on a busy machine, but never early.
        ensure!((2000..10_000).contains(&pause), "a pause of {pause} ms");
        last = order;
    }
    let path = format!("/api/orders/{}", last["id"]);
    ensure!(
        host.get_json(&path).await?["order"] == last || host.get_json(&path).await? == last,
        "GET {path}"
    );
    Ok(())
}

/// Returns the next order that a socket receives after `last`. An order is stored before it is
/// published, so a socket that opens in between still receives it.
async fn order_after(socket: &mut Client, last: &Value) -> Result<Value> {
    loop {
        let order = socket.order().await?;
        if id(&order)? > id(last)? {
            return Ok(order);
        }
    }
}

async fn ids_rise_by_one_across_restarts_and_kills(mode: Mode) -> Result<()> {
    let app = Burger::new("20ms..40ms", mode)?;
    let mut expected = 100;
    for signal in [Signal::TERM, Signal::KILL, Signal::KILL, Signal::INT] {
        let host = app.start(&["--quiet"])?;
        let mut socket = host.socket("/api/ws").await?;
        for _ in 0..10 {
            socket.order().await?;
        }
        host.signal(signal)?;
        let code = host.wait().await?;
        ensure!(
            signal == Signal::KILL || code == Some(0),
            "{signal:?} ended with {code:?}"
        );
    }
    let host = app.start(&["--quiet"])?;
    let mut after = 99;
    loop {
        let page = host
            .get_json(&format!("/api/orders?after={after}&limit=1000"))
            .await?;
        let orders = page["orders"].as_array().context("orders")?.clone();
        for order in &orders {
            ensure!(
                id(order)? == expected,
                "{} instead of {expected}",
                order["id"]
            );
            expected += 1;
        }
        after = expected - 1;
        if expected >= 140 && !orders.is_empty() {
            return Ok(());
        }
    }
}

async fn a_client_that_reconnects_misses_nothing(mode: Mode) -> Result<()> {
    let app = Burger::new("20ms..40ms", mode)?;
    let host = app.start(&["--quiet"])?;
    let last = host.socket("/api/ws").await?.order().await?;
    // Orders are created while the socket is closed. Subscribe first, then fetch.
    let mut socket = host.socket("/api/ws").await?;
    let live = socket.order().await?;
    let missed = host
        .get_json(&format!("/api/orders?after={}&limit=1000", last["id"]))
        .await?;
    let missed: Vec<_> = missed["orders"]
        .as_array()
        .context("orders")?
        .iter()
        .map(id)
        .collect::<Result<_>>()?;
    let expected: Vec<_> = (id(&last)? + 1..=*missed.last().context("an order")?).collect();
    ensure!(missed == expected, "{missed:?}");
    ensure!(missed.contains(&id(&live)?), "{live} is not in {missed:?}");
    Ok(())
}

async fn invalid_history_requests_are_errors(mode: Mode) -> Result<()> {
    let app = Burger::new("1h", mode)?;
    let host = app.start(&[])?;
    for (path, status) in [
        ("/api/orders?limit=0", 400),
        ("/api/orders?limit=many", 400),
        ("/api/orders?after=-x", 400),
        ("/api/orders/nothing", 404),
        ("/api/orders/99999", 404),
        ("/api/nothing", 404),
    ] {
        let response = host.get(path).await?;
        ensure!(response.0 == status, "{path}: {response:?}");
    }
    Ok(())
}

async fn status_changes_are_sent_to_every_socket(mode: Mode) -> Result<()> {
    let app = Burger::new("1h", mode)?;
    let host = app.start(&[])?;
    eventually("the first order", async || {
        host.get_json("/api/orders/100").await.ok()
    })
    .await?;
    let (mut one, mut other) = (host.socket("/api/ws").await?, host.socket("/api/ws").await?);
    let change = |status: &str| {
        format!(r#"{{"event":"order-status","detail":{{"id":100,"status":"{status}"}}}}"#)
    };
    one.send(&change("fired")).await?;
    for socket in [&mut one, &mut other] {
        let order = socket.event_named("order-updated").await?["order"].clone();
        ensure!(order["id"] == 100 && order["status"] == "fired", "{order}");
    }
    // Neither a status before this one nor an unknown status.
    for invalid in ["received", "eaten"] {
        one.send(&change(invalid)).await?;
        let error = one.event_named("error").await?;
        ensure!(
            error["message"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{error}"
        );
    }
    let stored = host.get_json("/api/orders").await?;
    ensure!(stored["orders"][0]["status"] == "fired", "{stored}");
    Ok(())
}

async fn a_new_host_continues_from_the_stored_state(mode: Mode) -> Result<()> {
    let (app, state) = (Burger::new("1h", mode)?, TempDir::new()?);
    let state = state.path().to_str().context("a path")?;
    for expected in 100..103 {
        let host = app.start(&["--state-dir", state])?;
        eventually("the next order", async || {
            host.get_json(&format!("/api/orders/{expected}")).await.ok()
        })
        .await?;
        ensure!(
            host.get(&format!("/api/orders/{}", expected + 1)).await?.0 == 404,
            "more than one order per start"
        );
        let refused = Client::open(host.address, "/", &[])
            .await
            .err()
            .and_then(|refused| refused.status);
        ensure!(
            refused == Some(426),
            "the page route does not accept WebSockets: {refused:?}"
        );
    }
    Ok(())
}
