//! What the control port reports about channels, their members, and users, over all hosts.

use std::collections::BTreeMap;

use http::{Method, Request, Response, StatusCode};
use redis::RedisError;
use serde_json::{Value, json};
use spin_runtime::backend::Body;
use tracing::warn;

use super::{
    json_response,
    parameters::{close_parameters, parameter},
    unavailable,
};
use crate::{
    bus::{
        Bus,
        query::{Answer, Answers, Query},
    },
    http::error_response::text_response,
    state::Services,
};

/// The subscribers of channels.
#[derive(Debug, Default)]
pub(super) struct Subscribers {
    /// Their number, by the name of the channel.
    pub(super) by_channel: BTreeMap<String, usize>,
    /// The number of hosts that are counted.
    pub(super) hosts: usize,
    /// The number of hosts that have not answered.
    pub(super) missing: usize,
}

/// Counts the subscribers of channels on all hosts.
///
/// # Errors
/// Fails if the bus is down.
pub(super) async fn subscribers(
    services: &Services,
    channels: Vec<String>,
) -> Result<Subscribers, Box<Response<Body>>> {
    let answers = ask(services, Query::Subscribers(channels.clone())).await?;
    let mut subscribers = Subscribers {
        by_channel: channels.iter().cloned().map(|name| (name, 0)).collect(),
        hosts: answers.answers.len(),
        missing: answers.missing,
    };
    for (_, answer) in answers.answers {
        if let Answer::Subscribers(counts) = answer {
            for (channel, count) in channels.iter().zip(counts) {
                *subscribers.by_channel.entry(channel.clone()).or_default() += count;
            }
        }
    }
    Ok(subscribers)
}

/// Reports the subscribers of a channel.
pub(super) async fn channel(services: &Services, name: String) -> Response<Body> {
    match subscribers(services, vec![name.clone()]).await {
        Ok(found) => json_response(&json!({
            "channel": name,
            "subscribers": found.by_channel.values().sum::<usize>(),
            "hosts": found.hosts,
            "missing": found.missing,
        })),
        Err(refusal) => *refusal,
    }
}

/// Reports the members of the channel that a request's query names.
pub(super) async fn presence<B>(services: &Services, request: &Request<B>) -> Response<Body> {
    let Some(channel) = parameter(request, "channel").filter(|name| !name.is_empty()) else {
        return text_response(
            StatusCode::BAD_REQUEST,
            "expected the name of a channel: /presence/?channel=NAME",
        );
    };
    let members = match &services.bus {
        None => services.members.list(&channel),
        Some(bus) => match bus.members(&channel).await {
            Ok(members) => members,
            Err(error) => return *bus_down(bus, &error),
        },
    };
    let members = members.into_iter();
    let members: Vec<_> = members
        .map(|(id, info)| json!({"id": id, "info": info}))
        .collect();
    json_response(&json!({"channel": channel, "members": members}))
}

/// Reports the sessions of a user, or closes them if the method of the request is DELETE.
pub(super) async fn user_sessions<B>(
    services: &Services,
    request: &Request<B>,
    user: String,
) -> Response<Body> {
    let query = if request.method() == Method::DELETE {
        let (code, reason) = match close_parameters(request) {
            Ok(parameters) => parameters,
            Err(refusal) => return *refusal,
        };
        let user = user.clone();
        Query::Close { user, code, reason }
    } else {
        Query::Sessions(user.clone())
    };
    let answers = match ask(services, query).await {
        Ok(answers) => answers,
        Err(refusal) => return *refusal,
    };
    let mut report = json!({
        "user": user,
        "hosts": answers.answers.len(),
        "missing": answers.missing,
    });
    let (mut sessions, mut closed) = (Vec::new(), 0);
    for (host, answer) in answers.answers {
        match answer {
            Answer::Sessions(of_host) => sessions.extend(of_host.into_iter().map(|session| {
                let mut session = json!(session);
                if !host.is_empty() {
                    session["host"] = host.as_str().into();
                }
                session
            })),
            Answer::Closed(count) => closed += count,
            Answer::Subscribers(_) | Answer::Session(_) | Answer::Socket(_) => {}
        }
    }
    if request.method() == Method::DELETE {
        report["closed"] = closed.into();
    } else {
        sessions.sort_by_key(|session| session["connection"].to_string());
        report["sessions"] = Value::Array(sessions);
    }
    json_response(&report)
}

/// Asks all hosts, or this one if there is no bus.
///
/// # Errors
/// Fails if the bus is down.
pub(super) async fn ask(services: &Services, query: Query) -> Result<Answers, Box<Response<Body>>> {
    match &services.bus {
        Some(bus) => bus.ask(query).await.map_err(|error| bus_down(bus, &error)),
        None => {
            let answer = query.answer(&services.channels, &services.users, &services.sessions);
            Ok(Answers {
                answers: vec![(String::new(), answer)],
                missing: 0,
            })
        }
    }
}

fn bus_down(bus: &Bus, error: &RedisError) -> Box<Response<Body>> {
    bus.log_failure(|| warn!(%error, "no answer from the bus"));
    Box::new(unavailable("the bus is down"))
}
