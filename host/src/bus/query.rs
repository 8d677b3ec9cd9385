//! Questions that all hosts on the bus answer, such as how many subscribers a channel has.
//!
//! Nothing of this is stored: the answers are as of now, and those of a dead host are missing at once.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use parking_lot::Mutex;
use redis::RedisResult;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tracing::debug;

use super::{
    Bus,
    keys::{all_hosts, host},
};
use crate::{
    config::Limits,
    pubsub::channels::Channels,
    state::users::{UserSession, Users},
};

/// How long the hosts have to answer.
const ANSWER_TIMEOUT: Duration = Limits::DEFAULT.bus_answer_timeout;

/// The answers that wait to be read.
const WAITING_ANSWERS: usize = 1024;

/// A question to each host.
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
}

/// The answer of one host to a [`Query`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// In the order of the channels.
    Subscribers(Vec<usize>),
    Sessions(Vec<UserSession>),
    Closed(usize),
}

/// The answers of all hosts.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// The name of each host, empty without a bus, with its answer.
    pub(crate) answers: Vec<(String, Answer)>,
    /// The number of hosts that have not answered in time.
    pub(crate) missing: usize,
}

/// The questions of this host that wait for answers.
#[derive(Default)]
pub(super) struct Questions {
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, mpsc::Sender<Reply>>>,
}

#[derive(Serialize, Deserialize)]
struct Question {
    /// The host that asks.
    host: String,
    /// The number of the question, for the replies.
    number: u64,
    query: Query,
}

#[derive(Serialize, Deserialize)]
struct Reply {
    host: String,
    number: u64,
    answer: Answer,
}

/// Removes a question when it is dropped.
struct Asked<'a> {
    questions: &'a Questions,
    number: u64,
}

impl Questions {
    /// Adds a question, whose replies go to `sender`.
    fn insert(&self, sender: mpsc::Sender<Reply>) -> Asked<'_> {
        let number = self.next.fetch_add(1, Relaxed);
        self.waiting.lock().insert(number, sender);
        Asked {
            questions: self,
            number,
        }
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.questions.waiting.lock().remove(&self.number);
    }
}

impl Query {
    /// Returns the answer of this host.
    pub(crate) fn answer(&self, channels: &Channels, users: &Users) -> Answer {
        match self {
            Self::Subscribers(names) => {
                let counts = names.iter().map(|name| channels.subscribers(name));
                Answer::Subscribers(counts.collect())
            }
            Self::Sessions(user) => Answer::Sessions(users.sessions(user)),
            Self::Close { user, code, reason } => Answer::Closed(users.close(user, *code, reason)),
        }
    }
}

impl Bus {
    /// Asks all hosts.
    ///
    /// # Errors
    /// Fails if Redis cannot be reached.
    pub(crate) async fn ask(&self, query: Query) -> RedisResult<Answers> {
        let (sender, mut replies) = mpsc::channel(WAITING_ANSWERS);
        let asked = self.questions.insert(sender);
        let question = Question {
            host: self.host.clone(),
            number: asked.number,
            query,
        };
        let question = serde_json::json!(question).to_string();
        let receivers = self
            .redis
            .send(&all_hosts(self.redis.database()), &question)
            .await?;
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let mut answers = Answers {
            // Those that are connecting again are missing, too.
            missing: receivers.max(self.alive.lock().len()),
            ..Answers::default()
        };
        while answers.missing > 0
            && let Ok(Some(reply)) = timeout_at(deadline, replies.recv()).await
        {
            if answers.answers.iter().any(|(host, _)| *host == reply.host) {
                // A cluster may have received the question twice.
                continue;
            }
            answers.missing -= 1;
            answers.answers.push((reply.host, reply.answer));
        }
        Ok(answers)
    }

    /// Handles a message of [`all_hosts`] or of this host's own channel that is not a probe.
    pub(super) fn handle_host_message(&self, payload: &str) {
        if let Ok(question) = serde_json::from_str::<Question>(payload) {
            let reply = Reply {
                host: self.host.clone(),
                number: question.number,
                answer: question.query.answer(&self.channels, &self.users),
            };
            let (redis, asker) = (self.redis.clone(), host(&question.host));
            tokio::spawn(async move {
                let reply = serde_json::json!(reply).to_string();
                if let Err(error) = redis.send(&asker, &reply).await {
                    debug!(%error, "bus: question not answered");
                }
            });
        } else if let Ok(reply) = serde_json::from_str::<Reply>(payload) {
            let waiting = self.questions.waiting.lock();
            if let Some(sender) = waiting.get(&reply.number) {
                // Beyond the bound, answers count as missing.
                let _ = sender.try_send(reply);
            }
        } else {
            debug!("bus: message of another version ignored");
        }
    }
}
