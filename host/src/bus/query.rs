//! Queries that all hosts on the bus answer, such as the number of subscribers of a channel.
//!
//! Nothing of this is stored: the answers are as of now, and those of a dead host are missing at once.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use redis::RedisResult;
use serde::{Deserialize, Serialize};
use spin_runtime::websocket::Pending;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};
use tracing::debug;
use uuid::Uuid;

use super::{
    Bus,
    keys::{all_hosts, host},
};
use crate::{
    config::Limits,
    pubsub::channels::Channels,
    state::{
        sessions::{SessionAction, Sessions},
        users::{UserSession, Users},
    },
    ws::tokens::{Confirmation, SocketAnswer, SocketCommand},
};

/// How long the hosts have to answer.
const ANSWER_TIMEOUT: Duration = Limits::DEFAULT.bus_answer_timeout;

/// The answers that wait to be read.
const WAITING_ANSWERS: usize = 1024;

/// What is asked of each host.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Query {
    /// Counts the subscribers of channels.
    Subscribers(Vec<String>),
    /// Lists the sessions of a user.
    Sessions(String),
    /// Closes the sessions of a user, and returns their number.
    Close {
        user: String,
        code: u16,
        reason: String,
    },
    /// Acts on the session with this id of a connection.
    Session {
        connection: String,
        action: SessionAction,
    },
    /// Executes the command of a component for a WebSocket of the host that is asked.
    Socket {
        token: String,
        command: SocketCommand,
    },
}

/// The answer of one host to a [`Query`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// In the order of the channels.
    Subscribers(Vec<usize>),
    Sessions(Vec<UserSession>),
    Closed(usize),
    /// Whether the host has the session.
    Session(bool),
    Socket(SocketAnswer),
}

/// The answers of all hosts.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// The name of each host, empty without a bus, with its answer.
    pub(crate) answers: Vec<(String, Answer)>,
    /// The number of hosts that have not answered in time.
    pub(crate) missing: usize,
}

/// The requests of this host that wait for answers. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Requests(Arc<RequestTable>);

#[derive(Default)]
struct RequestTable {
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, mpsc::Sender<Response>>>,
}

#[derive(Serialize, Deserialize)]
struct Request {
    /// The host that asks.
    host: String,
    /// The number of the request, for the responses.
    number: u64,
    query: Query,
}

#[derive(Serialize, Deserialize)]
struct Response {
    host: String,
    number: u64,
    answer: Answer,
}

/// Removes a request when it is dropped.
struct Waiting {
    requests: Requests,
    number: u64,
}

impl Requests {
    /// Adds a request, whose responses go to `sender`.
    fn insert(&self, sender: mpsc::Sender<Response>) -> Waiting {
        let number = self.0.next.fetch_add(1, Relaxed);
        self.0.waiting.lock().insert(number, sender);
        Waiting {
            requests: self.clone(),
            number,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.requests.0.waiting.lock().remove(&self.number);
    }
}

impl Query {
    /// Returns the answer of a host with these channels, users and sessions.
    pub(crate) fn answer(&self, channels: &Channels, users: &Users, sessions: &Sessions) -> Answer {
        match self {
            Self::Subscribers(names) => {
                let counts = names.iter().map(|name| channels.subscribers(name));
                Answer::Subscribers(counts.collect())
            }
            Self::Sessions(user) => Answer::Sessions(users.sessions(user)),
            Self::Close { user, code, reason } => Answer::Closed(users.close(user, *code, reason)),
            Self::Session { connection, action } => {
                let connection = connection.parse().ok();
                Answer::Session(connection.is_some_and(|it| sessions.act(&it, action)))
            }
            // Only hosts on a bus are asked.
            Self::Socket { .. } => Answer::Socket(SocketAnswer::Lost),
        }
    }
}

/// Returns the name of a host on the bus.
pub(super) fn host_name(host: Uuid) -> String {
    host.simple().to_string()
}

impl Bus {
    /// Asks all hosts.
    ///
    /// # Errors
    /// Fails if Redis cannot be reached.
    pub(crate) async fn ask(&self, query: Query) -> RedisResult<Answers> {
        let (sender, mut responses) = mpsc::channel(WAITING_ANSWERS);
        let waiting = self.requests.insert(sender);
        let request = self.request(waiting.number, query);
        let receivers = self
            .redis
            .send(&all_hosts(self.redis.database()), &request)
            .await?;
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let mut answers = Answers {
            // Those that are connecting again are missing, too.
            missing: receivers.max(self.alive.lock().len()),
            ..Answers::default()
        };
        while answers.missing > 0
            && let Ok(Some(response)) = timeout_at(deadline, responses.recv()).await
        {
            if answers
                .answers
                .iter()
                .any(|(host, _)| *host == response.host)
            {
                // A cluster may have received the request twice.
                continue;
            }
            answers.missing -= 1;
            answers.answers.push((response.host, response.answer));
        }
        Ok(answers)
    }

    /// Asks the host with this name to execute the command of a component for one of its WebSockets.
    ///
    /// The first future is ready when Redis has passed the command on, so that commands stay in the order
    /// in which they are sent.
    pub(crate) async fn ask_for_socket(
        &self,
        to: Uuid,
        token: String,
        command: SocketCommand,
    ) -> Pending<'static, SocketAnswer> {
        let (sender, mut responses) = mpsc::channel(1);
        let waiting = self.requests.insert(sender);
        let limit = match command {
            // The answer waits until the bus has confirmed the subscription.
            SocketCommand::Subscribe(_) => Limits::DEFAULT.bus_timeout + ANSWER_TIMEOUT,
            _ => ANSWER_TIMEOUT,
        };
        let request = self.request(waiting.number, Query::Socket { token, command });
        let receivers = if self.is_up() {
            let channel = host(&host_name(to));
            timeout(ANSWER_TIMEOUT, self.redis.send(&channel, &request)).await
        } else {
            Ok(Ok(0))
        };
        Box::pin(async move {
            let _waiting = waiting;
            let answer = match receivers {
                Ok(Ok(1..)) => timeout(limit, responses.recv()).await.ok().flatten(),
                _ => None,
            };
            match answer.map(|response| response.answer) {
                Some(Answer::Socket(answer)) => answer,
                _ => SocketAnswer::NoAnswer,
            }
        })
    }

    /// Returns a message that asks other hosts.
    fn request(&self, number: u64, query: Query) -> String {
        let request = Request {
            host: self.host.clone(),
            number,
            query,
        };
        serde_json::json!(request).to_string()
    }

    /// Returns the answer of this host, which is valid after the confirmation.
    fn answer(&self, query: Query) -> (Answer, Option<Confirmation>) {
        match query {
            Query::Socket { token, command } => {
                let timeout = Limits::DEFAULT.bus_timeout;
                let executed = self
                    .tokens
                    .execute(&token, command, &self.channels, timeout);
                let (answer, confirmation) = executed;
                (Answer::Socket(answer), confirmation)
            }
            query => (
                query.answer(&self.channels, &self.users, &self.sessions),
                None,
            ),
        }
    }

    /// Handles a message on the channel of [`all_hosts`] or of this [`host`].
    pub(super) fn handle_host_message(&self, payload: &str) {
        if let Ok(request) = serde_json::from_str::<Request>(payload) {
            let (answer, confirmation) = self.answer(request.query);
            let response = Response {
                host: self.host.clone(),
                number: request.number,
                answer,
            };
            let (redis, asker) = (self.redis.clone(), host(&request.host));
            tokio::spawn(async move {
                if let Some(confirmation) = confirmation {
                    confirmation.await;
                }
                let response = serde_json::json!(response).to_string();
                if let Err(error) = redis.send(&asker, &response).await {
                    debug!(%error, "bus: query not answered");
                }
            });
        } else if let Ok(response) = serde_json::from_str::<Response>(payload) {
            let waiting = self.requests.0.waiting.lock();
            if let Some(sender) = waiting.get(&response.number) {
                // Beyond the bound, answers count as missing.
                let _ = sender.try_send(response);
            }
        } else {
            debug!("bus: message of another version ignored");
        }
    }
}
