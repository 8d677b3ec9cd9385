//! The `grip` WebSocket extension: prefixes that distinguish content from control messages.

use bytestring::ByteString;

use crate::parameters::{split, unquote, write_quoted};

/// The prefix of control messages.
pub const CONTROL_PREFIX: &str = "c:";

/// The default prefix of content.
pub const DEFAULT_MESSAGE_PREFIX: &str = "m:";

/// The extension, which a component enables with `Sec-WebSocket-Extensions: grip` in its response
/// to OPEN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// The prefix of content. When empty, every message that is not a control message is
    /// content.
    pub message_prefix: ByteString,
}

/// The kind of a message from a component that enabled the extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind<'a> {
    /// A [control message](crate::control), without its prefix.
    Control(&'a [u8]),
    /// Content for the client, without its prefix.
    Content(&'a [u8]),
    /// A message without a known prefix, which is dropped.
    Unprefixed,
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
    /// Values may be quoted. Other extensions and parameters are ignored.
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

    /// Returns the value of a `Sec-WebSocket-Extensions` header that enables the extension.
    pub fn header_value(&self) -> String {
        if self.message_prefix == DEFAULT_MESSAGE_PREFIX {
            return "grip".into();
        }
        let mut value = String::from("grip; message-prefix=");
        write_quoted(&self.message_prefix, &mut value);
        value
    }

    /// Classifies a message by its prefix.
    ///
    /// Control messages take precedence, because an empty content prefix matches them, too.
    pub fn classify<'a>(&self, message: &'a [u8]) -> MessageKind<'a> {
        if let Some(control) = message.strip_prefix(CONTROL_PREFIX.as_bytes()) {
            return MessageKind::Control(control);
        }
        match message.strip_prefix(self.message_prefix.as_bytes().as_ref()) {
            Some(content) => MessageKind::Content(content),
            None => MessageKind::Unprefixed,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parse_finds_grip_and_its_prefix() {
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
    fn messages_are_classified_by_prefix() {
        let default = Extension::default();
        assert_eq!(default.classify(b"m:hello"), MessageKind::Content(b"hello"));
        assert_eq!(default.classify(b"c:{}"), MessageKind::Control(b"{}"));
        assert_eq!(default.classify(b"hello"), MessageKind::Unprefixed);
        let empty = Extension {
            message_prefix: ByteString::new(),
        };
        assert_eq!(empty.classify(b"m:hello"), MessageKind::Content(b"m:hello"));
        assert_eq!(empty.classify(b""), MessageKind::Content(b""));
        assert_eq!(empty.classify(b"c:{}"), MessageKind::Control(b"{}"));
    }

    proptest! {
        #[test]
        fn parse_reverses_header_value(prefix in any::<String>()) {
            let extension = Extension { message_prefix: prefix.into() };
            prop_assert_eq!(Extension::parse(&extension.header_value()), Some(extension));
        }

        #[test]
        fn parse_never_panics(header in "[a-z\"\\\\=;, é]{0,40}|grip; ?message-prefix=.{0,9}") {
            Extension::parse(&header);
        }
    }
}
