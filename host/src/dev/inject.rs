//! Puts a piece of markup into an HTML page while the page streams by.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use spin_runtime::backend::{Body, BodyError};

/// A page whose head gets `markup` at its end; a page without one gets it before its body, or
/// else after everything. It is put in exactly once, whatever the page.
pub(crate) struct Injected {
    page: Body,
    markup: Bytes,
    scanner: Scanner,
    /// What came and is not yet told from a place for the markup.
    held: BytesMut,
    place: Place,
}

enum Place {
    /// Is looked for.
    Sought,
    /// Was found; the page passes as it is.
    Found,
    /// The page has ended.
    Ended,
}

impl Injected {
    /// See the type's words.
    pub(crate) fn new(page: Body, markup: Bytes) -> Self {
        Self {
            page,
            markup,
            scanner: Scanner::default(),
            held: BytesMut::new(),
            place: Place::Sought,
        }
    }

    /// What may be sent of a page that goes on with `piece`.
    fn pass(&mut self, piece: Bytes) -> Bytes {
        self.held.extend_from_slice(&piece);
        match self.scanner.scan(&self.held) {
            Scan::Found(at) => {
                self.place = Place::Found;
                let mut sent = self.held.split_to(at);
                sent.extend_from_slice(&self.markup);
                sent.unsplit(self.held.split());
                sent.freeze()
            }
            Scan::Clear(until) => self.held.split_to(until).freeze(),
        }
    }
}

impl http_body::Body for Injected {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            if matches!(self.place, Place::Ended) {
                return Poll::Ready(None);
            }
            let frame = std::task::ready!(Pin::new(&mut self.page).poll_frame(cx));
            if matches!(self.place, Place::Found) {
                return Poll::Ready(frame);
            }
            match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(piece) => {
                        let passed = self.pass(piece);
                        if !passed.is_empty() {
                            return Poll::Ready(Some(Ok(Frame::data(passed))));
                        }
                    }
                    // Behind the page nothing more can be put into it, and browsers read none.
                    Err(_trailers) => {}
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    self.place = Place::Ended;
                    let mut rest = self.held.split();
                    rest.extend_from_slice(&self.markup);
                    return Poll::Ready(Some(Ok(Frame::data(rest.freeze()))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self.place {
            Place::Sought => false,
            Place::Found => self.page.is_end_stream(),
            Place::Ended => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        let rest = match self.place {
            Place::Sought => self.markup.len() + self.held.len(),
            Place::Found | Place::Ended => 0,
        };
        let rest = u64::try_from(rest).unwrap_or(u64::MAX);
        let page = self.page.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = page.upper().and_then(|upper| upper.checked_add(rest)) {
            hint.set_upper(upper);
        }
        hint.set_lower(page.lower().saturating_add(rest));
        hint
    }
}

/// Elements whose content is no markup, and may hold what looks like the end of the head.
const TEXT_ONLY: [&str; 6] = [
    "script", "style", "title", "textarea", "noscript", "template",
];
/// The most that has to be seen behind a `<` to know what it begins: `</textarea` and one more.
const LOOK_AHEAD: usize = 11;

/// Reads markup as far as needed to know where the head ends.
#[derive(Default)]
struct Scanner {
    within: Within,
}

#[derive(Clone, Copy, Default)]
enum Within {
    #[default]
    Text,
    /// Until `-->`.
    Comment,
    /// Until `>` outside of quotes; of an element with text only, or another.
    Tag {
        quote: Option<u8>,
        text_only: Option<&'static str>,
    },
    /// Until the end tag.
    TextOnly(&'static str),
}

/// What a scan has found.
#[derive(Debug, PartialEq, Eq)]
enum Scan {
    /// The place for the markup.
    Found(usize),
    /// No place before this; what comes after it is to be shown again with more.
    Clear(usize),
}

impl Scanner {
    fn scan(&mut self, page: &[u8]) -> Scan {
        let mut at = 0;
        while let Some(rest) = page.get(at..).filter(|rest| !rest.is_empty()) {
            match self.within {
                Within::Text => {
                    let Some(start) = rest.iter().position(|byte| *byte == b'<') else {
                        return Scan::Clear(page.len());
                    };
                    at += start;
                    let rest = &rest[start..];
                    if rest.starts_with(b"<!--") {
                        // `<!-->` is a whole comment.
                        (self.within, at) = (Within::Comment, at + 2);
                    } else if is_tag(rest, "</head") || is_tag(rest, "<body") {
                        return Scan::Found(at);
                    } else if is_undecided(rest) {
                        return Scan::Clear(at);
                    } else if rest[1].is_ascii_alphabetic() {
                        let text_only = TEXT_ONLY.into_iter().find(|name| is_tag(&rest[1..], name));
                        let quote = None;
                        (self.within, at) = (Within::Tag { quote, text_only }, at + 1);
                    } else {
                        at += 1;
                    }
                }
                Within::Comment => match find(rest, b"-->") {
                    Some(end) => (self.within, at) = (Within::Text, at + end + 3),
                    None => return Scan::Clear(page.len().saturating_sub(2).max(at)),
                },
                Within::Tag {
                    quote: Some(quote),
                    text_only,
                } => match rest.iter().position(|byte| *byte == quote) {
                    Some(end) => {
                        let quote = None;
                        (self.within, at) = (Within::Tag { quote, text_only }, at + end + 1);
                    }
                    None => return Scan::Clear(page.len()),
                },
                Within::Tag {
                    quote: None,
                    text_only,
                } => {
                    let ends = |byte: &u8| matches!(byte, b'>' | b'"' | b'\'');
                    let Some(end) = rest.iter().position(ends) else {
                        return Scan::Clear(page.len());
                    };
                    at += end + 1;
                    self.within = match (rest[end], text_only) {
                        (b'>', Some(name)) => Within::TextOnly(name),
                        (b'>', None) => Within::Text,
                        (quote, text_only) => {
                            let quote = Some(quote);
                            Within::Tag { quote, text_only }
                        }
                    };
                }
                Within::TextOnly(name) => {
                    let Some(start) = find(rest, b"</") else {
                        return Scan::Clear(page.len().saturating_sub(1).max(at));
                    };
                    at += start;
                    if is_tag(&rest[start + 2..], name) {
                        self.within = Within::Text;
                    } else if is_undecided(&rest[start..]) {
                        return Scan::Clear(at);
                    } else {
                        at += 2;
                    }
                }
            }
        }
        Scan::Clear(page.len())
    }
}

/// Whether the page goes on with this tag, in whatever case, and not with one that begins alike.
fn is_tag(page: &[u8], tag: &str) -> bool {
    let name = page.get(..tag.len());
    name.is_some_and(|name| name.eq_ignore_ascii_case(tag.as_bytes()))
        && page
            .get(tag.len())
            .is_some_and(|next| next.is_ascii_whitespace() || matches!(next, b'>' | b'/'))
}

/// Whether more has to be seen of what begins with `<` to know what it is.
fn is_undecided(page: &[u8]) -> bool {
    let goes_on = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'!' | b'-');
    page.len() < LOOK_AHEAD && page[1..].iter().all(goes_on)
}

fn find(page: &[u8], what: &[u8]) -> Option<usize> {
    page.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, stream};
    use http_body::Body as _;
    use http_body_util::{BodyExt, StreamBody};
    use proptest::prelude::*;
    use tokio::sync::mpsc;

    use super::*;

    const MARK: &str = "<MARK>";

    /// A page that comes in these pieces.
    fn streamed(pieces: Vec<Bytes>) -> Body {
        let frames = pieces.into_iter().map(|piece| Ok(Frame::data(piece)));
        BodyExt::boxed_unsync(StreamBody::new(stream::iter(frames)))
    }

    fn injected(pieces: Vec<Bytes>) -> String {
        let body = Injected::new(streamed(pieces), Bytes::from_static(MARK.as_bytes()));
        let collected = body.collect().now_or_never().unwrap().unwrap();
        String::from_utf8(collected.to_bytes().into()).unwrap()
    }

    fn whole(page: &str) -> String {
        injected(vec![Bytes::copy_from_slice(page.as_bytes())])
    }

    #[test]
    fn the_end_of_the_head_is_the_place() {
        for page in [
            "<!doctype html><html><head><title>a</title>|</head><body>b</body></html>",
            "<HTML><HEAD><TITLE>a</TITLE>|</HEAD\n><BODY>b",
            "<title>no head</title>|<body class=x><p>",
            "<!-- </head> --><head>|</head>",
            "<!--><head>|</head><!-- -->",
            "<head><script>let a = '</head>';</script>|</head>",
            "<head><style>/* </head> */</style>|</head>",
            "<head><script src=\"</head>\"></script>|</head>",
            "<head><meta content='a > </head>'>|</head>",
            "<header>a</header>|<body>",
            "<head>|</head></head><body>",
            "<p>neither the one nor the other</p>|",
            "a < b and c </heads> <bodyguard>|",
            "<script>never ended </head>|",
            "|",
            "<|",
            "</hea|",
        ] {
            assert_eq!(whole(&page.replace('|', "")), page.replace('|', MARK));
        }
    }

    #[test]
    fn nothing_is_held_back_that_need_not_be() {
        let (sender, receiver) = mpsc::unbounded_channel::<&'static str>();
        let pieces = stream::unfold(receiver, async |mut receiver| {
            let piece = receiver.recv().await?;
            Some((Ok(Frame::data(Bytes::from(piece))), receiver))
        });
        let page = BodyExt::boxed_unsync(StreamBody::new(pieces));
        let mut body = Injected::new(page, Bytes::from_static(MARK.as_bytes()));
        let mut next = |piece: &'static str| {
            sender.send(piece).unwrap();
            let frame = body.frame().now_or_never().flatten();
            frame
                .map(|frame| String::from_utf8(frame.unwrap().into_data().unwrap().into()).unwrap())
        };
        assert_eq!(next("<html><p>first").as_deref(), Some("<html><p>first"));
        assert_eq!(next(" second, </he").as_deref(), Some(" second, "));
        assert_eq!(next("ad"), None);
        assert_eq!(next(">third").as_deref(), Some("<MARK></head>third"));
        assert_eq!(next("</head>").as_deref(), Some("</head>"));
    }

    #[test]
    fn an_error_of_the_page_is_an_error() {
        let frames = [
            Ok(Frame::data(Bytes::from_static(b"<p>"))),
            Err("broken".into()),
        ];
        let page = BodyExt::boxed_unsync(StreamBody::new(stream::iter(frames)));
        let body = Injected::new(page, Bytes::from_static(MARK.as_bytes()));
        assert!(body.collect().now_or_never().unwrap().is_err());
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            words in prop::collection::vec(prop::sample::select(vec![
                "<head>", "</head>", "</HEAD >", "<body>", "<!--", "-->", "<script>", "</script>", "<style a='", "'>",
                "</style>", "<", ">", "\"", "</", "a", " ", "<p>", "<title>", "</title>", "--", "é",
            ]), 0..20),
            cuts in prop::collection::vec(0usize..200, 0..6),
        ) {
            let page = words.concat();
            let expected = whole(&page);
            prop_assert_eq!(expected.replacen(MARK, "", 1), page.clone());
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut % (page.len() + 1)).collect();
            cuts.push(0);
            cuts.push(page.len());
            cuts.sort_unstable();
            let bytes = Bytes::from(page);
            let pieces = cuts.windows(2).map(|cut| bytes.slice(cut[0]..cut[1])).collect();
            prop_assert_eq!(injected(pieces), expected);
        }

        #[test]
        fn the_hint_is_right(page in "[<>/a-e !-]{0,40}") {
            let full = spin_runtime::backend::full(page.clone());
            let body = Injected::new(full, Bytes::from_static(MARK.as_bytes()));
            let length = u64::try_from(page.len() + MARK.len()).unwrap();
            prop_assert_eq!(body.size_hint().exact(), Some(length));
        }
    }
}
