//! Query parameters of `GET /api/orders`.

/// The default and maximum number of orders without `after`.
pub(crate) const MAX_LATEST: u64 = 12;

/// The default and maximum number of orders with `after`.
pub(crate) const MAX_AFTER: u64 = 1000;

/// A selection of orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Query {
    /// At most `limit` of the newest orders.
    Latest { limit: u64 },
    /// The first orders after the order `id`, at most `limit`.
    After { id: u64, limit: u64 },
}

impl Query {
    /// Parses the parameters `after=ID` and `limit=N`. Ignores other parameters.
    pub(crate) fn parse(query: &str) -> Result<Query, String> {
        match parse_after(query)? {
            None => Ok(Query::Latest {
                limit: parse_limit(query, MAX_LATEST)?,
            }),
            Some(id) => Ok(Query::After {
                id,
                limit: parse_limit(query, MAX_AFTER)?,
            }),
        }
    }
}

/// Parses the optional parameter `after=ID`.
pub(crate) fn parse_after(query: &str) -> Result<Option<u64>, String> {
    match parameter(query, "after")?.map(parse_number) {
        None => Ok(None),
        Some(Some(id)) => Ok(Some(id)),
        Some(None) => Err("after: expected the id of an order".into()),
    }
}

/// Parses the optional parameter `limit=N`. Returns `max` if it is absent.
fn parse_limit(query: &str, max: u64) -> Result<u64, String> {
    match parameter(query, "limit")?.map(parse_number) {
        None => Ok(max),
        Some(Some(limit)) if (1..=max).contains(&limit) => Ok(limit),
        Some(_) => Err(format!("limit: expected a number from 1 to {max}")),
    }
}

/// Returns the value of a parameter that may occur at most once.
pub(crate) fn parameter<'a>(query: &'a str, name: &str) -> Result<Option<&'a str>, String> {
    let mut values = query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .filter(|pair| pair.0 == name)
        .map(|pair| pair.1);
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        _ => Err(format!("{name}: expected at most once")),
    }
}

/// Parses a number as JSON writes it: digits only, without leading zeros.
pub(crate) fn parse_number(text: &str) -> Option<u64> {
    let is_canonical = text == "0" || text.starts_with(|c: char| matches!(c, '1'..='9'));
    // Besides digits, `parse` only accepts a leading plus sign.
    text.parse().ok().filter(|_| is_canonical)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn limits_have_defaults() {
        assert_eq!(Query::parse(""), Ok(Query::Latest { limit: 12 }));
        assert_eq!(
            Query::parse("limit=3&_=1&x"),
            Ok(Query::Latest { limit: 3 })
        );
        assert_eq!(
            Query::parse("after=0"),
            Ok(Query::After { id: 0, limit: 1000 })
        );
        assert_eq!(
            Query::parse("limit=1000&after=105"),
            Ok(Query::After {
                id: 105,
                limit: 1000
            })
        );
        let max = Query::After {
            id: u64::MAX,
            limit: 1,
        };
        assert_eq!(Query::parse("after=18446744073709551615&limit=1"), Ok(max));
    }

    #[test]
    fn bad_parameters_are_errors() {
        let error = |query| Query::parse(query).unwrap_err();
        for query in [
            "limit=0",
            "limit=13",
            "limit=",
            "limit",
            "limit=x",
            "limit=+1",
            "limit=1.5",
            "limit=%31",
        ] {
            assert_eq!(
                error(query),
                "limit: expected a number from 1 to 12",
                "{query}"
            );
        }
        assert_eq!(
            error("after=1&limit=1001"),
            "limit: expected a number from 1 to 1000"
        );
        for query in [
            "after=",
            "after",
            "after=-1",
            "after=01",
            "after=18446744073709551616",
            "after=x&limit=1",
        ] {
            assert_eq!(
                error(query),
                "after: expected the id of an order",
                "{query}"
            );
        }
        assert_eq!(error("after=1&after=2"), "after: expected at most once");
        assert_eq!(error("limit=1&limit=1"), "limit: expected at most once");
    }

    proptest! {
        #[test]
        fn formatted_numbers_are_parsed(number: u64) {
            prop_assert_eq!(parse_number(&number.to_string()), Some(number));
        }

        #[test]
        fn parsing_never_panics(query in "((after|limit|x)=?[0-9+&=-]{0,4}&?){0,4}|.{0,20}") {
            let _ = Query::parse(&query);
        }
    }
}
