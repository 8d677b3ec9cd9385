//! The frames of messages, encoded once for all sockets that receive them.

use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use grip::Message;

use crate::{
    net::frame::{self, Data},
    ws::deflate::{self, Deflate},
};

/// Complete, unmasked frames. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Frames(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    content: Content,
    plain: Bytes,
    /// The compressed frames, encoded when the first socket needs them.
    compressed: OnceLock<Bytes>,
    /// The size of the largest message, in bytes.
    largest: usize,
}

#[derive(Debug)]
enum Content {
    Message(Message),
    /// Frames that are sent together.
    Merged(Vec<Frames>),
}

impl Frames {
    /// Encodes a message.
    pub(crate) fn single(message: Message) -> Self {
        let content = message.content().clone();
        let largest = content.len();
        let plain = match &message {
            Message::Text(_) => frame::text(content),
            Message::Binary(_) => frame::binary(content),
            Message::Ping(_) => frame::ping(content),
            Message::Pong(_) => frame::pong(content),
        };
        Self::new(Content::Message(message), plain, largest)
    }

    /// Joins frames, so that a client receives them in one write. There must be at least one.
    pub(super) fn merge(mut frames: Vec<Self>) -> Self {
        if frames.len() == 1 {
            return frames.remove(0);
        }
        let plain = concat(frames.iter().map(Self::plain));
        let largest = frames.iter().map(|frames| frames.0.largest).max();
        Self::new(Content::Merged(frames), plain, largest.unwrap_or(0))
    }

    fn new(content: Content, plain: Bytes, largest: usize) -> Self {
        Self(Arc::new(Shared {
            content,
            plain,
            compressed: OnceLock::new(),
            largest,
        }))
    }

    /// Returns the frames without compression.
    pub(crate) fn plain(&self) -> &Bytes {
        &self.0.plain
    }

    /// Returns the frames for a socket that has negotiated `deflate`.
    pub(crate) fn encoding(&self, deflate: Option<Deflate>) -> &Bytes {
        match deflate {
            Some(deflate) if deflate.fits(self.0.largest) => self.compressed(),
            _ => self.plain(),
        }
    }

    /// Returns the frames with each message compressed, unless that would not make it smaller.
    fn compressed(&self) -> &Bytes {
        let shared = &*self.0;
        shared.compressed.get_or_init(|| match &shared.content {
            Content::Merged(frames) => concat(frames.iter().map(Self::compressed)),
            Content::Message(message) => {
                let kind = match message {
                    Message::Text(_) => Data::Text,
                    Message::Binary(_) => Data::Binary,
                    Message::Ping(_) | Message::Pong(_) => return shared.plain.clone(),
                };
                match deflate::compress(message.content()) {
                    Some(compressed) => frame::compressed(kind, compressed),
                    None => shared.plain.clone(),
                }
            }
        })
    }

    /// Returns the message, unless the frames were merged.
    pub(super) fn message(&self) -> Option<&Message> {
        match &self.0.content {
            Content::Message(message) => Some(message),
            Content::Merged(_) => None,
        }
    }
}

impl PartialEq for Frames {
    fn eq(&self, other: &Self) -> bool {
        self.plain() == other.plain()
    }
}

impl Eq for Frames {}

fn concat<'a>(frames: impl Iterator<Item = &'a Bytes> + Clone) -> Bytes {
    let mut all = BytesMut::with_capacity(frames.clone().map(Bytes::len).sum());
    frames.for_each(|bytes| all.extend_from_slice(bytes));
    all.freeze()
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, header};

    use super::*;

    fn deflate(offer: &'static str) -> Deflate {
        let mut headers = HeaderMap::new();
        let offer = HeaderValue::from_static(offer);
        headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, offer);
        Deflate::negotiate(&headers).expect("a valid offer").0
    }

    #[test]
    fn sockets_share_one_compressed_encoding() {
        let text = "two burgers, ".repeat(100);
        let frames = Frames::single(Message::Text(text.clone().into()));
        let all = deflate("permessage-deflate");
        let first = frames.encoding(Some(all));
        assert!(first.len() < frames.plain().len() / 5, "{}", first.len());
        assert_eq!(first[0], 0xc1, "final, compressed text");
        let again = frames.clone();
        assert_eq!(again.encoding(Some(all)).as_ptr(), first.as_ptr());
        let content = deflate::decompress(&first[2..], text.len());
        assert_eq!(content, Ok(text.into_bytes()));
        // The window is smaller than the message.
        let small = deflate("permessage-deflate; server_max_window_bits=10");
        assert_eq!(frames.encoding(Some(small)), frames.plain());
        assert_eq!(frames.encoding(None), frames.plain());
    }

    #[test]
    fn merged_frames_are_compressed_one_by_one() {
        let large = Frames::single(Message::Binary(vec![7; 1000].into()));
        let small = Frames::single(Message::Text("hi".into()));
        let ping = Frames::single(Message::Ping(Bytes::new()));
        let all = Some(deflate("permessage-deflate"));
        let merged = Frames::merge(vec![large.clone(), small.clone(), ping.clone()]);
        let expected = [large.encoding(all), small.plain(), ping.plain()];
        assert_eq!(
            merged.encoding(all),
            &expected.map(|it| &it[..]).concat()[..]
        );
        let plain = [&large, &small, &ping].map(|frames| &frames.plain()[..]);
        assert_eq!(merged.plain(), &plain.concat()[..]);
    }
}
