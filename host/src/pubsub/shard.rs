//! A shard: some of a channel's subscribers, and what waits to be handed out to them.
//!
//! One task a shard hands publications out. A large channel is so spread over the cores
//! and never holds a thread long, and while a shard is busy its next publications gather,
//! so that a client gets many messages in one write when they come fast.

use std::{mem, sync::Arc};

use parking_lot::Mutex;

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;
use tracing::debug;

use crate::pubsub::{
    filter::{Filters, LastIds},
    publication::{Delivery, ForResponses, ForSockets, Publication, stream_bytes},
};

/// Subscribers a shard. Small enough that handing a message to all of them,
/// a system call each, does not keep other tasks waiting for a millisecond.
pub(crate) const SHARD_SLOTS: usize = 128;

/// Bytes that may wait in a shard; while there are more, publishers wait.
pub(crate) const QUEUE_BYTES: usize = 1024 * 1024;

/// Takes what publications do to a WebSocket. Called from the fan-out, so it must not shard.
pub(crate) trait Subscriber: Send + Sync + 'static {
    /// Takes one delivery; they come in the order of their publication.
    fn deliver(&self, delivery: &Delivery);
}

/// Takes publications as they are, for a held stream or response. Called from the fan-out,
/// so it must not shard.
pub(crate) trait HoldSubscriber: Send + Sync + 'static {
    /// Takes one publication; they come in their order.
    fn publish(&self, publication: &Arc<Publication>);
}

/// A subscriber with what the fan-out must know of it.
#[derive(Clone)]
pub(crate) enum Occupant {
    /// A WebSocket. All of them that have no filters get the same bytes.
    Socket(Arc<dyn Subscriber>, Filters),
    /// A held stream.
    Stream(Arc<dyn HoldSubscriber>),
    /// A held response.
    Response(Arc<dyn HoldSubscriber>),
}

/// The slots of a shard are all of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// [`Occupant::Socket`].
    Socket,
    /// [`Occupant::Stream`].
    Stream,
    /// [`Occupant::Response`].
    Response,
}

/// See the module's words.
pub(crate) struct Shard {
    kind: Kind,
    /// Copied only when it changes during a fan-out.
    slots: Mutex<Arc<Slots>>,
    queue: Mutex<Queue>,
    /// Told when the queue was taken, and when all of it was handed out.
    progress: Notify,
}

#[derive(Clone, Default)]
struct Slots {
    slots: Vec<Option<Slot>>,
    used: usize,
}

/// A slot that is taken, and which of the shard's publications are for it.
#[derive(Clone)]
struct Slot {
    slot: Occupant,
    /// Those from this one on, counted from the first that was ever pushed.
    since: u64,
    /// Other filters that some of these are still for, in their order.
    former: Vec<Former>,
}

/// The filters of a WebSocket for what was pushed before it got others.
#[derive(Clone)]
struct Former {
    filters: Filters,
    /// Not for this publication, nor for those behind it.
    until: u64,
}

#[derive(Default)]
struct Queue {
    publications: Vec<Arc<Publication>>,
    bytes: usize,
    /// How many were ever pushed.
    pushed: u64,
    /// How many of these are handed out.
    handed_out: u64,
    /// A task is handing publications out and will look again.
    busy: bool,
}

impl Occupant {
    /// What shards it can be in.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Socket(..) => Kind::Socket,
            Self::Stream(_) => Kind::Stream,
            Self::Response(_) => Kind::Response,
        }
    }
}

impl Kind {
    /// The bytes that a publication brings to each of this kind.
    pub(crate) fn bytes(self, publication: &Publication) -> usize {
        match self {
            Self::Socket => publication.socket.as_ref().map(ForSockets::bytes),
            Self::Stream => publication.stream.as_ref().map(stream_bytes),
            Self::Response => publication.response.as_ref().map(ForResponses::bytes),
        }
        .unwrap_or_default()
    }

    /// The bytes that a publication counts for in a queue of this kind, never 0; `None` when
    /// there is nothing in it for this kind.
    fn size(self, publication: &Publication) -> Option<usize> {
        match self {
            Self::Socket => publication.socket.as_ref().map(ForSockets::size),
            Self::Stream => publication.stream.as_ref().map(|_| publication.size()),
            Self::Response => publication.response.as_ref().map(|_| publication.size()),
        }
    }
}

impl Shard {
    /// What slots it has.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// A shard with its first slot.
    pub(crate) fn with(slot: Occupant) -> (Arc<Self>, usize) {
        let shard = Self {
            kind: slot.kind(),
            slots: Mutex::default(),
            queue: Mutex::default(),
            progress: Notify::new(),
        };
        let number = Arc::make_mut(&mut shard.slots.lock()).add(slot, 0);
        (Arc::new(shard), number)
    }

    /// Gives a slot to a subscriber, if there is one for its kind; or hands it back. What was
    /// pushed before is not for it.
    pub(crate) fn add(&self, slot: Occupant) -> Result<usize, Occupant> {
        let mut slots = self.slots.lock();
        if slots.used == SHARD_SLOTS || slot.kind() != self.kind {
            return Err(slot);
        }
        let since = self.queue.lock().pushed;
        Ok(Arc::make_mut(&mut slots).add(slot, since))
    }

    /// Gives a slot up, and says whether it was the last.
    pub(crate) fn remove(&self, slot: usize) -> bool {
        let mut slots = self.slots.lock();
        let slots = Arc::make_mut(&mut slots);
        slots.slots[slot] = None;
        slots.used -= 1;
        slots.used == 0
    }

    /// Gives a WebSocket other filters, for what is pushed from now on.
    pub(crate) fn exchange_filters(&self, slot: usize, filters: Filters) {
        let mut slots = self.slots.lock();
        let (pushed, handed_out) = {
            let queue = self.queue.lock();
            (queue.pushed, queue.handed_out)
        };
        if let Some(taken) = &mut Arc::make_mut(&mut slots).slots[slot]
            && let Occupant::Socket(_, current) = &mut taken.slot
        {
            let filters = mem::replace(current, filters);
            let former = &mut taken.former;
            former.retain(|former| former.until > handed_out);
            let begun = former.last().map_or(taken.since, |last| last.until);
            if begun.max(handed_out) < pushed {
                former.push(Former {
                    filters,
                    until: pushed,
                });
            }
        }
    }

    /// Whether its queue has more bytes than it should.
    pub(crate) fn is_full(&self) -> bool {
        self.queue.lock().bytes > QUEUE_BYTES
    }

    /// Queues a publication, and says how many it reaches. A full queue takes it too: wait for
    /// [`room`](Self::room) before the next.
    pub(crate) fn push(self: &Arc<Self>, publication: &Arc<Publication>) -> usize {
        let Some(size) = self.kind.size(publication) else {
            return 0;
        };
        let reached = self.slots.lock().used;
        let mut queue = self.queue.lock();
        queue.bytes += size;
        queue.pushed += 1;
        queue.publications.push(publication.clone());
        if !mem::replace(&mut queue.busy, true) {
            tokio::spawn(Arc::clone(self).hand_out());
        }
        reached
    }

    /// Waits until its queue is not full.
    pub(crate) async fn room(&self) {
        self.until(|queue| queue.bytes <= QUEUE_BYTES).await;
    }

    /// Waits until all that was pushed so far is handed out.
    pub(crate) async fn handed_out(&self) {
        let pushed = self.queue.lock().pushed;
        self.until(|queue| queue.handed_out >= pushed).await;
    }

    async fn until(&self, is_so: impl Fn(&Queue) -> bool) {
        loop {
            // Registered before the look, so that no wake is missed between them.
            let progress = self.progress.notified();
            if is_so(&self.queue.lock()) {
                return;
            }
            progress.await;
        }
    }

    async fn hand_out(self: Arc<Self>) {
        loop {
            let (publications, first) = {
                let mut queue = self.queue.lock();
                let publications = mem::take(&mut queue.publications);
                queue.bytes = 0;
                queue.handed_out = queue.pushed - publications.len() as u64;
                queue.busy = !publications.is_empty();
                (publications, queue.handed_out)
            };
            self.progress.notify_waiters();
            if publications.is_empty() {
                return;
            }
            let slots = self.slots.lock().clone();
            slots.hand_out(&publications, first);
            drop(slots);
            tokio::task::yield_now().await;
        }
    }
}

impl Slots {
    fn add(&mut self, slot: Occupant, since: u64) -> usize {
        self.used += 1;
        let taken = Some(Slot {
            slot,
            since,
            former: Vec::new(),
        });
        match self.slots.iter().position(Option::is_none) {
            Some(free) => {
                self.slots[free] = taken;
                free
            }
            None => {
                self.slots.push(taken);
                self.slots.len() - 1
            }
        }
    }

    /// Hands publications out, of which the first has the number `first`.
    fn hand_out(&self, publications: &[Arc<Publication>], first: u64) {
        let place = |number: u64| {
            let place = usize::try_from(number.saturating_sub(first)).unwrap_or(usize::MAX);
            place.min(publications.len())
        };
        // Made once for all sockets that get all of it, and these are mostly all.
        let mut for_all = None;
        for taken in self.slots.iter().flatten() {
            let mut from = place(taken.since);
            match &taken.slot {
                Occupant::Socket(socket, filters) => {
                    for former in &taken.former {
                        let until = place(former.until).max(from);
                        hand_to(&**socket, &publications[from..until], &former.filters);
                        from = until;
                    }
                    if from == 0 && filters.is_empty() {
                        let deliveries = for_all.get_or_insert_with(|| joined(plain(publications)));
                        deliveries.iter().for_each(|it| socket.deliver(it));
                    } else {
                        hand_to(&**socket, &publications[from..], filters);
                    }
                }
                Occupant::Stream(holder) | Occupant::Response(holder) => {
                    publications[from..]
                        .iter()
                        .for_each(|it| holder.publish(it));
                }
            }
        }
    }
}

/// Hands publications to one WebSocket.
fn hand_to(socket: &dyn Subscriber, publications: &[Arc<Publication>], filters: &Filters) {
    let deliveries = match filters.is_empty() {
        true => joined(plain(publications)),
        false => joined(publications.iter().filter_map(|it| filtered(it, filters))),
    };
    deliveries.iter().for_each(|it| socket.deliver(it));
}

/// What publications do to WebSockets without filters.
fn plain(publications: &[Arc<Publication>]) -> impl Iterator<Item = Delivery> {
    let forms = publications.iter().flat_map(|it| &it.socket);
    forms.filter_map(|form| {
        if form.counted_on.is_empty() {
            return Some(form.delivery.clone());
        }
        debug!(
            "not delivered to WebSockets without filters: {:?} are counted on",
            form.counted_on
        );
        None
    })
}

/// What a publication does to a WebSocket with filters, if anything.
fn filtered(publication: &Publication, filters: &Filters) -> Option<Delivery> {
    let form = publication.socket.as_ref()?;
    let channel = &publication.channel;
    if !filters.suit(&form.counted_on) {
        debug!(
            channel,
            "not delivered: its content is for other filters than {filters}"
        );
        return None;
    }
    let followed = LastIds::new();
    if !filters.admit(&publication.meta, &followed) {
        return None;
    }
    form.with_content(|content| filters.content(content, &followed))
        .inspect_err(|error| debug!(channel, "not delivered: {error}"))
        .ok()
}

/// Joins frames that follow each other, so that a client gets them in one write.
fn joined(deliveries: impl Iterator<Item = Delivery>) -> Vec<Delivery> {
    fn close_run(run: &mut Vec<Bytes>, messages: &mut usize, joined: &mut Vec<Delivery>) {
        let bytes = match run.as_slice() {
            [] => return,
            [only] => only.clone(),
            many => {
                let mut all = BytesMut::with_capacity(many.iter().map(Bytes::len).sum());
                many.iter().for_each(|bytes| all.extend_from_slice(bytes));
                all.freeze()
            }
        };
        run.clear();
        let messages = mem::take(messages);
        joined.push(Delivery::Frames { bytes, messages });
    }
    let mut joined = Vec::with_capacity(1);
    let (mut run, mut length) = (Vec::new(), 0);
    for delivery in deliveries {
        match delivery {
            Delivery::Frames { bytes, messages } => {
                run.push(bytes);
                length += messages;
            }
            other => {
                close_run(&mut run, &mut length, &mut joined);
                joined.push(other);
            }
        }
    }
    close_run(&mut run, &mut length, &mut joined);
    joined
}

#[cfg(test)]
mod tests {
    use grip::{Item, publish::WsAction};

    use super::*;

    fn publication(action: WsAction) -> Arc<Publication> {
        let item = Item {
            ws_message: Some(action.into()),
            ..Item::new("c")
        };
        Arc::new(Publication::new(item).expect("for WebSockets"))
    }

    #[test]
    fn a_close_keeps_its_place_between_frames() {
        let text =
            |text: &str| publication(WsAction::Send(grip::Message::Text(text.to_owned().into())));
        let close = publication(WsAction::Close {
            code: Some(4000),
            reason: None,
        });
        let gathered = joined(plain(&[text("a"), text("b"), close, text("c")]));
        let frames = |bytes: &'static [u8], messages| Delivery::Frames {
            bytes: Bytes::from_static(bytes),
            messages,
        };
        let wanted = [
            frames(b"\x81\x01a\x81\x01b", 2),
            Delivery::Close(crate::net::frame::close(4000, "")),
            frames(b"\x81\x01c", 1),
        ];
        assert_eq!(gathered, wanted);
    }
}
