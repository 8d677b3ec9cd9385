//! The members of channels: connections that a backend has made present, or users with several of
//! them.
//!
//! A member leaves some seconds after its last connection is closed, so a client that reconnects in
//! time is not announced again.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use grip::{Item, Presence};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use uuid::Uuid;

use crate::config::Limits;

/// How long a member without connections stays.
const LEAVE_DELAY: Duration = Limits::DEFAULT.presence_leave_delay;

/// The members of channels on this host. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Members(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    channels: HashMap<Arc<str>, HashMap<Arc<str>, Local>>,
    /// The members to announce, each once.
    changed: VecDeque<Key>,
    /// Members without connections, by the time when they leave. May have come back.
    leaving: VecDeque<(Instant, Key)>,
}

/// A channel, and the id of a member.
type Key = (Arc<str>, Arc<str>);

/// A member's connections on this host.
struct Local {
    connections: usize,
    presence: Presence,
    /// When it leaves, if it has no connections.
    leaves: Option<Instant>,
    is_announced: bool,
    /// It is in [`State::changed`].
    is_changed: bool,
}

/// A member of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) channel: Arc<str>,
    /// The id of the user, or of the connection if there is no user.
    pub(crate) id: Arc<str>,
    pub(crate) presence: Presence,
}

/// What is to be announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A member has joined on this host, or is shown in another way.
    Joined {
        member: Member,
        /// It was not announced before. With a bus, Redis decides who is new.
        is_new: bool,
    },
    /// A member has no connection to this host any more.
    Left(Member),
}

/// Counts a connection as one of a member until it is dropped.
pub(crate) struct MemberGuard {
    members: Members,
    key: Key,
}

impl Members {
    /// Adds a connection to a member, which joins the channel if it is the first.
    pub(crate) fn join(&self, channel: &str, id: &str, presence: Presence) -> MemberGuard {
        let mut state = self.0.state.lock();
        let channel = match state.channels.get_key_value(channel) {
            Some((channel, _)) => channel.clone(),
            None => Arc::from(channel),
        };
        let members = state.channels.entry(channel.clone()).or_default();
        let id = match members.get_key_value(id) {
            Some((id, _)) => id.clone(),
            None => Arc::from(id),
        };
        let local = members.entry(id.clone()).or_insert_with(|| Local {
            connections: 0,
            presence: presence.clone(),
            leaves: None,
            is_announced: false,
            is_changed: false,
        });
        local.connections += 1;
        local.leaves = None;
        let must_announce = !local.is_announced || local.presence != presence;
        local.presence = presence;
        let key = (channel, id);
        if must_announce && local.mark_changed() {
            state.changed.push_back(key.clone());
            self.0.changed.notify_one();
        }
        MemberGuard {
            members: self.clone(),
            key,
        }
    }

    /// Returns the members of a channel on this host, each with its `info`.
    pub(crate) fn list(&self, channel: &str) -> BTreeMap<String, Map<String, Value>> {
        let state = self.0.state.lock();
        let members = state.channels.get(channel).into_iter().flatten();
        members
            .map(|(id, local)| (id.to_string(), local.presence.info.clone()))
            .collect()
    }

    /// Returns whether this host has a member.
    pub(crate) fn contains(&self, channel: &str, id: &str) -> bool {
        let state = self.0.state.lock();
        let members = state.channels.get(channel);
        members.is_some_and(|members| members.contains_key(id))
    }

    /// Announces a member again, if this host has it.
    pub(crate) fn announce(&self, channel: &str, id: &str) {
        let mut state = self.0.state.lock();
        let members = state.channels.get_key_value(channel);
        let key = members.and_then(|(channel, members)| {
            let (id, _) = members.get_key_value(id)?;
            Some((channel.clone(), id.clone()))
        });
        let Some((channel, id)) = key else {
            return;
        };
        let local = state.channels.get_mut(&channel);
        let local = local.and_then(|members| members.get_mut(&id));
        if local.is_some_and(Local::mark_changed) {
            state.changed.push_back((channel, id));
            self.0.changed.notify_one();
        }
    }

    /// Announces all members again.
    pub(crate) fn announce_all(&self) {
        let mut state = self.0.state.lock();
        let State {
            channels, changed, ..
        } = &mut *state;
        for (channel, members) in channels {
            for (id, local) in members {
                if local.mark_changed() {
                    changed.push_back((channel.clone(), id.clone()));
                }
            }
        }
        self.0.changed.notify_one();
    }

    /// Waits for the next change.
    pub(crate) async fn changed(&self) -> Change {
        loop {
            let due = {
                let mut state = self.0.state.lock();
                if let Some(change) = state.next_change(Instant::now()) {
                    return change;
                }
                state.leaving.front().map(|(due, _)| *due)
            };
            let left = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.0.changed.notified() => {}
                () = left => {}
            }
        }
    }
}

impl State {
    /// Returns the next change, if there is one.
    fn next_change(&mut self, now: Instant) -> Option<Change> {
        while let Some((channel, id)) = self.changed.pop_front() {
            let members = self.channels.get_mut(&channel);
            let Some(local) = members.and_then(|members| members.get_mut(&id)) else {
                continue;
            };
            local.is_changed = false;
            let is_new = !std::mem::replace(&mut local.is_announced, true);
            let presence = local.presence.clone();
            let member = Member {
                channel,
                id,
                presence,
            };
            return Some(Change::Joined { member, is_new });
        }
        while let Some((due, _)) = self.leaving.front()
            && *due <= now
            && let Some((due, (channel, id))) = self.leaving.pop_front()
        {
            let Some(members) = self.channels.get_mut(&channel) else {
                continue;
            };
            if members
                .get(&id)
                .is_none_or(|local| local.leaves != Some(due))
            {
                // It has come back.
                continue;
            }
            let Some(local) = members.remove(&id) else {
                continue;
            };
            if members.is_empty() {
                self.channels.remove(&channel);
            }
            return Some(Change::Left(Member {
                channel,
                id,
                presence: local.presence,
            }));
        }
        None
    }
}

impl Local {
    /// Marks it as changed, and returns whether it was not.
    fn mark_changed(&mut self) -> bool {
        !std::mem::replace(&mut self.is_changed, true)
    }
}

impl Member {
    /// Returns the item that announces it to the channel, if it is to be announced: `event` is "join"
    /// or "leave".
    pub(crate) fn item(&self, event: &str) -> Option<Item> {
        let Presence { info, events } = &self.presence;
        let content = json!({"presence": event, "member": *self.id, "info": info});
        let item = Item::ws_text(&*self.channel, content.to_string());
        let mut item = item.with_id(Uuid::new_v4().simple().to_string(), None);
        // For the filter `skip-self`.
        item.meta.insert("sender".to_owned(), self.id.to_string());
        events.then_some(item)
    }
}

impl Change {
    /// Returns the member.
    pub(crate) fn member(&self) -> &Member {
        match self {
            Self::Joined { member, .. } | Self::Left(member) => member,
        }
    }

    /// Returns the item that announces it on a host without a bus, if there is one.
    pub(crate) fn item(&self) -> Option<Item> {
        match self {
            Self::Joined { member, is_new } => is_new.then(|| member.item("join")).flatten(),
            Self::Left(member) => member.item("leave"),
        }
    }
}

impl MemberGuard {
    /// Returns the channel.
    pub(crate) fn channel(&self) -> &str {
        &self.key.0
    }
}

impl Drop for MemberGuard {
    fn drop(&mut self) {
        let mut state = self.members.0.state.lock();
        let (channel, id) = &self.key;
        let members = state.channels.get_mut(channel);
        let Some(local) = members.and_then(|members| members.get_mut(id)) else {
            return;
        };
        local.connections -= 1;
        if local.connections == 0 {
            let due = Instant::now() + LEAVE_DELAY;
            local.leaves = Some(due);
            state.leaving.push_back((due, self.key.clone()));
            self.members.0.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presence(name: &str) -> Presence {
        Presence {
            info: Map::from_iter([("name".to_owned(), name.into())]),
            events: true,
        }
    }

    /// Describes the next change that is due after `seconds`.
    fn next(members: &Members, seconds: u64) -> Option<String> {
        let now = Instant::now() + Duration::from_secs(seconds);
        let change = members.0.state.lock().next_change(now)?;
        Some(match change {
            Change::Joined { member, is_new } => {
                let kind = if is_new { "new" } else { "known" };
                format!("{kind} {} {}", member.id, member.presence.info["name"])
            }
            Change::Left(member) => format!("left {}", member.id),
        })
    }

    #[test]
    fn the_first_connection_joins_and_the_last_leaves_after_a_while() {
        let members = Members::default();
        let first = members.join("room", "ada", presence("Ada"));
        let second = members.join("room", "ada", presence("Ada"));
        assert_eq!(next(&members, 0).as_deref(), Some("new ada \"Ada\""));
        drop(first);
        assert_eq!(next(&members, 60), None);
        drop(second);
        assert_eq!(next(&members, 0), None);
        assert_eq!(members.list("room").len(), 1);
        assert_eq!(next(&members, 60).as_deref(), Some("left ada"));
        assert!(members.list("room").is_empty() && members.0.state.lock().channels.is_empty());
    }

    #[test]
    fn a_member_that_comes_back_in_time_does_not_leave() {
        let members = Members::default();
        drop(members.join("room", "ada", presence("Ada")));
        assert_eq!(next(&members, 0).as_deref(), Some("new ada \"Ada\""));
        let guard = members.join("room", "ada", presence("Countess"));
        assert_eq!(
            next(&members, 60).as_deref(),
            Some("known ada \"Countess\"")
        );
        assert_eq!(next(&members, 60), None);
        drop(guard);
        drop(members.join("room", "ada", presence("Countess")));
        // The time counts from the last connection.
        assert_eq!(next(&members, 60).as_deref(), Some("left ada"));
        assert_eq!(next(&members, 60), None);
    }

    #[test]
    fn all_members_can_be_announced_again() {
        let members = Members::default();
        let guards = ["a", "b"].map(|id| members.join("room", id, presence("x")));
        members.announce_all();
        let mut changes = [next(&members, 0), next(&members, 0)].map(Option::unwrap);
        changes.sort();
        assert_eq!(changes, ["new a \"x\"", "new b \"x\""]);
        members.announce_all();
        assert!(next(&members, 0).is_some_and(|change| change.starts_with("known")));
        drop(guards);
    }

    #[test]
    fn members_are_announced_only_where_asked() {
        let member = |events| Member {
            channel: "room".into(),
            id: "ada".into(),
            presence: Presence {
                info: Map::new(),
                events,
            },
        };
        assert!(member(false).item("join").is_none());
        let item = member(true).item("leave").expect("an item");
        assert_eq!(item.meta["sender"], "ada");
        let json = json!(item)["formats"]["ws-message"]["content"].clone();
        assert_eq!(json, r#"{"info":{},"member":"ada","presence":"leave"}"#);
    }
}
