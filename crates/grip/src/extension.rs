//! The `grip` WebSocket extension: how content and control messages are told apart.

use bytestring::ByteString;

use crate::parameters::{split, unquote, write_quoted};

/// The prefix of a control message, when GRIP is on.
pub const CONTROL_PREFIX: &str = "c:";

/// The prefix of content, when GRIP is on and the component says nothing else.
pub const DEFAULT_MESSAGE_PREFIX: &str = "m:";

/// GRIP turned on for a connection, by `Sec-WebSocket-Extensions: grip` in the answer to OPEN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// What content begins with. When empty, all is content but control messages.
    pub message_prefix: ByteString,
}

/// What a message from a component is, when GRIP is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort<'a> {
    /// A [control message](crate::control), here without its prefix.
    Control(&'a [u8]),
    /// Content for the client, here without the message prefix.
    Content(&'a [u8]),
    /// Neither: it is dropped.
    Neither,
}

impl Default for Extension {
    fn default() -> Extension {
        Extension {
            message_prefix: ByteString::from_static(DEFAULT_MESSAGE_PREFIX),
        }
    }
}

impl Extension {
    /// Finds `grip` among the extensions of a `Sec-WebSocket-Extensions` header.
    ///
    /// Values may be quoted; other extensions and parameters are passed over.
    pub fn parse(header: &str) -> Option<Extension> {
        split(header, ',').find_map(|extension| {
            let mut parts = split(extension, ';');
            if !parts.next()?.trim().eq_ignore_ascii_case("grip") {
                return None;
            }
            let prefix = parts.find_map(|parameter| {
                let (name, value) = parameter.split_once('=')?;
                name.trim()
                    .eq_ignore_ascii_case("message-prefix")
                    .then(|| unquote(value.trim()))
            });
            Some(match prefix {
                Some(message_prefix) => Extension {
                    message_prefix: message_prefix.into(),
                },
                None => Extension::default(),
            })
        })
    }

    /// The header that turns GRIP on so.
    pub fn header_value(&self) -> String {
        if self.message_prefix == DEFAULT_MESSAGE_PREFIX {
            return "grip".into();
        }
        let mut value = String::from("grip; message-prefix=");
        write_quoted(&self.message_prefix, &mut value);
        value
    }

    /// What a message is: control first, so that content cannot hide a control message
    /// when the prefix is empty.
    pub fn sort<'a>(&self, message: &'a [u8]) -> Sort<'a> {
        if let Some(control) = message.strip_prefix(CONTROL_PREFIX.as_bytes()) {
            return Sort::Control(control);
        }
        match message.strip_prefix(self.message_prefix.as_bytes().as_ref()) {
            Some(content) => Sort::Content(content),
            None => Sort::Neither,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn finds_grip_and_its_prefix() {
        let prefix =
            |header: &str| Extension::parse(header).map(|grip| grip.message_prefix.to_string());
        assert_eq!(prefix("grip").as_deref(), Some("m:"));
        assert_eq!(prefix("Grip; x=1").as_deref(), Some("m:"));
        assert_eq!(prefix("grip; message-prefix=\"\"").as_deref(), Some(""));
        assert_eq!(prefix("grip; message-prefix=").as_deref(), Some(""));
        assert_eq!(
            prefix("permessage-deflate; a=\"grip, b\", grip;message-prefix=x").as_deref(),
            Some("x")
        );
        assert_eq!(
            prefix("grip; message-prefix=\"a,\\\"b;\\\\\"; c=d").as_deref(),
            Some("a,\"b;\\")
        );
        for none in [
            "",
            "gripe",
            "permessage-deflate; grip",
            "x=\"grip\"",
            "x; y=\", grip\"",
        ] {
            assert_eq!(prefix(none), None, "{none}");
        }
    }

    #[test]
    fn sorts_messages() {
        let default = Extension::default();
        assert_eq!(default.sort(b"m:hello"), Sort::Content(b"hello"));
        assert_eq!(default.sort(b"c:{}"), Sort::Control(b"{}"));
        assert_eq!(default.sort(b"hello"), Sort::Neither);
        let empty = Extension {
            message_prefix: ByteString::new(),
        };
        assert_eq!(empty.sort(b"m:hello"), Sort::Content(b"m:hello"));
        assert_eq!(empty.sort(b""), Sort::Content(b""));
        assert_eq!(empty.sort(b"c:{}"), Sort::Control(b"{}"));
    }

    proptest! {
        #[test]
        fn parsing_undoes_writing(prefix in any::<String>()) {
            let extension = Extension { message_prefix: prefix.into() };
            prop_assert_eq!(Extension::parse(&extension.header_value()), Some(extension));
        }

        #[test]
        fn no_header_panics(header in "[a-z\"\\\\=;, é]{0,40}|grip; ?message-prefix=.{0,9}") {
            Extension::parse(&header);
        }
    }
}
