//! Filters: which publications reach one connection, and what is written into them on the way.
//!
//! A subscription names them, and the metadata that the backend has set for the connection
//! and that a publication carries decide. The names and meanings are Pushpin's.

use std::{collections::BTreeMap, fmt, sync::Arc};

use parking_lot::Mutex;

use bytes::{BufMut, Bytes, BytesMut};

use crate::pubsub::sequencer::Id;

/// The most names that a connection's metadata may have.
pub(crate) const MAX_META: usize = 100;

/// What a backend has said of a connection for filters to look at. Costs a pointer until
/// something is said.
#[derive(Debug, Default)]
pub(crate) struct Meta(Option<Shared>);

/// The session or hold writes it, and filters in the fan-out read it.
type Shared = Arc<Mutex<BTreeMap<Box<str>, Box<str>>>>;

/// The filters of one subscription. Costs a pointer when there are none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filters(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    filters: Vec<Filter>,
    meta: Shared,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filter {
    /// Drops what the connection's `user` has sent: the item's `sender`.
    SkipSelf,
    /// Drops what the item's `skip_users`, a list with commas, keeps from the connection's `user`.
    SkipUsers,
    /// Drops an item whose `require_sub` is a channel that the connection is not on.
    RequireSub,
    /// Writes ids into the content: `%(ID)I`, and `%I` for that of the connection's channels.
    BuildId,
    /// Writes the connection's metadata into the content: `%(NAME)s`.
    VarSubst,
}

/// The channels that a connection follows with the last id of each; empty for WebSockets,
/// which follow no ids.
pub(crate) type LastIds = BTreeMap<String, Option<Id>>;

/// Why a subscription cannot have its filters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no filter {0:?}: known are {names}", names = Filter::NAMES.map(|(name, _)| name).join(", "))]
pub(crate) struct UnknownFilter(pub(crate) String);

/// Why content does not reach a connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("filter {filter}: {problem}")]
pub(crate) struct FilterError {
    filter: &'static str,
    problem: String,
}

/// There is too much metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no more than {MAX_META} names can have metadata")]
pub(crate) struct MetaFull;

impl Meta {
    /// Remembers `value` for `name`; nothing or an empty one forgets it.
    ///
    /// # Errors
    /// There are too many names.
    pub(crate) fn set(&mut self, name: &str, value: Option<&str>) -> Result<(), MetaFull> {
        let value = value.filter(|value| !value.is_empty());
        if self.0.is_none() && value.is_none() {
            return Ok(());
        }
        let shared = self.share();
        let mut known = shared.lock();
        match value {
            None => {
                known.remove(name);
            }
            Some(_) if known.len() == MAX_META && !known.contains_key(name) => {
                return Err(MetaFull);
            }
            Some(value) => {
                known.insert(name.into(), value.into());
            }
        }
        Ok(())
    }

    fn share(&mut self) -> Shared {
        self.0.get_or_insert_default().clone()
    }
}

impl Filters {
    /// The filters with these names, for a connection with this metadata, which may change later.
    ///
    /// # Errors
    /// A name that is not known.
    pub(crate) fn parse(names: &[String], meta: &mut Meta) -> Result<Self, UnknownFilter> {
        if names.is_empty() {
            return Ok(Self::default());
        }
        let filters = names
            .iter()
            .map(|name| Filter::parse(name).ok_or_else(|| UnknownFilter(name.clone())))
            .collect::<Result<_, _>>()?;
        Ok(Self(Some(Arc::new(Inner {
            filters,
            meta: meta.share(),
        }))))
    }

    /// Whether everything passes as it is.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether an item with this metadata is for the connection, which is on `followed`.
    pub(crate) fn admit(&self, item: &BTreeMap<String, String>, followed: &LastIds) -> bool {
        let Some(inner) = &self.0 else { return true };
        if item.is_empty() {
            return true;
        }
        let get = |name: &str| item.get(name).map_or("", String::as_str);
        let meta = inner.meta.lock();
        let user = meta.get("user").map_or("", |user| user);
        inner.filters.iter().all(|filter| match filter {
            Filter::SkipSelf => user.is_empty() || get("sender") != user,
            Filter::SkipUsers => {
                user.is_empty() || !get("skip_users").split(',').any(|skip| skip.trim() == user)
            }
            Filter::RequireSub => {
                let required = get("require_sub");
                required.is_empty() || followed.contains_key(required)
            }
            Filter::BuildId | Filter::VarSubst => true,
        })
    }

    /// An item's content as the connection gets it.
    ///
    /// # Errors
    /// The content names what there is not. The item is then not for this connection.
    pub(crate) fn content(
        &self,
        mut content: Bytes,
        followed: &LastIds,
    ) -> Result<Bytes, FilterError> {
        let Some(inner) = &self.0 else {
            return Ok(content);
        };
        for filter in &inner.filters {
            let meta = inner.meta.lock();
            let filled = match filter {
                Filter::VarSubst => fill(&content, |letter, name| {
                    variable(letter, name, |name| meta.get(name).map(|value| &**value))
                }),
                Filter::BuildId => build_ids(&content, &meta, followed),
                _ => continue,
            };
            content = filled.map_err(|problem| FilterError {
                filter: filter.name(),
                problem,
            })?;
        }
        Ok(content)
    }

    /// Whether the filters that change content are exactly those that a publication counts on
    /// with `content-filters`; none named is content that suits everyone.
    pub(crate) fn suit(&self, counted_on: &[String]) -> bool {
        let own = self.0.iter().flat_map(|inner| &inner.filters);
        let own = own.filter(|filter| filter.changes_content());
        counted_on.is_empty() || own.map(|filter| filter.name()).eq(counted_on)
    }
}

impl Filter {
    const NAMES: [(&str, Self); 5] = [
        ("skip-self", Self::SkipSelf),
        ("skip-users", Self::SkipUsers),
        ("require-sub", Self::RequireSub),
        ("build-id", Self::BuildId),
        ("var-subst", Self::VarSubst),
    ];

    fn parse(name: &str) -> Option<Self> {
        let known = Self::NAMES.iter().find(|(known, _)| *known == name);
        known.map(|(_, filter)| *filter)
    }

    fn name(self) -> &'static str {
        let known = Self::NAMES.iter().find(|(_, filter)| *filter == self);
        known.map_or("", |(name, _)| name)
    }

    fn changes_content(self) -> bool {
        matches!(self, Self::BuildId | Self::VarSubst)
    }
}

/// `build-id`: the id of the connection is made of its metadata `id_format`, in which
/// `%(CHANNEL)s` is the last id of a channel, and written as `id_encoding` says.
fn build_ids(
    content: &[u8],
    meta: &BTreeMap<Box<str>, Box<str>>,
    followed: &LastIds,
) -> Result<Bytes, String> {
    let format = meta
        .get("id_format")
        .ok_or("the connection has no metadata \"id_format\"")?;
    let encode: fn(&[u8], &mut BytesMut) = match meta.get("id_encoding").map(|name| &**name) {
        None => |id, out| out.extend_from_slice(id),
        Some("hex") => |id, out| {
            for byte in id {
                out.extend_from_slice(format!("{byte:02x}").as_bytes());
            }
        },
        Some(other) => return Err(format!("the encoding {other:?} is not known")),
    };
    let own = match followed.values().any(Option::is_some) {
        false => None,
        true => Some(fill(format.as_bytes(), |letter, name| {
            variable(letter, name, |name| followed.get(name)?.as_deref())
        })?),
    };
    fill(content, |letter, id| {
        if letter != 'I' {
            return Err(format!("there is no directive {letter:?}"));
        }
        let mut out = BytesMut::new();
        match (id, &own) {
            (Some(id), _) => encode(id, &mut out),
            (None, Some(own)) => encode(own, &mut out),
            (None, None) => return Err("the connection follows no ids".into()),
        }
        Ok(out.freeze())
    })
}

/// `%(NAME)s`.
fn variable<'a>(
    letter: char,
    name: Option<&[u8]>,
    find: impl Fn(&str) -> Option<&'a str>,
) -> Result<Bytes, String> {
    if letter != 's' {
        return Err(format!("there is no directive {letter:?}"));
    }
    let name = name.ok_or("the directive 's' needs a name, as in %(NAME)s")?;
    let name = String::from_utf8_lossy(name);
    find(&name)
        .map(|value| Bytes::copy_from_slice(value.as_bytes()))
        .ok_or_else(|| format!("there is no {name:?}"))
}

/// Replaces each `%(ARGUMENT)LETTER` and `%LETTER` of a template; `%%` is a percent sign, and
/// a backslash in an argument takes the next character as it is.
fn fill(
    template: &[u8],
    replace: impl Fn(char, Option<&[u8]>) -> Result<Bytes, String>,
) -> Result<Bytes, String> {
    let mut out = BytesMut::with_capacity(template.len());
    let mut rest = template.iter().copied();
    let ends = || "the content ends within a directive".to_owned();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            out.put_u8(byte);
            continue;
        }
        let mut letter = rest.next().ok_or_else(ends)?;
        if letter == b'%' {
            out.put_u8(letter);
            continue;
        }
        let mut argument = None;
        if letter == b'(' {
            let mut collected = Vec::new();
            loop {
                match rest.next().ok_or_else(ends)? {
                    b')' => break,
                    b'\\' => collected.push(rest.next().ok_or_else(ends)?),
                    byte => collected.push(byte),
                }
            }
            argument = Some(collected);
            letter = rest.next().ok_or_else(ends)?;
        }
        out.extend_from_slice(&replace(char::from(letter), argument.as_deref())?);
    }
    Ok(out.freeze())
}

impl fmt::Display for Filters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let filters = self.0.iter().flat_map(|inner| &inner.filters);
        let names: Vec<_> = filters.map(|filter| filter.name()).collect();
        f.write_str(&names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(pairs: &[(&str, &str)]) -> Meta {
        let mut meta = Meta::default();
        for (name, value) in pairs {
            meta.set(name, Some(value)).expect("room");
        }
        meta
    }

    fn filters(names: &[&str], meta: &mut Meta) -> Filters {
        let names: Vec<_> = names.iter().map(|name| name.to_string()).collect();
        Filters::parse(&names, meta).expect("known filters")
    }

    fn item(name: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn an_unknown_filter_is_named() {
        let names = ["skip-self".to_owned(), "skip-me".to_owned()];
        let error = Filters::parse(&names, &mut Meta::default()).expect_err("unknown");
        assert_eq!(
            error.to_string(),
            "there is no filter \"skip-me\": known are skip-self, skip-users, require-sub, build-id, var-subst"
        );
    }

    #[test]
    fn nothing_is_kept_of_nothing() {
        let mut meta = Meta::default();
        assert!(Filters::parse(&[], &mut meta).expect("none").is_empty());
        meta.set("user", None).expect("nothing to keep");
        assert!(meta.0.is_none());
    }

    #[test]
    fn a_user_is_skipped_as_soon_as_it_is_known() {
        let mut meta = Meta::default();
        let filters = filters(&["skip-self", "skip-users"], &mut meta);
        let none = LastIds::new();
        let (own, list) = (item("sender", "ann"), item("skip_users", "bob, ann"));
        assert!(filters.admit(&own, &none) && filters.admit(&list, &none));
        meta.set("user", Some("ann")).expect("room");
        assert!(!filters.admit(&own, &none) && !filters.admit(&list, &none));
        assert!(filters.admit(&item("sender", "bob"), &none));
        assert!(filters.admit(&item("skip_users", "anna,"), &none));
        meta.set("user", Some("")).expect("forgotten");
        assert!(filters.admit(&own, &none));
    }

    #[test]
    fn a_subscription_can_be_required() {
        let filters = filters(&["require-sub"], &mut Meta::default());
        let followed = LastIds::from([("room".to_owned(), None)]);
        let (room, other) = (item("require_sub", "room"), item("require_sub", "other"));
        assert!(filters.admit(&room, &followed) && !filters.admit(&other, &followed));
        assert!(!filters.admit(&room, &LastIds::new()));
    }

    #[test]
    fn metadata_is_written_into_content() {
        let filters = filters(&["var-subst"], &mut meta(&[("user", "ann"), ("a)b", "x")]));
        let filled = |content: &'static str| {
            let content = filters.content(Bytes::from_static(content.as_bytes()), &LastIds::new());
            content.map(|content| String::from_utf8_lossy(&content).into_owned())
        };
        assert_eq!(
            filled("100%% for %(user)s%(a\\)b)s").as_deref(),
            Ok("100% for annx")
        );
        for wrong in [
            "%", "%(user", "%(user)", "%(bob)s", "%s", "%(user)d", "%-", "%(a\\",
        ] {
            assert!(filled(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ids_are_written_into_content() {
        let followed = LastIds::from([
            ("a".to_owned(), Some("1".into())),
            ("b".to_owned(), Some("2".into())),
        ]);
        let content = Bytes::from_static(b"%I %(3)I");
        let mut plain = meta(&[("id_format", "%(a)s-%(b)s")]);
        let plain = filters(&["build-id"], &mut plain);
        assert_eq!(
            plain.content(content.clone(), &followed).as_deref(),
            Ok(&b"1-2 3"[..])
        );
        assert!(plain.content(content.clone(), &LastIds::new()).is_err());
        let mut hex = meta(&[("id_format", "%(a)s"), ("id_encoding", "hex")]);
        let hex = filters(&["build-id"], &mut hex);
        assert_eq!(
            hex.content(content.clone(), &followed).as_deref(),
            Ok(&b"31 33"[..])
        );
        let bare = filters(&["build-id"], &mut Meta::default());
        assert!(bare.content(content, &followed).is_err());
    }

    #[test]
    fn content_filters_must_be_those_of_the_subscription() {
        let filters = filters(&["skip-self", "var-subst"], &mut Meta::default());
        let names = |names: &[&str]| {
            names
                .iter()
                .map(|name| name.to_string())
                .collect::<Vec<_>>()
        };
        assert!(filters.suit(&[]) && filters.suit(&names(&["var-subst"])));
        assert!(!filters.suit(&names(&["build-id"])));
        assert!(!filters.suit(&names(&["var-subst", "build-id"])));
        assert!(!Filters::default().suit(&names(&["var-subst"])));
    }

    #[test]
    fn metadata_is_bounded() {
        let mut meta = Meta::default();
        for n in 0..MAX_META {
            meta.set(&n.to_string(), Some("x")).expect("room");
        }
        assert_eq!(meta.set("more", Some("x")), Err(MetaFull));
        assert_eq!(meta.set("0", Some("y")), Ok(()));
        assert_eq!(meta.set("0", None), Ok(()));
        assert_eq!(meta.set("more", Some("x")), Ok(()));
    }
}
