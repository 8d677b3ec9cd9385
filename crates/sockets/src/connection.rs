//! The connection of one client.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use grip::{ControlMessage, header};
use http::{HeaderMap, StatusCode, Uri};

use crate::{
    Error, IntoMessage, Message, Result, Room,
    frame::{self, ClientFrame, PING, PONG, SUBPROTOCOL, ServerFrame},
    membership::{self, Membership},
    query,
    room::{self, ChannelKind, Count, Replay},
};

/// The parameter of the URL with the last item that a client has of a room.
pub(crate) const RESUME: &str = "resume";

/// A connection: a WebSocket, or a stream of server-sent events.
///
/// What a method does to the connection takes effect when the method of the handler returns, in the
/// same order.
pub struct Connection {
    head: Head,
    transport: Transport,
    /// Whether the client understands the subprotocol of rooms.
    pub(crate) has_subprotocol: bool,
    pub(crate) meta: Meta,
    /// The last items that the client has, from its URL. Taken by the rooms that it joins.
    positions: BTreeMap<String, u64>,
    /// The last ids that a stream has got from the host, by channel.
    grip_last: BTreeMap<String, String>,
    /// Whether the client has asked to resume, and what has become of it.
    recovery: Option<Recovery>,
    pub(crate) effects: Vec<Effect>,
    /// Channels whose earlier items the host cannot deliver.
    pub(crate) missed: Vec<String>,
    pub(crate) rejection: Option<(StatusCode, String)>,
    is_closed: bool,
}

/// What is known about the connection from its handshake.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) id: String,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
}

/// How the connection reaches the component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// A WebSocket of a GRIP host.
    Grip {
        can_recover: bool,
        can_auto_respond: bool,
    },
    /// A stream of server-sent events.
    Stream {
        /// The stream has begun with an earlier response.
        is_continued: bool,
    },
    /// A WebSocket with typed frames.
    #[cfg(all(feature = "sip-016", target_family = "wasm"))]
    Typed,
}

/// Something to do on the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Send(grip::Message),
    /// Sends an item of a room.
    SendItem {
        channel: String,
        id: u64,
        frame: String,
    },
    /// Sends another frame about a room.
    SendFrame(String),
    Subscribe {
        channel: String,
        prev_id: Option<String>,
    },
    Unsubscribe(String),
    Control(ControlMessage),
    Close(Option<grip::CloseFrame>),
}

/// Metadata of the connection, which the host keeps.
#[derive(Debug, Default)]
pub(crate) struct Meta {
    values: BTreeMap<String, String>,
    changed: BTreeSet<String>,
    pub(crate) memberships: Vec<Membership>,
    are_memberships_changed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recovery {
    Complete,
    Incomplete,
}

impl Connection {
    pub(crate) fn new(head: Head, transport: Transport, meta: Meta, is_opening: bool) -> Self {
        let protocols = head.headers.get_all("sec-websocket-protocol").iter();
        let protocols = protocols.filter_map(|value| value.to_str().ok());
        let mut protocols = protocols.flat_map(|list| list.split(','));
        let has_subprotocol = protocols.any(|protocol| protocol.trim() == SUBPROTOCOL)
            || matches!(transport, Transport::Stream { .. });
        let mut connection = Connection {
            head,
            transport,
            has_subprotocol,
            meta,
            positions: BTreeMap::new(),
            grip_last: BTreeMap::new(),
            recovery: None,
            effects: Vec::new(),
            missed: Vec::new(),
            rejection: None,
            is_closed: false,
        };
        if is_opening && has_subprotocol {
            connection.read_positions();
        }
        connection
    }

    /// Returns the id of the connection, which no other one has. It is the same in all calls for a
    /// WebSocket, and empty for a stream.
    pub fn id(&self) -> &str {
        &self.head.id
    }

    /// Returns the URI that the client has connected to.
    pub fn uri(&self) -> &Uri {
        &self.head.uri
    }

    /// Returns the path of the URI.
    pub fn path(&self) -> &str {
        self.head.uri.path()
    }

    /// Returns a parameter of the URI, decoded. Returns the first one if there are several.
    pub fn parameter(&self, name: &str) -> Option<String> {
        let mut parameters = query::parameters(self.head.uri.query().unwrap_or_default());
        let parameter = parameters.find(|parameter| parameter.0 == name);
        parameter.map(|(_, value)| value.into_owned())
    }

    /// Returns the headers of the handshake. With typed frames, only `open` gets them all.
    pub fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// Whether this is a stream of server-sent events, which can only receive.
    ///
    /// Streams are opened like WebSockets: with `open`. The other methods of the handler are not
    /// called. `open` is called again whenever the host needs the next part of the stream. Then only
    /// subscriptions and rooms have an effect.
    pub fn is_stream(&self) -> bool {
        matches!(self.transport, Transport::Stream { .. })
    }

    /// Returns the metadata with this name, which [`set_meta`](Self::set_meta) has stored.
    pub fn meta(&self, name: &str) -> Option<&str> {
        let value = self.meta.values.get(&name.to_ascii_lowercase());
        value.map(String::as_str)
    }

    /// Stores text about the connection for later calls, such as the name of a user. An empty text
    /// removes it.
    ///
    /// Names consist of letters, digits and hyphens, and case does not matter. The host keeps the
    /// metadata, so there should not be much of it. GRIP's filters can use it: see `docs/grip.md`.
    pub fn set_meta(&mut self, name: &str, value: &str) -> Result {
        let name = name.to_ascii_lowercase();
        let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if name.is_empty() || !name.bytes().all(is_valid) || name == membership::META {
            return Err(Error::msg(format!(
                "invalid name of metadata {name:?}: expected letters, digits and hyphens"
            )));
        }
        self.meta.changed.insert(name.clone());
        self.meta.values.insert(name.clone(), value.to_owned());
        self.control(ControlMessage::SetMeta {
            name,
            value: Some(value.to_owned()),
        });
        Ok(())
    }

    /// Sends a message to the client.
    pub fn send(&mut self, message: impl IntoMessage) -> Result {
        let Message { content, .. } = message.into_message()?;
        self.effects.push(Effect::Send(content));
        Ok(())
    }

    /// Subscribes the client to a channel.
    ///
    /// During [`open`](crate::Handler::open), the subscription is in effect before the client knows that
    /// the connection is open.
    pub fn subscribe(&mut self, channel: impl Into<String>) {
        self.subscribe_from(channel.into(), None);
    }

    /// Subscribes the client to a channel, and sends it the items after the one with the id `prev_id`
    /// first.
    ///
    /// If the host does not have all of them, or cannot resume at all,
    /// [`missed`](crate::Handler::missed) is called.
    pub fn subscribe_after(&mut self, channel: impl Into<String>, prev_id: impl Into<String>) {
        let channel = channel.into();
        if !self.can_recover() {
            self.missed.push(channel.clone());
        }
        self.subscribe_from(channel, Some(prev_id.into()));
    }

    /// Ends the subscription to a channel.
    pub fn unsubscribe(&mut self, channel: impl Into<String>) {
        self.effects.push(Effect::Unsubscribe(channel.into()));
    }

    /// Puts the client into a room: it gets the items that the room keeps, and then new ones.
    ///
    /// A client that was in the room before gets only the items that it has missed. If the room no
    /// longer has these, the client gets a frame `reset`, and then all items that the room has.
    pub async fn join(&mut self, room: &Room) -> Result {
        let position = self.positions.remove(room.channel());
        let replay = room.replay(position).await?;
        if replay.is_reset {
            self.recovery = Some(Recovery::Incomplete);
        }
        let last = replay.last;
        self.send_replay(room, replay);
        // After the items, because the host may deliver newer ones with the subscription.
        self.subscribe_to_room(room.channel().to_owned(), last);
        let is_new = self.meta.join(room.membership(last));
        if room.is_counted() && is_new {
            let count = if self.is_stream() {
                room.current_count().await?
            } else {
                room.enter().await?
            };
            self.send_count(room, &count);
            self.subscribe_to_room(room.count_channel(), count.version);
        }
        Ok(())
    }

    /// Removes the client from a room.
    pub async fn leave(&mut self, room: &Room) -> Result {
        self.unsubscribe(room.channel());
        let membership = self.meta.leave(room.channel());
        if membership.is_some_and(|room| room.is_counted) {
            self.unsubscribe(room.count_channel());
            room.leave().await?;
        }
        Ok(())
    }

    /// Lets the host answer a text message by itself, such as the ping of an application.
    ///
    /// Not all hosts can, so the handler must answer this message, too.
    pub fn auto_respond(&mut self, request: impl Into<String>, response: impl Into<String>) {
        if self.can_auto_respond() {
            self.control(ControlMessage::auto_response(request, response));
        }
    }

    /// Sends a control message to the GRIP host.
    pub fn control(&mut self, message: ControlMessage) {
        self.effects.push(Effect::Control(message));
    }

    /// Closes the connection with a code and a reason.
    pub fn close(&mut self, code: u16, reason: impl Into<String>) {
        let frame = grip::CloseFrame::new(code, reason.into());
        self.end(Some(frame));
    }

    /// Refuses the connection, with an HTTP response. Has no effect after
    /// [`open`](crate::Handler::open).
    pub fn reject(&mut self, status: StatusCode, text: impl Into<String>) {
        self.rejection = Some((status, text.into()));
    }

    /// Closes the connection, unless it is closed.
    pub(crate) fn end(&mut self, frame: Option<grip::CloseFrame>) {
        if !self.is_closed {
            self.is_closed = true;
            self.effects.push(Effect::Close(frame));
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Handles a frame of the subprotocol. Returns false if the text is a message of the application.
    pub(crate) async fn handle_frame(&mut self, text: &str) -> Result<bool> {
        if !self.has_subprotocol {
            return Ok(false);
        }
        match ClientFrame::parse(text) {
            None => return Ok(false),
            Some(ClientFrame::Ping) => self.send(PONG)?,
            Some(ClientFrame::Resume { channel, id }) => self.resume(&channel, id).await?,
            Some(ClientFrame::Unknown) => {}
        }
        Ok(true)
    }

    /// Sends the items of a room after `id`, if the connection is in it.
    async fn resume(&mut self, channel: &str, id: u64) -> Result {
        if let Some(room) = self.meta.room(channel) {
            let replay = room.replay(Some(id)).await?;
            self.send_replay(&room, replay);
        }
        Ok(())
    }

    /// Sends what was published in a room while the client joined. Returns false if the channel is not
    /// that of a room.
    pub(crate) async fn fill_gap(&mut self, channel: &str) -> Result<bool> {
        let Some((channel, kind)) = room::parse_channel(channel) else {
            return Ok(false);
        };
        let mut memberships = self.meta.memberships.iter();
        // A client that has left the room needs nothing.
        if let Some(membership) = memberships.find(|room| room.channel == channel) {
            match kind {
                ChannelKind::Items => {
                    let last = membership.last;
                    self.resume(&channel, last).await?;
                }
                ChannelKind::Counts => {
                    let room = Room::of(membership);
                    let count = room.current_count().await?;
                    self.send_count(&room, &count);
                }
            }
        }
        Ok(true)
    }

    /// Leaves the rooms of a connection that has ended. Returns the first error after all are left.
    pub(crate) async fn leave_all(&mut self) -> Result {
        let mut result = Ok(());
        for membership in self.meta.take_memberships() {
            if membership.is_counted {
                let left = Room::of(&membership).leave().await;
                result = result.and(left.map(drop));
            }
        }
        result
    }

    /// Adds what the subprotocol sends first. Called when the handler has accepted the connection.
    pub(crate) fn finish_opening(&mut self) {
        if !self.has_subprotocol || self.is_continued() {
            return;
        }
        // A position of a room that the client has not joined remains.
        let recovery = match self.recovery {
            Some(_) if !self.positions.is_empty() => Some(Recovery::Incomplete),
            recovery => recovery,
        };
        let recovered = recovery.map(|recovery| recovery == Recovery::Complete);
        let open = ServerFrame::Open { recovered }.to_json();
        let mut first = vec![Effect::SendFrame(open)];
        if self.can_auto_respond() {
            first.push(Effect::Control(ControlMessage::auto_response(PING, PONG)));
        }
        self.effects.splice(0..0, first);
    }

    pub(crate) fn is_continued(&self) -> bool {
        matches!(self.transport, Transport::Stream { is_continued: true })
    }

    fn read_positions(&mut self) {
        let query = self.head.uri.query().unwrap_or_default().to_owned();
        for (name, value) in query::parameters(&query) {
            if name == RESUME {
                self.add_position(&value);
            }
        }
        if let Some(id) = self.head.headers.get("last-event-id").cloned() {
            // Browsers send it as UTF-8.
            self.add_position(&String::from_utf8_lossy(id.as_bytes()));
        }
    }

    /// Adds `ID,CHANNEL`. The highest id of a channel counts.
    fn add_position(&mut self, text: &str) {
        match frame::parse_position(text) {
            Some((channel, id)) => {
                self.recovery.get_or_insert(Recovery::Complete);
                self.add_channel_position(channel, id);
            }
            // The client has missed something, and it is not known what.
            None => self.recovery = Some(Recovery::Incomplete),
        }
    }

    fn add_channel_position(&mut self, channel: String, id: u64) {
        let position = self.positions.entry(channel).or_default();
        *position = id.max(*position);
    }

    /// Adds the last id of a channel that the host has delivered to this stream.
    pub(crate) fn add_grip_last(&mut self, channel: String, id: String) {
        match (room::parse_channel(&channel), id.parse()) {
            (Some((_, ChannelKind::Items)), Ok(id)) => self.add_channel_position(channel, id),
            // The next part has the current count.
            (Some(_), _) => {}
            (None, _) => drop(self.grip_last.insert(channel, id)),
        }
    }

    fn subscribe_from(&mut self, channel: String, prev_id: Option<String>) {
        let prev_id = prev_id.filter(|_| self.can_recover());
        let prev_id = self.grip_last.get(&channel).cloned().or(prev_id);
        self.effects.push(Effect::Subscribe { channel, prev_id });
    }

    /// Subscribes to a channel of a room, from the item after the one with the id `last` on.
    fn subscribe_to_room(&mut self, channel: String, last: u64) {
        let prev_id = self.can_recover().then(|| last.to_string());
        self.effects.push(Effect::Subscribe { channel, prev_id });
    }

    /// Whether the host can deliver what was published before a subscription.
    fn can_recover(&self) -> bool {
        match self.transport {
            Transport::Grip { can_recover, .. } => can_recover,
            Transport::Stream { .. } => true,
            #[cfg(all(feature = "sip-016", target_family = "wasm"))]
            Transport::Typed => false,
        }
    }

    /// Whether the host can answer messages by itself.
    fn can_auto_respond(&self) -> bool {
        let Transport::Grip {
            can_auto_respond, ..
        } = self.transport
        else {
            return false;
        };
        can_auto_respond
    }

    fn send_count(&mut self, room: &Room, count: &Count) {
        let frame = Effect::SendFrame(room.count_frame(count));
        // It may be the one that was sent when the client joined.
        if !self.effects.contains(&frame) {
            self.effects.push(frame);
        }
    }

    fn send_replay(&mut self, room: &Room, replay: Replay) {
        if replay.is_reset {
            let channel = room.channel();
            let reset = ServerFrame::Reset { channel }.to_json();
            self.effects.push(Effect::SendFrame(reset));
        }
        for entry in &replay.entries {
            self.effects.push(Effect::SendItem {
                channel: room.channel().to_owned(),
                id: entry.id,
                frame: room.item_frame(entry),
            });
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("id", &self.head.id)
            .field("uri", &self.head.uri)
            .field("meta", &self.meta.values)
            .finish_non_exhaustive()
    }
}

impl Head {
    /// Returns the head of a request of a GRIP host, for a WebSocket or a stream.
    pub(crate) fn of(request: &http::request::Parts) -> Head {
        let id = request.headers.get(header::CONNECTION_ID);
        let id = id.and_then(|id| id.to_str().ok()).unwrap_or_default();
        Head {
            id: id.to_owned(),
            uri: request.uri.clone(),
            headers: request.headers.clone(),
        }
    }
}

impl Meta {
    /// Reads the headers with which the host returns metadata.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Meta {
        let values = headers.iter().filter_map(|(name, value)| {
            let name = name.as_str().strip_prefix(header::META_PREFIX)?;
            Some((name, value.to_str().ok()?))
        });
        let mut meta = Meta::default();
        for (name, value) in values {
            if name == membership::META {
                meta.memberships = membership::decode(value);
            } else {
                let value = query::decode(value).into_owned();
                meta.values.insert(name.to_owned(), value);
            }
        }
        meta
    }

    /// Returns the headers that make the host store what has changed.
    pub(crate) fn changes(&self) -> Vec<(String, String)> {
        let changed = self.changed.iter();
        let mut headers: Vec<(String, String)> = changed
            .map(|name| {
                let value = self.values.get(name).map(String::as_str);
                let value = query::encode(value.unwrap_or_default());
                (membership::set_header(name), value)
            })
            .collect();
        if self.are_memberships_changed {
            let memberships = membership::encode(&self.memberships);
            headers.push((membership::set_header(membership::META), memberships));
        }
        headers
    }

    /// Returns the headers with which a host would return the metadata.
    #[cfg(all(feature = "sip-016", target_family = "wasm"))]
    pub(crate) fn to_headers(&self) -> Vec<(String, String)> {
        let header_name = |name: &str| format!("{}{name}", header::META_PREFIX);
        let values = self.values.iter();
        let mut headers: Vec<(String, String)> = values
            .map(|(name, value)| (header_name(name), query::encode(value)))
            .collect();
        let memberships = membership::encode(&self.memberships);
        headers.push((header_name(membership::META), memberships));
        headers
    }

    /// Returns a room that the connection is in.
    fn room(&self, channel: &str) -> Option<Room> {
        let mut memberships = self.memberships.iter();
        let membership = memberships.find(|room| room.channel == channel)?;
        Some(Room::of(membership))
    }

    /// Adds or replaces a membership. Returns whether it is new.
    fn join(&mut self, membership: Membership) -> bool {
        self.are_memberships_changed = true;
        let mut memberships = self.memberships.iter_mut();
        match memberships.find(|room| room.channel == membership.channel) {
            Some(room) => {
                *room = membership;
                false
            }
            None => {
                self.memberships.push(membership);
                true
            }
        }
    }

    fn leave(&mut self, channel: &str) -> Option<Membership> {
        let mut memberships = self.memberships.iter();
        let index = memberships.position(|room| room.channel == channel)?;
        self.are_memberships_changed = true;
        Some(self.memberships.remove(index))
    }

    fn take_memberships(&mut self) -> Vec<Membership> {
        if !self.memberships.is_empty() {
            self.are_memberships_changed = true;
        }
        std::mem::take(&mut self.memberships)
    }
}
