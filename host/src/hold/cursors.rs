//! What a hold follows: its channels, the last id it has seen of each, and its filters.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use grip::{Instruct, hold::HoldMode};

use crate::{
    hold::inbox::Inbox,
    pubsub::{
        channels::{Channels, Subscription},
        filter::{Filters, LastIds, Meta},
        publication::Publication,
        sequencer::Id,
    },
};

/// The most channels that a hold can be on.
const MAX_CHANNELS: usize = 1000;

/// See the module's words.
pub(crate) struct Cursors {
    inbox: Arc<Inbox>,
    /// What the subscriptions are for.
    mode: HoldMode,
    channels: HashMap<String, (Subscription, Filters)>,
    /// The last id seen of each channel; a channel with `None` is not followed by id.
    pub(crate) ids: LastIds,
}

/// What a publication is to a hold.
pub(crate) enum Verdict<'a> {
    /// Nothing: it is known, filtered out, or of a channel that was left.
    Skip,
    /// To be used, with its content filtered.
    Use(&'a Filters),
    /// One before it was missed.
    Missed,
    /// Its content is for other filters.
    Unsuitable,
}

impl Cursors {
    /// Nothing yet.
    pub(crate) fn new(inbox: Arc<Inbox>) -> Self {
        Self {
            inbox,
            mode: HoldMode::Stream,
            channels: HashMap::new(),
            ids: LastIds::new(),
        }
    }

    /// Is on exactly the channels of `instruct` when this returns, and says which of them it was
    /// not on before: what was published on them until now may be known to nobody here.
    ///
    /// # Errors
    /// What is wrong with the channels; nothing is changed then.
    pub(crate) fn apply(
        &mut self,
        instruct: &Instruct,
        channels: &Channels,
    ) -> Result<HashSet<String>, String> {
        if instruct.channels.len() > MAX_CHANNELS {
            return Err(format!(
                "no more than {MAX_CHANNELS} channels can be held on"
            ));
        }
        let mut meta = Meta::default();
        for (name, value) in &instruct.meta {
            meta.set(name, Some(value))
                .map_err(|error| error.to_string())?;
        }
        let filters = instruct.channels.iter().map(|channel| {
            Filters::parse(&channel.filters, &mut meta)
                .map_err(|error| format!("channel {:?}: {error}", channel.name))
        });
        let filters: Vec<_> = filters.collect::<Result<_, _>>()?;
        let mut left = std::mem::take(&mut self.channels);
        self.ids.clear();
        let mode = instruct.hold.unwrap_or(HoldMode::Stream);
        if self.mode != mode {
            // They get what is for the other mode.
            left.clear();
            self.mode = mode;
        }
        let mut joined = HashSet::new();
        for (channel, filters) in instruct.channels.iter().zip(filters) {
            let name = &channel.name;
            let subscription = match left.remove(name) {
                Some((subscription, _)) => subscription,
                None => {
                    joined.insert(name.clone());
                    match mode {
                        HoldMode::Response => channels.subscribe_response(name, self.inbox.clone()),
                        HoldMode::Stream => channels.subscribe_stream(name, self.inbox.clone()),
                    }
                }
            };
            self.channels.insert(name.clone(), (subscription, filters));
            let id = channel.prev_id.as_deref().map(Id::from);
            self.ids.insert(name.clone(), id);
        }
        Ok(joined)
    }

    /// Drops of what waits what is known: all on a channel before the first that follows.
    pub(crate) fn drop_known(&self) {
        self.inbox.drop_until(|publication| self.fits(publication));
    }

    /// The channels on which something else was published last than the hold knows, and nothing
    /// waits that follows what it knows.
    pub(crate) fn conflicts(&self, channels: &Channels) -> HashSet<String> {
        let waiting = self.inbox.channels();
        let unseen = self.ids.iter().filter(|(name, _)| !waiting.contains(*name));
        let conflicts = unseen.filter(|(name, id)| {
            let last = id.as_ref().and_then(|_| channels.last_id(name));
            last.is_some() && last != **id
        });
        conflicts.map(|(name, _)| name.clone()).collect()
    }

    /// How many channels there are.
    pub(crate) fn len(&self) -> usize {
        self.channels.len()
    }

    /// Whether a publication follows what the hold knows, or is of a channel without ids.
    fn fits(&self, publication: &Publication) -> bool {
        match self.ids.get(&publication.channel) {
            Some(Some(id)) => publication.prev_id.as_ref() == Some(id),
            Some(None) => true,
            None => false,
        }
    }

    /// Notes that a publication has come, and says what it is.
    pub(crate) fn judge(
        &mut self,
        publication: &Publication,
        content_filters: &[String],
    ) -> Verdict<'_> {
        let Some((_, filters)) = self.channels.get(&publication.channel) else {
            return Verdict::Skip;
        };
        if let Some(slot) = self.ids.get_mut(&publication.channel)
            && let Some(known) = slot
        {
            if publication.id.as_ref() == Some(known) {
                return Verdict::Skip;
            }
            if publication.prev_id.as_ref() != Some(known) {
                return Verdict::Missed;
            }
            slot.clone_from(&publication.id);
        }
        if !filters.match_content_filters(content_filters) {
            Verdict::Unsuitable
        } else if filters.accept(&publication.meta, &self.ids) {
            Verdict::Use(filters)
        } else {
            Verdict::Skip
        }
    }
}
