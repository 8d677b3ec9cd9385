//! The rooms that a connection is in. They are stored as metadata of the connection.

use grip::header;

/// The name of the metadata.
pub(crate) const META: &str = "sockets-rooms";

/// A room that a connection is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) channel: String,
    /// The last item that was sent to the client when it joined.
    pub(crate) last: u64,
    /// The number of items that the room keeps.
    pub(crate) keep: u64,
    /// Whether the connection is counted.
    pub(crate) is_counted: bool,
}

/// Encodes memberships, without characters that are special in a header.
pub(crate) fn encode(memberships: &[Membership]) -> String {
    let rooms = memberships.iter().map(|room| {
        let Membership {
            channel,
            last,
            keep,
            is_counted,
        } = room;
        let counted = u8::from(*is_counted);
        format!("{last},{keep},{counted},{channel}")
    });
    rooms.collect::<Vec<_>>().join(" ")
}

/// Decodes memberships. Skips what is invalid.
pub(crate) fn decode(text: &str) -> Vec<Membership> {
    let rooms = text.split(' ').filter_map(|room| {
        let mut fields = room.splitn(4, ',');
        Some(Membership {
            last: fields.next()?.parse().ok()?,
            keep: fields.next()?.parse().ok()?,
            is_counted: fields.next()? == "1",
            channel: fields.next()?.to_owned(),
        })
    });
    rooms.collect()
}

/// Returns the header of a response that stores metadata.
pub(crate) fn set_header(name: &str) -> String {
    format!("{}{name}", header::SET_META_PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memberships_are_decoded_again() {
        let room = |channel: &str, last, is_counted| Membership {
            channel: channel.into(),
            last,
            keep: 100,
            is_counted,
        };
        let rooms = vec![room("room:a", 0, true), room("room:b%20c", 7, false)];
        assert_eq!(encode(&rooms), "0,100,1,room:a 7,100,0,room:b%20c");
        assert_eq!(decode(&encode(&rooms)), rooms);
        assert_eq!(decode(""), []);
        assert_eq!(
            decode("x 1,2 1,2,0,room:c"),
            [Membership {
                last: 1,
                keep: 2,
                ..room("room:c", 0, false)
            }]
        );
    }
}
