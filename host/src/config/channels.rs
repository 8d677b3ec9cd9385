//! Reads `[application.tool.socket-host.channels]`: which channels keep a history.

use std::{cmp::Reverse, time::Duration};

use spin_runtime::manifest::reader::{Table, Value};

use super::{duration::parse_duration, websocket::read_size};

/// The most items that can be configured.
const MAX_ITEMS: usize = 1_000_000;

/// The bounds of a channel's history. The oldest items beyond any of them are forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryLimits {
    /// The number of items, at least 1 (key `history-items`).
    pub items: usize,
    /// The approximate size of the items in memory (key `history-size`). Default: 1 MiB.
    pub bytes: usize,
    /// How long an item is kept (key `history-age`). Default: 5 min.
    pub age: Duration,
}

/// Which channels keep a history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChannelRules {
    /// The longest patterns first.
    rules: Vec<(ChannelPattern, HistoryLimits)>,
}

/// The name of a channel, or the beginning of names.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ChannelPattern {
    Name(String),
    Prefix(String),
}

impl HistoryLimits {
    /// The bounds of a channel with a bus that no table names, to fill gaps.
    pub(crate) const SHORT: Self = Self {
        items: 100,
        bytes: 256 * 1024,
        age: Duration::from_secs(60),
    };
}

impl ChannelRules {
    /// Reads the table.
    pub(super) fn read(value: &Value<'_>) -> Self {
        let mut rules = Vec::new();
        if let Some(table) = value.table() {
            for (pattern, value) in table.entries() {
                rules.extend(read_rule(pattern, &value));
            }
        }
        rules.sort_by_key(|(pattern, _)| Reverse(pattern.precedence()));
        Self { rules }
    }

    /// Returns the bounds of a channel's history. The name itself takes precedence over patterns, and
    /// longer patterns over shorter ones.
    pub fn history(&self, channel: &str) -> Option<HistoryLimits> {
        let mut rules = self.rules.iter();
        let rule = rules.find(|(pattern, _)| pattern.matches(channel))?;
        Some(rule.1)
    }
}

fn read_rule(pattern: &str, value: &Value<'_>) -> Option<(ChannelPattern, HistoryLimits)> {
    let parsed = ChannelPattern::parse(pattern);
    if parsed.is_none() {
        value.error("expected the name of a channel, or the beginning of names and `*`");
    }
    let mut table = value.table()?;
    let limits = read_history(&mut table);
    table.finish();
    Some((parsed?, limits?))
}

fn read_history(table: &mut Table<'_>) -> Option<HistoryLimits> {
    let items = table.require("history-items", "the number of items to keep, such as 1000");
    let size = table.get("history-size");
    let age = table.get("history-age");
    let items = items.and_then(|value| {
        let items = usize::try_from(value.integer()?);
        let items = items.ok().filter(|items| (1..=MAX_ITEMS).contains(items));
        if items.is_none() {
            value.error(format!("expected a number of items from 1 to {MAX_ITEMS}"));
        }
        items
    });
    let bytes = match size {
        Some(value) => read_size(&value),
        None => Some(1024 * 1024),
    };
    let age = match age {
        Some(value) => {
            let age = parse_duration(value.string()?);
            age.map_err(|reason| value.error(reason)).ok()
        }
        None => Some(Duration::from_secs(5 * 60)),
    };
    Some(HistoryLimits {
        items: items?,
        bytes: bytes?,
        age: age?,
    })
}

impl ChannelPattern {
    fn parse(text: &str) -> Option<Self> {
        let (pattern, text) = match text.strip_suffix('*') {
            Some(prefix) => (Self::Prefix(prefix.to_owned()), prefix),
            None if text.is_empty() => return None,
            None => (Self::Name(text.to_owned()), text),
        };
        (!text.contains('*')).then_some(pattern)
    }

    fn matches(&self, channel: &str) -> bool {
        match self {
            Self::Name(name) => name == channel,
            Self::Prefix(prefix) => channel.starts_with(prefix.as_str()),
        }
    }

    fn precedence(&self) -> (bool, usize) {
        match self {
            Self::Name(name) => (true, name.len()),
            Self::Prefix(prefix) => (false, prefix.len()),
        }
    }
}

#[cfg(test)]
impl ChannelRules {
    /// Keeps a history of all channels.
    pub(crate) fn all(limits: HistoryLimits) -> Self {
        Self {
            rules: vec![(ChannelPattern::Prefix(String::new()), limits)],
        }
    }
}
