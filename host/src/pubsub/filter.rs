//! Filters: which publications a connection receives, and how their content is rewritten for it.
//!
//! A subscription names its filters. They look at the metadata that the backend has set for the
//! connection, and at the metadata of the publication. Names and meanings are those of Pushpin.

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;

use crate::{config::Limits, pubsub::sequencer::Id};

/// The most names in a connection's metadata.
pub(crate) const MAX_METADATA_ENTRIES: usize = Limits::DEFAULT.max_metadata_entries;

/// A connection's metadata, set by its backend. Costs only a pointer while it is empty.
#[derive(Debug, Default)]
pub(crate) struct Meta(Option<SharedMeta>);

/// Written by the session or hold, and read by filters in the fan-out.
type SharedMeta = Arc<Mutex<MetaMap>>;

type MetaMap = BTreeMap<Box<str>, Box<str>>;

/// The filters of one subscription. Costs only a pointer if there are none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filters(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    filters: Vec<Filter>,
    meta: SharedMeta,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    /// Skips items whose `sender` is the connection's `user`.
    SkipSelf,
    /// Skips items whose `skip_users`, a comma-separated list, contains the connection's `user`.
    SkipUsers,
    /// Skips items whose `require_sub` is a channel that the connection is not subscribed to.
    RequireSub,
    /// Replaces `%(ID)I` in the content with the encoded `ID`, and `%I` with the connection's own.
    BuildId,
    /// Replaces `%(NAME)s` in the content with the connection's metadata.
    VarSubst,
}

/// The channels of a connection, with the last id of each. Empty for WebSockets, which do not track
/// ids.
pub(crate) type LastIds = BTreeMap<String, Option<Id>>;

/// The error for a filter that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown filter {0:?}: expected one of {names}", names = Filter::NAMES.map(|(name, _)| name).join(", "))]
pub(crate) struct UnknownFilter(String);

/// The error for content that cannot be rewritten for a connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("filter {filter}: {problem}")]
pub(crate) struct FilterError {
    filter: &'static str,
    problem: String,
}

/// The error for metadata with too many names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("metadata is limited to {MAX_METADATA_ENTRIES} names")]
pub(crate) struct MetaFull;

impl Meta {
    /// Sets the value of `name`. `None` or an empty value removes it.
    ///
    /// # Errors
    /// Fails if there are too many names.
    pub(crate) fn set(&mut self, name: &str, value: Option<&str>) -> Result<(), MetaFull> {
        let value = value.filter(|value| !value.is_empty());
        if self.0.is_none() && value.is_none() {
            return Ok(());
        }
        let shared = self.share();
        let mut meta = shared.lock();
        match value {
            None => {
                meta.remove(name);
            }
            Some(_) if meta.len() == MAX_METADATA_ENTRIES && !meta.contains_key(name) => {
                return Err(MetaFull);
            }
            Some(value) => {
                meta.insert(name.into(), value.into());
            }
        }
        Ok(())
    }

    fn share(&mut self) -> SharedMeta {
        self.0.get_or_insert_default().clone()
    }
}

impl Filters {
    /// Parses the names of filters, for a connection with this metadata, which may change later.
    ///
    /// # Errors
    /// Fails if a name is unknown.
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

    /// Returns whether there are no filters.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Returns whether the connection, whose channels are the keys of `last_ids`, receives an item
    /// with the metadata `item`.
    pub(crate) fn accept(&self, item: &BTreeMap<String, String>, last_ids: &LastIds) -> bool {
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
                required.is_empty() || last_ids.contains_key(required)
            }
            Filter::BuildId | Filter::VarSubst => true,
        })
    }

    /// Rewrites an item's content for the connection.
    ///
    /// # Errors
    /// Fails if the content refers to an unknown name, in which case the connection must not
    /// receive the item.
    pub(crate) fn rewrite(
        &self,
        mut content: Bytes,
        last_ids: &LastIds,
    ) -> Result<Bytes, FilterError> {
        let Some(inner) = &self.0 else {
            return Ok(content);
        };
        for filter in &inner.filters {
            let meta = inner.meta.lock();
            let rewritten = match filter {
                Filter::VarSubst => substitute(&content, |directive, name| {
                    variable(directive, name, |name| meta.get(name).map(|value| &**value))
                }),
                Filter::BuildId => build_ids(&content, &meta, last_ids),
                _ => continue,
            };
            content = rewritten.map_err(|problem| FilterError {
                filter: filter.name(),
                problem,
            })?;
        }
        Ok(content)
    }

    /// Returns whether the filters that rewrite content are exactly the `content-filters` of a
    /// publication. A publication that names none is for everyone.
    pub(crate) fn match_content_filters(&self, content_filters: &[String]) -> bool {
        let filters = self.0.iter().flat_map(|inner| &inner.filters);
        let rewriting = filters.filter(|filter| filter.rewrites_content());
        content_filters.is_empty() || rewriting.map(|filter| filter.name()).eq(content_filters)
    }
}

impl Filter {
    /// Every filter by its name.
    pub(crate) const NAMES: [(&str, Self); 5] = [
        ("skip-self", Self::SkipSelf),
        ("skip-users", Self::SkipUsers),
        ("require-sub", Self::RequireSub),
        ("build-id", Self::BuildId),
        ("var-subst", Self::VarSubst),
    ];

    fn parse(name: &str) -> Option<Self> {
        let entry = Self::NAMES.iter().find(|entry| entry.0 == name);
        entry.map(|(_, filter)| *filter)
    }

    fn name(self) -> &'static str {
        let entry = Self::NAMES.iter().find(|entry| entry.1 == self);
        entry.map_or("", |(name, _)| name)
    }

    fn rewrites_content(self) -> bool {
        matches!(self, Self::BuildId | Self::VarSubst)
    }
}

/// Applies `build-id`. The connection's own id is built from its metadata `id_format`, in which
/// `%(CHANNEL)s` is the last id of a channel. Ids are encoded as `id_encoding` specifies.
fn build_ids(content: &[u8], meta: &MetaMap, last_ids: &LastIds) -> Result<Bytes, String> {
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
        Some(other) => return Err(format!("unknown id_encoding {other:?}: expected \"hex\"")),
    };
    let connection_id = if last_ids.values().any(Option::is_some) {
        Some(substitute(format.as_bytes(), |directive, name| {
            variable(directive, name, |name| last_ids.get(name)?.as_deref())
        })?)
    } else {
        None
    };
    substitute(content, |directive, id| {
        if directive != 'I' {
            return Err(format!("unknown directive {directive:?}"));
        }
        let mut out = BytesMut::new();
        match (id, &connection_id) {
            (Some(id), _) => encode(id, &mut out),
            (None, Some(id)) => encode(id, &mut out),
            (None, None) => return Err("the connection has no channel with an id".into()),
        }
        Ok(out.freeze())
    })
}

/// Returns the value for `%(NAME)s`.
fn variable<'a>(
    directive: char,
    name: Option<&[u8]>,
    get: impl Fn(&str) -> Option<&'a str>,
) -> Result<Bytes, String> {
    if directive != 's' {
        return Err(format!("unknown directive {directive:?}"));
    }
    let name = name.ok_or("the directive 's' needs a name, as in %(NAME)s")?;
    let name = String::from_utf8_lossy(name);
    get(&name)
        .map(|value| Bytes::copy_from_slice(value.as_bytes()))
        .ok_or_else(|| format!("unknown name {name:?}"))
}

/// Replaces each `%(ARGUMENT)DIRECTIVE` and `%DIRECTIVE` of a template, where a directive is one
/// letter. `%%` is a percent sign, and a backslash in an argument escapes the next character.
fn substitute(
    template: &[u8],
    replace: impl Fn(char, Option<&[u8]>) -> Result<Bytes, String>,
) -> Result<Bytes, String> {
    let mut out = BytesMut::with_capacity(template.len());
    let mut bytes = template.iter().copied();
    let truncated = || "the content ends within a directive".to_owned();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.put_u8(byte);
            continue;
        }
        let mut directive = bytes.next().ok_or_else(truncated)?;
        if directive == b'%' {
            out.put_u8(directive);
            continue;
        }
        let mut argument = None;
        if directive == b'(' {
            let mut collected = Vec::new();
            loop {
                match bytes.next().ok_or_else(truncated)? {
                    b')' => break,
                    b'\\' => collected.push(bytes.next().ok_or_else(truncated)?),
                    byte => collected.push(byte),
                }
            }
            argument = Some(collected);
            directive = bytes.next().ok_or_else(truncated)?;
        }
        out.extend_from_slice(&replace(char::from(directive), argument.as_deref())?);
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
    fn an_unknown_filter_is_an_error() {
        let names = ["skip-self".to_owned(), "skip-me".to_owned()];
        let error = Filters::parse(&names, &mut Meta::default()).expect_err("unknown");
        assert_eq!(
            error.to_string(),
            "unknown filter \"skip-me\": expected one of skip-self, skip-users, require-sub, build-id, var-subst"
        );
    }

    #[test]
    fn no_filters_and_no_metadata_need_no_memory() {
        let mut meta = Meta::default();
        assert!(Filters::parse(&[], &mut meta).expect("none").is_empty());
        meta.set("user", None).expect("no metadata");
        assert!(meta.0.is_none());
    }

    #[test]
    fn skip_filters_follow_changes_of_the_user() {
        let mut meta = Meta::default();
        let filters = filters(&["skip-self", "skip-users"], &mut meta);
        let none = LastIds::new();
        let (own_item, list) = (item("sender", "ann"), item("skip_users", "bob, ann"));
        assert!(filters.accept(&own_item, &none) && filters.accept(&list, &none));
        meta.set("user", Some("ann")).expect("room");
        assert!(!filters.accept(&own_item, &none) && !filters.accept(&list, &none));
        assert!(filters.accept(&item("sender", "bob"), &none));
        assert!(filters.accept(&item("skip_users", "anna,"), &none));
        meta.set("user", Some("")).expect("room");
        assert!(filters.accept(&own_item, &none));
    }

    #[test]
    fn require_sub_needs_a_subscription() {
        let filters = filters(&["require-sub"], &mut Meta::default());
        let last_ids = LastIds::from([("room".to_owned(), None)]);
        let (room, other) = (item("require_sub", "room"), item("require_sub", "other"));
        assert!(filters.accept(&room, &last_ids) && !filters.accept(&other, &last_ids));
        assert!(!filters.accept(&room, &LastIds::new()));
    }

    #[test]
    fn var_subst_inserts_metadata() {
        let filters = filters(&["var-subst"], &mut meta(&[("user", "ann"), ("a)b", "x")]));
        let rewritten = |content: &'static str| {
            let content = filters.rewrite(Bytes::from_static(content.as_bytes()), &LastIds::new());
            content.map(|content| String::from_utf8_lossy(&content).into_owned())
        };
        assert_eq!(
            rewritten("100%% for %(user)s%(a\\)b)s").as_deref(),
            Ok("100% for annx")
        );
        for invalid in [
            "%", "%(user", "%(user)", "%(bob)s", "%s", "%(user)d", "%-", "%(a\\",
        ] {
            assert!(rewritten(invalid).is_err(), "{invalid}");
        }
    }

    #[test]
    fn build_id_inserts_ids() {
        let last_ids = LastIds::from([
            ("a".to_owned(), Some("1".into())),
            ("b".to_owned(), Some("2".into())),
        ]);
        let content = Bytes::from_static(b"%I %(3)I");
        let mut plain = meta(&[("id_format", "%(a)s-%(b)s")]);
        let plain = filters(&["build-id"], &mut plain);
        assert_eq!(
            plain.rewrite(content.clone(), &last_ids).as_deref(),
            Ok(&b"1-2 3"[..])
        );
        assert!(plain.rewrite(content.clone(), &LastIds::new()).is_err());
        let mut hex = meta(&[("id_format", "%(a)s"), ("id_encoding", "hex")]);
        let hex = filters(&["build-id"], &mut hex);
        assert_eq!(
            hex.rewrite(content.clone(), &last_ids).as_deref(),
            Ok(&b"31 33"[..])
        );
        let bare = filters(&["build-id"], &mut Meta::default());
        assert!(bare.rewrite(content, &last_ids).is_err());
    }

    #[test]
    fn content_filters_must_equal_those_of_the_subscription() {
        let filters = filters(&["skip-self", "var-subst"], &mut Meta::default());
        let names = |names: &[&str]| {
            names
                .iter()
                .map(|name| name.to_string())
                .collect::<Vec<_>>()
        };
        assert!(
            filters.match_content_filters(&[])
                && filters.match_content_filters(&names(&["var-subst"]))
        );
        assert!(!filters.match_content_filters(&names(&["build-id"])));
        assert!(!filters.match_content_filters(&names(&["var-subst", "build-id"])));
        assert!(!Filters::default().match_content_filters(&names(&["var-subst"])));
    }

    #[test]
    fn metadata_is_limited() {
        let mut meta = Meta::default();
        for n in 0..MAX_METADATA_ENTRIES {
            meta.set(&n.to_string(), Some("x")).expect("room");
        }
        assert_eq!(meta.set("more", Some("x")), Err(MetaFull));
        assert_eq!(meta.set("0", Some("y")), Ok(()));
        assert_eq!(meta.set("0", None), Ok(()));
        assert_eq!(meta.set("more", Some("x")), Ok(()));
    }
}
