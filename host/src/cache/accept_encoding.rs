//! Normalizes `Accept-Encoding`, so that requests that ask for the same share a response.

use http::{HeaderMap, header};

use crate::http::headers::list_items;

/// The highest weight, in thousandths.
const MAX_WEIGHT: u16 = 1000;

/// Returns the content codings that a request accepts in a normal form: sorted by weight and name,
/// without the weights. Codings that it refuses come last, after `!`.
///
/// `gzip, br` and `br;q=1.0, GZIP` are the same, `br, gzip;q=0.5` is not: the server may choose by
/// weight. Returns `None` if the header is missing, which accepts any coding.
pub(super) fn normalize(headers: &HeaderMap) -> Option<String> {
    if !headers.contains_key(header::ACCEPT_ENCODING) {
        return None;
    }
    let items = list_items(headers, &header::ACCEPT_ENCODING);
    let mut codings: Vec<(u16, String)> = items.map(parse).collect();
    codings.sort_by(|(weight, name), (other_weight, other_name)| {
        other_weight.cmp(weight).then_with(|| name.cmp(other_name))
    });
    codings.dedup();
    let mut normal = String::new();
    let mut previous = None;
    for (weight, name) in codings {
        normal.push_str(match previous {
            Some(previous) if weight == previous => ",",
            _ if weight == 0 => "!",
            Some(_) => ">",
            None => "",
        });
        normal.push_str(&name);
        previous = Some(weight);
    }
    Some(normal)
}

/// Returns the weight and the name of a coding.
fn parse(item: &str) -> (u16, String) {
    let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
    let mut name = name.trim().to_ascii_lowercase();
    if let Some(registered) = name.strip_prefix("x-")
        && matches!(registered, "gzip" | "compress")
    {
        // Equivalent (RFC 9110, section 8.4.1).
        name = registered.to_owned();
    }
    let weight = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let is_weight = name.trim().eq_ignore_ascii_case("q");
        is_weight.then(|| value.trim())
    });
    (weight.map_or(MAX_WEIGHT, thousandths), name)
}

/// Returns a weight in thousandths. An invalid one refuses the coding.
fn thousandths(weight: &str) -> u16 {
    let weight = weight.parse::<f32>().unwrap_or(0.0);
    (weight.clamp(0.0, 1.0) * f32::from(MAX_WEIGHT)).round() as u16
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn normal(values: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            let value = HeaderValue::from_str(value).expect("a valid value");
            headers.append(header::ACCEPT_ENCODING, value);
        }
        normalize(&headers)
    }

    #[test]
    fn the_same_request_in_another_spelling_is_equal() {
        for (spelling, other) in [
            ("gzip, br", "br,gzip"),
            ("gzip, br", "br;q=1, GZIP ; Q=1.000"),
            ("gzip", "x-gzip"),
            ("gzip, gzip", "gzip"),
            ("gzip;q=0.5, br", "br;q=0.9, gzip;q=0.1"),
            ("gzip;q=0.5", "gzip"),
            ("gzip, identity;q=0", "identity;q=0.000, gzip"),
            ("gzip;q=x", "gzip;q=0"),
            ("gzip;q=NaN", "gzip;q=0"),
        ] {
            assert_eq!(normal(&[spelling]), normal(&[other]), "{spelling}");
        }
        assert_eq!(normal(&["gzip", "br"]), normal(&["br, gzip"]));
    }

    #[test]
    fn other_requests_differ() {
        let different = [
            normal(&[]),
            normal(&[""]),
            normal(&["gzip"]),
            normal(&["gzip;q=0"]),
            normal(&["br, gzip"]),
            normal(&["br, gzip;q=0.5"]),
            normal(&["gzip, br;q=0.5"]),
            normal(&["gzip, br;q=0"]),
            normal(&["gzip, *"]),
            normal(&["gzip, *;q=0"]),
            normal(&["identity"]),
        ];
        for (index, one) in different.iter().enumerate() {
            for other in &different[index + 1..] {
                assert_ne!(one, other);
            }
        }
    }

    proptest! {
        #[test]
        fn the_order_does_not_matter(mut items in prop::collection::vec(
            "(gzip|br|zstd|identity|\\*)(;q=(0|0\\.5|1))?", 0..6,
        )) {
            let list = normal(&[&items.join(",")]);
            items.reverse();
            prop_assert_eq!(normal(&[&items.join(" , ")]), list);
        }
    }
}
