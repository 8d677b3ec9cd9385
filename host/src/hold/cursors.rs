//! The channels of a hold: its position on each of them, and its filters.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, ensure};
use futures_util::future::join_all;
use grip::{Instruct, hold::HoldMode};

use crate::{
    config::Limits,
    hold::inbox::Inbox,
    pubsub::{
        channels::{Channels, Subscription},
        filter::{Filters, LastIds, Meta},
        publication::Publication,
        sequencer::Id,
    },
};

/// The most channels that a hold can subscribe to.
const MAX_SUBSCRIPTIONS: usize = Limits::DEFAULT.max_subscriptions;

/// Tracks the last id that a hold has seen on each of its channels.
pub(crate) struct Cursors {
    inbox: Arc<Inbox>,
    /// The mode of the subscriptions.
    mode: HoldMode,
    channels: HashMap<String, (Subscription, Filters)>,
    /// The last id seen on each channel. `None` if the backend named none, and any publication
    /// may follow.
    pub(crate) ids: LastIds,
}

/// How a publication has to be handled.
pub(crate) enum Disposition<'a> {
    /// It was seen before, is filtered out, or its channel was left.
    Ignore,
    /// It has to be delivered, with its content filtered.
    Deliver(&'a Filters),
    /// A publication before it was missed.
    Gap,
    /// Its content requires other filters than the subscription has.
    FilterMismatch,
}

impl Cursors {
    pub(crate) fn new(inbox: Arc<Inbox>) -> Self {
        Self {
            inbox,
            mode: HoldMode::Stream,
            channels: HashMap::new(),
            ids: LastIds::new(),
        }
    }

    /// Subscribes to exactly the channels of `instruct` and returns those that are new.
    ///
    /// Publications on new channels up to now may be unknown to the backend and the inbox.
    ///
    /// # Errors
    /// Returns an error if the channels are invalid. Nothing has changed then.
    pub(crate) fn apply(
        &mut self,
        instruct: &Instruct,
        channels: &Channels,
    ) -> anyhow::Result<HashSet<String>> {
        ensure!(
            instruct.channels.len() <= MAX_SUBSCRIPTIONS,
            "too many channels: a hold can subscribe to at most {MAX_SUBSCRIPTIONS}"
        );
        let mut meta = Meta::default();
        for (name, value) in &instruct.meta {
            meta.set(name, Some(value))?;
        }
        let filters = instruct.channels.iter().map(|channel| {
            Filters::parse(&channel.filters, &mut meta)
                .with_context(|| format!("channel {:?}", channel.name))
        });
        let filters: Vec<_> = filters.collect::<Result<_, _>>()?;
        let mut previous = std::mem::take(&mut self.channels);
        self.ids.clear();
        let mode = instruct.hold.unwrap_or(HoldMode::Stream);
        if self.mode != mode {
            // Subscriptions only deliver publications for their own mode.
            previous.clear();
            self.mode = mode;
        }
        let mut joined = HashSet::new();
        for (channel, filters) in instruct.channels.iter().zip(filters) {
            let name = &channel.name;
            let id = channel.prev_id.as_deref();
            let subscription = match previous.remove(name) {
                Some((subscription, _)) => subscription,
                None => {
                    joined.insert(name.clone());
                    match mode {
                        HoldMode::Response => channels.subscribe_response(name, self.inbox.clone()),
                        HoldMode::Stream => channels.subscribe_stream(name, self.inbox.clone(), id),
                    }
                }
            };
            self.channels.insert(name.clone(), (subscription, filters));
            self.ids.insert(name.clone(), id.map(Id::from));
        }
        Ok(joined)
    }

    /// Waits until all channels have joined the bus, at most for `time`.
    pub(crate) fn confirmed(&self, time: Duration) -> impl Future<Output = ()> + Send + use<> {
        let subscriptions = self.channels.values().map(|(subscription, _)| subscription);
        let unconfirmed = subscriptions.filter(|subscription| !subscription.is_joined());
        let confirmed = join_all(unconfirmed.map(|subscription| subscription.confirmed(time)));
        async move {
            confirmed.await;
        }
    }

    /// Drops from the inbox what was seen before: on each channel, all publications before the
    /// first one that follows the last id.
    pub(crate) fn drop_seen(&self) {
        self.inbox
            .drop_until(|publication| self.follows(publication));
    }

    /// Returns the channels with a later publication than the last id, if the inbox has none that
    /// follows it.
    pub(crate) fn stale_channels(&self, channels: &Channels) -> HashSet<String> {
        let queued = self.inbox.channels();
        let candidates = self.ids.iter().filter(|(name, _)| !queued.contains(*name));
        let stale = candidates.filter(|(name, id)| {
            let last = id.as_ref().and_then(|_| channels.last_id(name));
            last.is_some() && last != **id
        });
        stale.map(|(name, _)| name.clone()).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.channels.len()
    }

    /// Returns whether a publication directly follows the last id of its channel.
    fn follows(&self, publication: &Publication) -> bool {
        match self.ids.get(&publication.channel) {
            Some(Some(id)) => publication.prev_id.as_ref() == Some(id),
            Some(None) => true,
            None => false,
        }
    }

    /// Moves to a publication and returns how to handle it.
    ///
    /// `content_filters` are the filters that its content requires.
    pub(crate) fn advance(
        &mut self,
        publication: &Publication,
        content_filters: &[String],
    ) -> Disposition<'_> {
        let Some((_, filters)) = self.channels.get(&publication.channel) else {
            return Disposition::Ignore;
        };
        if let Some(cursor) = self.ids.get_mut(&publication.channel)
            && let Some(last) = cursor
        {
            if publication.id.as_ref() == Some(last) {
                return Disposition::Ignore;
            }
            if publication.prev_id.as_ref() != Some(last) {
                return Disposition::Gap;
            }
            cursor.clone_from(&publication.id);
        }
        if !filters.match_content_filters(content_filters) {
            Disposition::FilterMismatch
        } else if filters.accept(&publication.meta, &self.ids) {
            Disposition::Deliver(filters)
        } else {
            Disposition::Ignore
        }
    }
}
