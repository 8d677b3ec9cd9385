//! Filters: which items a subscriber receives, and how their content is rewritten for it.

use std::collections::BTreeMap;

use bytes::Bytes;

/// The metadata of a connection or of an item.
pub(crate) type Meta = BTreeMap<String, String>;

/// The filters of a subscription.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filters(Vec<Filter>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filter {
    /// Skips items whose `sender` is the connection's `user`.
    SkipSelf,
    /// Skips items whose `skip_users` contains the connection's `user`.
    SkipUsers,
    /// Skips items whose `require_sub` is a channel without a subscription.
    RequireSub,
    /// Replaces `%(NAME)s` in the content with metadata of the connection.
    VarSubst,
}

/// Why filters cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FilterError {
    #[error(
        "filter {0:?} is not simulated: expected skip-self, skip-users, require-sub or var-subst"
    )]
    Unknown(String),
    #[error("filter var-subst: {0}")]
    Substitution(String),
}

impl Filters {
    /// # Errors
    /// Fails if a name is unknown.
    pub(crate) fn parse(names: &[String]) -> Result<Self, FilterError> {
        let filters = names.iter().map(|name| match name.as_str() {
            "skip-self" => Ok(Filter::SkipSelf),
            "skip-users" => Ok(Filter::SkipUsers),
            "require-sub" => Ok(Filter::RequireSub),
            "var-subst" => Ok(Filter::VarSubst),
            _ => Err(FilterError::Unknown(name.clone())),
        });
        Ok(Self(filters.collect::<Result<_, _>>()?))
    }

    /// Returns whether a connection with the metadata `meta` receives an item with the metadata
    /// `item`.
    pub(crate) fn accept(
        &self,
        item: &Meta,
        meta: &Meta,
        is_subscribed: impl Fn(&str) -> bool,
    ) -> bool {
        let of_item = |name: &str| item.get(name).map_or("", String::as_str);
        let user = meta.get("user").map_or("", String::as_str);
        self.0.iter().all(|filter| match filter {
            Filter::SkipSelf => user.is_empty() || of_item("sender") != user,
            Filter::SkipUsers => {
                let mut skipped = of_item("skip_users").split(',').map(str::trim);
                user.is_empty() || !skipped.any(|skipped| skipped == user)
            }
            Filter::RequireSub => {
                let required = of_item("require_sub");
                required.is_empty() || is_subscribed(required)
            }
            Filter::VarSubst => true,
        })
    }

    /// Rewrites the content of an item for a connection with the metadata `meta`.
    ///
    /// # Errors
    /// Fails if the content refers to a name that the connection does not have.
    pub(crate) fn rewrite(&self, content: &Bytes, meta: &Meta) -> Result<Bytes, FilterError> {
        if self.0.contains(&Filter::VarSubst) {
            let rewritten = substitute(content, meta);
            return rewritten
                .map(Bytes::from)
                .map_err(FilterError::Substitution);
        }
        Ok(content.clone())
    }
}

/// Replaces `%(NAME)s` by metadata, and `%%` by a percent sign.
fn substitute(content: &[u8], meta: &Meta) -> Result<Vec<u8>, String> {
    let mut rewritten = Vec::with_capacity(content.len());
    let mut rest = content;
    while let Some(start) = rest.iter().position(|byte| *byte == b'%') {
        rewritten.extend_from_slice(&rest[..start]);
        rest = &rest[start + 1..];
        if let Some(after) = rest.strip_prefix(b"%") {
            rewritten.push(b'%');
            rest = after;
            continue;
        }
        let end = rest.windows(2).position(|pair| pair == b")s");
        let (Some(b'('), Some(end)) = (rest.first(), end) else {
            return Err("expected %(NAME)s or %%".to_owned());
        };
        let name = String::from_utf8_lossy(&rest[1..end]);
        let value = meta.get(&*name);
        let value = value.ok_or_else(|| format!("unknown name {name:?}"))?;
        rewritten.extend_from_slice(value.as_bytes());
        rest = &rest[end + 2..];
    }
    rewritten.extend_from_slice(rest);
    Ok(rewritten)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(name: &str, value: &str) -> Meta {
        Meta::from([(name.to_owned(), value.to_owned())])
    }

    fn filters(name: &str) -> Filters {
        Filters::parse(&[name.to_owned()]).expect("a known filter")
    }

    #[test]
    fn items_are_skipped_by_user_and_subscription() {
        let ann = meta("user", "ann");
        let accept = |filter: &str, item: &Meta| {
            filters(filter).accept(item, &ann, |channel| channel == "room")
        };
        assert!(!accept("skip-self", &meta("sender", "ann")));
        assert!(accept("skip-self", &meta("sender", "bob")));
        assert!(!accept("skip-users", &meta("skip_users", "bob, ann")));
        assert!(accept("skip-users", &meta("skip_users", "anna")));
        assert!(accept("require-sub", &meta("require_sub", "room")));
        assert!(!accept("require-sub", &meta("require_sub", "other")));
    }

    #[test]
    fn content_is_rewritten() {
        let rewrite = |content: &'static str| {
            let content = Bytes::from_static(content.as_bytes());
            let rewritten = filters("var-subst").rewrite(&content, &meta("user", "ann"));
            rewritten.map(|content| String::from_utf8_lossy(&content).into_owned())
        };
        assert_eq!(rewrite("%(user)s: 100%%!").as_deref(), Ok("ann: 100%!"));
        assert!(rewrite("%(bob)s").is_err());
        assert!(rewrite("100%").is_err());
        let unknown = Filters::parse(&["build-id".to_owned()]);
        assert!(unknown.unwrap_err().to_string().contains("not simulated"));
    }
}
