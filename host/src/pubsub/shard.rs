//! A shard: a part of a channel's subscribers, with a queue of publications to deliver.
//!
//! Each shard delivers in a task of its own. Large channels are thereby spread over the cores, and
//! no task runs for long. Publications that arrive while a shard is busy are batched, so that a
//! client receives a burst of messages in one write.

use std::{
    mem,
    sync::{Arc, OnceLock},
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};
use tracing::debug;

use crate::{
    config::Limits,
    metrics::registry::DeliveryTimes,
    pubsub::{
        cursor::{Cursor, Phase, Position},
        filter::{Filters, LastIds},
        frames::Frames,
        history::History,
        publication::{Delivery, Publication, ResponseForm, SocketForm, stream_bytes},
    },
    telemetry::panics,
};

/// The most subscribers in a shard. Delivering a message to all of them, with one system call
/// each, delays other tasks by less than a millisecond.
pub(super) const SHARD_SLOTS: usize = 128;

/// The subscribers that a shard delivers to before other tasks run.
const SLOTS_PER_YIELD: usize = 16;

/// The queued bytes above which publishers must wait for a shard.
pub(super) const MAX_SHARD_QUEUE_BYTES: usize = Limits::DEFAULT.max_shard_queue_bytes;

/// The bytes of history that a WebSocket is offered at once.
const CATCH_UP_BYTES: usize = 64 * 1024;

/// A WebSocket that receives publications. Called from the fan-out, so it must not block.
pub(crate) trait SocketSubscriber: Send + Sync + 'static {
    /// Receives the next delivery, in the order of publication.
    fn deliver(&self, delivery: &Delivery);
    /// Receives the next delivery if there is room for it, and returns whether it did. If not, the
    /// session later catches up with [`Subscription::catch_up`].
    ///
    /// [`Subscription::catch_up`]: crate::pubsub::channels::Subscription::catch_up
    fn offer(&self, delivery: &Delivery) -> bool;
    /// What it had no room for is forgotten, so it cannot catch up.
    fn overtaken(&self);
}

/// A held stream or response that receives publications. Called from the fan-out, so it must not
/// block.
pub(crate) trait HoldSubscriber: Send + Sync + 'static {
    /// Receives the next publication, in order.
    fn deliver(&self, publication: &Arc<Publication>);
}

/// A subscriber of any kind.
#[derive(Clone)]
pub(super) enum Subscriber {
    Socket(Socket),
    Stream(Arc<dyn HoldSubscriber>),
    Response(Arc<dyn HoldSubscriber>),
    /// Receives all forms of a publication, and does not count as a subscriber.
    Observer(Arc<dyn HoldSubscriber>),
}

/// A subscribed WebSocket. Those without filters share the same frames.
#[derive(Clone)]
pub(super) struct Socket {
    pub(super) subscriber: Arc<dyn SocketSubscriber>,
    pub(super) filters: Filters,
    /// How far it has received a channel with history. `None` for other channels.
    pub(super) cursor: Option<Arc<Cursor>>,
}

/// A publication in its order.
#[derive(Clone)]
pub(super) struct Sequenced {
    pub(super) publication: Arc<Publication>,
    /// The offset in the history of the channel, if it has one.
    pub(super) offset: u64,
    /// The offset of the oldest item that the history has when this one is published.
    pub(super) first: u64,
}

impl Sequenced {
    /// Returns a publication on a channel without history.
    pub(super) fn unrecorded(publication: Arc<Publication>) -> Self {
        Self {
            publication,
            offset: 0,
            first: 0,
        }
    }
}

/// What is delivered at once, and the offset after it.
type SequencedDelivery = (Delivery, u64);

/// The kind of a [`Subscriber`], which is the same for all subscribers of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Socket,
    Stream,
    Response,
    Observer,
}

/// Some subscribers of a channel, and the publications queued for them.
pub(super) struct Shard {
    kind: Kind,
    /// Copied on write only if changed while a delivery is in progress.
    slots: Mutex<Arc<Slots>>,
    queue: Mutex<Queue>,
    /// Notified when a batch has been taken from the queue, and when it has been delivered.
    progress: Notify,
    delivery_times: DeliveryTimes,
}

#[derive(Clone, Default)]
struct Slots {
    slots: Vec<Option<Slot>>,
    used: usize,
}

/// A subscriber, and which of the shard's publications it receives.
#[derive(Clone)]
struct Slot {
    subscriber: Subscriber,
    /// The sequence number, within the shard, of the first publication that it receives.
    since: u64,
    /// Replaced filters that still apply to queued publications, in order.
    former_filters: Vec<FormerFilters>,
}

/// Filters of a WebSocket that have been replaced.
#[derive(Clone)]
struct FormerFilters {
    filters: Filters,
    /// The sequence number of the first publication to which they do not apply.
    until: u64,
}

#[derive(Default)]
struct Queue {
    publications: Vec<Sequenced>,
    bytes: usize,
    /// The number of publications queued since the shard was created.
    published: u64,
    /// The number of these that have been delivered.
    delivered: u64,
    /// A task is delivering, and will check the queue again.
    busy: bool,
}

/// Publications that are delivered together.
struct Batch {
    publications: Vec<Sequenced>,
    /// The sequence number of the first publication.
    first: u64,
    /// The deliveries for sockets that receive the whole batch unfiltered, usually most.
    shared: OnceLock<Vec<SequencedDelivery>>,
}

impl Subscriber {
    fn kind(&self) -> Kind {
        match self {
            Self::Socket(_) => Kind::Socket,
            Self::Stream(_) => Kind::Stream,
            Self::Response(_) => Kind::Response,
            Self::Observer(_) => Kind::Observer,
        }
    }
}

impl Kind {
    /// Returns the bytes that each subscriber of this kind receives.
    pub(super) fn bytes(self, publication: &Publication) -> usize {
        match self {
            Self::Socket => publication.socket.as_ref().map(SocketForm::bytes),
            Self::Stream => publication.stream.as_ref().map(stream_bytes),
            Self::Response => publication.response.as_ref().map(ResponseForm::bytes),
            Self::Observer => None,
        }
        .unwrap_or_default()
    }

    /// Returns the bytes that a publication occupies in a queue, never 0; `None` if it has no form
    /// for this kind.
    fn size(self, publication: &Publication) -> Option<usize> {
        match self {
            Self::Socket => publication.socket.as_ref().map(SocketForm::size),
            Self::Stream => publication.stream.as_ref().map(|_| publication.size()),
            Self::Response => publication.response.as_ref().map(|_| publication.size()),
            Self::Observer => Some(publication.size()),
        }
    }
}

impl Shard {
    /// Creates a shard with its first subscriber, and returns the index of its slot.
    pub(super) fn new(
        subscriber: Subscriber,
        delivery_times: &DeliveryTimes,
    ) -> (Arc<Self>, usize) {
        let shard = Self {
            kind: subscriber.kind(),
            slots: Mutex::default(),
            queue: Mutex::default(),
            progress: Notify::new(),
            delivery_times: delivery_times.clone(),
        };
        let index = Arc::make_mut(&mut shard.slots.lock()).add(subscriber, 0);
        (Arc::new(shard), index)
    }

    /// Returns the kind of its subscribers.
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Adds a subscriber, which receives later publications, and returns the index of its slot.
    ///
    /// # Errors
    /// Returns the subscriber if the shard is full or of another kind.
    pub(super) fn add(&self, subscriber: Subscriber) -> Result<usize, Subscriber> {
        let mut slots = self.slots.lock();
        if slots.used == SHARD_SLOTS || subscriber.kind() != self.kind {
            return Err(subscriber);
        }
        let since = self.queue.lock().published;
        Ok(Arc::make_mut(&mut slots).add(subscriber, since))
    }

    /// Frees a slot, and returns whether the shard is empty now.
    pub(super) fn remove(&self, slot: usize) -> bool {
        let mut slots = self.slots.lock();
        let slots = Arc::make_mut(&mut slots);
        slots.slots[slot] = None;
        slots.used -= 1;
        slots.used == 0
    }

    /// Returns the number of subscribers, without observers.
    pub(super) fn len(&self) -> usize {
        match self.kind {
            Kind::Observer => 0,
            _ => self.slots.lock().used,
        }
    }

    /// Replaces the filters of a WebSocket for later publications.
    pub(super) fn replace_filters(&self, slot: usize, filters: Filters) {
        let mut slots = self.slots.lock();
        let (published, delivered) = {
            let queue = self.queue.lock();
            (queue.published, queue.delivered)
        };
        if let Some(slot) = &mut Arc::make_mut(&mut slots).slots[slot]
            && let Subscriber::Socket(socket) = &mut slot.subscriber
        {
            let filters = mem::replace(&mut socket.filters, filters);
            let former = &mut slot.former_filters;
            former.retain(|former| former.until > delivered);
            let since = former.last().map_or(slot.since, |last| last.until);
            if since.max(delivered) < published {
                former.push(FormerFilters {
                    filters,
                    until: published,
                });
            }
        }
    }

    /// Returns whether publishers must wait for [`ready`](Self::ready).
    pub(super) fn is_full(&self) -> bool {
        self.queue.lock().bytes > MAX_SHARD_QUEUE_BYTES
    }

    /// Queues a publication, even if the queue is full, and returns the number of subscribers
    /// that it reaches.
    pub(super) fn publish(self: &Arc<Self>, sequenced: &Sequenced) -> usize {
        let Some(size) = self.kind.size(&sequenced.publication) else {
            return 0;
        };
        let reached = self.len();
        let mut queue = self.queue.lock();
        queue.bytes += size;
        queue.published += 1;
        queue.publications.push(sequenced.clone());
        if !mem::replace(&mut queue.busy, true) {
            panics::spawn_critical("shard of a channel", Arc::clone(self).deliver());
        }
        reached
    }

    /// Delivers items of the history to a WebSocket that is behind, as far as it has room.
    pub(super) fn catch_up(&self, slot: usize, history: &History<Arc<Publication>>) {
        let subscriber = {
            let slots = self.slots.lock();
            let slot = slots.slots[slot].as_ref();
            slot.map(|slot| slot.subscriber.clone())
        };
        if let Some(Subscriber::Socket(socket)) = subscriber {
            socket.catch_up(history);
        }
    }

    /// As [`Self::catch_up`] for the WebSocket with this cursor, if it is in this shard.
    pub(super) fn catch_up_at(&self, cursor: &Arc<Cursor>, history: &History<Arc<Publication>>) {
        let slots = self.slots.lock().clone();
        for slot in slots.slots.iter().flatten() {
            if let Subscriber::Socket(socket) = &slot.subscriber
                && socket
                    .cursor
                    .as_ref()
                    .is_some_and(|it| Arc::ptr_eq(it, cursor))
            {
                socket.catch_up(history);
            }
        }
    }

    /// Lets all WebSockets continue with the offset `next`, and delivers `missed` to them. What is
    /// queued is dropped.
    pub(super) fn restart(&self, next: u64, missed: &Delivery) {
        let mut slots = self.slots.lock();
        let published = self.queue.lock().published;
        for slot in Arc::make_mut(&mut slots).slots.iter_mut().flatten() {
            slot.since = published;
            slot.former_filters.clear();
            if let Subscriber::Socket(socket) = &slot.subscriber
                && let Some(cursor) = &socket.cursor
            {
                let mut position = cursor.lock();
                if position.phase != Phase::Waiting {
                    *position = Position::new(next, next);
                    socket.subscriber.deliver(missed);
                }
            }
        }
    }

    /// Waits until the queue is not full.
    pub(super) async fn ready(&self) {
        self.wait_until(|queue| queue.bytes <= MAX_SHARD_QUEUE_BYTES)
            .await;
    }

    /// Waits until everything queued so far has been delivered.
    pub(super) async fn delivered(&self) {
        let published = self.queue.lock().published;
        self.wait_until(|queue| queue.delivered >= published).await;
    }

    async fn wait_until(&self, condition: impl Fn(&Queue) -> bool) {
        loop {
            // Registered before the check, so that a notification in between is not missed.
            let progress = self.progress.notified();
            if condition(&self.queue.lock()) {
                return;
            }
            progress.await;
        }
    }

    /// Delivers the queue in batches until it is empty.
    async fn deliver(self: Arc<Self>) {
        loop {
            let (publications, first) = {
                let mut queue = self.queue.lock();
                let publications = mem::take(&mut queue.publications);
                queue.bytes = 0;
                queue.delivered = queue.published - publications.len() as u64;
                queue.busy = !publications.is_empty();
                (publications, queue.delivered)
            };
            self.progress.notify_waiters();
            if publications.is_empty() {
                return;
            }
            let batch = Batch {
                publications,
                first,
                shared: OnceLock::new(),
            };
            let slots = self.slots.lock().clone();
            let mut written = Instant::now();
            for slots in slots.slots.chunks(SLOTS_PER_YIELD) {
                batch.deliver(slots);
                written = Instant::now();
                // Lets other publications arrive for the next batch.
                tokio::task::yield_now().await;
            }
            if self.kind == Kind::Socket {
                for sequenced in &batch.publications {
                    let received = sequenced.publication.received;
                    let time = written.duration_since(received);
                    self.delivery_times.record(time);
                }
            }
        }
    }
}

impl Slots {
    fn add(&mut self, subscriber: Subscriber, since: u64) -> usize {
        self.used += 1;
        let slot = Some(Slot {
            subscriber,
            since,
            former_filters: Vec::new(),
        });
        match self.slots.iter().position(Option::is_none) {
            Some(free) => {
                self.slots[free] = slot;
                free
            }
            None => {
                self.slots.push(slot);
                self.slots.len() - 1
            }
        }
    }
}

impl Batch {
    /// Delivers the publications.
    fn deliver(&self, slots: &[Option<Slot>]) {
        for slot in slots.iter().flatten() {
            let start = self.index_of(slot.since);
            match &slot.subscriber {
                Subscriber::Socket(socket) => {
                    let former = slot.former_filters.iter();
                    let former = former.map(|it| (self.index_of(it.until), &it.filters));
                    socket.deliver_batch(&self.publications, start, former, &self.shared);
                }
                Subscriber::Stream(hold)
                | Subscriber::Response(hold)
                | Subscriber::Observer(hold) => {
                    let publications = self.publications[start..].iter();
                    publications.for_each(|it| hold.deliver(&it.publication));
                }
            }
        }
    }

    /// Returns the index of the publication with this sequence number, or of the nearest one.
    fn index_of(&self, number: u64) -> usize {
        let index = usize::try_from(number.saturating_sub(self.first)).unwrap_or(usize::MAX);
        index.min(self.publications.len())
    }
}

impl Socket {
    /// Delivers the publications from the index `start` on. `former` are replaced filters, each with
    /// the index of the first publication to which it does not apply.
    fn deliver_batch<'a>(
        &self,
        publications: &[Sequenced],
        mut start: usize,
        former: impl Iterator<Item = (usize, &'a Filters)>,
        shared: &OnceLock<Vec<SequencedDelivery>>,
    ) {
        let mut position = self.cursor.as_ref().map(|cursor| cursor.lock());
        let mut position = position.as_deref_mut();
        if let Some(position) = &position {
            if position.phase == Phase::Behind
                && let Some(last) = publications.last()
                && last.first > position.next
            {
                self.subscriber.overtaken();
            }
            if position.phase != Phase::Live {
                return;
            }
            // It may have received some of them from the history.
            start = start.max(publications.partition_point(|it| it.offset < position.next));
        }
        for (until, filters) in former {
            let end = until.max(start);
            let deliveries = deliveries(&publications[start..end], filters);
            if !self.deliver(&deliveries, position.as_deref_mut()) {
                return;
            }
            start = end;
        }
        let is_complete = if start == 0 && self.filters.is_empty() {
            let deliveries = shared.get_or_init(|| coalesce(plain(publications)));
            self.deliver(deliveries, position.as_deref_mut())
        } else {
            let deliveries = deliveries(&publications[start..], &self.filters);
            self.deliver(&deliveries, position.as_deref_mut())
        };
        if is_complete
            && let Some(position) = position
            && let Some(last) = publications.last()
        {
            position.next = position.next.max(last.offset + 1);
        }
    }

    /// Delivers items of the history while there is room.
    fn catch_up(&self, history: &History<Arc<Publication>>) {
        let Some(cursor) = &self.cursor else {
            return;
        };
        let mut position = cursor.lock();
        while position.phase == Phase::Behind {
            let Some(items) = history.since(position.next) else {
                return self.subscriber.overtaken();
            };
            let (mut batch, mut bytes, mut end) = (Vec::new(), 0, position.next);
            for (publication, offset) in items.zip(position.next..) {
                if bytes >= CATCH_UP_BYTES {
                    break;
                }
                end = offset + 1;
                bytes += Kind::Socket.bytes(publication);
                // A close was for those who were subscribed.
                if offset >= position.subscribed || publication.is_message() {
                    let publication = publication.clone();
                    batch.push(Sequenced {
                        publication,
                        offset,
                        first: history.first(),
                    });
                }
            }
            if end == position.next {
                position.phase = Phase::Live;
                break;
            }
            if !self.deliver(&deliveries(&batch, &self.filters), Some(&mut position)) {
                break;
            }
            position.next = end;
        }
    }

    /// Delivers in order. Returns whether everything was delivered: with a position, it may be that
    /// there is no room.
    fn deliver(&self, deliveries: &[SequencedDelivery], position: Option<&mut Position>) -> bool {
        let Some(position) = position else {
            for (delivery, _) in deliveries {
                self.subscriber.deliver(delivery);
            }
            return true;
        };
        for (delivery, next) in deliveries {
            if !self.subscriber.offer(delivery) {
                position.phase = Phase::Behind;
                return false;
            }
            position.next = *next;
        }
        true
    }
}

/// Returns the deliveries of publications to a WebSocket.
fn deliveries(publications: &[Sequenced], filters: &Filters) -> Vec<SequencedDelivery> {
    if filters.is_empty() {
        coalesce(plain(publications))
    } else {
        coalesce(publications.iter().filter_map(|it| {
            let delivery = filtered(&it.publication, filters)?;
            Some((delivery, it.offset + 1))
        }))
    }
}

/// Returns the deliveries for WebSockets without filters.
fn plain(publications: &[Sequenced]) -> impl Iterator<Item = SequencedDelivery> {
    publications.iter().filter_map(|sequenced| {
        let form = sequenced.publication.socket.as_ref()?;
        if form.content_filters.is_empty() {
            return Some((form.delivery.clone(), sequenced.offset + 1));
        }
        debug!(
            channel = sequenced.publication.channel,
            expected = ?form.content_filters,
            "publication not delivered: content filters do not match"
        );
        None
    })
}

/// Returns the delivery for a WebSocket with filters, if they accept the publication.
fn filtered(publication: &Publication, filters: &Filters) -> Option<Delivery> {
    let form = publication.socket.as_ref()?;
    let channel = &publication.channel;
    if !filters.match_content_filters(&form.content_filters) {
        debug!(
            channel,
            %filters,
            expected = ?form.content_filters,
            "publication not delivered: content filters do not match"
        );
        return None;
    }
    // WebSockets do not track ids.
    let last_ids = LastIds::new();
    if !filters.accept(&publication.meta, &last_ids) {
        return None;
    }
    form.with_content(|content| filters.rewrite(content, &last_ids))
        .inspect_err(|error| debug!(channel, %error, "publication not delivered"))
        .ok()
}

/// Merges adjacent frames, so that a client receives them in one write.
fn coalesce(deliveries: impl Iterator<Item = SequencedDelivery>) -> Vec<SequencedDelivery> {
    fn flush(run: &mut Vec<Frames>, next: u64, merged: &mut Vec<SequencedDelivery>) {
        if !run.is_empty() {
            merged.push((Delivery::Frames(Frames::merge(mem::take(run))), next));
        }
    }
    let mut merged = Vec::with_capacity(1);
    let (mut run, mut run_end) = (Vec::new(), 0);
    for (delivery, next) in deliveries {
        match delivery {
            Delivery::Frames(frames) => {
                run.push(frames);
                run_end = next;
            }
            other => {
                flush(&mut run, run_end, &mut merged);
                merged.push((other, next));
            }
        }
    }
    flush(&mut run, run_end, &mut merged);
    merged
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
    fn a_close_between_frames_stays_in_order() {
        let text =
            |text: &str| publication(WsAction::Send(grip::Message::Text(text.to_owned().into())));
        let close = publication(WsAction::Close {
            code: Some(4000),
            reason: None,
        });
        let publications = [text("a"), text("b"), close, text("c")];
        let publications: Vec<_> = (10..)
            .zip(publications)
            .map(|(offset, publication)| Sequenced {
                publication,
                offset,
                first: 0,
            })
            .collect();
        let merged = coalesce(plain(&publications));
        let bytes: Vec<(&[u8], u64)> = merged
            .iter()
            .map(|(delivery, next)| match delivery {
                Delivery::Frames(frames) => (&frames.plain()[..], *next),
                Delivery::Close(frame) => (&frame[..], *next),
                Delivery::Refresh | Delivery::Missed(_) => (&b""[..], *next),
            })
            .collect();
        let close = crate::net::frame::close(4000, "");
        assert_eq!(
            bytes,
            [
                (&b"\x81\x01a\x81\x01b"[..], 12),
                (&close[..], 13),
                (b"\x81\x01c", 14)
            ]
        );
    }
}
