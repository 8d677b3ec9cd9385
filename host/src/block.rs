//! A block: some of a channel's subscribers, and what waits to be handed out to them.
//!
//! One task a block hands publications out. A large channel is so spread over the cores
//! and never holds a thread long, and while a block is busy its next publications gather,
//! so that a client gets many messages in one write when they come fast.

use std::{
    mem,
    sync::{Arc, Mutex},
};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;
use tracing::debug;

use crate::{
    channels::lock,
    filter::{Filters, Followed},
    publication::{Delivery, ForResponses, ForSockets, Publication, stream_bytes},
};

/// Subscribers a block. Small enough that handing a message to all of them,
/// a system call each, does not keep other tasks waiting for a millisecond.
pub const BLOCK: usize = 128;

/// Bytes that may wait in a block; a publisher waits while there are more.
pub const QUEUE_BYTES: usize = 1024 * 1024;

/// Takes what publications do to a WebSocket. Called from the fan-out, so it must not block.
pub trait Subscriber: Send + Sync + 'static {
    /// Takes one delivery; they come in the order of their publication.
    fn deliver(&self, delivery: &Delivery);
}

/// Takes publications as they are, for a held stream or response. Called from the fan-out,
/// so it must not block.
pub trait Holder: Send + Sync + 'static {
    /// Takes one publication; they come in their order.
    fn publish(&self, publication: &Arc<Publication>);
}

/// A subscriber with what the fan-out must know of it.
#[derive(Clone)]
pub enum Seat {
    /// A WebSocket that lets everything through: all of them get the same bytes.
    Socket(Arc<dyn Subscriber>),
    /// A WebSocket with filters.
    Filtered(Arc<dyn Subscriber>, Filters),
    /// A held stream.
    Stream(Arc<dyn Holder>),
    /// A held response.
    Response(Arc<dyn Holder>),
}

/// The seats of a block are all of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`Seat::Socket`].
    Socket,
    /// [`Seat::Filtered`].
    Filtered,
    /// [`Seat::Stream`].
    Stream,
    /// [`Seat::Response`].
    Response,
}

/// See the module's words.
pub struct Block {
    kind: Kind,
    /// Copied only when it changes during a fan-out.
    seats: Mutex<Arc<Seats>>,
    queue: Mutex<Queue>,
    /// Told when the queue was taken.
    taken: Notify,
}

#[derive(Clone, Default)]
struct Seats {
    seats: Vec<Option<Seat>>,
    used: usize,
}

#[derive(Default)]
struct Queue {
    publications: Vec<Arc<Publication>>,
    bytes: usize,
    /// A task is handing publications out and will look again.
    busy: bool,
}

impl Seat {
    /// What blocks it can be in.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Socket(_) => Kind::Socket,
            Self::Filtered(..) => Kind::Filtered,
            Self::Stream(_) => Kind::Stream,
            Self::Response(_) => Kind::Response,
        }
    }
}

impl Kind {
    /// The bytes that a publication brings to each of this kind.
    pub fn bytes(self, publication: &Publication) -> usize {
        match self {
            Self::Socket | Self::Filtered => publication.socket.as_ref().map(ForSockets::bytes),
            Self::Stream => publication.stream.as_ref().map(stream_bytes),
            Self::Response => publication.response.as_ref().map(ForResponses::bytes),
        }
        .unwrap_or_default()
    }

    /// The bytes that a publication counts for in a queue of this kind, never 0; `None` when
    /// there is nothing in it for this kind.
    fn size(self, publication: &Publication) -> Option<usize> {
        match self {
            Self::Socket | Self::Filtered => publication.socket.as_ref().map(ForSockets::size),
            Self::Stream => publication.stream.as_ref().map(|_| publication.size()),
            Self::Response => publication.response.as_ref().map(|_| publication.size()),
        }
    }
}

impl Block {
    /// What seats it has.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// A block with its first seat.
    pub fn with(seat: Seat) -> (Arc<Self>, usize) {
        let kind = seat.kind();
        let mut seats = Seats::default();
        let number = seats.add(seat);
        let block = Self {
            kind,
            seats: Mutex::new(Arc::new(seats)),
            queue: Mutex::default(),
            taken: Notify::new(),
        };
        (Arc::new(block), number)
    }

    /// Gives a seat to a subscriber, if there is one for its kind; or hands it back.
    pub fn add(&self, seat: Seat) -> Result<usize, Seat> {
        let mut seats = lock(&self.seats);
        if seats.used == BLOCK || seat.kind() != self.kind {
            return Err(seat);
        }
        Ok(Arc::make_mut(&mut seats).add(seat))
    }

    /// Gives a seat up, and says whether it was the last.
    pub fn remove(&self, seat: usize) -> bool {
        let mut seats = lock(&self.seats);
        let seats = Arc::make_mut(&mut seats);
        seats.seats[seat] = None;
        seats.used -= 1;
        seats.used == 0
    }

    /// Queues a publication, and says how many it reaches. Waits while the queue is full.
    pub async fn push(self: &Arc<Self>, publication: &Arc<Publication>) -> usize {
        let Some(size) = self.kind.size(publication) else {
            return 0;
        };
        let reached = lock(&self.seats).used;
        loop {
            // Registered before the look, so that no wake is missed between them.
            let taken = self.taken.notified();
            {
                let mut queue = lock(&self.queue);
                // An empty queue takes anything: a single large message must get through.
                if queue.bytes == 0 || queue.bytes + size <= QUEUE_BYTES {
                    queue.bytes += size;
                    queue.publications.push(publication.clone());
                    if !mem::replace(&mut queue.busy, true) {
                        tokio::spawn(Arc::clone(self).hand_out());
                    }
                    return reached;
                }
            }
            taken.await;
        }
    }

    async fn hand_out(self: Arc<Self>) {
        loop {
            let publications = {
                let mut queue = lock(&self.queue);
                if queue.publications.is_empty() {
                    queue.busy = false;
                    return;
                }
                queue.bytes = 0;
                mem::take(&mut queue.publications)
            };
            self.taken.notify_waiters();
            let seats = lock(&self.seats).clone();
            match self.kind {
                Kind::Socket => {
                    for delivery in gather(&publications) {
                        seats.each(|seat| {
                            if let Seat::Socket(socket) = seat {
                                socket.deliver(&delivery);
                            }
                        });
                    }
                }
                Kind::Filtered => {
                    for publication in &publications {
                        seats.each(|seat| {
                            if let Seat::Filtered(socket, filters) = seat {
                                deliver_filtered(publication, &**socket, filters);
                            }
                        });
                    }
                }
                Kind::Stream | Kind::Response => {
                    for publication in &publications {
                        seats.each(|seat| {
                            if let Seat::Stream(holder) | Seat::Response(holder) = seat {
                                holder.publish(publication);
                            }
                        });
                    }
                }
            }
            drop(seats);
            tokio::task::yield_now().await;
        }
    }
}

impl Seats {
    fn add(&mut self, seat: Seat) -> usize {
        self.used += 1;
        match self.seats.iter().position(Option::is_none) {
            Some(free) => {
                self.seats[free] = Some(seat);
                free
            }
            None => {
                self.seats.push(Some(seat));
                self.seats.len() - 1
            }
        }
    }

    fn each(&self, f: impl FnMut(&Seat)) {
        self.seats.iter().flatten().for_each(f);
    }
}

fn deliver_filtered(publication: &Publication, socket: &dyn Subscriber, filters: &Filters) {
    let Some(form) = &publication.socket else {
        return;
    };
    let channel = &publication.channel;
    if !filters.suit(&form.counted_on) {
        debug!(
            channel,
            "not delivered: its content is for other filters than {filters}"
        );
        return;
    }
    let followed = Followed::new();
    if !filters.admit(&publication.meta, &followed) {
        return;
    }
    match form.with_content(|content| filters.content(content, &followed)) {
        Ok(delivery) => socket.deliver(&delivery),
        Err(error) => debug!(channel, "not delivered: {error}"),
    }
}

/// What publications do to WebSockets. Frames that follow each other are joined, so that
/// each client gets them in one write.
fn gather(publications: &[Arc<Publication>]) -> Vec<Delivery> {
    fn close_run(run: &mut Vec<(&Bytes, usize)>, gathered: &mut Vec<Delivery>) {
        let messages = run.iter().map(|(_, messages)| messages).sum();
        let bytes = match run.as_slice() {
            [] => return,
            [(only, _)] => (*only).clone(),
            many => {
                let length = many.iter().map(|(bytes, _)| bytes.len()).sum();
                let mut joined = BytesMut::with_capacity(length);
                for (bytes, _) in many {
                    joined.extend_from_slice(bytes);
                }
                joined.freeze()
            }
        };
        run.clear();
        gathered.push(Delivery::Frames { bytes, messages });
    }
    let mut gathered = Vec::with_capacity(1);
    let mut run = Vec::new();
    for form in publications
        .iter()
        .flat_map(|publication| &publication.socket)
    {
        if !form.counted_on.is_empty() {
            debug!(
                "not delivered to WebSockets without filters: {:?} are counted on",
                form.counted_on
            );
            continue;
        }
        match &form.delivery {
            Delivery::Frames { bytes, messages } => run.push((bytes, *messages)),
            other => {
                close_run(&mut run, &mut gathered);
                gathered.push(other.clone());
            }
        }
    }
    close_run(&mut run, &mut gathered);
    gathered
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
        let gathered = gather(&[text("a"), text("b"), close, text("c")]);
        let frames = |bytes: &'static [u8], messages| Delivery::Frames {
            bytes: Bytes::from_static(bytes),
            messages,
        };
        let wanted = [
            frames(b"\x81\x01a\x81\x01b", 2),
            Delivery::Close(crate::frame::close(4000, "")),
            frames(b"\x81\x01c", 1),
        ];
        assert_eq!(gathered, wanted);
    }
}
