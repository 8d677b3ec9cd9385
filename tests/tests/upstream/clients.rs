//! What the host knows about clients: subscribers, members of channels, and sessions of users. With a
//! bus, on all hosts.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use grip::{ControlMessage, Event, Limits, Presence, event::decode_all, header};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rustix::process::Signal;
use serde_json::{Value, json};
use spin_runtime::backend::{Body, empty};
use tests::{Client, Cluster, Redis, Server, eventually};
use tokio_tungstenite::tungstenite::Message;

use super::{
    backend::Backend,
    sockets::{events_response, text},
};

/// A server whose clients subscribe to the channel `room`. Parameters of their query make them
/// members: `user=ID`, `expires=SECONDS`, `name=NAME`, and `events` for joins and leaves. With
/// `renew`, a user whose time is over is bound again.
async fn room(request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        return Response::new(empty());
    };
    let events = decode_all(body.to_bytes(), Limits::default()).unwrap_or_default();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let parameter = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    let is_set = |name: &str| query.split('&').any(|parameter| parameter == name);
    let mut replies = Vec::new();
    if events.first() == Some(&Event::Open) {
        let features = parts.headers.get(header::GRIP_FEATURE);
        let features = features.and_then(|features| features.to_str().ok());
        for feature in [header::FEATURE_PRESENCE, header::FEATURE_USER] {
            assert!(features.is_some_and(|it| header::has_feature(it, feature)));
        }
        replies.push(Event::Open);
        if let Some(user) = parameter("user") {
            let expires = parameter("expires").and_then(|seconds| seconds.parse().ok());
            replies.push(ControlMessage::user(user, expires).into_event());
        }
        let info = parameter("name").map(|name| ("name".to_owned(), name.into()));
        let presence = Presence {
            info: info.into_iter().collect(),
            events: is_set("events"),
        };
        let subscribe = ControlMessage::Subscribe {
            channel: "room".to_owned(),
            filters: Vec::new(),
            prev_id: None,
            recover: None,
            presence: parameter("name").map(|_| presence),
        };
        replies.push(subscribe.into_event());
    }
    if events.first() == Some(&Event::text("leave")) {
        replies.push(ControlMessage::unsubscribe("room").into_event());
    }
    if let Some(user) = parts.headers.get(header::GRIP_USER_EXPIRED) {
        let user = user.to_str().unwrap_or_default();
        replies.push(grip::control::content(format!("{user} expired")));
        if is_set("renew") {
            replies.push(ControlMessage::user(user, Some(3600)).into_event());
        }
    }
    events_response(&replies)
}

/// Hosts in front of [`room`] that share a Redis server.
struct Hosts {
    hosts: Vec<Server>,
    redis: Redis,
    backend: Backend,
}

impl Hosts {
    async fn start(count: usize) -> Result<Self> {
        let redis = Redis::start()?;
        let backend = Backend::serve(room).await?;
        Ok(Self {
            hosts: start_hosts(&backend, &redis.url(), count)?,
            redis,
            backend,
        })
    }
}

fn start_hosts(backend: &Backend, bus: &str, count: usize) -> Result<Vec<Server>> {
    let upstream = backend.url("http");
    let hosts = (0..count).map(|_| Server::in_front_of(&upstream, &["--bus", bus]));
    hosts.collect()
}

/// Returns the ids of the members of the room.
async fn members(host: &Server) -> Result<Vec<Value>> {
    let report = host.report("GET", "/presence/?channel=room").await?;
    let members = report["members"].as_array().context("members")?;
    Ok(members.iter().map(|member| member["id"].clone()).collect())
}

/// Waits until the room has these members.
async fn wait_for_members(host: &Server, expected: &[&str]) -> Result<()> {
    eventually(&format!("the members {expected:?}"), async || {
        let members = members(host).await.ok()?;
        (members == expected).then_some(())
    })
    .await
}

/// Returns the next message, which must be about a member: whether it joins or leaves, and its id.
async fn next_event(client: &mut Client) -> Result<(String, String)> {
    let event: Value = serde_json::from_str(&text(client).await?)?;
    let field = |name: &str| Some(event[name].as_str()?.to_owned());
    let kind = field("presence").with_context(|| event.to_string())?;
    Ok((kind, field("member").context("a member")?))
}

/// Checks that the next messages are these.
async fn receives_events(client: &mut Client, expected: &[(&str, &str)]) -> Result<()> {
    for (kind, member) in expected {
        let event = next_event(client).await?;
        ensure!((&*event.0, &*event.1) == (*kind, *member), "{event:?}");
    }
    Ok(())
}

#[tokio::test]
async fn joins_and_leaves_are_announced_but_not_a_reconnect() -> Result<()> {
    let backend = Backend::serve(room).await?;
    let host = Server::in_front_of(&backend.url("http"), &[])?;
    let mut observer = host.socket("/ws").await?;
    let ada = host.socket("/ws?user=ada&name=Ada&events").await?;
    receives_events(&mut observer, &[("join", "ada")]).await?;
    let report = host.report("GET", "/presence/?channel=room").await?;
    let expected = json!({
        "channel": "room",
        "members": [{"id": "ada", "info": {"name": "Ada"}}],
    });
    ensure!(report == expected, "{report}");
    // Another tab, a reconnect, and a member without events are not announced.
    let tab = host.socket("/ws?user=ada&name=Ada&events").await?;
    drop(ada);
    drop(tab);
    let mut ada = host.socket("/ws?user=ada&name=Ada&events").await?;
    let _quiet = host.socket("/ws?user=quiet&name=Quiet").await?;
    let bob = host.socket("/ws?user=bob&name=Bob&events").await?;
    receives_events(&mut observer, &[("join", "bob")]).await?;
    wait_for_members(&host, &["ada", "bob", "quiet"]).await?;
    drop(bob);
    receives_events(&mut observer, &[("leave", "bob")]).await?;
    // Without subscription, there is no membership.
    ada.send("leave").await?;
    receives_events(&mut observer, &[("leave", "ada")]).await?;
    wait_for_members(&host, &["quiet"]).await?;
    // A connection without a user is a member of its own.
    let _anonymous = host.socket("/ws?name=Someone&events").await?;
    let (kind, id) = next_event(&mut observer).await?;
    ensure!(kind == "join" && members(&host).await?.contains(&id.into()));
    Ok(())
}

#[tokio::test]
async fn members_are_those_of_all_hosts() -> Result<()> {
    let Hosts { hosts, redis, .. } = &Hosts::start(3).await?;
    let mut observer = hosts[2].socket("/ws").await?;
    let _ada = hosts[0].socket("/ws?user=ada&name=Ada&events").await?;
    let bob = hosts[0].socket("/ws?user=bob&name=Bob&events").await?;
    receives_events(&mut observer, &[("join", "ada"), ("join", "bob")]).await?;
    // A user who is at another host already is not announced, nor if only one of the connections ends.
    let _elsewhere = hosts[1].socket("/ws?user=ada&name=Ada&events").await?;
    let _eve = hosts[1].socket("/ws?user=eve&name=Eve&events").await?;
    receives_events(&mut observer, &[("join", "eve")]).await?;
    for host in hosts {
        wait_for_members(host, &["ada", "bob", "eve"]).await?;
    }
    drop(bob);
    receives_events(&mut observer, &[("leave", "bob")]).await?;
    // Members that a killed host had leave, unless they are elsewhere.
    let killed = hosts[0].socket("/ws?user=mallory&name=M&events").await?;
    receives_events(&mut observer, &[("join", "mallory")]).await?;
    let start = Instant::now();
    hosts[0].signal(Signal::KILL)?;
    receives_events(&mut observer, &[("leave", "mallory")]).await?;
    // Within a lease of 10 s, and a third of it until another host detects its end.
    let time = start.elapsed();
    ensure!(time.as_secs() <= 25, "{time:?}");
    wait_for_members(&hosts[1], &["ada", "eve"]).await?;
    drop(killed);
    // What Redis has lost is announced again.
    redis.command(&["FLUSHALL"])?;
    wait_for_members(&hosts[2], &["ada", "eve"]).await
}

#[tokio::test]
async fn an_outage_of_redis_makes_nobody_leave() -> Result<()> {
    let mut all = Hosts::start(2).await?;
    let hosts = &all.hosts;
    let mut observer = hosts[1].socket("/ws").await?;
    let _ada = hosts[0].socket("/ws?user=ada&name=Ada&events").await?;
    receives_events(&mut observer, &[("join", "ada")]).await?;
    all.redis.stop()?;
    // Each host has then been silent for longer than the lease.
    tokio::time::sleep(Duration::from_secs(11)).await;
    all.redis.restart()?;
    wait_for_members(&hosts[1], &["ada"]).await?;
    let _bob = hosts[1].socket("/ws?user=bob&name=Bob&events").await?;
    receives_events(&mut observer, &[("join", "bob")]).await?;
    // Hosts that die later are still noticed.
    hosts[0].signal(Signal::KILL)?;
    receives_events(&mut observer, &[("leave", "ada")]).await
}

#[tokio::test]
async fn clients_are_known_in_a_cluster() -> Result<()> {
    let cluster = Cluster::start()?;
    let backend = Backend::serve(room).await?;
    let hosts = start_hosts(&backend, &cluster.bus(), 2)?;
    let mut observer = hosts[1].socket("/ws").await?;
    let mut ada = hosts[0].socket("/ws?user=ada&name=Ada&events").await?;
    receives_events(&mut observer, &[("join", "ada")]).await?;
    wait_for_members(&hosts[1], &["ada"]).await?;
    let report = hosts[1].report("GET", "/channels/room").await?;
    let expected = json!({"channel": "room", "subscribers": 2, "hosts": 2, "missing": 0});
    ensure!(report == expected, "{report}");
    let report = hosts[1].report("DELETE", "/users/ada/sessions").await?;
    ensure!(report["closed"] == 1 && report["hosts"] == 2, "{report}");
    ensure!(ada.closed().await? == Some(1008));
    receives_events(&mut observer, &[("leave", "ada")]).await
}

#[tokio::test]
async fn subscribers_of_all_hosts_are_counted() -> Result<()> {
    let Hosts { hosts, .. } = &Hosts::start(2).await?;
    let mut clients = Vec::new();
    for host in [&hosts[0], &hosts[0], &hosts[1]] {
        clients.push(host.socket("/ws").await?);
    }
    let report = hosts[1].report("GET", "/channels/room").await?;
    let expected = json!({"channel": "room", "subscribers": 3, "hosts": 2, "missing": 0});
    ensure!(report == expected, "{report}");
    let items = |channel| json!({"channel": channel, "ws-message": {"content": "hi"}});
    let body = json!({"items": [items("room"), items("empty"), items("room")]}).to_string();
    let response = hosts[0]
        .publish("Accept: application/json\r\n", &body)
        .await?;
    let report: Value = serde_json::from_str(&response.body)?;
    let expected = json!({
        "published": 3,
        "subscribers": {"room": 3, "empty": 0},
        "hosts": 2,
        "missing": 0,
    });
    ensure!(report == expected, "{report}");
    // Without it, the answer is that of Pushpin.
    let response = hosts[0].publish("Accept: */*\r\n", &body).await?;
    ensure!(response.body.trim() == "Published", "{response:?}");
    // A host that does not answer is not counted, and delays the answer by a second.
    hosts[1].signal(Signal::STOP)?;
    let report = hosts[0].report("GET", "/channels/room").await?;
    let expected = json!({"channel": "room", "subscribers": 2, "hosts": 1, "missing": 1});
    ensure!(report == expected, "{report}");
    hosts[1].signal(Signal::CONT)
}

#[tokio::test]
async fn sessions_of_a_user_are_listed_and_closed_on_all_hosts() -> Result<()> {
    let Hosts { hosts, .. } = &Hosts::start(2).await?;
    let mut ada = hosts[0].socket("/ws?user=ada&expires=3600").await?;
    let mut elsewhere = hosts[1].socket("/ws?user=ada").await?;
    let mut bob = hosts[1].socket("/ws?user=bob").await?;
    let report = hosts[0].report("GET", "/users/ada/sessions").await?;
    let sessions = report["sessions"].as_array().context("sessions")?;
    ensure!(sessions.len() == 2 && report["hosts"] == 2, "{report}");
    let limited = sessions.iter().filter(|it| it.get("expires-in").is_some());
    ensure!(limited.count() == 1, "{report}");
    for session in sessions {
        ensure!(session["path"] == "/ws" && session["host"].is_string());
    }
    ensure!(sessions[0]["host"] != sessions[1]["host"]);
    let target = "/users/ada/sessions?code=4001&reason=signed%20out";
    let report = hosts[1].report("DELETE", target).await?;
    ensure!(report["closed"] == 2, "{report}");
    for client in [&mut ada, &mut elsewhere] {
        let close = match client.next().await?.context("a close")? {
            Message::Close(close) => close.context("a code")?,
            other => anyhow::bail!("{other:?}"),
        };
        ensure!(u16::from(close.code) == 4001 && close.reason == "signed out");
    }
    eventually("the end of the sessions", async || {
        let report = hosts[0].report("GET", "/users/ada/sessions").await.ok()?;
        (report["sessions"] == json!([])).then_some(())
    })
    .await?;
    let body = json!({"items": [{"channel": "room", "ws-message": {"content": "hi"}}]});
    hosts[0].publish("", &body.to_string()).await?;
    ensure!(text(&mut bob).await? == "hi");
    hosts[1]
        .wait_for_metric("socket_host_sessions_ended_total{reason=\"control\"} 1")
        .await
}

#[tokio::test]
async fn a_session_whose_user_has_expired_is_bound_again_or_closed() -> Result<()> {
    let backend = Backend::serve(room).await?;
    let host = Server::in_front_of(&backend.url("http"), &[])?;
    let mut renewed = host.socket("/ws?user=ada&expires=1&renew").await?;
    let mut closed = host.socket("/ws?user=bob&expires=1").await?;
    ensure!(text(&mut renewed).await? == "ada expired");
    ensure!(text(&mut closed).await? == "bob expired");
    ensure!(closed.closed().await? == Some(1008));
    let report = host.report("GET", "/users/ada/sessions").await?;
    ensure!(
        report["sessions"][0]["expires-in"].as_u64() > Some(3500),
        "{report}"
    );
    // The client that was bound again is asked nothing more.
    let body = json!({"items": [{"channel": "room", "ws-message": {"content": "hi"}}]});
    host.publish("", &body.to_string()).await?;
    ensure!(text(&mut renewed).await? == "hi");
    host.wait_for_metric("socket_host_sessions_ended_total{reason=\"expired\"} 1")
        .await
}

#[tokio::test]
async fn requests_about_clients_are_checked() -> Result<()> {
    let backend = Backend::serve(room).await?;
    let host = Server::in_front_of(&backend.url("http"), &[])?;
    for (method, target, status, problem) in [
        ("GET", "/presence/", 400, "/presence/?channel=NAME"),
        ("GET", "/presence/?channel=", 400, "/presence/?channel=NAME"),
        ("POST", "/presence/?channel=a", 405, "GET, HEAD"),
        ("DELETE", "/channels/a", 405, "GET, HEAD"),
        (
            "DELETE",
            "/users/a/sessions?code=1006",
            400,
            "code: expected",
        ),
        ("DELETE", "/users/a/sessions?code=x", 400, "code: expected"),
        ("GET", "/users/a", 404, "GET and DELETE /users/ID/sessions"),
    ] {
        let response = host.control(method, target).await?;
        ensure!(response.status == status, "{target}: {response:?}");
        ensure!(response.body.contains(problem), "{target}: {response:?}");
    }
    let reason = "x".repeat(124);
    let target = format!("/users/a/sessions?reason={reason}");
    ensure!(host.control("DELETE", &target).await?.status == 400);
    // With a key, they need a token.
    let host = Server::in_front_of(&backend.url("http"), &["--grip-key", "secret"])?;
    for (method, target) in [
        ("GET", "/presence/?channel=a"),
        ("GET", "/channels/a"),
        ("GET", "/users/a/sessions"),
        ("DELETE", "/users/a/sessions"),
    ] {
        let response = host.control(method, target).await?;
        ensure!(response.status == 401, "{target}: {response:?}");
    }
    Ok(())
}

#[tokio::test]
async fn hosts_of_other_versions_do_not_share_a_bus() -> Result<()> {
    let Hosts { redis, backend, .. } = &Hosts::start(1).await?;
    let start = || start_hosts(backend, &redis.url(), 1);
    let pretend = |version: &str| -> Result<()> {
        let far = "9999999999999";
        redis.command(&["ZADD", "socket-host:{p00}:hosts:alive", far, "other"])?;
        redis.command(&["HSET", "socket-host:{p00}:hosts:versions", "other", version])?;
        Ok(())
    };
    pretend("2")?;
    start()?;
    pretend("3")?;
    let error = match start() {
        Ok(_) => anyhow::bail!("the host starts"),
        Err(error) => format!("{error:#}"),
    };
    ensure!(
        error.contains("version 3 of the bus") && error.contains("this one has version 1"),
        "{error}"
    );
    Ok(())
}
