//! The channels of a hold, and the last item of each that its client has.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use grip::{Item, hold::Channel};

use super::inbox::Inbox;
use crate::{
    channels::{Channels, Start, Subscription},
    filter::{FilterError, Filters, Meta},
};

/// The subscriptions of a hold.
pub(super) struct Cursors {
    channels: Channels,
    inbox: Arc<Inbox>,
    by_channel: BTreeMap<String, Cursor>,
    meta: Meta,
    /// The last ids with which the component has responded to a request for newer ones.
    stale: BTreeMap<String, String>,
}

struct Cursor {
    subscription: Subscription,
    filters: Filters,
    last_id: Option<String>,
}

/// What happens with an item.
pub(super) enum Disposition {
    Deliver,
    /// The client must not get it, or has it already.
    Ignore,
    /// Items before it are missing.
    Gap,
}

impl Cursors {
    pub(super) fn new(channels: Channels, inbox: Arc<Inbox>) -> Self {
        Self {
            channels,
            inbox,
            by_channel: BTreeMap::new(),
            meta: Meta::new(),
            stale: BTreeMap::new(),
        }
    }

    /// Subscribes to these channels and to no others.
    ///
    /// # Errors
    /// Fails if a filter is unknown.
    pub(super) fn replace(&mut self, channels: &[Channel], meta: Meta) -> Result<(), FilterError> {
        let mut previous = std::mem::take(&mut self.by_channel);
        self.meta = meta;
        for channel in channels {
            let filters = Filters::parse(&channel.filters)?;
            let (subscription, last_id) = match previous.remove(&channel.name) {
                Some(cursor) => (cursor.subscription, cursor.last_id),
                None => {
                    let inbox = self.inbox.clone();
                    let channel = &channel.name;
                    (self.channels.subscribe(channel, Start::Live, inbox).0, None)
                }
            };
            if let Some(id) = &channel.prev_id {
                self.inbox.drop_until(&channel.name, id);
            }
            let cursor = Cursor {
                subscription,
                filters,
                last_id: channel.prev_id.clone().or(last_id),
            };
            self.by_channel.insert(channel.name.clone(), cursor);
        }
        Ok(())
    }

    /// Returns whether the component's response lacks items that were published before the hold has
    /// subscribed. A response that repeats its ids is accepted.
    pub(super) fn is_stale(&mut self) -> bool {
        let mut stale = BTreeMap::new();
        for (channel, cursor) in &self.by_channel {
            if let Some(id) = &cursor.last_id
                && let Some(published) = self.channels.last_id(channel)
                && *id != published
                && !self.inbox.has_items(channel)
            {
                stale.insert(channel.clone(), id.clone());
            }
        }
        let is_stale = !stale.is_empty() && stale != self.stale;
        self.stale = stale;
        is_stale
    }

    /// Decides what happens with an item, and records its id.
    pub(super) fn advance(&mut self, item: &Item) -> Disposition {
        let is_subscribed = |channel: &str| self.by_channel.contains_key(channel);
        let Some(cursor) = self.by_channel.get(&item.channel) else {
            return Disposition::Ignore;
        };
        if item.id.is_some() && item.id == cursor.last_id {
            return Disposition::Ignore;
        }
        if item.prev_id.is_some() && cursor.last_id.is_some() && item.prev_id != cursor.last_id {
            return Disposition::Gap;
        }
        let is_accepted = cursor.filters.accept(&item.meta, &self.meta, is_subscribed);
        if item.id.is_some()
            && let Some(cursor) = self.by_channel.get_mut(&item.channel)
        {
            cursor.last_id.clone_from(&item.id);
        }
        if is_accepted {
            Disposition::Deliver
        } else {
            Disposition::Ignore
        }
    }

    /// Rewrites the content of an item for the client.
    ///
    /// # Errors
    /// Fails if a filter fails.
    pub(super) fn rewrite(&self, item: &Item, content: &Bytes) -> Result<Bytes, FilterError> {
        match self.by_channel.get(&item.channel) {
            Some(cursor) => cursor.filters.rewrite(content, &self.meta),
            None => Ok(content.clone()),
        }
    }

    /// Returns the values of `Grip-Last`.
    pub(super) fn grip_last(&self) -> Vec<String> {
        let cursors = self.by_channel.iter();
        let values = cursors.filter_map(|(name, cursor)| {
            let channel = Channel::new(name).after(cursor.last_id.clone()?);
            channel.to_grip_last().ok().flatten()
        });
        values.collect()
    }
}
