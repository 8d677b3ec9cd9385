//! Which orders `GET /api/orders` asks for.

/// How many orders are given without `after`, by default and at most.
pub const MAX_LATEST: u64 = 12;

/// How many orders are given with `after`, by default and at most.
pub const MAX_AFTER: u64 = 1000;

/// A selection of orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query {
    /// The newest.
    Latest {
        /// How many, at most.
        limit: u64,
    },
    /// The first after one that is known.
    After {
        /// The id of the known one.
        id: u64,
        /// How many, at most.
        limit: u64,
    },
}

impl Query {
    /// Reads the query of a URI: `after=ID`, `limit=N`, each at most once. Other
    /// parameters are passed over.
    pub fn parse(query: &str) -> Result<Query, String> {
        let (after, limit) = (after(query)?, parameter(query, "limit")?);
        let limit_to = |most: u64| match limit.map(parse_number) {
            None => Ok(most),
            Some(Some(limit)) if (1..=most).contains(&limit) => Ok(limit),
            Some(_) => Err(format!("limit: a whole number, 1 to {most}")),
        };
        match after {
            None => Ok(Query::Latest {
                limit: limit_to(MAX_LATEST)?,
            }),
            Some(id) => Ok(Query::After {
                id,
                limit: limit_to(MAX_AFTER)?,
            }),
        }
    }
}

/// The parameter `after=ID` of a query, at most once.
pub fn after(query: &str) -> Result<Option<u64>, String> {
    match parameter(query, "after")?.map(parse_number) {
        None => Ok(None),
        Some(Some(id)) => Ok(Some(id)),
        Some(None) => Err("after: the id of an order, a whole number".into()),
    }
}

fn parameter<'a>(query: &'a str, name: &str) -> Result<Option<&'a str>, String> {
    let pairs = query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut values = pairs.filter(|pair| pair.0 == name).map(|pair| pair.1);
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        _ => Err(format!("{name}: only once")),
    }
}

/// A number that is written as JSON writes it: digits only, none of them in vain.
pub fn parse_number(text: &str) -> Option<u64> {
    let plain = text == "0" || text.starts_with(|c: char| matches!(c, '1'..='9'));
    // What parse() takes beyond digits is a plus sign in front.
    text.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn defaults_and_limits() {
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
    fn bad_parameters() {
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
            assert_eq!(error(query), "limit: a whole number, 1 to 12", "{query}");
        }
        assert_eq!(
            error("after=1&limit=1001"),
            "limit: a whole number, 1 to 1000"
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
                "after: the id of an order, a whole number",
                "{query}"
            );
        }
        assert_eq!(error("after=1&after=2"), "after: only once");
        assert_eq!(error("limit=1&limit=1"), "limit: only once");
    }

    proptest! {
        #[test]
        fn numbers_are_read_as_they_are_written(number: u64) {
            prop_assert_eq!(parse_number(&number.to_string()), Some(number));
        }

        #[test]
        fn no_query_panics(query in "((after|limit|x)=?[0-9+&=-]{0,4}&?){0,4}|.{0,20}") {
            let _ = Query::parse(&query);
        }
    }
}
